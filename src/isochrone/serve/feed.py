"""The keeper of the revocation feed: numbers entries, signs them and the heartbeat, and keeps them on disk first."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from isochrone.authority.chain import verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.entitlement import RevocationRefused, may_revoke
from isochrone.authority.grant import Grant, verify_grant
from isochrone.authority.identity import Registry
from isochrone.authority.jose import PrivateKey, PublicKey, parse_compact
from isochrone.authority.known_groups import known_groups
from isochrone.authority.revocation import (
    ENTRY_BYTES_MAX,
    ENTRY_TYP,
    Revocation,
    RevocationState,
    sign_entry,
    sign_heartbeat,
)
from isochrone.errors import StorageError
from isochrone.serve import mailbox
from isochrone.serve.bus import Bus
from isochrone.serve.lines import Lines

__all__ = ["Feed"]

_AT_ONCE = 256  # writes to the bus that wait for its disk together


class _Said(NamedTuple):
    """At `site` the entries behind number `after`, up to `epoch`, came into force together at `at_s`."""

    site: str
    after: int
    epoch: int
    at_s: float


class Feed:
    """The fabric's one revocation feed."""

    def __init__(self, path: Path, fabric: str, key: PrivateKey) -> None:
        self._lines, self._key = Lines(path), key
        self._entries = self._lines.read()
        state = RevocationState(fabric, key.public).apply(self._entries)
        if not isinstance(state, RevocationState) or state.seq != len(self._entries):
            why = "an entry stands twice" if isinstance(state, RevocationState) else str(state.reasons[0])
            raise StorageError(f"{path} does not verify: {why}", code="feed.damaged", hint="restore the newest copy")
        self.state = state
        self._lock = asyncio.Lock()
        self._said = Lines(path.with_suffix(".in-force"))
        self._in_force = [_Said(*json.loads(line)) for line in self._said.read()]
        self._epochs = {said.site: said.epoch for said in self._in_force}

    async def publish_all(self, bus: Bus) -> None:
        """Put entries the bus does not hold (a new or lost store) there."""
        present = await bus.entries(mailbox.REVOCATIONS)
        numbered = [(mailbox.entry_key(seq), entry.encode()) for seq, entry in enumerate(self._entries, start=1)]
        missing = [(key, entry) for key, entry in numbered if key not in present]
        for at in range(0, len(missing), _AT_ONCE):
            chunk = missing[at : at + _AT_ONCE]
            await asyncio.gather(*(bus.put(mailbox.REVOCATIONS, key, entry) for key, entry in chunk))

    async def heartbeat(self, bus: Bus) -> None:
        """Say how far the feed goes, now."""
        await bus.put(
            mailbox.REVOCATIONS, mailbox.HEARTBEAT, sign_heartbeat(self.state, self._key, time.time()).encode()
        )

    async def enter(
        self, bus: Bus, document: dict[str, Any], registry: Registry, site_keys: list[PublicKey]
    ) -> dict[str, Any]:
        """Enter a revocation that its asker is entitled to.

        Args:
            document: ``{"request": signed request, "chain": [hops] or absent, "grant": token or absent}``.

        Returns:
            ``{"seq": number}``, or ``{"refused": [reasons]}``.
        """
        async with self._lock:
            chain = self._chain(document.get("chain"), registry)
            grant = self._grant(document.get("grant"), site_keys, registry.fabric)
            entry = may_revoke(
                str(document.get("request", "")), registry,
                seq=self.state.seq + 1, now_s=time.time(), chain=chain, grant=grant,
            )  # fmt: skip
            if isinstance(entry, RevocationRefused):
                return {"refused": [str(reason) for reason in entry.reasons]}
            signed = sign_entry(entry, self.state, self._key)
            state = self.state.apply([signed])
            assert isinstance(state, RevocationState)
            self._lines.append([signed])
            self._entries.append(signed)
            self.state = state
            await bus.put(mailbox.REVOCATIONS, mailbox.entry_key(entry.seq), signed.encode())
            await self.heartbeat(bus)
            return {"seq": entry.seq}

    def confirm(self, site: str, epoch: int, at_s: float) -> None:
        """Keep when a site's Envoy confirmed the feed up to `epoch`, by the site's own clock."""
        if epoch > self._epochs.get(site, 0):
            said = _Said(site, self._epochs.get(site, 0), epoch, at_s)
            self._said.append([json.dumps(said)])
            self._in_force.append(said)
            self._epochs[site] = epoch

    def listed(self, registry: Registry, now_s: float) -> list[dict[str, Any]]:
        """Every entry in words: who, what, why, when; whether it still holds; at which sites since when."""
        listed = []
        for text in self._entries:
            entry = Revocation.from_claims(parse_compact(text, typ=ENTRY_TYP, bytes_max=ENTRY_BYTES_MAX).claims)
            owner, now_held = registry.owner(entry.by), self.state.revoked.get((entry.kind, entry.id))
            is_live = now_held is not None and now_held.seq == entry.seq
            listed.append({
                "seq": entry.seq, "at_s": entry.at_s, "kind": entry.kind, "id": entry.id, "reason": entry.reason,
                "by": owner.id if owner else f"key {entry.by[:12]}", "resumes": entry.is_lifted,
                "holds": is_live and (entry.until_s is None or entry.until_s > now_s), "until_s": entry.until_s,
                "in_force": {said.site: said.at_s for said in self._in_force if said.after < entry.seq <= said.epoch},
            })  # fmt: skip
        return listed

    def _chain(self, hops: Any, registry: Registry) -> VerifiedChain | None:
        """The chain given as evidence, judged at a time when it was valid."""
        if not isinstance(hops, list) or not all(isinstance(hop, str) for hop in hops) or not hops:
            return None
        verified = verify_chain(hops, registry, known_groups(), now_s=time.time())
        return None if isinstance(verified, ChainRejected) else verified

    def _grant(self, token: Any, site_keys: list[PublicKey], fabric: str) -> Grant | None:
        if not isinstance(token, str):
            return None
        verified = verify_grant(token, site_keys, fabric=fabric, now_s=time.time())
        return verified if isinstance(verified, Grant) else None
