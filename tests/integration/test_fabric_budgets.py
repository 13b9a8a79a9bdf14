"""Budgets and rates of delegations in a running fabric: held over all sites at once, by real Envoys and a real bus."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from isochrone.authority.budget import RATE_LEASE_S
from isochrone.authority.delegation import issue_child, issue_root, parse_hop, root_claims
from isochrone.authority.jose import PrivateKey, b64u_decode
from isochrone.authority.known_groups import known_groups
from isochrone.authority.revocation import DEGRADED_LIFE_S
from isochrone.authority.scope import Money, Scope
from isochrone.errors import IsochroneError
from isochrone.serve import mailbox
from isochrone.serve.bus import Bus
from isochrone.serve.client import GrantSource
from isochrone.serve.home import HubHome
from isochrone.serve.keyring import Keyring
from support.fabric import PATH, SITES, RunningFabric, running_fabric, until

KONSTANZ, FRANKFURT = SITES
Holder = tuple[list[str], PrivateKey]
ENDURING = """
  enduring:
    workload: echo
    in_time: {quantile: 0.9, objective_ms: 500}
    when_unheard: degrade
"""


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("b"), contracts=ENDURING) as running:
        yield running


def on_bus(fabric: RunningFabric, of: Holder, write: bytes | None = None) -> dict[str, Any]:
    """The account of a root delegation, as it stands on the bus; changed first, if told to."""
    hub = HubHome(fabric.state / "hub", "pair")
    port = json.loads((fabric.state / "ports.json").read_bytes())["bus"]
    key = parse_hop(of[0][0]).id

    async def ask() -> dict[str, Any]:
        async with Bus(f"tls://127.0.0.1:{port}", name="test", tls=hub.tls) as bus:
            await bus.wait_connected(10.0)
            if write is not None:
                await bus.put(mailbox.BUDGETS, key, write)
            entry = await bus.get(mailbox.BUDGETS, key)
            assert entry is not None
            assert entry.value is not None
            return dict(json.loads(entry.value))

    return asyncio.run(ask())


def holder(fabric: RunningFabric, **limits: Any) -> Holder:
    """An agent that a person delegated to, within limits, and may delegate further."""
    operator, key = Keyring(fabric.state).get("human:operator"), PrivateKey.generate()
    registry = HubHome(fabric.state / "hub", "pair").people()
    root = issue_root(
        root_claims(
            registry, operator.id, operator.key.public.thumbprint, agent="agent:spender", agent_key=key.public,
            scope=Scope(**limits, may_delegate=True), depth_max=1, now_s=time.time(), life_s=3600,
            jti=secrets.token_urlsafe(8),
        ),
        operator.key,
    )  # fmt: skip
    assert isinstance(root, str)
    return [root], key


def child(parent: Holder, **limits: Any) -> Holder:
    chain, key = parent
    sub = PrivateKey.generate()
    made = issue_child(
        chain, key, known_groups(), agent="agent:sub", agent_key=sub.public, scope=Scope(**limits), depth_max=1,
        now_s=time.time(), life_s=600, jti=secrets.token_urlsafe(8),
    )  # fmt: skip
    assert isinstance(made, list), made
    return made, sub


def grant(fabric: RunningFabric, site: str, of: Holder, contract: str = "anywhere") -> str:
    return GrantSource([fabric.base(site)], *of, contract, timeout_s=20.0).token()


def claims(token: str) -> dict[str, Any]:
    return dict(json.loads(b64u_decode(token.split(".")[1])))


def refusal_of(fabric: RunningFabric, of: Holder) -> str:
    """The refusal of one exchange; empty when it is granted."""
    try:
        grant(fabric, KONSTANZ, of)
    except IsochroneError as error:
        return f"{error.code}: {error}"
    return ""


def spend(fabric: RunningFabric, site: str, token: str, most: int = 10_000) -> list[int]:
    """Use a grant until it is refused; the statuses."""
    seen: list[int] = []
    with httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=10.0) as client:
        while len(seen) < most and (not seen or seen[-1] == 200):
            seen.append(client.post(f"{fabric.base(site)}{PATH}", json={"x": 1}).status_code)
    return seen


def spend_all(fabric: RunningFabric, site: str, of: Holder) -> int:
    """Exchange and spend until nothing more is granted; the executions."""
    done, refused = 0, ""
    while not refused:
        try:
            done += spend(fabric, site, grant(fabric, site, of)).count(200)
        except IsochroneError as error:
            refused = str(error)
    assert " left, " in refused or "used up" in refused, refused
    return done


def test_a_grant_under_a_limit_is_good_for_what_was_reserved_where_it_was_minted(fabric: RunningFabric) -> None:
    token = grant(fabric, KONSTANZ, holder(fabric, tokens_max=2000))
    assert claims(token)["n"] == 8, "a power of two, at most half of 20 requests"
    elsewhere = fabric.call(FRANKFURT, token=token)
    assert (elsewhere.status_code, elsewhere.headers["x-isochrone-refused"]) == (401, "grant")
    assert "not counted here" in elsewhere.json()["title"]
    assert spend(fabric, KONSTANZ, token) == [200] * 8 + [429]
    refused = fabric.call(KONSTANZ, token=token)
    assert (refused.status_code, refused.headers["x-isochrone-refused"]) == (429, "allowance")


@pytest.mark.parametrize("limits", [{"tokens_max": 3000}, {"cost_max": Money("EUR", 30_000)}], ids=["tokens", "money"])
def test_a_budget_holds_when_sites_and_sub_agents_spend_at_once(fabric: RunningFabric, limits: dict[str, Any]) -> None:
    """30 requests are allowed in all. Every site, and two sub-agents at each, take what they get."""
    parent = holder(fabric, **limits)
    spenders = [(site, of) for site in SITES for of in (parent, child(parent, **limits), child(parent, **limits))]
    with ThreadPoolExecutor(len(spenders)) as pool:
        done = sum(pool.map(lambda each: spend_all(fabric, *each), spenders))
    assert done == 30


def test_what_was_reserved_and_not_taken_comes_back(fabric: RunningFabric) -> None:
    wide = holder(fabric, tokens_max=800)
    brief = child(wide, tokens_max=800, not_after_s=int(time.time()) + 3)
    token = grant(fabric, KONSTANZ, brief)
    assert claims(token)["n"] == 4
    assert spend(fabric, KONSTANZ, token, most=1) == [200]
    assert on_bus(fabric, wide)["open"][claims(token)["jti"]][0] == 400
    until(lambda: not on_bus(fabric, wide)["open"], "the grant is settled once it has ended")
    assert on_bus(fabric, wide)["tokens"] == 100
    assert spend_all(fabric, FRANKFURT, wide) == 7


def test_a_rate_holds_over_both_sites(fabric: RunningFabric) -> None:
    rate = 0.2
    parent = holder(fabric, rate_rps_max=rate)
    begun_s = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        done = sum(pool.map(lambda site: spend_all(fabric, site, parent), SITES))
    took_s = time.monotonic() - begun_s
    assert done <= rate * RATE_LEASE_S + rate * (took_s + RATE_LEASE_S)
    assert done >= 2
    until(lambda: refusal_of(fabric, parent).startswith("grant.slow_down"), "the rate is used up")
    token = until(lambda: grant(fabric, KONSTANZ, parent), "the rate refills")
    assert claims(token)["exp"] - claims(token)["iat"] == RATE_LEASE_S


def minting_steadily(fabric: RunningFabric, of: Holder) -> bool:
    """Whether every site mints, for longer than a connection that is about to be given up would let it."""
    for _ in range(6):
        for site in SITES:
            grant(fabric, site, of)
        time.sleep(1.0)
    return True


def test_a_site_cut_off_from_the_bus_overshoots_by_nothing(fabric: RunningFabric) -> None:
    """What it serves was reserved before, and beyond that it grants nothing."""
    of, bus = holder(fabric, tokens_max=4000), psutil.Process(fabric.nats().pid)
    tokens = [grant(fabric, site, of) for site in SITES]
    allowed = sum(claims(token)["n"] for token in tokens)
    assert allowed <= 40
    bus.suspend()
    try:
        done = sum(spend(fabric, site, token).count(200) for site, token in zip(SITES, tokens, strict=True))
        assert done == allowed
        with pytest.raises(IsochroneError, match=r"nothing can be reserved now|mints nothing"):
            grant(fabric, KONSTANZ, of)
        free = holder(fabric)
        until(lambda: "mints nothing" in refusal_of(fabric, free), "a site that hears nothing mints nothing")
        brief = claims(grant(fabric, KONSTANZ, free, "enduring"))
        assert brief["exp"] - brief["iat"] == DEGRADED_LIFE_S, "but for a contract that degrades, for a while"
        with pytest.raises(IsochroneError, match="nothing can be reserved"):
            grant(fabric, KONSTANZ, of, "enduring")
    finally:
        bus.resume()
    until(lambda: minting_steadily(fabric, free), "every site hears the feed again", 90.0)
    assert done + spend_all(fabric, KONSTANZ, of) + spend_all(fabric, FRANKFURT, of) <= 40


def test_counters_made_anew_void_the_grants_they_counted(fabric: RunningFabric) -> None:
    """An Envoy that starts again knows of no request it let through: its old grants are refused, not counted anew."""
    of = holder(fabric, tokens_max=4000)
    token = grant(fabric, KONSTANZ, of)
    assert spend(fabric, KONSTANZ, token, most=3) == [200] * 3
    fabric.envoy(KONSTANZ).kill()
    seen = until(lambda: fabric.call(KONSTANZ, token=token).status_code, "Envoy is back")
    assert seen == 401
    assert until(lambda: grant(fabric, KONSTANZ, of), "it mints again")


def test_an_account_that_is_damaged_grants_nothing(fabric: RunningFabric) -> None:
    of = holder(fabric, tokens_max=4000)
    on_bus(fabric, of, write=b'{"tokens": -5}')
    with pytest.raises(IsochroneError, match="not an account"):
        grant(fabric, KONSTANZ, of)
