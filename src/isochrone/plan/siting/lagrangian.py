"""Lower bounds by relaxing "every customer is served once", and what they let us leave out.

With multiplier `u[j]` per customer (what serving it is worth), the problem falls apart by site: site i earns
`min(0, c[i,j] - u[j])` on each customer it would take, within its capacity. The sum is a valid bound for any `u`
(Geoffrion 1974; for these problems Cornuejols, Fisher and Nemhauser 1977), and subgradient steps raise it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from isochrone.plan.siting.problem import SitingProblem

__all__ = ["Relaxation", "evaluate", "raise_bound"]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A bound and its evidence: multipliers `worth` (customers,), `profit` (sites,; open cost plus what it earns),
    `reduced` = cost less worth (sites, customers), which sites the relaxation opens, and how `often` (0 to 1) it did on
    the way there: the share in which the linear relaxation would open them."""

    bound: float
    worth: NDArray[np.float64]
    profit: NDArray[np.float64]
    reduced: NDArray[np.float64]
    opened: NDArray[np.bool_]
    served: NDArray[np.float64]
    often: NDArray[np.float64]

    def restricted(self, part: SitingProblem, sites: NDArray[np.intp], must: NDArray[np.bool_]) -> Relaxation:
        """The bound at the same multipliers for `part`, which has only `sites`, of which `must` are open."""
        return evaluate(part, self.worth, must)


def evaluate(problem: SitingProblem, worth: NDArray[np.float64], must: NDArray[np.bool_] | None = None) -> Relaxation:
    """The bound at given multipliers, with the sites of `must` open: continuous knapsack per site, then the best
    sites."""
    reduced = problem.serve_cost - worth
    take = (reduced < 0).astype(np.float64)
    if problem.capacity is not None and problem.demand is not None:
        _fill(reduced, take, problem.demand, problem.capacity)
    profit = problem.open_cost + np.einsum("ij,ij->i", np.minimum(reduced, 0.0), take)
    opened = np.zeros(len(profit), dtype=bool) if must is None else must.copy()
    if problem.sites_open_n is None:
        opened |= profit < 0
    lacking = problem.sites_open_min - int(opened.sum())
    if lacking > 0:
        opened[np.argsort(np.where(opened, np.inf, profit), kind="stable")[:lacking]] = True
    bound = float(worth.sum() + profit[opened].sum())
    return Relaxation(bound, worth, profit, reduced, opened, take[opened].sum(axis=0), opened.astype(np.float64))


def _fill(
    reduced: NDArray[np.float64],
    take: NDArray[np.float64],
    demand: NDArray[np.float64],
    capacity: NDArray[np.float64],
) -> None:
    """Where the wanted customers exceed a site's capacity, keep the best by gain per unit of demand (in place)."""
    for i in np.flatnonzero(take @ demand > capacity):
        wanted = np.flatnonzero(take[i])
        order = wanted[np.argsort(reduced[i, wanted] / np.maximum(demand[wanted], 1e-12), kind="stable")]
        before = np.cumsum(demand[order]) - demand[order]
        take[i, order] = np.clip((capacity[i] - before) / np.maximum(demand[order], 1e-12), 0.0, 1.0)


def raise_bound(
    problem: SitingProblem,
    *,
    rounds: int = 300,
    incumbent: Callable[[Relaxation], float],
    start: Relaxation | None = None,
    must: NDArray[np.bool_] | None = None,
    tolerance: float = 1e-9,
) -> Relaxation:
    """Subgradient ascent (Held, Wolfe and Crowder 1974): with a deflected direction; the step shrinks when the bound
    stalls.

    Args:
        problem: what to bound.
        rounds: most evaluations.
        incumbent: called with a relaxation; returns the value of the best answer known so far.
        start: a relaxation to go on from.
        must: sites that are open in any case.
        tolerance: stop when the bound is this close, relatively, to the best answer.

    Returns:
        The best relaxation found.
    """
    if start is None:
        second = min(1, len(problem.open_cost) - 1)
        start = evaluate(problem, np.partition(problem.serve_cost, second, axis=0)[second], must)
    best, worth, often = start, start.worth, start.often
    upper = incumbent(best)
    scale, stall, direction = 2.0, 0, np.zeros_like(worth)
    for _ in range(rounds):
        now = evaluate(problem, worth, must)
        often = 0.95 * often + 0.05 * now.opened
        if now.bound > best.bound + 1e-9 * abs(best.bound):
            best, stall = now, 0
            if now.opened.any():
                upper = min(upper, incumbent(now))
        else:
            stall += 1
            if stall >= 10:
                scale, stall, worth, direction = scale / 1.5, 0, best.worth, np.zeros_like(worth)
                now = best
        direction = 0.7 * direction + (1.0 - now.served)
        norm = float(direction @ direction)
        if norm < 1e-12 or upper - best.bound <= tolerance * abs(upper) or scale < 1e-4:
            break
        worth = now.worth + scale * max(upper - now.bound, 1e-6 * abs(upper)) / norm * direction
    return replace(best, often=often)
