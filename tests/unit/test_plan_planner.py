"""Plans for small fabrics whose right answer is known."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from isochrone.errors import InputError
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.latency.path import ANY_PATH
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.plan.explain import explain
from isochrone.plan.plan import Infeasible, Plan, difference
from isochrone.plan.planner import declared_demand, make_plan
from isochrone.plan.verdicts import Bounds, Verdict


def fabric_of(**changes: Any) -> Fabric:
    """Two German sites 280 km apart and one in the US; one workload; one contract from the first site."""
    site = {"tier": "metro", "jurisdiction": "DE", "vendor": "v"}
    units = {"units": 4, "price_per_unit_hour": 1.0}
    document: dict[str, Any] = {
        "name": "test",
        "sites": {
            "near": site | {"at": {"lat": 47.66, "lon": 9.18}, "hardware": {"cpu": units}},
            "far": site | {"at": {"lat": 50.11, "lon": 8.68}, "hardware": {"cpu": units}},
            "away": site | {"at": {"lat": 39.04, "lon": -77.49}, "hardware": {"cpu": units}},
        },
        "workloads": {
            "w": {
                "protocol": "http",
                "model": {"name": "m"},
                "runtime": {"kind": "process", "command": ["x", "{port}"]},
                "service": {"cpu": {"duration": {"p50_ms": 2, "p99_ms": 8}, "concurrency": 4, "rps_max": 100}},
                "replicas_max_per_site": 4,
            }
        },
        "contracts": {
            "c": {"workload": "w", "in_time": {"objective_ms": 30}, "demand_rps": {"near": 50}, "penalty_per_1k": 10}
        },
    }
    for path, value in changes.items():
        keys = path.split("__")
        place = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
    return Fabric.model_validate(document)


def allow_all(fabric: Fabric) -> Bounds:
    return {(contract, site): Verdict(True) for contract in fabric.contracts for site in fabric.sites}


def plan_of(fabric: Fabric, **changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "rtt": RttTable.from_fabric(fabric, dict.fromkeys(fabric.sites, ANY_PATH)),
        "service": ServiceTable.from_fabric(fabric),
        "bounds": allow_all(fabric),
        "up": set(fabric.sites),
        "previous": None,
        "demand": declared_demand(fabric),
        "now": 0.0,
    }
    plan = make_plan(fabric, **(arguments | changes))
    assert isinstance(plan, Plan)
    return plan


def test_demand_is_served_where_it_arises() -> None:
    plan = plan_of(fabric_of())
    assert plan.placements == {"near": {"w": 1}}
    (share,) = plan.routes["near"]["c"][-1].shares
    assert (share.site, share.share) == ("near", 1.0)
    assert plan.shortfalls == ()


def test_a_much_cheaper_site_in_time_wins() -> None:
    fabric = fabric_of(sites__far__hardware={"cpu": {"units": 4, "price_per_unit_hour": 0.001}})
    plan = plan_of(fabric)
    assert plan.routes["near"]["c"][-1].shares[0].site == "far"


def test_a_cheaper_site_out_of_time_never_wins() -> None:
    fabric = fabric_of(sites__away__hardware={"cpu": {"units": 4, "price_per_unit_hour": 0.0}})
    plan = plan_of(fabric)
    assert [share.site for share in plan.routes["near"]["c"][-1].shares] == ["near"]
    out = {e.site: e.kind for e in plan.routes["near"]["c"][-1].exclusions}
    assert out["away"] == "out_of_time"


def test_a_pair_without_a_verdict_is_out_of_bounds() -> None:
    plan = plan_of(fabric_of(), bounds={})
    refusal = plan.routes["near"]["c"][-1].refusal
    assert refusal is not None
    assert refusal.title == "No site is in bounds"
    assert plan.shortfalls[0].kind == "out_of_bounds"
    assert plan.shortfalls[0].unserved_rps == 50


def test_an_impossible_deadline_names_site_time_and_physics() -> None:
    fabric = fabric_of(contracts__c__in_time={"objective_ms": 5})
    refusal = plan_of(fabric).routes["near"]["c"][-1].refusal
    assert refusal is not None
    assert refusal.nearest_site == "near"
    assert refusal.needed_ms == pytest.approx(8.3)
    assert refusal.floor_ms == 0.0
    bounds = {("c", "away"): Verdict(True)}
    refusal = plan_of(fabric, bounds=bounds).routes["near"]["c"][-1].refusal
    assert refusal is not None
    assert refusal.nearest_site == "away"
    assert refusal.floor_ms == pytest.approx(65.8, abs=0.1)
    assert "light in fibre alone takes 65.80 ms from near to away and back" in refusal.detail


def test_tighter_rungs_drop_the_sites_that_are_too_slow_for_them() -> None:
    fabric = fabric_of(
        sites__far__hardware={"cpu": {"units": 4, "price_per_unit_hour": 0.001}}, contracts__c__survive_sites=1
    )
    rungs = {rung.deadline_ms: rung for rung in plan_of(fabric).routes["near"]["c"]}
    assert list(rungs) == [5, 10, 20, 30]
    assert rungs[5].refusal is not None
    assert [share.site for share in rungs[10].shares] == ["near"]  # far needs 2.1 x 2.7 ms + 8 ms + hops
    assert rungs[10].fallbacks == ()
    assert [share.site for share in rungs[30].shares] == ["far"]
    assert rungs[30].fallbacks == ("near",)


@pytest.mark.parametrize(("objective_ms", "tries"), [(150, 2), (200, 3)])
def test_a_request_is_tried_as_often_as_refusals_leave_it_in_time(objective_ms: int, tries: int) -> None:
    # Away alone needs about 147 ms; after a refusal by far, which is 6 ms away, it is too late for 150.
    fabric = fabric_of(contracts__c__in_time={"objective_ms": objective_ms}, contracts__c__survive_sites=2)
    rung = plan_of(fabric).routes["near"]["c"][-1]
    assert [*(share.site for share in rung.shares), *rung.fallbacks] == ["near", "far", "away"]
    assert rung.tries == tries


def test_surviving_a_site_places_a_second_one_with_enough_capacity() -> None:
    fabric = fabric_of(contracts__c__survive_sites=1, contracts__c__demand_rps={"near": 150})
    plan = plan_of(fabric)
    assert plan.placements["near"]["w"] >= 2
    assert plan.placements["far"]["w"] >= 2
    after = plan_of(fabric, up={"far", "away"}, previous=plan, now=1.0)
    assert [share.site for share in after.routes["near"]["c"][-1].shares] == ["far"]
    assert sum(short.unserved_rps for short in after.shortfalls) == 0
    assert after.shortfalls[0].kind == "not_placed"  # it cannot survive a second loss, and says so


def test_what_cannot_survive_says_so() -> None:
    fabric = fabric_of(contracts__c__survive_sites=3)
    (short,) = plan_of(fabric).shortfalls
    assert short.unserved_rps == 0
    assert "survive_sites asks for 4 sites" in short.detail


def test_too_much_demand_is_shed_in_part_and_priced_at_the_penalty() -> None:
    fabric = fabric_of(contracts__c__demand_rps={"near": 2000})
    plan = plan_of(fabric)
    (short,) = plan.shortfalls
    assert short.kind == "full"
    assert 1000 < short.unserved_rps < 1700  # two sites x four replicas x 100/s, less what must stay free
    assert plan.prices.demand["c"]["near"] == pytest.approx(0.01)
    assert plan.prices.capacity["near"]["w"] > 0.005
    assert sum(share.share for share in plan.routes["near"]["c"][-1].shares) == pytest.approx(1.0)


def test_the_dearer_contract_takes_what_is_scarce_and_the_other_is_told_it_is_full() -> None:
    fabric = fabric_of(
        contracts={
            name: {
                "workload": "w",
                "in_time": {"objective_ms": 30},
                "demand_rps": {"near": 900},
                "penalty_per_1k": penalty,
            }
            for name, penalty in (("cheap", 1), ("dear", 100))
        }
    )
    plan = plan_of(fabric)
    refusal = plan.routes["near"]["cheap"][-1].refusal
    assert refusal is not None
    assert "full" in refusal.title
    assert plan.routes["near"]["dear"][-1].shares


def test_no_demand_still_has_routes_and_a_place_to_run() -> None:
    plan = plan_of(fabric_of(contracts__c__demand_rps={}))
    assert sum(n for row in plan.placements.values() for n in row.values()) == 1
    assert plan.routes["near"]["c"][-1].shares or plan.routes["far"]["c"][-1].shares
    assert plan.objective == 0


def test_zero_price_zero_penalty_and_zero_units_are_legal() -> None:
    free = {"cpu": {"units": 4, "price_per_unit_hour": 0.0}}
    fabric = fabric_of(
        sites__near__hardware=free, sites__far__hardware={"cpu": {"units": 0}}, contracts__c__penalty_per_1k=0
    )
    plan = plan_of(fabric)
    assert plan.routes["near"]["c"][-1].shares[0].site == "near"
    assert {e.site: e.kind for e in plan.routes["near"]["c"][-1].exclusions}["far"] == "no_hardware"


def test_contradictory_bounds_name_what_contradicts() -> None:
    fabric = fabric_of(contracts__c__in_bounds={"hardware": ["gpu"]})
    refusal = plan_of(fabric).routes["near"]["c"][-1].refusal
    assert refusal is not None
    assert "allowed: gpu" in refusal.detail


def test_a_drained_site_gets_nothing_new() -> None:
    fabric = fabric_of()
    drained = fabric_of(sites__near={**fabric.sites["near"].model_dump(mode="json"), "drained": True})
    plan = plan_of(drained)
    assert [share.site for share in plan.routes["near"]["c"][-1].shares] == ["far"]
    assert "near" not in plan.placements


def test_with_every_site_down_there_is_nothing_to_plan_with() -> None:
    fabric = fabric_of()
    answer = make_plan(
        fabric,
        RttTable.from_fabric(fabric),
        ServiceTable.from_fabric(fabric),
        allow_all(fabric),
        set(),
        None,
        declared_demand(fabric),
        0.0,
    )
    assert isinstance(answer, Infeasible)
    assert answer.shortfalls[0].unserved_rps == 50
    assert Infeasible.from_json(json.loads(json.dumps(answer.to_json()))) == answer


@pytest.mark.parametrize(
    "demand",
    [{"c": {"near": math.nan}}, {"c": {"near": -1.0}}, {"c": {"near": math.inf}}, {"x": {"near": 1}}, {"c": {"x": 1}}],
)
def test_demand_that_cannot_be_is_refused(demand: dict[str, dict[str, float]]) -> None:
    with pytest.raises(InputError, match="demand"):
        plan_of(fabric_of(), demand=demand)


def test_nothing_changed_means_the_same_plan() -> None:
    fabric = fabric_of()
    first = plan_of(fabric)
    assert plan_of(fabric, previous=first, now=5.0) is first
    later = plan_of(fabric, previous=first, now=500.0)  # placement was thought over, and stays
    assert later.revision == first.revision
    assert difference(first, later).empty
    assert difference(first, later).churn == 0
    assert plan_of(fabric).to_json() == first.to_json()


def test_small_changes_of_demand_move_no_replica() -> None:
    fabric = fabric_of()
    plan = plan_of(fabric)
    for step in range(1, 30):
        demand = {"c": {"near": 50.0 + 10 * (-1) ** step}}
        after = plan_of(fabric, previous=plan, demand=demand, now=100.0 * step)
        assert after.placements == plan.placements
        plan = after


def test_new_demand_that_falls_short_is_placed_at_once() -> None:
    fabric = fabric_of()
    plan = plan_of(fabric)
    after = plan_of(fabric, previous=plan, demand={"c": {"near": 300.0}}, now=1.0)
    assert after.revision == plan.revision + 1
    assert after.shortfalls == ()
    assert sum(n for row in after.placements.values() for n in row.values()) > 1


def test_a_replica_is_stopped_only_after_it_was_unwanted_for_long() -> None:
    fabric = fabric_of()
    plan = plan_of(fabric, demand={"c": {"near": 300.0}}, now=0.0)
    before = replicas = sum(n for row in plan.placements.values() for n in row.values())
    stopped_s = 0
    for now in range(40, 400, 40):
        plan = plan_of(fabric, previous=plan, demand={"c": {"near": 1.0}}, now=float(now))
        replicas = sum(n for row in plan.placements.values() for n in row.values())
        stopped_s = stopped_s or (now if replicas < before else 0)
    assert 120 <= stopped_s <= 200
    assert replicas == 1


def test_a_moment_of_slowness_does_not_unload_a_model() -> None:
    fabric = fabric_of(contracts__c__survive_sites=1)
    plan = plan_of(fabric)
    assert set(plan.placements) == {"near", "far"}
    slow, _ = RttTable.from_fabric(fabric).with_measured("near", "far", Sketch([0.05] * 100), 100.0)
    during = plan_of(fabric, previous=plan, rtt=slow, now=100.0)
    assert during.routes["near"]["c"][-1].fallbacks == ()
    assert during.placements == plan.placements
    after = plan_of(fabric, previous=during, now=101.0)
    assert after.routes["near"]["c"][-1].fallbacks == ("far",)
    assert difference(plan, after).placements == ()


def test_an_unwanted_replica_makes_way_for_one_that_is_needed() -> None:
    one = {"cpu": {"units": 1, "price_per_unit_hour": 1.0}}
    workload = fabric_of().workloads["w"].model_dump(mode="json")
    fabric = fabric_of(
        workloads__v=workload | {"replicas_max_per_site": 1},
        contracts__d={"workload": "v", "in_time": {"objective_ms": 9}, "penalty_per_1k": 100},
        sites__near__hardware=one,
    )
    plan = plan_of(fabric, demand={"c": {"near": 50.0}}, now=0.0)
    after = plan_of(fabric, previous=plan, demand={"d": {"near": 50.0}}, now=1.0)
    assert after.placements["near"] == {"v": 1}


def test_declared_servers_are_used_where_they_run_and_nowhere_else() -> None:
    fabric = fabric_of(workloads__w__runtime={"kind": "external", "at": {"far": "127.0.0.1:1"}})
    plan = plan_of(fabric)
    assert list(plan.placements) == ["far"]
    assert {e.site: e.kind for e in plan.routes["near"]["c"][-1].exclusions}["near"] == "no_hardware"


def test_a_measured_round_trip_moves_the_traffic() -> None:
    fabric = fabric_of(sites__near__hardware={"gpu": {"units": 1}})
    plan = plan_of(fabric)
    assert plan.routes["near"]["c"][-1].shares[0].site == "far"
    slow, finding = RttTable.from_fabric(fabric).with_measured("near", "far", Sketch([0.05] * 100), 0.0)
    assert finding is None
    after = plan_of(fabric, rtt=slow, previous=plan, now=1.0)
    refusal = after.routes["near"]["c"][-1].refusal
    assert refusal is not None
    assert refusal.nearest_site == "far"


def test_a_plan_survives_json_and_refuses_what_is_none() -> None:
    plan = plan_of(fabric_of(contracts__c__in_time={"objective_ms": 5}))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    for broken in ({}, plan.to_json() | {"surprise": 1}, plan.to_json() | {"objective": math.nan}, None):
        with pytest.raises(InputError):
            Plan.from_json(broken)


def test_what_one_site_needs_is_a_part_of_the_plan() -> None:
    plan = plan_of(fabric_of())
    mine = plan.for_site("near")
    assert list(mine.routes) == ["near"]
    assert mine.routes["near"] == plan.routes["near"]
    assert mine.placements == plan.placements
    assert plan.for_site("nowhere").routes == {}


def test_explanations_name_options_exclusions_and_what_would_change_them() -> None:
    fabric = fabric_of(contracts__c__survive_sites=1)
    bounds = {**allow_all(fabric), ("c", "away"): Verdict(False, ("eu-only",))}
    plan = plan_of(fabric, bounds=bounds)
    tables = (RttTable.from_fabric(fabric), ServiceTable.from_fabric(fabric))
    said = explain(fabric, *tables, bounds, set(fabric.sites), plan, "c", "near", 0.0)
    assert [(option.site, option.share) for option in said.options] == [("near", 1.0), ("far", 0.0)]
    assert [(e.site, e.kind, e.policies) for e in said.exclusions] == [("away", "out_of_bounds", ("eu-only",))]
    assert any("far would be chosen if it were" in change for change in said.changes)
    tight = explain(fabric, *tables, bounds, set(fabric.sites), plan, "c", "near", 0.0, deadline_ms=5)
    assert tight.refusal is not None
    assert "near: out of time" in str(tight)
    with pytest.raises(InputError, match="no rung at 7 ms"):
        explain(fabric, *tables, bounds, set(fabric.sites), plan, "c", "near", 0.0, deadline_ms=7)
    with pytest.raises(InputError, match="no routes"):
        explain(fabric, *tables, bounds, set(fabric.sites), plan, "nothing", "near", 0.0)


def test_hardware_that_shrinks_takes_its_replicas_with_it() -> None:
    fabric = fabric_of()
    plan = plan_of(fabric, demand={"c": {"near": 300.0}}, now=0.0)
    small = fabric_of(sites__near__hardware={"cpu": {"units": 1, "price_per_unit_hour": 1.0}})
    after = plan_of(small, previous=plan, demand={"c": {"near": 300.0}}, now=1.0)
    assert after.placements["near"]["w"] == 1
    assert after.shortfalls == ()
    none = fabric_of(sites__near__hardware={"cpu": {"units": 0}})
    assert "near" not in plan_of(none, previous=plan, demand={"c": {"near": 300.0}}, now=1.0).placements
