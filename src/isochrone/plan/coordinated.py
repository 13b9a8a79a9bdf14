"""The fast solution: prices per pool, ingresses that choose by them, and a proven bound on what is left to gain.

Capacity is priced, and at prices pi each demand looks only for its cheapest arcs at cost + use x pi (column
generation; Dantzig and Wolfe, "Decomposition principle for linear programs", Operations Research 1960). A small linear
program over the arcs proposed so far splits the demand and sets the next prices. For any prices pi >= 0

    L(pi) = sum over demands of rps x min(shed cost, cheapest arc) - sum over pools of pi x capacity

is a lower bound on the optimum (weak duality), so every answer states its gap, and a gap of 0 is the exact optimum.
Workloads share no pool, so each is solved by itself; where everyone's cheapest arc fits, no program is solved at all.
A large program begins with the arcs that a smoothed dual finds promising (`smoothed`). A coordinator keeps its
programs: the next solve begins where the last one ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isochrone.errors import PlanError
from isochrone.plan.highs import INFINITY, GrowingProgram
from isochrone.plan.problem import Routing, RoutingProblem
from isochrone.plan.routing import cost_scale, route_exactly
from isochrone.plan.smoothed import promising_arcs

__all__ = ["Coordinator", "lower_bound"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
# Arcs of one workload that lie together are a slice and its arrays views: of a large problem little is copied.
Where = slice | Ints
_ROUNDS_MAX = 200
# From so many arcs of one workload the smoothed dual pays: below, a few rounds of the program are quicker.
_SMOOTHED_ARCS_MIN = 20_000


class Coordinator:
    """Solves routing problems that follow one another.

    Args:
        gap: proven relative distance to the optimum at which a solve stops.
        proposals: arcs each demand proposes per round.
    """

    def __init__(self, gap: float = 0.01, proposals: int = 2) -> None:
        self.gap = gap
        self.proposals = proposals
        self._problem: RoutingProblem | None = None
        self._parts: list[_Part] = []

    def solve(self, problem: RoutingProblem) -> Routing:
        """A split within `gap` of the optimum, with its prices.

        Share limits tie the ingresses of a contract together, which prices per pool do not: with any, it is solved
        exactly.

        Raises:
            PlanError: the optimiser failed, or the gap was not reached (a defect).
        """
        if problem.limits:
            return route_exactly(problem)
        if self._problem is None or not _same_arcs(self._problem, problem):
            self._parts = [_Part(problem, *where) for where in _split(problem)]
        self._problem = problem
        flow = np.zeros(len(problem.cost))
        unserved, demand_price = problem.rps.copy(), problem.shed_cost.copy()
        capacity_price = np.zeros(len(problem.capacity_rps))
        objective = bound = 0.0
        for part in self._parts:
            routing = part.solve(problem, self.gap, self.proposals)
            flow[part.arcs] = routing.flow_rps
            unserved[part.demands] = routing.unserved_rps
            demand_price[part.demands] = routing.demand_price
            capacity_price[part.pools] = routing.capacity_price
            objective += routing.objective
            bound += routing.bound
        lost = np.ones(len(problem.rps), dtype=bool)
        for part in self._parts:
            lost[part.demands] = False
        shed = float(problem.rps[lost] @ problem.shed_cost[lost])
        return Routing(
            flow, unserved, capacity_price, demand_price, objective + shed, bound + shed, solver="coordinated"
        )


def lower_bound(problem: RoutingProblem, capacity_price: Floats) -> float:
    """L(pi) of the module: no split of `problem` costs less."""
    return _Arcs.of(problem).bound(problem, capacity_price)


def _same_arcs(a: RoutingProblem, b: RoutingProblem) -> bool:
    names = a.demands == b.demands and a.pools == b.pools
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("arc_demand", "arc_pool", "use")]
    return names and all(mine is other or np.array_equal(mine, other) for mine, other in pairs)


def _split(problem: RoutingProblem) -> list[tuple[Ints, Ints, Where]]:
    """Where the demands, pools and arcs of each workload are. A demand without any arc belongs nowhere."""
    names = {workload: n for n, workload in enumerate(sorted({workload for _, workload in problem.pools}))}
    of_pool = np.array([names[workload] for _, workload in problem.pools], dtype=np.int32)
    of_arc = of_pool[problem.arc_pool]
    of_demand = np.full(len(problem.rps), -1, dtype=np.int32)
    of_demand[problem.arc_demand] = of_arc
    if not np.array_equal(of_demand[problem.arc_demand], of_arc):
        # Some demand reaches pools of several workloads: the problem does not fall apart.
        of_pool[:], of_arc[:], of_demand[:] = 0, 0, np.where(of_demand >= 0, 0, -1)
    labels = np.flatnonzero(np.bincount(of_arc, minlength=1)).tolist()
    return [(np.flatnonzero(of_demand == n), np.flatnonzero(of_pool == n), _run(of_arc, n)) for n in labels]


def _run(labels: NDArray[np.int32], label: int) -> Where:
    """Where `label` stands in `labels`."""
    found = np.flatnonzero(labels == label)
    first, last = int(found[0]), int(found[-1])
    return slice(first, last + 1) if last - first + 1 == len(found) else found


@dataclass(frozen=True, slots=True)
class _Arcs:
    """Arcs by demand: `first[k]` is where those of demand `having[k]` begin."""

    having: Ints
    first: Ints

    @classmethod
    def of(cls, problem: RoutingProblem) -> _Arcs:
        having, first = np.unique(problem.arc_demand, return_index=True)
        return cls(having.astype(np.int64), first.astype(np.int64))

    def cheapest(self, problem: RoutingProblem, priced: Floats) -> Floats:
        """(D,) the least priced arc of each demand, infinite without any."""
        least = np.full(len(problem.rps), np.inf)
        if len(priced):
            least[self.having] = np.minimum.reduceat(priced, self.first)
        return least

    def bound(self, problem: RoutingProblem, capacity_price: Floats) -> float:
        priced = problem.cost + problem.use * capacity_price[problem.arc_pool]
        cheapest = np.minimum(self.cheapest(problem, priced), problem.shed_cost)
        return float(problem.rps @ cheapest - capacity_price @ problem.capacity_rps)

    def propose(self, problem: RoutingProblem, capacity_price: Floats, ceiling: Floats, count: int) -> Flags:
        """The `count` cheapest arcs of each demand that cost less than its `ceiling`."""
        priced = problem.cost + problem.use * capacity_price[problem.arc_pool]
        chosen = np.zeros(len(priced), dtype=bool)
        left = np.flatnonzero(priced < ceiling[problem.arc_demand])
        for _ in range(count):
            least = np.full(len(problem.rps), np.inf)
            np.minimum.at(least, problem.arc_demand[left], priced[left])
            best = priced[left] == least[problem.arc_demand[left]]
            chosen[left[best]] = True
            left = left[~best]
        return chosen


class _Part:
    """One workload's demands, pools and arcs (indices into the whole problem) and its standing program.

    The program's rows are demands, then pools; its first columns are the unserved demands, then arcs as proposed.
    """

    def __init__(self, whole: RoutingProblem, demands: Ints, pools: Ints, arcs: Where) -> None:
        self.demands, self.pools, self.arcs = demands, pools, arcs
        demand_at = np.zeros(len(whole.rps), dtype=np.int32)
        demand_at[demands] = np.arange(len(demands))
        pool_at = np.zeros(len(whole.capacity_rps), dtype=np.int32)
        pool_at[pools] = np.arange(len(pools))
        self._problem = replace(
            whole,
            demands=tuple(whole.demands[d] for d in demands.tolist()),
            pools=tuple(whole.pools[p] for p in pools.tolist()),
            rps=whole.rps[demands],
            shed_cost=whole.shed_cost[demands],
            capacity_rps=whole.capacity_rps[pools],
            arc_demand=demand_at[whole.arc_demand[arcs]],
            arc_pool=pool_at[whole.arc_pool[arcs]],
            cost=whole.cost[arcs],
            use=whole.use[arcs],
        )
        self._by_demand = _Arcs.of(self._problem)
        self._scale = cost_scale(self._problem)
        self._program: GrowingProgram | None = None
        self._active = np.zeros(0, dtype=np.int64)
        self._held = np.zeros(len(self._problem.cost), dtype=bool)

    def solve(self, whole: RoutingProblem, gap: float, proposals: int) -> Routing:
        """Solve for the current numbers of `whole`, whose arcs are those this part was made of."""
        problem = self._problem = replace(
            self._problem,
            rps=whole.rps[self.demands],
            shed_cost=whole.shed_cost[self.demands],
            capacity_rps=whole.capacity_rps[self.pools],
            cost=whole.cost[self.arcs],
        )
        free = self._uncontended()
        if free is not None:
            return free
        self._prepare(proposals)
        assert self._program is not None
        bound = -np.inf
        for _ in range(_ROUNDS_MAX):
            optimum = self._program.solve()
            demands = len(problem.rps)
            capacity_price = np.maximum(-optimum.row_dual[demands:] * self._scale, 0.0)
            demand_price = np.maximum(optimum.row_dual[:demands] * self._scale, 0.0)
            objective = optimum.value * self._scale
            bound = max(bound, self._by_demand.bound(problem, capacity_price))
            if objective - bound <= max(gap, 1e-9) * abs(objective) + 1e-15:
                flow = np.zeros(len(problem.cost))
                flow[self._active] = np.maximum(optimum.x[demands:], 0.0)
                unserved = np.maximum(optimum.x[:demands], 0.0)
                return Routing(flow, unserved, capacity_price, demand_price, objective, min(bound, objective))
            ceiling = demand_price * (1 - 1e-9)
            self._grow(self._by_demand.propose(problem, capacity_price, ceiling, proposals))
        raise PlanError(f"the gap {gap:g} was not reached in {_ROUNDS_MAX} rounds of prices", code="plan.gap")

    def _prepare(self, proposals: int) -> None:
        problem = self._problem
        row_lower = np.concatenate([problem.rps, np.full(len(problem.capacity_rps), -INFINITY)])
        row_upper = np.concatenate([problem.rps, problem.capacity_rps])
        if self._program is not None:
            cost = np.concatenate([problem.shed_cost, problem.cost[self._active]]) / self._scale
            self._program.change(cost, row_lower, row_upper)
            return
        self._program = GrowingProgram(row_lower, row_upper)
        count = len(problem.rps)
        every = np.arange(count, dtype=np.int32)
        self._program.add(problem.shed_cost / self._scale, every, every, np.ones(count))
        no_price, no_ceiling = np.zeros(len(problem.capacity_rps)), np.full(count, np.inf)
        if len(problem.cost) < _SMOOTHED_ARCS_MIN:
            self._grow(self._by_demand.propose(problem, no_price, no_ceiling, 2 * proposals))
        else:
            self._grow(promising_arcs(problem, self._scale))

    def _grow(self, proposed: Flags) -> None:
        problem = self._problem
        new = np.flatnonzero(proposed & ~self._held)
        self._held[new] = True
        self._active = np.concatenate([self._active, new])
        rows = np.column_stack([problem.arc_demand[new], problem.arc_pool[new] + len(problem.rps)]).ravel()
        values = np.column_stack([np.ones(len(new)), problem.use[new]]).ravel()
        starts = 2 * np.arange(len(new), dtype=np.int32)
        assert self._program is not None
        self._program.add(problem.cost[new] / self._scale, starts, rows.astype(np.int32), values)

    def _uncontended(self) -> Routing | None:
        """The optimum where everyone's cheapest arc fits: no capacity is scarce and its price is 0."""
        problem = self._problem
        least = self._by_demand.cheapest(problem, problem.cost)
        served = least <= problem.shed_cost
        best = np.flatnonzero(problem.cost == least[problem.arc_demand])
        chosen = best[np.unique(problem.arc_demand[best], return_index=True)[1]]
        flow = np.zeros(len(problem.cost))
        flow[chosen] = np.where(served, problem.rps, 0.0)[problem.arc_demand[chosen]]
        load = np.bincount(problem.arc_pool, flow * problem.use, minlength=len(problem.capacity_rps))
        if (load > problem.capacity_rps).any():
            return None
        price = np.minimum(least, problem.shed_cost)
        value = float(problem.rps @ price)
        unserved = np.where(served, 0.0, problem.rps)
        return Routing(flow, unserved, np.zeros(len(problem.capacity_rps)), price, value, value)
