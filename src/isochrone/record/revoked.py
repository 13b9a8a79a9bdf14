"""What was revoked when: a copy of the revocation feed, verified whole, and asked about any past epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isochrone.authority.delegation import VerifiedChain
from isochrone.authority.jose import PublicKey, parse_compact
from isochrone.authority.revocation import ENTRY_BYTES_MAX, ENTRY_TYP, Revocation, RevocationState
from isochrone.errors import IntegrityError

__all__ = ["PastFeed", "elements_of"]

Element = tuple[str, str]


class PastFeed:
    """The feed's entries from the first on, each signed by the feed's key and resting on the one before.

    Raises:
        IntegrityError: ``record.feed``, an entry does not verify, or does not come next.
    """

    def __init__(self, fabric: str, key: PublicKey, entries: Sequence[str]) -> None:
        followed = RevocationState(fabric, key).apply(entries)
        if not isinstance(followed, RevocationState):
            raise IntegrityError(f"the revocations do not verify: {followed.reasons[0]}", code="record.feed")
        self.epoch = followed.epoch
        self._about: dict[Element, list[Revocation]] = {}
        for text in entries:
            entry = Revocation.from_claims(parse_compact(text, typ=ENTRY_TYP, bytes_max=ENTRY_BYTES_MAX).claims)
            self._about.setdefault((entry.kind, entry.id), []).append(entry)

    def revoked(self, element: Element, epoch: int) -> Revocation | None:
        """The entry that had `element` revoked when entry number `epoch` was the last one in force."""
        known = [entry for entry in self._about.get(element, ()) if entry.seq <= epoch]
        return known[-1] if known and not known[-1].is_lifted else None

    def later(self, element: Element, epoch: int, until_s: float) -> Revocation | None:
        """The first entry about `element` after `epoch` that was entered by `until_s`."""
        known = [e for e in self._about.get(element, ()) if e.seq > epoch and e.at_s <= until_s and not e.is_lifted]
        return known[0] if known else None


def elements_of(chain: VerifiedChain, outcome: Mapping[str, Any], fabric: str) -> Iterator[Element]:
    """All that could have been revoked of what an execution rested on."""
    yield from (("fabric", fabric), ("human", chain.human))
    yield from (("key", key) for key in chain.keys)
    for hop in chain.hops:
        yield from (("hop", hop.id), ("agent", hop.agent))
    what = outcome["what"]
    yield from (("contract", str(what["contract"])), ("workload", str(what["workload"])))
    yield ("grant", str(outcome["who"]["grant"]))
