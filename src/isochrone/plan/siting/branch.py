"""Branch and bound over sites, with the Lagrangian bound at every node.

The bound at the root is often within a fraction of a percent, and a site decided makes it tighter; the linear
relaxation that a general solver would use instead has one row per arc and takes longer than the whole search. A node
whose remaining problem is small is handed to HiGHS.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import PlanError
from isochrone.plan.siting.exact import Remaining, close
from isochrone.plan.siting.lagrangian import raise_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.siting.lagrangian import Relaxation
    from isochrone.plan.siting.problem import Siting, SitingProblem

__all__ = ["branch", "survivors"]

_DIRECT_ARCS_MAX = 3000
_NODE_ROUNDS = 80


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of the search: the sites still in it (indices of the whole problem), those that must open, a bound."""

    sites: NDArray[np.intp]
    must: NDArray[np.bool_]
    relaxation: Relaxation


def branch(
    problem: SitingProblem, root: Relaxation, upper: float, *, time_limit_s: float, nodes_max: int
) -> Siting | None:
    """The optimum if it costs less than `upper`; None is the proof that no answer does.

    Raises:
        PlanError: `nodes_max` nodes did not prove it, or HiGHS did not finish one within `time_limit_s`.
    """
    every = np.arange(len(problem.open_cost))
    order = count()
    waiting = [(root.bound, next(order), _Node(every, np.zeros(len(every), dtype=bool), root))]
    best: Siting | None = None
    looked_at = 0
    while waiting:
        bound, _, node = heapq.heappop(waiting)
        if bound >= upper - _slack(upper):
            break
        looked_at += 1
        if looked_at > nodes_max:
            raise PlanError(f"{problem.name}: {nodes_max} branches did not close the gap between {upper:g} and "
                            f"{bound:g}", code="siting.unproven", hint="raise nodes_max")  # fmt: skip
        here = _part(problem, node.sites)
        remaining = survivors(here, node.relaxation, upper, node.must)
        if _small(here, remaining):
            found = _solved(problem, here, node, remaining, upper, time_limit_s)
            if found is not None:
                best, upper = found, found.value
            continue
        for child in _children(here, node, remaining, upper):
            if child.relaxation.bound < upper - _slack(upper):
                heapq.heappush(waiting, (child.relaxation.bound, next(order), child))
    return None if best is None else replace(best, bound=best.value, status="optimal")


def _slack(value: float) -> float:
    """Rounding room for comparisons of bounds with values."""
    return 1e-9 * max(1.0, abs(value)) if np.isfinite(value) else 0.0


def _part(problem: SitingProblem, sites: NDArray[np.intp]) -> SitingProblem:
    """The problem with these sites alone."""
    if len(sites) == len(problem.open_cost):
        return problem
    capacity = None if problem.capacity is None else problem.capacity[sites]
    return replace(problem, serve_cost=problem.serve_cost[sites], open_cost=problem.open_cost[sites], capacity=capacity)


def _small(here: SitingProblem, remaining: Remaining) -> bool:
    """Nothing to branch on, or few enough arcs for HiGHS to take whole."""
    undecided = (remaining.sites & ~remaining.must).any()
    return not undecided or int((remaining.arcs & remaining.sites[:, None]).sum()) <= _DIRECT_ARCS_MAX


def _solved(
    problem: SitingProblem,
    here: SitingProblem,
    node: _Node,
    remaining: Remaining,
    upper: float,
    time_limit_s: float,
) -> Siting | None:
    """HiGHS's optimum of a node, in terms of the whole problem; None where it costs `upper` or more."""
    found = close(here, remaining, better_than=upper, time_limit_s=time_limit_s)
    if found is None:
        return None
    share = np.zeros_like(problem.serve_cost)
    share[node.sites] = found.share
    return replace(found, open=tuple(int(node.sites[s]) for s in found.open), share=share)


def _children(here: SitingProblem, node: _Node, remaining: Remaining, upper: float) -> list[_Node]:
    """One free site open, and the same site closed; sites proven out are dropped from both."""
    free = np.flatnonzero(remaining.sites & ~remaining.must)
    # the site about which the relaxation is least sure: half of its best multipliers would open it
    pick = free[np.abs(node.relaxation.often[free] - 0.5).argmin()]
    found = []
    for opens in (True, False):
        kept = remaining.sites.copy()
        kept[pick] = opens
        must = remaining.must.copy()
        must[pick] = opens
        sites = np.flatnonzero(kept)
        if not _possible(here, sites, int(must.sum())):
            continue
        part = _part(here, sites)
        start = node.relaxation.restricted(part, sites, must[sites])
        raised = raise_bound(part, rounds=_NODE_ROUNDS, incumbent=lambda _: upper, start=start, must=must[sites])
        found.append(_Node(node.sites[sites], must[sites], raised))
    return found


def _possible(here: SitingProblem, sites: NDArray[np.intp], must_n: int) -> bool:
    if here.sites_open_n is not None:
        return must_n <= here.sites_open_n <= len(sites)
    if here.capacity is not None and here.demand is not None:
        return bool(here.capacity[sites].sum() >= here.demand.sum())
    return len(sites) > 0


def survivors(
    problem: SitingProblem, relaxation: Relaxation, upper: float, must: NDArray[np.bool_] | None = None
) -> Remaining:
    """What an answer better than `upper` can still use, proven by reduced costs."""
    must = np.zeros(len(problem.open_cost), dtype=bool) if must is None else must
    room = upper - relaxation.bound + 1e-7 * max(1.0, abs(upper)) if np.isfinite(upper) else np.inf
    profit, opened = relaxation.profit, relaxation.opened
    # Opening one more site lets the worst free one go; closing one below the fewest means opening the next best.
    last_in = profit[opened & ~must].max(initial=-np.inf)
    first_out = profit[~opened].min(initial=np.inf)
    fixed_count = problem.sites_open_n is not None
    spare = np.inf if fixed_count and not (opened & ~must).any() else last_in if fixed_count else max(last_in, 0.0)
    to_open = np.where(opened, 0.0, np.maximum(profit - spare, 0.0) if np.isfinite(spare) else np.inf)
    binding = fixed_count or opened.sum() == problem.sites_open_min
    to_close = np.where(opened, np.maximum((first_out if binding else 0.0) - profit, 0.0), 0.0)
    sites, forced = (to_open <= room) | must, must | (to_close > room)
    arcs = np.ones_like(relaxation.reduced, dtype=bool)
    if problem.capacity is None or problem.single_source:  # a split customer may use a dear arc a little
        arcs = np.where(must, 0.0, to_open)[:, None] + np.maximum(relaxation.reduced, 0.0) <= room
    return Remaining(sites=sites, must=forced & sites, arcs=arcs)
