"""Proven optimum of a siting problem: bound it, find a good answer, leave out what cannot matter, close the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import PlanError
from isochrone.plan.siting.exact import Remaining, close
from isochrone.plan.siting.heuristic import assign_nearest, fill_greedily, interchange
from isochrone.plan.siting.lagrangian import Relaxation, raise_bound

if TYPE_CHECKING:
    from isochrone.plan.siting.problem import Siting, SitingProblem

__all__ = ["solve"]


class _Incumbent:
    """The best answer so far; called by the bound with each better relaxation."""

    def __init__(self, problem: SitingProblem) -> None:
        self.problem = problem
        self.best: Siting | None = None
        self._tried: set[bytes] = set()

    def __call__(self, relaxation: Relaxation) -> float:
        opened = np.flatnonzero(relaxation.opened)
        key = opened.tobytes()
        if key not in self._tried:
            self._tried.add(key)
            if self.problem.capacity is None:
                if len(opened):
                    self.offer(assign_nearest(self.problem, opened))
            elif len(self._tried) < 25:
                self.offer(fill_greedily(self.problem, relaxation.profit.argsort(), len(opened)))
        if self.best is None:
            return float(self.problem.open_cost.sum() + self.problem.serve_cost.max(axis=0).sum())
        return self.best.value

    def offer(self, answer: Siting | None) -> None:
        if answer is not None and (self.best is None or answer.value < self.best.value):
            self.best = answer


def solve(problem: SitingProblem, *, time_limit_s: float = 60.0, rounds: int = 300) -> Siting:
    """Solve to proven optimality.

    1. A Lagrangian bound per site and customer (`lagrangian`). 2. A good answer (`heuristic`; with capacity, HiGHS on
    the few sites the bound favours). 3. Any site or arc whose use would cost more than that answer is left out: its
    reduced cost proves it. 4. HiGHS closes what remains, starting from the answer.

    Raises:
        PlanError: no proof within the time limit, or no assignment exists.
    """
    incumbent = _Incumbent(problem)
    relaxation = raise_bound(problem, rounds=rounds // 3, incumbent=incumbent)
    if problem.capacity is None:
        if incumbent.best is not None:
            incumbent.offer(interchange(problem, incumbent.best))
    else:
        incumbent.offer(
            close(problem, _core(problem, relaxation), gap_rel_max=1e-4, time_limit_s=min(3.0, time_limit_s))
        )
    relaxation = raise_bound(problem, rounds=rounds, incumbent=incumbent, start=relaxation)
    best = incumbent.best
    upper = np.inf if best is None else best.value
    if best is not None and upper - relaxation.bound <= 1e-9 * abs(upper):
        return replace(best, bound=min(relaxation.bound, upper), status="optimal")
    found = close(problem, _survivors(problem, relaxation, upper), start=best, time_limit_s=time_limit_s)
    if found is None and best is None:
        raise PlanError(f"{problem.name}: no assignment of customers to sites exists", code="siting.infeasible",
                        hint="a customer larger than any site's capacity cannot be served from one site")  # fmt: skip
    if found is not None and found.status != "optimal":
        raise PlanError(f"{problem.name}: time ran out at {min(found.value, upper):g}, proven only "
        f"{100 * found.gap:.3g} % from the best",
                        code="siting.unproven", hint="raise the time limit")  # fmt: skip
    if found is None or (best is not None and best.value < found.value):
        assert best is not None
        return replace(best, bound=min(best.value, found.bound if found else best.value), status="optimal")
    return found


def _slack(value: float) -> float:
    """Rounding room for comparisons of bounds with values."""
    return 1e-7 * max(1.0, abs(value))


def _survivors(problem: SitingProblem, relaxation: Relaxation, upper: float) -> Remaining:
    """What an answer at most as good as `upper` can still use, proven by reduced costs."""
    room = upper - relaxation.bound + _slack(upper) if np.isfinite(upper) else np.inf
    profit, reduced = relaxation.profit, relaxation.reduced
    # Opening one more site lets the worst forced one go; closing one below the fewest means opening the next best.
    last_in = profit[relaxation.opened].max()
    first_out = profit[~relaxation.opened].min(initial=np.inf)
    fixed_count = problem.sites_open_n is not None
    to_open = np.maximum(profit - (last_in if fixed_count else max(last_in, 0.0)), 0.0)
    binding = fixed_count or relaxation.opened.sum() == problem.sites_open_min
    to_close = np.maximum((first_out if binding else 0.0) - profit, 0.0)
    sites, must = to_open <= room, to_close > room
    arcs = np.ones_like(reduced, dtype=bool)
    if problem.capacity is None or problem.single_source:  # a split customer may use a dear arc a little
        arcs = to_open[:, None] + np.maximum(reduced, 0.0) <= room
    return Remaining(sites=sites, must=must & sites, arcs=arcs)


def _core(problem: SitingProblem, relaxation: Relaxation) -> Remaining:
    """The few sites the bound favours, with each customer's arcs of least reduced cost: small enough to solve at
    once."""
    assert problem.capacity is not None
    assert problem.demand is not None
    order = relaxation.profit.argsort()
    room_n = int(np.searchsorted(np.cumsum(problem.capacity[order]), 1.2 * problem.demand.sum())) + 1
    chosen = order[: max(int(relaxation.opened.sum()) + 2, room_n)]
    sites = np.zeros(len(order), dtype=bool)
    sites[chosen] = True
    near = np.argsort(np.where(sites[:, None], relaxation.reduced, np.inf), axis=0)[:6]
    arcs = np.zeros_like(relaxation.reduced, dtype=bool)
    np.put_along_axis(arcs, near, True, axis=0)
    return Remaining(sites=sites, must=np.zeros_like(sites), arcs=arcs & sites[:, None])
