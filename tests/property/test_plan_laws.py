"""Laws of plans and of routing, on random fabrics and random problems."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import InputError
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.model.fabric import Fabric
from isochrone.plan.candidates import find_candidates
from isochrone.plan.consistent import check_consistent
from isochrone.plan.coordinated import Coordinator, lower_bound
from isochrone.plan.plan import TRIES_MIN, Plan
from isochrone.plan.planner import declared_demand, make_plan
from isochrone.plan.problem import Routing, RoutingProblem
from isochrone.plan.routing import route_exactly
from isochrone.plan.verdicts import Verdict

PLACES = [(47.7, 9.2), (50.1, 8.7), (47.4, 8.5), (39.0, -77.5), (48.9, 2.4), (1.35, 103.8)]


@st.composite
def fabrics(draw: st.DrawFn) -> Fabric:
    count = draw(st.integers(1, len(PLACES)))
    sites = {
        f"s{n}": {
            "tier": "metro",
            "at": {"lat": PLACES[n][0], "lon": PLACES[n][1]},
            "jurisdiction": "DE",
            "vendor": "v",
            "drained": draw(st.booleans()) and n > 0,
            "hardware": {
                kind: {"units": draw(st.integers(0, 6)), "price_per_unit_hour": draw(st.sampled_from([0.0, 0.1, 1, 5]))}
                for kind in draw(st.sampled_from([("cpu",), ("gpu",), ("cpu", "gpu")]))
            },
        }
        for n in range(count)
    }
    workloads = {
        f"w{n}": {
            "protocol": "http",
            "model": {"name": "m"},
            "runtime": {"kind": "process", "command": ["x", "{port}"]},
            "service": {
                kind: {
                    "duration": {"p50_ms": p50, "p99_ms": 4 * p50},
                    "concurrency": draw(st.integers(1, 8)),
                    "rps_max": draw(st.sampled_from([1.0, 30.0, 400.0])),
                    "units": draw(st.integers(1, 2)),
                }
                for kind, p50 in (("cpu", 8.0), ("gpu", 2.0))
            },
            "replicas_max_per_site": draw(st.integers(1, 4)),
        }
        for n in range(draw(st.integers(1, 2)))
    }
    contracts = {
        f"c{n}": {
            "workload": draw(st.sampled_from(sorted(workloads))),
            "in_time": {
                "objective_ms": draw(st.sampled_from([5, 12, 45, 200])),
                "quantile": draw(st.sampled_from([0.5, 0.95, 0.99])),
            },
            "in_bounds": {"hardware": draw(st.sampled_from([[], ["gpu"]]))},
            "demand_rps": draw(st.dictionaries(st.sampled_from(sorted(sites)), st.sampled_from([0.0, 0.5, 20, 3000]))),
            "penalty_per_1k": draw(st.sampled_from([0.0, 1, 100])),
            "survive_sites": draw(st.integers(0, 1)),
        }
        for n in range(draw(st.integers(1, 3)))
    }
    return Fabric.model_validate({"name": "f", "sites": sites, "workloads": workloads, "contracts": contracts})


@st.composite
def situations(draw: st.DrawFn) -> tuple[Fabric, dict[str, Any]]:
    fabric = draw(fabrics())
    up = draw(st.sets(st.sampled_from(sorted(fabric.sites)), min_size=1))
    bounds = {
        (contract, site): Verdict(draw(st.booleans()), ("p",)) for contract in fabric.contracts for site in fabric.sites
    }
    arguments = {
        "rtt": RttTable.from_fabric(fabric),
        "service": ServiceTable.from_fabric(fabric),
        "bounds": bounds,
        "up": up,
        "demand": declared_demand(fabric),
        "now": 0.0,
    }
    return fabric, arguments


def planned(fabric: Fabric, arguments: dict[str, Any], previous: Plan | None = None) -> Plan:
    plan = make_plan(fabric, previous=previous, **arguments)
    assert isinstance(plan, Plan)
    return plan


@settings(max_examples=60, deadline=None)
@given(situations())
def test_no_request_is_ever_sent_out_of_time_out_of_bounds_or_to_a_site_that_cannot_serve(
    situation: tuple[Fabric, dict[str, Any]],
) -> None:
    fabric, arguments = situation
    plan = planned(fabric, arguments)
    candidates = find_candidates(
        fabric, arguments["rtt"], arguments["service"], arguments["bounds"], arguments["up"], 0.0
    )
    for i, routes in enumerate(plan.routes.values()):
        assert set(routes) == set(fabric.contracts)
        for name, rungs in routes.items():
            contract = fabric.contracts[name]
            assert tuple(rung.deadline_ms for rung in rungs) == contract.rungs_ms
            for rung in rungs:
                sites = [share.site for share in rung.shares] + list(rung.fallbacks)
                assert len(sites) == len(set(sites))
                for site in sites:
                    s = candidates.sites.index(site)
                    assert candidates.needed_s[name][i, s] * 1e3 <= rung.deadline_ms
                    assert arguments["bounds"][name, site].allowed
                    assert site in arguments["up"]
                    assert not fabric.sites[site].drained
                    assert plan.placements[site][contract.workload] > 0
                    kind = plan.hardware[site][contract.workload]
                    assert not contract.in_bounds.hardware or kind in contract.in_bounds.hardware
                    assert plan.limits[site][name] >= 1


@settings(max_examples=60, deadline=None)
@given(situations())
def test_whoever_is_refused_again_and_again_is_still_in_time_at_the_last_try(
    situation: tuple[Fabric, dict[str, Any]],
) -> None:
    fabric, arguments = situation
    plan = planned(fabric, arguments)
    candidates = find_candidates(
        fabric, arguments["rtt"], arguments["service"], arguments["bounds"], arguments["up"], 0.0
    )
    for i, routes in enumerate(plan.routes.values()):
        for name, rungs in routes.items():
            for rung in rungs:
                order = [*(share.site for share in rung.shares), *rung.fallbacks]
                for first in rung.shares:
                    path = [first.site, *(site for site in order if site != first.site)][: rung.tries]
                    there = [candidates.sites.index(site) for site in path]
                    spent_s = sum(candidates.rtt_s[name][i, s] for s in there[:-1])
                    last_s = spent_s + candidates.needed_s[name][i, there[-1]]
                    assert len(path) <= TRIES_MIN or last_s * 1e3 <= rung.deadline_ms + 1e-9


@settings(max_examples=60, deadline=None)
@given(situations())
def test_shares_sum_to_one_or_a_refusal_says_why(situation: tuple[Fabric, dict[str, Any]]) -> None:
    fabric, arguments = situation
    plan = planned(fabric, arguments)
    check_consistent(plan)
    unserved = {(short.contract, short.ingress): short.unserved_rps for short in plan.shortfalls if short.unserved_rps}
    for ingress, routes in plan.routes.items():
        for name, rungs in routes.items():
            for rung in rungs:
                if rung.shares:
                    assert rung.refusal is None
                    assert sum(round(share.share * 10_000) for share in rung.shares) == 10_000
                    assert all(share.share > 0 for share in rung.shares)
                else:
                    assert rung.refusal is not None
                    assert rung.refusal.title
                    assert rung.refusal.detail
                    assert not rung.fallbacks
            wanted = arguments["demand"].get(name, {}).get(ingress, 0.0)
            if rungs[-1].refusal and wanted > 0:
                assert unserved[name, ingress] == pytest.approx(wanted)
    assert Plan.from_json(plan.to_json()) == plan


@settings(max_examples=40, deadline=None)
@given(situations())
def test_units_and_replica_limits_hold_and_planning_twice_changes_nothing(
    situation: tuple[Fabric, dict[str, Any]],
) -> None:
    fabric, arguments = situation
    plan = planned(fabric, arguments)
    for site, row in plan.placements.items():
        used: dict[str, int] = {}
        for workload, replicas in row.items():
            assert 0 < replicas <= fabric.workloads[workload].replicas_max_per_site
            kind = plan.hardware[site][workload]
            used[kind] = used.get(kind, 0) + replicas * fabric.workloads[workload].service[kind].units
        assert all(count <= fabric.sites[site].hardware[kind].units for kind, count in used.items())
    assert planned(fabric, arguments).to_json() == plan.to_json()
    assert planned(fabric, arguments, previous=plan) is plan


# --- the routing problem itself -----------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> RoutingProblem:
    demands, pools = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    workloads = draw(st.integers(1, 2))
    pairs = [
        (d, p) for d in range(demands) for p in range(pools) if p % workloads == d % workloads and rng.random() < 0.7
    ]
    zero = draw(st.sampled_from(["", "cost", "capacity_rps", "rps", "shed_cost"]))
    arrays = {
        "rps": rng.exponential(10, demands),
        "shed_cost": rng.uniform(0.5, 50, demands),
        "capacity_rps": rng.exponential(15, pools),
        "cost": rng.uniform(0, 5, len(pairs)),
        "use": 1 + rng.exponential(0.5, len(pairs)),
    }
    if zero:
        arrays[zero] = np.zeros_like(arrays[zero])
    return RoutingProblem(
        demands=tuple((f"c{d}", "i") for d in range(demands)),
        pools=tuple((f"s{p}", f"w{p % workloads}") for p in range(pools)),
        arc_demand=np.array([d for d, _ in pairs], dtype=np.int32),
        arc_pool=np.array([p for _, p in pairs], dtype=np.int32),
        **arrays,
    )


def check_optimal(problem: RoutingProblem, routing: Routing) -> None:
    """Feasibility, dual feasibility and complementary slackness: together they prove the optimum."""
    flow, price = routing.flow_rps, routing.capacity_price
    scale = 1 + float(problem.shed_cost.max()) + float(problem.cost.max(initial=0.0))
    served = np.bincount(problem.arc_demand, flow, minlength=len(problem.rps))
    load = np.bincount(problem.arc_pool, flow * problem.use, minlength=len(problem.capacity_rps))
    assert served + routing.unserved_rps == pytest.approx(problem.rps, abs=1e-6)
    assert (load <= problem.capacity_rps + 1e-6).all()
    assert (price >= 0).all()
    assert (routing.demand_price <= problem.shed_cost + 1e-6 * scale).all()
    reduced = problem.cost + problem.use * price[problem.arc_pool] - routing.demand_price[problem.arc_demand]
    assert (reduced[problem.rps[problem.arc_demand] > 1e-6] >= -1e-5 * scale).all()
    assert np.abs(reduced * flow).max(initial=0.0) <= 1e-4 * scale
    assert (price * (problem.capacity_rps - load)).max(initial=0.0) <= 1e-4 * scale
    gap = (problem.shed_cost - routing.demand_price) * routing.unserved_rps
    assert gap.max(initial=0.0) <= 1e-4 * scale


@settings(max_examples=150, deadline=None)
@given(problems())
def test_prices_prove_the_exact_split(problem: RoutingProblem) -> None:
    routing = route_exactly(problem)
    check_optimal(problem, routing)
    assert lower_bound(problem, routing.capacity_price) == pytest.approx(routing.objective, rel=1e-6, abs=1e-5)


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from([0.0, 0.01, 0.2]), st.integers(1, 3))
def test_coordination_by_prices_keeps_its_proven_gap(problem: RoutingProblem, gap: float, proposals: int) -> None:
    exact = route_exactly(problem).objective
    routing = Coordinator(gap, proposals).solve(problem)
    assert routing.objective == pytest.approx(exact, rel=gap + 1e-6, abs=1e-6)
    assert routing.bound <= exact + 1e-6 * (1 + exact)
    load = np.bincount(problem.arc_pool, routing.flow_rps * problem.use, minlength=len(problem.capacity_rps))
    assert (load <= problem.capacity_rps + 1e-6).all()
    served = np.bincount(problem.arc_demand, routing.flow_rps, minlength=len(problem.rps))
    assert served + routing.unserved_rps == pytest.approx(problem.rps, abs=1e-6)
    paid = float(problem.cost @ routing.flow_rps + problem.shed_cost @ routing.unserved_rps)
    assert paid == pytest.approx(routing.objective, rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(problems(), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_a_warm_coordinator_answers_like_a_new_one(problem: RoutingProblem, seeds: list[int]) -> None:
    coordinator = Coordinator(0.0)
    coordinator.solve(problem)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        moved = replace(
            problem,
            rps=problem.rps * rng.uniform(0, 3, len(problem.rps)),
            cost=problem.cost * rng.uniform(0, 3, len(problem.cost)),
            capacity_rps=problem.capacity_rps * rng.uniform(0, 3, len(problem.capacity_rps)),
        )
        warm = coordinator.solve(moved)
        assert warm.objective == pytest.approx(route_exactly(moved).objective, rel=1e-6, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(problems(), st.integers(0, 2**32 - 1))
def test_another_site_never_makes_it_dearer_and_the_price_says_how_much_cheaper(
    problem: RoutingProblem, seed: int
) -> None:
    before = route_exactly(problem)
    rng = np.random.default_rng(seed)
    everyone = np.arange(len(problem.rps))
    order = np.argsort(np.concatenate([problem.arc_demand, everyone]), kind="stable")
    wider = replace(
        problem,
        pools=(*problem.pools, ("new", problem.pools[0][1])),
        capacity_rps=np.append(problem.capacity_rps, rng.exponential(10)),
        arc_demand=np.concatenate([problem.arc_demand, everyone])[order].astype(np.int32),
        arc_pool=np.concatenate([problem.arc_pool, np.full(len(everyone), len(problem.pools))])[order].astype(np.int32),
        cost=np.concatenate([problem.cost, rng.uniform(0, 9, len(everyone))])[order],
        use=np.concatenate([problem.use, np.ones(len(everyone))])[order],
    )
    assert route_exactly(wider).objective <= before.objective + 1e-6 * (1 + before.objective)
    more = replace(problem, capacity_rps=problem.capacity_rps + np.eye(len(problem.pools))[0])
    saved = before.objective - route_exactly(more).objective
    assert -1e-6 <= saved <= before.capacity_price[0] + 1e-5 * (1 + before.objective)


@pytest.mark.parametrize("name", ["rps", "shed_cost", "capacity_rps", "cost", "use"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_numbers_that_cannot_be_are_refused(name: str, value: float) -> None:
    arrays = {key: np.ones(1) for key in ("rps", "shed_cost", "capacity_rps", "cost", "use")}
    arrays[name] = np.array([value])
    index = np.zeros(1, dtype=np.int32)
    with pytest.raises(InputError, match=name):
        RoutingProblem((("c", "i"),), (("s", "w"),), arc_demand=index, arc_pool=index, **arrays)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    one, index = np.ones(1), np.zeros(1, dtype=np.int32)
    with pytest.raises(InputError, match="length"):
        RoutingProblem((("c", "i"),), (("s", "w"),), np.ones(2), one, one, index, index, one, one)
    with pytest.raises(InputError, match="does not exist"):
        RoutingProblem((("c", "i"),), (("s", "w"),), one, one, one, index + 1, index, one, one)


def test_nothing_at_all_is_solved_too() -> None:
    none = np.zeros(0)
    index = np.zeros(0, dtype=np.int32)
    empty = RoutingProblem((), (), none, none, none, index, index, none, none)
    assert route_exactly(empty).objective == 0
    assert Coordinator().solve(empty).objective == 0
    nowhere = RoutingProblem((("c", "i"),), (), np.ones(1), np.ones(1), none, index, index, none, none)
    for routing in (route_exactly(nowhere), Coordinator().solve(nowhere)):
        assert routing.objective == pytest.approx(1.0)
        assert routing.unserved_rps == pytest.approx([1.0])
