"""Laws of surviving a loss: what is said to be survived is, and no row given to placement rules out a good one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from isochrone.plan.problem import RoutingProblem
from isochrone.plan.survival import Survival


@st.composite
def problems(draw: st.DrawFn) -> RoutingProblem:
    """Connected ones: what stands elsewhere cannot be lost to anybody here."""
    demands, pools = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pairs, reached = set[tuple[int, int]](), {0}
    for d in range(demands):
        mine = {draw(st.sampled_from(sorted(reached)))} | draw(st.sets(st.integers(0, pools - 1)))
        reached |= mine
        pairs |= {(d, p) for p in mine}
    arcs = sorted(pairs)
    amounts = st.sampled_from([1.0, 5.0, 30.0, 100.0])
    return RoutingProblem(
        demands=tuple(("c", f"i{d}") for d in range(demands)),
        pools=tuple((f"s{p}", "w") for p in range(pools)),
        rps=np.array([draw(amounts) for _ in range(demands)]),
        shed_cost=np.ones(demands),
        capacity_rps=np.array([draw(st.sampled_from([10.0, 50.0])) for _ in range(pools)]),
        arc_demand=np.array([d for d, _ in arcs], dtype=np.int32),
        arc_pool=np.array([p for _, p in arcs], dtype=np.int32),
        cost=np.zeros(len(arcs)),
        use=np.array([draw(st.sampled_from([1.0, 2.5])) for _ in arcs]),
    )


def without_room(problem: RoutingProblem, replicas: list[int], lost: int) -> float:
    """Executions per second that find no room without a pool, by another solver's interface and formulation: most that
    can be served of what reaches another pool at all."""
    reach = [set(problem.arc_pool[problem.arc_demand == d].tolist()) for d in range(len(problem.rps))]
    wanted = np.array([rps if pools - {lost} else 0.0 for rps, pools in zip(problem.rps, reach, strict=True)])
    capacity = problem.capacity_rps * np.array(replicas)
    capacity[lost] = 0.0
    rows = np.zeros((len(wanted) + len(capacity), len(problem.cost)))
    for arc, (d, p) in enumerate(zip(problem.arc_demand, problem.arc_pool, strict=True)):
        rows[d, arc], rows[len(wanted) + p, arc] = 1.0, problem.use[arc]
    found = linprog(-np.ones(len(problem.cost)), A_ub=rows, b_ub=np.concatenate([wanted, capacity]))
    return float(wanted.sum() + found.fun)


replicas_of = st.lists(st.integers(0, 5), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(problems(), replicas_of, replicas_of)
def test_cuts_are_broken_by_what_does_not_survive_and_held_by_all_that_does(
    problem: RoutingProblem, some: list[int], other: list[int]
) -> None:
    pools = len(problem.pools)
    survival = Survival(problem, np.ones(len(problem.rps), dtype=bool))

    def worst(replicas: list[int]) -> float:
        stands = [p for p in np.unique(problem.arc_pool) if replicas[p]]
        return max((without_room(problem, replicas[:pools], p) for p in stands), default=0.0)

    def all_of(replicas: list[int]) -> float:
        return max(without_room(problem, replicas[:pools], p) for p in range(pools))

    cuts = survival.cuts(np.array(some[:pools], dtype=float))
    exposures = survival.exposures(np.array(some[:pools], dtype=float))
    assert bool(cuts) == bool(exposures) == (worst(some) > 1e-4)
    assert max((each.rps for each in exposures), default=0.0) <= worst(some) + 1e-4
    for cut in cuts:
        assert cut.carried(np.array(some[:pools], dtype=float)) < cut.need
    if all_of(other) < 1e-9:
        for cut in [*cuts, *survival.first_cuts()]:
            assert cut.carried(np.array(other[:pools], dtype=float)) >= cut.need - 1e-6
