"""Is a problem of any size solved by the solver that is quick for it, and does every plan say by whom and how well?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isochrone.control.hub import REPLAN_S, Desired, HubState, Publish, Reported, Tick, step
from isochrone.control.report import Arrivals, SiteReport
from isochrone.errors import PlanError
from isochrone.model.fabric import Fabric
from isochrone.plan import router as under_test
from isochrone.plan.plan import Plan
from isochrone.plan.problem import RoutingProblem
from isochrone.plan.router import EXACT_ARCS_MAX, RouterBySize
from isochrone.plan.routing import route_exactly
from isochrone.policy.policies import PolicySet
from isochrone.serve.hub_known import solve_of


def problem(ingresses: int, sites: int, seed: int = 1) -> RoutingProblem:
    """Everybody reaches everybody, and there is too little for all."""
    rng = np.random.default_rng(seed)
    arcs = ingresses * sites
    rps, cost = rng.exponential(1.0, ingresses), rng.uniform(1, 4, arcs)
    return RoutingProblem(
        demands=tuple(("c", f"i{i}") for i in range(ingresses)),
        pools=tuple((f"s{s}", "w") for s in range(sites)),
        rps=rps,
        shed_cost=np.full(ingresses, 50.0),
        capacity_rps=rng.uniform(0.2, 1.0, sites) * 1.6 * rps.sum() / sites,
        arc_demand=np.repeat(np.arange(ingresses), sites).astype(np.int32),
        arc_pool=np.tile(np.arange(sites), ingresses).astype(np.int32),
        cost=cost,
        use=np.ones(arcs),
    )


def test_small_problems_are_solved_exactly_and_large_ones_by_prices() -> None:
    route = RouterBySize()
    small, large = route(problem(10, 10)), route(problem(130, 120))
    assert EXACT_ARCS_MAX < 130 * 120
    assert (small.solver, small.gap) == ("exact", 0.0)
    assert large.solver == "coordinated"
    assert 0 <= large.gap <= 0.01


def test_both_solvers_agree_on_cost_within_the_gap_and_on_what_capacity_is_worth() -> None:
    whole = problem(40, 30)
    exact, fast = route_exactly(whole), RouterBySize(arcs_max=0, gap=0.0)(whole)
    assert fast.solver == "coordinated"
    assert fast.objective == pytest.approx(exact.objective, rel=1e-9)
    assert fast.bound == pytest.approx(exact.objective, rel=1e-9)
    assert (exact.capacity_price > 0).sum() > 5, "nothing scarce: the prices would prove nothing"
    assert fast.capacity_price == pytest.approx(exact.capacity_price, rel=1e-6, abs=1e-9)
    assert fast.demand_price == pytest.approx(exact.demand_price, rel=1e-6, abs=1e-9)


def test_a_solver_that_fails_is_begun_anew_and_the_answer_comes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        made = 0

        def __init__(self, _: float) -> None:
            Failing.made += 1

        def solve(self, _: RoutingProblem) -> None:
            raise PlanError("numerical trouble", code="plan.not-optimal")

    monkeypatch.setattr(under_test, "Coordinator", Failing)
    answer = RouterBySize(arcs_max=0)(problem(5, 5))
    assert (answer.solver, Failing.made) == ("exact", 2)


# --- at the hub -----------------------------------------------------------------------------------------------------

SITES = [f"s{n}" for n in range(6)]
HARDWARE = {"cpu": {"units": 4, "price_per_unit_hour": 1.0}}
FABRIC = Fabric.model_validate(
    {
        "name": "six",
        "sites": {
            name: {
                "tier": "metro", "at": {"lat": 48 + n * 0.7, "lon": 9 + n * 0.3}, "jurisdiction": "DE", "vendor": "v",
                "hardware": HARDWARE,
            }
            for n, name in enumerate(SITES)
        },
        "workloads": {
            "w": {
                "protocol": "http", "model": {"name": "m"}, "replicas_max_per_site": 2,
                "runtime": {"kind": "external", "at": dict.fromkeys(SITES, "127.0.0.1:1")},
                "service": {"cpu": {"duration": {"p50_ms": 2, "p99_ms": 8}, "concurrency": 4, "rps_max": 100}},
            }
        },
        "contracts": {
            "c": {"workload": "w", "in_time": {"objective_ms": 60}, "demand_rps": {"s0": 900, "s3": 600}},
        },
    }
)  # fmt: skip


def hub(router: RouterBySize) -> tuple[HubState, list[Plan]]:
    allow = PolicySet.parse({"a.cedar": '@id("a") permit (principal, action, resource);'})
    state, plans = HubState(router=router), []
    events = [(1.0, Desired(1, FABRIC, allow))]
    for n, rps in enumerate((100, 900, 1500), start=1):
        now = 1 + n * (REPLAN_S + 0.1)
        for site in SITES:
            events.append((now, Reported(site, report(site, now, rps if site == "s0" else 500))))  # type: ignore[arg-type]
        events.append((now, Tick()))  # type: ignore[arg-type]
        events.append((now + REPLAN_S, Tick()))  # type: ignore[arg-type]
    for now, event in events:
        state, effects = step(state, event, now)
        plans += [effect.plan for effect in effects if isinstance(effect, Publish)]
    return state, plans


def report(site: str, at_s: float, rps: int) -> SiteReport:
    arrivals = {"c": Arrivals(rps * 20, 20.0)}
    return SiteReport(
        site=site, boot="b", at_s=at_s, ingress="127.0.0.1:1", peer="127.0.0.1:2", ready={}, desired=1, plan=1, epoch=0,
        arrivals=arrivals,
    )  # fmt: skip


@pytest.mark.parametrize(("arcs_max", "solver"), [(EXACT_ARCS_MAX, "exact"), (0, "coordinated")])
def test_every_plan_of_a_hub_says_who_solved_it_and_how_far_it_is_from_the_best(arcs_max: int, solver: str) -> None:
    state, plans = hub(RouterBySize(arcs_max))
    assert len(plans) >= 2
    for plan in plans:
        assert plan.solver == solver
        assert 0 <= plan.gap <= 0.03  # what damping gives away for standing still is in it
    assert state.plan is not None
    assert solve_of(state.plan) == {
        "solver": solver, "gap": state.plan.gap, "placement_gap": state.plan.placement_gap,
        "objective": state.plan.objective,
    }  # fmt: skip
    assert solve_of(None) == {}
    assert Plan.from_json(state.plan.to_json()).solver == solver


def test_both_solvers_put_plans_of_the_same_cost_into_force() -> None:
    exact, fast = hub(RouterBySize())[0].plan, hub(RouterBySize(arcs_max=0))[0].plan
    assert exact is not None
    assert fast is not None
    assert fast.objective == pytest.approx(exact.objective, rel=0.03)
    assert [short.kind for short in fast.shortfalls] == [short.kind for short in exact.shortfalls]


def test_what_a_new_solve_says_of_the_same_forwarding_is_kept_and_no_news_to_sites() -> None:
    state, _ = hub(RouterBySize())
    assert state.plan is not None
    # As if everything cost half as much when the split was chosen: it is the best one still.
    held = replace(state.plan, objective=state.plan.objective / 2)
    heard = dict.fromkeys(SITES, state.planned_s + REPLAN_S)
    after, effects = step(replace(state, plan=held, heard_s=heard), Tick(), state.planned_s + REPLAN_S)
    assert effects == []
    assert after.plan is not None
    assert after.plan.revision == held.revision
    assert after.plan.objective == pytest.approx(state.plan.objective, rel=0.05)
