"""Does a trace break exactly when something it rested on was revoked where it ran, then?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.jose import PrivateKey
from isochrone.authority.revocation import Revocation, RevocationState, sign_entry
from isochrone.authority.testing import NOW_S
from isochrone.errors import IntegrityError
from isochrone.record.revoked import PastFeed
from isochrone.record.trace import UNREVOKED, Step, trace
from unit.test_record_trace import ID, VKEYS, WORLD, logged, records

KEY = PrivateKey.generate()
FABRIC = WORLD.registry.fabric
CHAIN = WORLD.verified(3)


def feed(*revoked: tuple[Any, str, bool]) -> list[str]:
    """Entries about (kind, id, is it lifted), entered one second after the other."""
    state, entries = RevocationState(FABRIC, KEY.public), list[str]()
    for number, (kind, item, is_lifted) in enumerate(revoked, start=1):
        at_s = int(NOW_S) + number
        entry = Revocation(number, at_s, kind, item, "a test", "thumb", "request", is_lifted=is_lifted)
        entries.append(sign_entry(entry, state, KEY))
        followed = state.apply(entries[-1:])
        assert isinstance(followed, RevocationState)
        state = followed
    return entries


def step(tmp_path: Path, past: Any, *, granted: int = 0, in_force: int = 0) -> Step:
    parts = records()
    parts["outcome"]["under"]["epoch_granted"] = str(granted)
    parts["activation"]["epoch"] = in_force
    evidence = [logged(tmp_path, "vie", list(parts.values()))]
    found = trace(evidence, f"vie/{ID}", VKEYS, WORLD.registry, WORLD.groups, feed=past)
    return next(each for each in found.steps if each.title == UNREVOKED)


ELEMENTS = [
    ("human", CHAIN.human), ("agent", CHAIN.hops[1].agent), ("hop", CHAIN.hops[0].id), ("key", CHAIN.keys[-1]),
    ("contract", "ward-chat"), ("workload", "chat"), ("fabric", FABRIC),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "item"), ELEMENTS)
def test_any_element_that_was_revoked_breaks_it(tmp_path: Path, kind: Any, item: str) -> None:
    past = PastFeed(FABRIC, KEY.public, feed(("agent", "agent:somebody-else", False), (kind, item, False)))
    assert step(tmp_path, past, in_force=1).held
    for epochs in ({"granted": 2}, {"in_force": 2}):
        broken = step(tmp_path, past, **epochs)
        assert not broken.held
        assert "by number 2" in broken.detail


def test_what_was_entered_and_not_yet_in_force_is_said_and_does_not_break_it(tmp_path: Path) -> None:
    past = PastFeed(FABRIC, KEY.public, feed(("human", CHAIN.human, False)))
    found = step(tmp_path, past)
    assert found.held
    assert "number 1 of 4 s before was not in force here yet" in found.detail


def test_a_stop_that_was_lifted_again_does_not_break_it(tmp_path: Path) -> None:
    past = PastFeed(FABRIC, KEY.public, feed(("contract", "ward-chat", False), ("contract", "ward-chat", True)))
    assert not step(tmp_path, past, in_force=1).held
    assert step(tmp_path, past, in_force=2).held


def test_fewer_revocations_than_were_in_force_prove_nothing(tmp_path: Path) -> None:
    found = step(tmp_path, PastFeed(FABRIC, KEY.public, []), granted=1)
    assert not found.held
    assert "1 revocations were in force, 0 are shown" in found.detail


def test_a_feed_that_does_not_verify_proves_nothing(tmp_path: Path) -> None:
    entries = feed(("human", CHAIN.human, False), ("agent", "agent:x", False))
    for wrong in (entries[1:], entries[::-1], [entries[0][:-4] + "AAAA"], ["nonsense"]):
        with pytest.raises(IntegrityError, match="do not verify"):
            PastFeed(FABRIC, KEY.public, wrong)
    with pytest.raises(IntegrityError):
        PastFeed(FABRIC, PrivateKey.generate().public, entries)
    with pytest.raises(IntegrityError):
        PastFeed("other", KEY.public, entries)
    assert not step(tmp_path, IntegrityError("no key")).held
