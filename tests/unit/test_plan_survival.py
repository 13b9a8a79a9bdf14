"""Does what stands carry all that is to survive the loss of a site, together and not one by one?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.latency.path import ANY_PATH
from isochrone.model.fabric import Fabric
from isochrone.plan import survival
from isochrone.plan.plan import Plan
from isochrone.plan.planner import declared_demand, make_plan
from isochrone.plan.problem import RoutingProblem
from isochrone.plan.survival import Cut, Survival
from isochrone.plan.verdicts import Verdict


def problem_of(
    arcs: list[tuple[int, int]], rps: list[float], capacity: list[float], use: float = 1.0
) -> RoutingProblem:
    demand, pool = np.array(sorted(arcs), dtype=np.int32).T
    return RoutingProblem(
        demands=tuple(("c", f"i{d}") for d in range(len(rps))),
        pools=tuple((f"s{p}", "w") for p in range(len(capacity))),
        rps=np.array(rps),
        shed_cost=np.ones(len(rps)),
        capacity_rps=np.array(capacity),
        arc_demand=demand,
        arc_pool=pool,
        cost=np.zeros(len(arcs)),
        use=np.full(len(arcs), use),
    )


def survives(problem: RoutingProblem, replicas: list[float]) -> dict[tuple[str, str], float]:
    found = Survival(problem, np.ones(len(problem.rps), dtype=bool)).exposures(np.array(replicas))
    return {(each.ingress, each.site): each.rps for each in found}


ALL_TO_ALL = [(d, p) for d in range(3) for p in range(2)]


@pytest.mark.parametrize("work_max", [survival._WORK_MAX, 0])
def test_what_three_ingresses_fall_back_on_is_there_once(work_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the linear program, and by the totals that are held where it would take too long."""
    monkeypatch.setattr(survival, "_WORK_MAX", work_max)
    problem = problem_of(ALL_TO_ALL, [40, 40, 40], [100, 100])
    assert sum(survives(problem, [1, 2]).values()) == pytest.approx(20)  # when the larger one is lost
    assert {site for _, site in survives(problem, [1, 2])} == {"s1"}
    assert survives(problem, [2, 2]) == {}


def test_an_execution_with_little_time_takes_more_of_what_is_left() -> None:
    problem = problem_of(ALL_TO_ALL, [40, 40, 40], [100, 100], use=2.0)
    assert sum(survives(problem, [2, 2]).values()) == pytest.approx(20)


def test_totals_are_not_enough_where_not_everyone_reaches_everything() -> None:
    # i0 reaches s0 and s1, i1 reaches s1 and s2: without s0, s2 has room, and i0 cannot get there.
    problem = problem_of([(0, 0), (0, 1), (1, 1), (1, 2)], [80, 80], [100, 100, 100])
    assert survives(problem, [1, 1, 1]) == {}
    problem = problem_of([(0, 0), (0, 1), (1, 1)], [80, 80], [100, 100])
    assert survives(problem, [1, 1])[("i0", "s0")] + survives(problem, [1, 1]).get(("i1", "s0"), 0) == pytest.approx(60)


def test_what_no_other_site_could_serve_is_no_matter_of_capacity() -> None:
    problem = problem_of([(0, 0), (1, 0), (1, 1)], [80, 50], [100, 100])
    assert survives(problem, [2, 1]) == {}
    problem = problem_of([(0, 0), (1, 0), (1, 1)], [80, 150], [100, 100])
    assert survives(problem, [3, 1]) == {("i1", "s0"): pytest.approx(50)}


def test_a_cut_is_a_row_that_the_replicas_break_and_better_ones_hold() -> None:
    problem = problem_of(ALL_TO_ALL, [40, 40, 40], [100, 100])
    held = Survival(problem, np.ones(3, dtype=bool))
    cuts = held.cuts(np.array([1.0, 1.0]))
    assert len(cuts) == 2
    for cut in cuts:
        assert cut.carried(np.array([1.0, 1.0])) < cut.need
        assert cut.carried(np.array([2.0, 2.0])) >= cut.need
    assert held.first_cuts() == [Cut((1,), (100.0,), 120.0), Cut((0,), (100.0,), 120.0)]


def test_nothing_protected_asks_for_nothing() -> None:
    problem = problem_of(ALL_TO_ALL, [40, 40, 40], [100, 100])
    none = Survival(problem, np.zeros(3, dtype=bool))
    assert (none.first_cuts(), none.cuts(np.zeros(2)), none.exposures(np.zeros(2))) == ([], [], ())


# --- in a plan -------------------------------------------------------------------------------------------------------


def fabric_of(units: int = 8, **contract: Any) -> Fabric:
    """Three towns around two others that have hardware, 50 km apart or so."""
    site = {"tier": "metro", "jurisdiction": "DE", "vendor": "v"}
    offered = {"units": units, "price_per_unit_hour": 1.0}
    places = {"a": (48.0, 9.0), "b": (48.2, 9.2), "c": (47.9, 9.4), "x": (48.1, 9.1), "y": (48.0, 9.3)}
    return Fabric.model_validate(
        {
            "name": "towns",
            "sites": {
                name: site | {"at": {"lat": lat, "lon": lon}, "hardware": {"cpu" if name in "xy" else "other": offered}}
                for name, (lat, lon) in places.items()
            },
            "workloads": {
                "w": {
                    "protocol": "http",
                    "model": {"name": "m"},
                    "runtime": {"kind": "process", "command": ["x", "{port}"]},
                    "service": {"cpu": {"duration": {"p50_ms": 2, "p99_ms": 8}, "concurrency": 4, "rps_max": 100}},
                    "replicas_max_per_site": 8,
                }
            },
            "contracts": {
                "c": {
                    "workload": "w",
                    "in_time": {"objective_ms": 100},
                    "demand_rps": {"a": 60, "b": 60, "c": 60},
                    "survive_sites": 1,
                    "penalty_per_1k": 10,
                    **contract,
                }
            },
        }
    )


def plan_of(fabric: Fabric, **changes: Any) -> Plan:
    usual: dict[str, Any] = {
        "rtt": RttTable.from_fabric(fabric, dict.fromkeys(fabric.sites, ANY_PATH)),
        "service": ServiceTable.from_fabric(fabric),
        "bounds": {(contract, site): Verdict(True) for contract in fabric.contracts for site in fabric.sites},
        "up": set(fabric.sites),
        "previous": None,
        "demand": declared_demand(fabric),
        "now": 0.0,
    }
    plan = make_plan(fabric, **(usual | changes))
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.parametrize("lost", ["x", "y"])
def test_after_the_loss_of_either_site_everything_is_served_by_what_stood(lost: str) -> None:
    fabric = fabric_of()
    plan = plan_of(fabric)
    assert plan.exposures == plan.shortfalls == ()
    after = plan_of(fabric, up=set(fabric.sites) - {lost}, previous=plan, now=1.0)
    left = next(site for site in "xy" if site != lost)
    assert after.placements[left] == plan.placements[left]
    assert sum(short.unserved_rps for short in after.shortfalls) == 0


def test_one_by_one_less_would_have_stood() -> None:
    """The demand of one ingress alone would fit into one replica a site."""
    assert plan_of(fabric_of(demand_rps={"a": 60})).placements == {"x": {"w": 1}, "y": {"w": 1}}
    assert plan_of(fabric_of()).placements == {"x": {"w": 2}, "y": {"w": 2}}


def test_what_hardware_does_not_suffice_for_is_named_with_the_site_whose_loss_it_would_be() -> None:
    fabric = fabric_of(units=1)
    plan = plan_of(fabric, demand={"c": {"a": 50.0, "b": 50.0, "c": 50.0}})
    assert sum(each.rps for each in plan.exposures) == pytest.approx(50, abs=10)
    details = [short.detail for short in plan.shortfalls]
    assert any("executions per second would find no room" in each and "after losing" in each for each in details)
    standing = plan_of(fabric, previous=plan, demand={"c": {"a": 50.0, "b": 50.0, "c": 50.0}}, now=1.0)
    assert standing.exposures == plan.exposures


def test_contracts_that_need_not_survive_may_be_shed_instead() -> None:
    document = fabric_of().model_dump()
    document["contracts"]["loose"] = document["contracts"]["c"] | {"survive_sites": 0, "penalty_per_1k": 1}
    plan = plan_of(Fabric.model_validate(document))
    assert plan.exposures == ()
    assert sum(row["w"] for row in plan.placements.values()) == 4  # for 360 a second now, for 180 after a loss
