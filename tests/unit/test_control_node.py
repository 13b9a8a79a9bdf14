"""Is what one site does right by its own lights, whatever the plan says and whoever is gone?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from isochrone.control.node import (
    PROBES_FAILED_MAX,
    STALE_AFTER_S,
    Listening,
    NodeState,
    adopt,
    emulated_rtt_ms,
    probed,
    site_view,
    stale_since,
    wanted_replicas,
)
from isochrone.forward.snapshot import compile_site
from isochrone.forward.view import Files, members
from isochrone.forward.xds import Address
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Plan
from isochrone.plan.planner import declared_demand, make_plan
from isochrone.policy.bounds import bounds_of
from isochrone.policy.policies import PolicySet
from support.documents import contract, external, fabric, site, workload

SITES = {
    "konstanz": site(vendor="seewerk"),
    "zurich": site("zurich", tier="metro", jurisdiction="CH", vendor="limmat", hardware={"cpu": {"units": 8}}),
}
USED = {"concurrency": 8, "rps_max": 200}
FABRIC = fabric(
    SITES,
    {"voice": workload(**USED), "elsewhere": workload(runtime=external("zurich"), **USED)},
    {
        "line": contract("voice", 200, demand_rps={"konstanz": 5, "zurich": 5}),
        "other": contract("elsewhere", 200, demand_rps={"zurich": 1}),
    },
    name="lakeside",
    emulate={"rtt_ms": {"konstanz/zurich": 3}},
)
ALLOW = PolicySet.parse({"a.cedar": '@id("a") permit (principal, action, resource);'})
ONLY_DE = PolicySet.parse(
    {
        "a.cedar": '@id("a") permit (principal, action, resource);'
        '@id("de") forbid (principal, action in [Action::"place", Action::"exchange", Action::"execute"], resource)'
        ' unless { resource.jurisdiction == Jurisdiction::"DE" };'
    }
)


def plan_for(fabric: Fabric, policies: PolicySet = ALLOW) -> Plan:
    plan = make_plan(
        fabric, RttTable.from_fabric(fabric), ServiceTable.from_fabric(fabric), bounds_of(fabric, policies),
        frozenset(fabric.sites), None, declared_demand(fabric), 0.0,
    )  # fmt: skip
    assert isinstance(plan, Plan)
    return plan


PLAN = plan_for(FABRIC)


def state_of(site: str = "zurich", policies: PolicySet = ALLOW, **changes: Any) -> NodeState:
    at = [Address("127.0.0.1", port) for port in (1001, 1002, 1003)]
    empty = NodeState(site, Files("/x/xds", "/x/identity", "/x/journal.jsonl", ""), Listening(*at))
    other = "konstanz" if site == "zurich" else "zurich"
    minters = {"key-a": "konstanz", "key-b": "zurich"}
    usual: dict[str, Any] = {"plan": PLAN, "peers": {other: Address("127.0.0.1", 2002)}, "minters": minters}
    return replace(adopt(empty, 1, FABRIC, policies), **(usual | changes))


def test_before_desired_state_and_plan_there_is_nothing_to_forward_by() -> None:
    bare = NodeState("zurich", Files("", "", "", ""), Listening(*[Address("127.0.0.1", 1)] * 3))
    assert site_view(bare) is None
    assert wanted_replicas(bare) == {}
    assert site_view(state_of(plan=None)) is None


def test_a_placement_is_carried_out_and_what_runs_elsewhere_already_is_not_started() -> None:
    wanted = wanted_replicas(state_of())
    assert wanted["voice"] >= 1
    assert "elsewhere" not in wanted
    view = site_view(state_of())
    assert view is not None
    assert view.replicas["elsewhere"] == (Address("127.0.0.1", 1),)


def test_a_plan_out_of_bounds_is_not_carried_out() -> None:
    """The plan was made without the policy: a hub that is wrong, or an old plan under a new policy."""
    state = state_of(policies=ONLY_DE)
    assert PLAN.placements["zurich"]["voice"] >= 1
    assert wanted_replicas(state) == {}
    view = site_view(state)
    assert view is not None
    assert view.allowed["line"] == {"konstanz"}
    for entry in view.fib.entries:
        assert "zurich" not in entry.candidates
    assert all("zurich" not in entry.candidates for entry in site_view(state_of("konstanz", ONLY_DE)).fib.entries)  # type: ignore[union-attr]


def test_a_placement_of_an_unknown_workload_is_ignored() -> None:
    placements = {"zurich": {"ghost": 3, "voice": 1}}
    assert wanted_replicas(state_of(plan=replace(PLAN, placements=placements))) == {"voice": 1}


def test_cut_off_it_keeps_the_plan_and_forwards_the_same_bytes() -> None:
    before = site_view(state_of())
    assert before is not None
    state = state_of()
    for _ in range(10):
        state = probed(state, "konstanz", answered=False)
    after = site_view(state)
    assert after is not None
    assert after.fib == before.fib
    assert after.fib.revision == PLAN.revision
    assert after.down == {"konstanz"}
    assert wanted_replicas(state) == wanted_replicas(state_of())


def test_it_says_since_when_the_hub_is_not_heard_and_the_same_for_as_long_as_it_is_away() -> None:
    heard_s = 1000.0
    assert stale_since(None, 5000.0) is None
    assert stale_since(heard_s, heard_s + STALE_AFTER_S) is None
    assert {stale_since(heard_s, heard_s + STALE_AFTER_S + later) for later in (0.1, 60.0, 86_400.0)} == {heard_s}
    view = site_view(state_of(stale_since_s=heard_s))
    assert view is not None
    assert view.stale_since_s == heard_s
    assert view.fib == getattr(site_view(state_of()), "fib", None), "it goes on as before"


def test_a_peer_is_down_after_so_many_failed_probes_and_up_after_one_answer() -> None:
    state = state_of()
    for failed in range(1, PROBES_FAILED_MAX + 1):
        assert state.down == frozenset()
        state = probed(state, "konstanz", answered=False)
        assert (failed == PROBES_FAILED_MAX) == (state.down == {"konstanz"})
    assert probed(state, "konstanz", answered=True).down == frozenset()


def test_an_answer_between_failures_starts_the_count_anew() -> None:
    state = state_of()
    for answered in (False, True, False, True, False):
        state = probed(state, "konstanz", answered=answered)
    assert state.down == frozenset()


def test_what_changes_nothing_is_the_same_value() -> None:
    state = state_of()
    assert probed(state, "konstanz", answered=True) is state
    for _ in range(PROBES_FAILED_MAX):
        state = probed(state, "konstanz", answered=False)
    assert probed(state, "konstanz", answered=False) is state


def test_a_dead_peer_changes_what_the_proxy_is_given() -> None:
    state = state_of("konstanz")
    alive = site_view(state)
    for _ in range(PROBES_FAILED_MAX):
        state = probed(state, "zurich", answered=False)
    dead = site_view(state)
    assert alive is not None
    assert dead is not None
    assert compile_site(alive).versions != compile_site(dead).versions


def test_a_site_that_the_roster_does_not_name_is_nobodys_peer() -> None:
    view = site_view(state_of(minters={"key-b": "zurich", "key-c": "stranger"}))
    assert view is not None
    assert view.peers == {}
    assert members(view) == ["spiffe://lakeside/site/zurich"]


def test_itself_and_strangers_are_not_peers() -> None:
    strange = {name: Address("127.0.0.1", 3000) for name in ("zurich", "konstanz", "atlantis")}
    view = site_view(state_of(peers=strange))
    assert view is not None
    assert set(view.peers) == {"konstanz"}


def test_a_site_the_fabric_no_longer_names_forwards_nothing() -> None:
    smaller = fabric(
        {"konstanz": SITES["konstanz"]}, {"voice": workload(**USED)}, {"line": contract("voice", 200)}, name="lakeside"
    )
    assert site_view(adopt(state_of(), 2, smaller, ALLOW)) is None
    assert wanted_replicas(adopt(state_of(), 2, smaller, ALLOW)) == {}


@pytest.mark.parametrize(("site", "other"), [("konstanz", "zurich"), ("zurich", "konstanz")])
def test_emulated_distances_hold_both_ways(site: str, other: str) -> None:
    assert emulated_rtt_ms(FABRIC, site) == {other: 3}
    assert emulated_rtt_ms(FABRIC.model_copy(update={"emulate": None}), site) == {}
