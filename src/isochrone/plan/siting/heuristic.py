"""Good answers fast: they cut what the proof must look at. Nothing here is trusted to be optimal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.plan.siting.problem import Siting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.siting.problem import SitingProblem

__all__ = ["assign_nearest", "fill_greedily", "interchange"]


def assign_nearest(problem: SitingProblem, opened: NDArray[np.intp]) -> Siting:
    """Serve each customer from its cheapest open site (optimal for given sites when capacity is unlimited)."""
    nearest = opened[problem.serve_cost[opened].argmin(axis=0)]
    return _whole(problem, opened, nearest)


def fill_greedily(problem: SitingProblem, order: NDArray[np.intp], opened_n: int) -> Siting | None:
    """Open sites in `order` (at least `opened_n`, until capacity suffices); place customers by regret, largest first.

    Returns:
        A whole assignment, or None where this greedy rule runs out of room.
    """
    if problem.capacity is None or problem.demand is None:
        return assign_nearest(problem, order[:opened_n])
    room_n = int(np.searchsorted(np.cumsum(problem.capacity[order]), 1.02 * problem.demand.sum())) + 1
    opened = order[: max(opened_n, room_n)]
    left = problem.capacity[opened].copy()
    cost = problem.serve_cost[opened]
    preference = cost.argsort(axis=0)
    ordered = np.take_along_axis(cost, preference, axis=0)
    regret = ordered[min(1, len(opened) - 1)] - ordered[0]
    chosen = np.zeros(len(problem.demand), dtype=np.intp)
    for j in np.lexsort((-regret, -problem.demand)) if problem.single_source else (-regret).argsort():
        fits = [s for s in preference[:, j] if left[s] >= problem.demand[j]]
        if not fits:
            return None
        left[fits[0]] -= problem.demand[j]
        chosen[j] = opened[fits[0]]
    return _whole(problem, np.unique(chosen), chosen)


def interchange(problem: SitingProblem, start: Siting, rounds: int = 200) -> Siting:
    """Add, drop or swap sites while that helps (Whitaker 1983), for problems without capacity."""
    sites = len(problem.open_cost)
    opened = np.array(start.open)
    cost, fixed, fixed_count = problem.serve_cost, problem.open_cost, problem.sites_open_n is not None
    for _ in range(rounds):
        rank = np.argpartition(cost[opened], min(1, len(opened) - 1), axis=0)[:2]
        first_two = np.take_along_axis(cost[opened], rank, axis=0)
        swap = first_two[-1] < first_two[0]
        near = np.where(swap, rank[-1], rank[0])
        first, second = first_two.min(axis=0), first_two.max(axis=0)
        if len(opened) == 1:
            second = np.full_like(first, np.inf)
        gain = np.maximum(first - cost, 0.0).sum(axis=1)
        member = np.eye(len(opened))[near]
        loss = np.maximum(np.minimum(second, cost) - first, 0.0) @ member
        closed = np.setdiff1d(np.arange(sites), opened)
        if not len(closed):
            break
        trade = (fixed[:, None] - fixed[opened][None, :] - gain[:, None] + loss)[closed]
        best = trade.min()
        into, out = np.unravel_index(trade.argmin(), trade.shape)
        move: tuple[Any, Any] = (closed[into], out)
        if not fixed_count:
            add = (fixed - gain)[closed]
            drop = np.where(np.isfinite(second), second - first, np.inf) @ member - fixed[opened] \
                if len(opened) > 1 else np.array([np.inf])  # fmt: skip
            if add.min() < best:
                best, move = add.min(), (closed[add.argmin()], None)
            if drop.min() < best:
                best, move = drop.min(), (None, int(drop.argmin()))
        if best >= -1e-9 * max(1.0, start.value):
            break
        kept = opened if move[1] is None else np.delete(opened, move[1])
        opened = kept if move[0] is None else np.append(kept, move[0])
    return assign_nearest(problem, np.sort(opened))


def _whole(problem: SitingProblem, opened: NDArray[np.intp], chosen: NDArray[np.intp]) -> Siting:
    customers = np.arange(len(chosen))
    share = np.zeros_like(problem.serve_cost)
    share[chosen, customers] = 1.0
    value = float(problem.open_cost[opened].sum() + problem.serve_cost[chosen, customers].sum())
    return Siting(value=value, bound=0.0, open=tuple(int(s) for s in opened), share=share, status="heuristic")
