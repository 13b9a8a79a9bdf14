"""The keeper of the revocation feed: durable before it is told, numbered without gaps, only for who may revoke."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.delegation import parse_hop
from isochrone.authority.entitlement import sign_request
from isochrone.authority.grant import Grant
from isochrone.authority.revocation import RevocationState
from isochrone.authority.testing import World, named_key
from isochrone.errors import PeerError, StorageError
from isochrone.serve import mailbox
from isochrone.serve.bus import Entry
from isochrone.serve.feed import Feed

HUB = named_key("hub")
SITE = named_key("site vie")


class KeptBus:
    """The key-value side of the bus, in memory; `fails` makes every write be lost."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.fails = False

    async def put(self, bucket: str, key: str, value: bytes) -> int:
        assert bucket == mailbox.REVOCATIONS
        if self.fails:
            raise PeerError("gone", code="bus.disconnected")
        self.values[key] = value
        return len(self.values)

    async def entries(self, bucket: str) -> dict[str, Entry]:
        return {key: Entry(key, value, 1) for key, value in self.values.items()}


@pytest.fixture
def world() -> World:
    return World(now_s=time.time())


def feed_at(path: Path) -> Feed:
    return Feed(path, "acme", HUB)


def request(world: World, by: str = "ada", jti: str = "r1", hop: int = 0) -> dict[str, Any]:
    chain = world.chain(3)
    signed = sign_request(
        "acme", "hop", parse_hop(chain[hop]).id, reason="left", key=world.key(by), now_s=world.now_s, jti=jti
    )
    return {"request": signed, "chain": chain}


def enter(feed: Feed, bus: KeptBus, document: dict[str, Any], world: World) -> dict[str, Any]:
    return asyncio.run(feed.enter(bus, document, world.registry, [SITE.public]))  # type: ignore[arg-type]


def test_an_entry_is_numbered_told_and_on_disk(tmp_path: Path, world: World) -> None:
    path, bus = tmp_path / "feed", KeptBus()
    assert enter(feed_at(path), bus, request(world), world) == {"seq": 1}
    told = RevocationState("acme", HUB.public).apply([bus.values[mailbox.entry_key(1)].decode()])
    assert isinstance(told, RevocationState)
    heard = told.hear(bus.values[mailbox.HEARTBEAT].decode(), now_s=time.time())
    assert isinstance(heard, RevocationState), "the heartbeat covers the entry"
    assert feed_at(path).state.seq == 1


def test_what_the_bus_lost_is_on_disk_and_told_later(tmp_path: Path, world: World) -> None:
    path, bus = tmp_path / "feed", KeptBus()
    bus.fails = True
    with pytest.raises(PeerError):
        enter(feed_at(path), bus, request(world), world)
    bus.fails = False
    again = feed_at(path)
    assert again.state.seq == 1
    asyncio.run(again.publish_all(bus))  # type: ignore[arg-type]
    assert list(bus.values) == [mailbox.entry_key(1)]


@pytest.mark.parametrize("by", ["mallory", "ben"])
def test_who_may_not_revoke_changes_nothing(tmp_path: Path, world: World, by: str) -> None:
    feed, bus = feed_at(tmp_path / "feed"), KeptBus()
    answer = enter(feed, bus, request(world, by), world)
    assert answer["refused"]
    assert (feed.state.seq, bus.values) == (0, {})
    assert not (tmp_path / "feed").exists()


@pytest.mark.parametrize(
    "document",
    [{}, {"request": None}, {"request": "x.y.z"}, {"request": 7, "chain": "x", "grant": 3},
     {"request": "x", "chain": [1, 2]}, {"request": "x", "chain": ["x"] * 50, "grant": "x"}],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_a_reason(tmp_path: Path, world: World, document: dict[str, Any]) -> None:
    assert enter(feed_at(tmp_path / "feed"), KeptBus(), document, world)["refused"]


def test_two_at_once_get_two_numbers(tmp_path: Path, world: World) -> None:
    feed, bus = feed_at(tmp_path / "feed"), KeptBus()

    async def both() -> list[dict[str, Any]]:
        each = [request(world, jti=f"r{n}", hop=n) for n in (0, 1)]
        return list(await asyncio.gather(*(feed.enter(bus, e, world.registry, []) for e in each)))  # type: ignore[arg-type]

    assert sorted(answer["seq"] for answer in asyncio.run(both())) == [1, 2]


def test_a_grant_is_evidence_only_under_an_enrolled_sites_key(tmp_path: Path, world: World) -> None:
    grant = world.grant(world.verified(2))
    assert isinstance(grant, Grant)
    feed = feed_at(tmp_path / "feed")
    assert feed._grant(grant.token, [SITE.public], "acme") is not None
    assert feed._grant(grant.token, [], "acme") is None
    assert feed._grant(grant.token, [SITE.public], "other") is None


def test_a_feed_altered_on_disk_is_refused(tmp_path: Path, world: World) -> None:
    path, bus = tmp_path / "feed", KeptBus()
    feed = feed_at(path)
    for number in (0, 1):
        enter(feed, bus, request(world, jti=f"r{number}", hop=number), world)
    entries = path.read_text().splitlines()
    assert len(entries) == 2
    for altered in ([entries[1]], entries[::-1], [*entries, entries[1]], ["x"], [entries[0][:-4] + "AAAA"]):
        path.write_text("".join(f"{line}\n" for line in altered))
        with pytest.raises(StorageError) as caught:
            feed_at(path)
        assert caught.value.code == "feed.damaged"


def test_the_list_says_who_what_why_and_where_it_is_in_force_since_when(tmp_path: Path, world: World) -> None:
    path, bus = tmp_path / "feed", KeptBus()
    feed = feed_at(path)
    enter(feed, bus, request(world), world)
    feed.confirm("vie", 1, 100.5)
    feed.confirm("vie", 1, 999.0)
    stop = sign_request(
        "acme", "contract", "ward-chat", reason="incident", key=world.key("olga"), now_s=world.now_s, jti="s"
    )
    enter(feed, bus, {"request": stop}, world)
    resume = sign_request(
        "acme", "contract", "ward-chat", reason="closed", key=world.key("olga"), now_s=world.now_s, jti="t",
        is_lifted=True,
    )  # fmt: skip
    enter(feed, bus, {"request": resume}, world)
    feed.confirm("ber", 3, 200.0)
    first, second, third = feed_at(path).listed(world.registry, world.now_s)
    assert (first["by"], first["kind"], first["reason"], first["holds"]) == ("human:ada", "hop", "left", True)
    assert first["in_force"] == {"vie": 100.5, "ber": 200.0}
    assert (second["by"], second["holds"], second["resumes"], second["in_force"]) == (
        "human:olga", False, False, {"ber": 200.0},
    )  # fmt: skip
    assert (third["resumes"], third["holds"]) == (True, False)
    assert not feed.listed(world.registry, world.now_s + 1e6)[0]["holds"], "its chain has expired by itself"
