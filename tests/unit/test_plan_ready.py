"""Does a replica that still loads its model get nothing that a ready one can serve, and is nothing broken before?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from isochrone.control.hub import REPLAN_S, Desired, HubState, Publish, Reported, Tick, step
from isochrone.control.report import SiteReport
from isochrone.latency.calibration import Calibration
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.latency.path import ANY_PATH
from isochrone.model.fabric import Fabric
from isochrone.model.workload import ServiceTime
from isochrone.plan.explain import explain
from isochrone.plan.placement import PlacementRules
from isochrone.plan.plan import Plan
from isochrone.plan.planner import declared_demand, make_plan
from isochrone.plan.verdicts import Bounds, Verdict
from isochrone.policy.policies import PolicySet


def pair(**contract: Any) -> Fabric:
    """Two German sites 280 km apart; the first is the nearer one to all demand."""
    site = {"tier": "metro", "jurisdiction": "DE", "vendor": "v"}
    hardware = {"cpu": {"units": 4, "price_per_unit_hour": 1.0}}
    workload = {
        "protocol": "http",
        "model": {"name": "m"},
        "runtime": {"kind": "process", "command": ["x", "{port}"]},
        "service": {"cpu": {"duration": {"p50_ms": 2, "p99_ms": 8}, "concurrency": 4, "rps_max": 100}},
        "replicas_max_per_site": 4,
        **contract.pop("workload", {}),
    }
    usual = {"workload": "w", "in_time": {"objective_ms": 30}, "demand_rps": {"near": 50}, "penalty_per_1k": 10}
    return Fabric.model_validate(
        {
            "name": "pair",
            "sites": {
                "near": site | {"at": {"lat": 47.66, "lon": 9.18}, "hardware": hardware},
                "far": site | {"at": {"lat": 50.11, "lon": 8.68}, "hardware": hardware},
            },
            "workloads": {"w": workload},
            "contracts": {"c": usual | contract},
        }
    )


def plan_of(fabric: Fabric, **changes: Any) -> Plan:
    usual: dict[str, Any] = {
        "rtt": tables(fabric)[0], "service": tables(fabric)[1], "bounds": allowed(fabric), "up": set(fabric.sites),
        "previous": None, "demand": declared_demand(fabric), "now": 0.0,
    }  # fmt: skip
    plan = make_plan(fabric, **(usual | changes))
    assert isinstance(plan, Plan)
    return plan


def tables(fabric: Fabric) -> tuple[RttTable, ServiceTable]:
    return RttTable.from_fabric(fabric, dict.fromkeys(fabric.sites, ANY_PATH)), ServiceTable.from_fabric(fabric)


def allowed(fabric: Fabric) -> Bounds:
    return {(contract, site): Verdict(True) for contract in fabric.contracts for site in fabric.sites}


def used(plan: Plan) -> dict[str, float]:
    return {share.site: share.share for share in plan.routes["near"]["c"][-1].shares}


BOTH = pair(survive_sites=1)
TIMES = ServiceTime(p50_ms=2, p99_ms=12)
READY = {"near": {"w": 1}, "far": {"w": 1}}


def test_what_loads_gets_nothing_while_another_answers() -> None:
    assert used(plan_of(BOTH, ready=READY)) == {"near": 1.0}
    plan = plan_of(BOTH, ready=READY | {"near": {}})
    rung = plan.routes["near"]["c"][-1]
    assert used(plan) == {"far": 1.0}
    assert "near" not in rung.fallbacks
    assert {e.site: (e.kind, e.detail) for e in rung.exclusions}["near"] == (
        "loading",
        "near is still loading the model",
    )
    assert plan.placements == {"near": {"w": 1}, "far": {"w": 1}}
    assert plan.loading == {"near": {"w": 1}}


def test_once_the_nearer_one_has_begun_to_answer_it_serves_however_little_is_known_of_the_other() -> None:
    """Twenty executions at the far one say little of its tail; that is no reason to stay where nobody chose to be."""
    measured = Calibration("cpu", TIMES, TIMES, 1.0, 0.2, 1, 20, 0.0)
    service = tables(BOTH)[1].with_calibration("far", "w", measured)
    far = plan_of(BOTH, service=service, ready=READY | {"near": {}})
    assert used(far) == {"far": 1.0}
    assert used(plan_of(BOTH, service=service, previous=far, ready=READY, now=1.0)) == {"near": 1.0}
    chosen = replace(far, loading={})
    assert used(plan_of(BOTH, service=service, previous=chosen, ready=READY, now=1.0)) == {"far": 1.0}


def test_a_site_that_is_back_gets_its_traffic_back() -> None:
    """Both are in time and cost the same, but for the way there."""
    before = plan_of(BOTH, ready=READY)
    away = plan_of(BOTH, previous=before, up={"far"}, ready={"far": {"w": 1}}, now=10.0)
    loads = plan_of(BOTH, previous=away, ready={"near": {}, "far": {"w": 1}}, now=20.0)
    back = plan_of(BOTH, previous=loads, ready=READY, now=21.0)
    assert [used(plan) for plan in (before, away, loads, back)] == [
        {"near": 1.0}, {"far": 1.0}, {"far": 1.0}, {"near": 1.0}
    ]  # fmt: skip


def test_where_nothing_answers_yet_requests_wait_for_no_second_plan() -> None:
    coming = plan_of(BOTH, ready={"near": {}, "far": {}})
    assert used(coming) == {"near": 1.0}
    there = plan_of(BOTH, previous=coming, ready=READY, now=1.0)
    assert there.revision == coming.revision
    assert there.loading == {}


def test_only_replicas_that_answer_count_as_capacity() -> None:
    fabric = pair(demand_rps={"near": 150}, workload={"replicas_max_per_site": 2})
    one_ready = {"near": {"w": 1}, "far": {}}
    before = plan_of(fabric, ready={"near": {"w": 2}})
    plan = plan_of(fabric, previous=before, ready=one_ready, now=1.0)
    assert before.shortfalls == ()
    assert plan.limits["near"]["c"] < before.limits["near"]["c"]
    assert plan.shortfalls[0].unserved_rps > 40
    assert plan.shortfalls[0].kind == "full"


def test_servers_that_no_node_starts_are_taken_to_answer() -> None:
    runtime = {"kind": "external", "at": {"near": "127.0.0.1:1", "far": "127.0.0.1:2"}}
    fabric = pair(workload={"runtime": runtime, "replicas_max_per_site": 1})
    assert used(plan_of(fabric, ready={"near": {}, "far": {}})) == {"near": 1.0}


def test_an_explanation_says_that_it_loads_and_that_this_will_pass() -> None:
    plan = plan_of(BOTH, ready=READY | {"near": {}})
    found = explain(BOTH, *tables(BOTH), allowed(BOTH), set(BOTH.sites), plan, "c", "near", 0.0)
    assert [e.kind for e in found.exclusions] == ["loading"]
    assert any("near could answer in" in change and "once its model is loaded" in change for change in found.changes)


def test_what_moves_is_made_before_it_is_broken() -> None:
    cheap = pair().model_dump()
    cheap["sites"]["far"]["hardware"]["cpu"]["price_per_unit_hour"] = 0.0001
    moved, rules = Fabric.model_validate(cheap), PlacementRules(idle_s=10, every_s=5)
    plan = plan_of(pair(), ready={"near": {"w": 1}, "far": {}}, rules=rules)
    plan = replace(plan, fabric_digest=plan_of(moved).fabric_digest)
    for now in range(6, 60, 6):
        plan = plan_of(moved, previous=plan, now=float(now), ready={"near": {"w": 1}, "far": {}}, rules=rules)
        assert plan.placements == {"near": {"w": 1}, "far": {"w": 1}}, "the far one still loads"
        assert used(plan) == {"near": 1.0}
    for now in range(60, 90, 6):
        plan = plan_of(moved, previous=plan, now=float(now), ready=READY, rules=rules)
        assert used(plan) == {"far": 1.0}
    assert plan.placements == {"far": {"w": 1}}


@pytest.mark.parametrize(("load_s", "moves"), [(0, True), (86_400, False)])
def test_what_loads_for_long_is_moved_with_more_reluctance(load_s: float, moves: bool) -> None:
    document = pair(workload={"load_s": load_s}).model_dump()
    document["sites"]["far"]["hardware"]["cpu"]["price_per_unit_hour"] = 0.1
    fabric = Fabric.model_validate(document)
    before = replace(plan_of(pair()), fabric_digest=plan_of(fabric).fabric_digest)
    plan = plan_of(fabric, previous=before, now=31.0)
    assert ("far" in plan.placements) == moves


def test_a_replica_stays_at_least_as_long_as_it_loads() -> None:
    fabric = pair(workload={"load_s": 1000})
    rules = PlacementRules(change_share=0.0, payback_s=1e12, idle_s=100, every_s=10)
    plan = plan_of(fabric, demand={"c": {"near": 250}}, rules=rules)
    assert plan.placements == {"near": {"w": 3}}
    for now, replicas in ((150.0, 3), (900.0, 3), (1100.0, 1)):
        plan = plan_of(fabric, previous=plan, demand={"c": {"near": 50}}, now=now, rules=rules)
        assert plan.placements == {"near": {"w": replicas}}, now


@pytest.mark.parametrize("demand", [{}, {"near": 50}])
def test_the_fewest_replicas_stand_with_demand_or_without(demand: dict[str, float]) -> None:
    plan = plan_of(pair(demand_rps=demand, workload={"replicas_min": 3}))
    assert sum(row["w"] for row in plan.placements.values()) == 3
    assert plan.shortfalls == ()


def test_replicas_that_nothing_has_room_for_are_named() -> None:
    plan = plan_of(pair(workload={"replicas_min": 9}))
    assert sum(row["w"] for row in plan.placements.values()) == 8
    assert [short.detail for short in plan.shortfalls] == ["replicas_min asks for 9 replicas of w, 8 can stand"]


# --- at the hub -----------------------------------------------------------------------------------------------------


def heard(site: str, ready: dict[str, int], at_s: float) -> Reported:
    report = SiteReport(
        site=site, boot="b", at_s=at_s, ingress="127.0.0.1:1", peer="127.0.0.1:2", ready=ready, desired=1, plan=1,
        epoch=0,
    )  # fmt: skip
    return Reported(site, report)


def test_the_hub_turns_to_a_model_when_it_has_loaded_and_away_when_it_died() -> None:
    allow = PolicySet.parse({"a.cedar": '@id("a") permit (principal, action, resource);'})
    state, revisions = HubState(), []
    events = [
        (0.0, heard("near", {}, 0.0)),
        (0.0, heard("far", {"w": 1}, 0.0)),
        (0.0, Desired(1, BOTH, allow)),
        (0.5, heard("far", {"w": 1}, 0.5)),
        (0.6, heard("near", {"w": 1}, 0.6)),  # it has loaded: nobody waits for the next plan's turn
        (0.8, heard("near", {"w": 1}, 0.8)),
        (0.9, heard("near", {}, 0.9)),  # it died
    ]
    for now, event in events:
        for each_event in (event, Tick()):
            state, effects = step(state, each_event, now)
            revisions += [(now, used(each.plan)) for each in effects if isinstance(each, Publish)]
    assert revisions == [(0.0, {"far": 1.0}), (0.6, {"near": 1.0}), (0.9, {"far": 1.0})]
    assert REPLAN_S > 0.9
