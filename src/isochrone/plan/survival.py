"""Does what stands still carry the contracts that asked for it, whichever one site is lost?

Jointly: what several ingresses and contracts would fall back on is there only once. For each workload and each site
that may be lost, the protected executions must find room at the others. For given replicas y that is a linear program,

    minimise    sum u_d
    subject to  sum over arcs of d, not into the lost pool: x_a + u_d = rps_d     (dual: worth_d, at least 0)
                sum over arcs of p: use_a x_a              <= capacity_p y_p      (dual: price_p, at most 0)

and where something stays unserved its duals make a row that placement has to fulfil (a feasibility cut; Benders,
"Partitioning procedures for solving mixed-variables programming problems", Numerische Mathematik 4, 1962):

    sum over p: -price_p capacity_p y_p  >=  sum over d: worth_d rps_d

What other contracts want may be shed meanwhile, and so may what no other site could serve in any case: that is told
apart, as a contract that cannot survive. Past `_WORK_MAX` only necessary rows are held: for each demand by itself, and
for all that are connected by what they can reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from isochrone.plan.highs import INFINITY, LinearProgram, solve
from isochrone.plan.plan import Exposure
from isochrone.plan.problem import RoutingProblem

__all__ = ["Cut", "Survival"]

Floats = NDArray[np.float64]
# Arcs times pools that may be lost, of one workload, up to which each loss is looked at by itself.
_WORK_MAX = 200_000
# Executions per second that are none: solvers leave crumbs.
_CRUMB = 1e-6


@dataclass(frozen=True, slots=True)
class Cut:
    """sum of `weight` x replicas >= `need`, over pools (indices): executions per second to carry after a loss."""

    pools: tuple[int, ...]
    weight: tuple[float, ...]
    need: float

    def weights(self) -> Iterator[tuple[int, float]]:
        """Pool and weight, one after the other."""
        return zip(self.pools, self.weight, strict=True)

    def carried(self, replicas: Floats | NDArray[np.int_]) -> float:
        """What replicas (P,) carry of it."""
        return float(np.dot(self.weight, replicas[list(self.pools)]))


@dataclass(frozen=True, slots=True)
class _Loss:
    """The loss of a pool: the row to hold so that it is survived, and of some demands what is unserved, or at stake."""

    pool: int
    cut: Cut
    demands: NDArray[np.int64]
    unserved_rps: Floats


@dataclass(frozen=True, slots=True)
class _Part:
    """Demands, pools and arcs of a problem that are connected: a workload's, or a region of it."""

    demands: NDArray[np.int64]
    pools: NDArray[np.int64]
    arcs: NDArray[np.int64]

    @property
    def is_large(self) -> bool:
        return len(self.arcs) * len(self.pools) > _WORK_MAX


class Survival:
    """The losses to survive in a routing problem whose capacities are those of one replica.

    Args:
        protected: (D,) demands whose contract is to survive the loss of a site.
    """

    def __init__(self, problem: RoutingProblem, protected: NDArray[np.bool_]) -> None:
        self.problem = problem
        self._protected = protected & (problem.rps > 0)
        self._reach = np.bincount(problem.arc_demand, minlength=len(problem.rps))
        self._parts = tuple(self._connected())

    def first_cuts(self) -> list[Cut]:
        """What is necessary whatever stands."""
        return [loss.cut for part in self._parts for loss in self._necessary(part)]

    def cuts(self, replicas: Floats) -> list[Cut]:
        """Rows that replicas (P,) break."""
        return [loss.cut for loss in self._broken(replicas)]

    def exposures(self, replicas: Floats) -> tuple[Exposure, ...]:
        """For each protected demand the loss that would leave most of it without room; what no other site could serve
        in any case is not counted."""
        worst: dict[int, tuple[float, int]] = {}
        for loss in self._broken(replicas):
            for demand, rps in zip(loss.demands.tolist(), loss.unserved_rps.tolist(), strict=True):
                if rps > _CRUMB:
                    worst[demand] = max(worst.get(demand, (0.0, loss.pool)), (rps, loss.pool))
        pairs, pools = self.problem.demands, self.problem.pools
        return tuple(Exposure(*pairs[d], pools[lost][0], rps) for d, (rps, lost) in sorted(worst.items()))

    def _broken(self, replicas: Floats) -> Iterator[_Loss]:
        """Losses that leave something unserved."""
        for part in self._parts:
            if not part.is_large:
                yield from self._losses(part, replicas)
                continue
            for loss in self._necessary(part):
                missing = loss.cut.need - loss.cut.carried(replicas)
                if missing > _CRUMB:
                    yield replace(loss, unserved_rps=loss.unserved_rps * missing / loss.cut.need)

    def _connected(self) -> Iterator[_Part]:
        problem, demands = self.problem, len(self.problem.rps)
        arcs = np.flatnonzero(self._protected[problem.arc_demand])
        if not len(arcs):
            return
        ends = (problem.arc_demand[arcs], demands + problem.arc_pool[arcs].astype(np.int64))
        size = demands + len(problem.pools)
        _, label = connected_components(sp.coo_matrix((np.ones(len(arcs)), ends), shape=(size, size)), directed=False)
        for each in np.unique(label[ends[0]]):
            mine = np.flatnonzero(label == each)
            of_arc = arcs[label[ends[0]] == each]
            yield _Part(mine[mine < demands], mine[mine >= demands] - demands, of_arc)

    def _necessary(self, part: _Part) -> Iterator[_Loss]:
        """For each loss: what is left carries as much as all demands want that reach something else."""
        yield from self._totals(part)
        of_arc = self.problem.arc_demand[part.arcs]
        for demand in part.demands if part.is_large and len(part.demands) > 1 else ():
            arcs = part.arcs[of_arc == demand]
            yield from self._totals(_Part(np.array([demand]), self.problem.arc_pool[arcs].astype(np.int64), arcs))

    def _totals(self, part: _Part) -> Iterator[_Loss]:
        capacity = self.problem.capacity_rps[part.pools]
        for n, lost in enumerate(part.pools.tolist()):
            wanted = self._wanted(part, lost)
            if wanted.any():
                pools, weight = np.delete(part.pools, n), np.delete(capacity, n)
                cut = Cut(tuple(pools.tolist()), tuple(weight.tolist()), float(wanted.sum()))
                yield _Loss(lost, cut, part.demands, wanted)

    def _wanted(self, part: _Part, lost: int) -> Floats:
        """Executions per second of the demands that another pool than the lost one can serve; 0 for the others."""
        problem = self.problem
        struck = problem.arc_demand[part.arcs[problem.arc_pool[part.arcs] == lost]]
        stuck = struck[self._reach[struck] == 1]
        return np.where(np.isin(part.demands, stuck), 0.0, problem.rps[part.demands])

    def _losses(self, part: _Part, replicas: Floats) -> Iterator[_Loss]:
        """Each loss that these replicas do not survive, by the linear program of the module."""
        program, pool_of = self._program(part)
        demands, arcs = len(part.demands), len(part.arcs)
        capacity = self.problem.capacity_rps[part.pools]
        for n, lost in enumerate(part.pools.tolist()):
            wanted = self._wanted(part, lost)
            if replicas[lost] <= 0 or not wanted.any():
                continue
            stands = np.where(part.pools == lost, 0.0, replicas[part.pools])
            upper = np.concatenate([np.where(pool_of == n, 0.0, INFINITY), program.upper[arcs:]])
            lower = np.concatenate([wanted, program.row_lower[demands:]])
            limits = np.concatenate([wanted, capacity * stands])
            optimum = solve(replace(program, upper=upper, row_lower=lower, row_upper=limits))
            if optimum.value > _CRUMB:
                worth, price = np.split(optimum.row_dual, [demands])
                weight = np.where(part.pools == lost, 0.0, np.maximum(-price, 0.0) * capacity)
                used = np.flatnonzero(weight > 0)
                pools = tuple(part.pools[used].tolist())
                cut = Cut(pools, tuple(weight[used].tolist()), float(np.maximum(worth, 0.0) @ wanted))
                yield _Loss(lost, cut, part.demands, optimum.x[arcs:])

    def _program(self, part: _Part) -> tuple[LinearProgram, NDArray[np.int64]]:
        """The linear program of a part, without any loss or replicas yet; and (arcs,) each arc's pool in the part.
        Columns: arcs, then unserved; rows: demands, then pools."""
        problem, arcs, demands = self.problem, len(part.arcs), len(part.demands)
        pool_of = np.searchsorted(part.pools, problem.arc_pool[part.arcs])
        rows = [np.searchsorted(part.demands, problem.arc_demand[part.arcs]), demands + pool_of, np.arange(demands)]
        columns = [np.arange(arcs), np.arange(arcs), arcs + np.arange(demands)]
        values = np.concatenate([np.ones(arcs), problem.use[part.arcs], np.ones(demands)])
        shape = (demands + len(part.pools), arcs + demands)
        program = LinearProgram(
            cost=np.concatenate([np.zeros(arcs), np.ones(demands)]),
            lower=np.zeros(arcs + demands),
            upper=np.full(arcs + demands, INFINITY),
            matrix=sp.csc_matrix((values, (np.concatenate(rows), np.concatenate(columns))), shape=shape),
            row_lower=np.full(shape[0], -INFINITY),
            row_upper=np.full(shape[0], INFINITY),
        )
        return program, pool_of
