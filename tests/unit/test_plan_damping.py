"""What stands stays where it is nearly as good, moves where it must, and never overloads what it stays on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isochrone.plan.coordinated import Coordinator
from isochrone.plan.damping import damped
from isochrone.plan.problem import RoutingProblem, ShareLimit
from isochrone.plan.routing import route_exactly
from isochrone.plan.smoothed import promising_arcs


def problem_of(costs: tuple[float, float], rps: float = 10.0, capacity: float = 100.0) -> RoutingProblem:
    return RoutingProblem(
        demands=(("c", "here"),),
        pools=(("a", "w"), ("b", "w")),
        rps=np.array([rps]),
        shed_cost=np.array([50.0]),
        capacity_rps=np.array([capacity, 100.0]),
        arc_demand=np.array([0, 0], dtype=np.int32),
        arc_pool=np.array([0, 1], dtype=np.int32),
        cost=np.array(costs),
        use=np.ones(2),
    )


def stay(problem: RoutingProblem, shares: dict[str, float]) -> list[float]:
    routing = damped(problem, route_exactly(problem), {("c", "here"): shares})
    assert routing.flow_rps.sum() + routing.unserved_rps.sum() == pytest.approx(problem.rps.sum())
    assert routing.objective >= routing.bound
    return routing.flow_rps.tolist()


def test_what_is_nearly_as_good_stays() -> None:
    assert stay(problem_of((1.0, 1.005)), {"b": 1.0}) == pytest.approx([0, 10])
    assert stay(problem_of((1.005, 1.0)), {"a": 0.3, "b": 0.7}) == pytest.approx([3, 7])


def test_what_is_much_dearer_moves_whole() -> None:
    assert stay(problem_of((1.0, 2.0)), {"b": 1.0}) == pytest.approx([10, 0])


def test_no_capacity_is_exceeded_for_the_sake_of_staying() -> None:
    assert stay(problem_of((1.0, 1.001), capacity=4.0), {"a": 1.0}) == pytest.approx([4, 6])


def test_what_stands_nowhere_goes_where_it_is_best() -> None:
    assert stay(problem_of((1.0, 1.001)), {}) == pytest.approx([10, 0])
    assert stay(problem_of((1.0, 1.001)), {"gone": 1.0}) == pytest.approx([10, 0])


def test_the_gap_states_what_staying_costs() -> None:
    problem = problem_of((1.0, 1.005))
    assert damped(problem, route_exactly(problem), {("c", "here"): {"b": 1.0}}).gap == pytest.approx(0.005, rel=0.01)


def test_a_large_problem_begins_with_arcs_that_its_optimum_uses() -> None:
    rng = np.random.default_rng(2)
    ingresses, sites = 150, 150
    i, s = np.nonzero(rng.random((ingresses, sites)) < 0.95)
    rps = rng.exponential(1, ingresses)
    problem = RoutingProblem(
        demands=tuple(("c", f"i{n}") for n in range(ingresses)),
        pools=tuple((f"s{n}", "w") for n in range(sites)),
        rps=rps,
        shed_cost=np.full(ingresses, 50.0),
        capacity_rps=np.full(sites, 1.3 * rps.sum() / sites),
        arc_demand=i.astype(np.int32),
        arc_pool=s.astype(np.int32),
        cost=rng.uniform(1, 4, len(i)),
        use=rng.uniform(1, 2, len(i)),
    )
    assert len(i) > 20_000, "the smoothed dual is used from here on"
    exact = route_exactly(problem)
    promising = promising_arcs(problem, 2.5)
    assert promising.mean() < 0.2
    assert promising[exact.flow_rps > 1e-6].mean() > 0.9
    coordinator = Coordinator(0.01)
    for changed in (problem, replace(problem, rps=rps * rng.uniform(0.95, 1.05, ingresses))):
        answer, best = coordinator.solve(changed), route_exactly(changed)
        assert answer.gap <= 0.01
        assert answer.bound <= best.objective * (1 + 1e-9)
        assert best.objective * (1 - 1e-9) <= answer.objective <= best.objective * 1.01


def test_no_share_limit_is_broken_for_the_sake_of_staying() -> None:
    limit = ShareLimit("c", "site", "a", 0.5, frozenset(["a"]))
    problem = replace(problem_of((1.0, 1.001)), limits=(limit,))
    assert stay(problem, {"a": 0.9, "b": 0.1}) == pytest.approx([5, 5])
    assert stay(problem, {"a": 0.2, "b": 0.8}) == pytest.approx([2, 8])
