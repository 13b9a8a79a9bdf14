"""Proven optimum of a siting problem: bound it, find a good answer, leave out what cannot matter, close the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import PlanError
from isochrone.plan.siting.branch import branch
from isochrone.plan.siting.heuristic import assign_nearest, fill_greedily, interchange
from isochrone.plan.siting.lagrangian import Relaxation, raise_bound

if TYPE_CHECKING:
    from isochrone.plan.siting.problem import Siting, SitingProblem

__all__ = ["solve"]

_GREEDY_TRIES = 25
_WITHIN = (2e-4, 2e-3, 8e-3, 3e-2)


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
            elif len(self._tried) < _GREEDY_TRIES:
                self.offer(fill_greedily(self.problem, relaxation.profit.argsort(), len(opened)))
        if self.best is None:
            return float(self.problem.open_cost.sum() + self.problem.serve_cost.max(axis=0).sum())
        return self.best.value

    def offer(self, answer: Siting | None) -> None:
        if answer is not None and (self.best is None or answer.value < self.best.value):
            self.best = answer


def solve(problem: SitingProblem, *, time_limit_s: float = 60.0, rounds: int = 400, nodes_max: int = 5000) -> Siting:
    """Solve to proven optimality.

    1. A Lagrangian bound per site and customer (`lagrangian`). 2. A good answer, by greedy rules and exchanges
    (`heuristic`). 3. Any site or arc whose use would cost more than the answer sought is left out: its reduced cost
    proves it. 4. Sites are branched on, each branch bounded and thinned out in the same way, until what is left is
    small enough for HiGHS (`branch`). With capacity the answer of step 2 is poor and the bound is not, so an answer is
    sought first within a small share of the bound, then within a larger one; that none lies within is proven too.

    Args:
        time_limit_s: for each call of HiGHS.
        nodes_max: most branches looked at in a search.

    Raises:
        PlanError: no proof within the limits, or no assignment exists.
    """
    incumbent = _Incumbent(problem)
    relaxation = raise_bound(problem, rounds=rounds, incumbent=incumbent)
    if problem.capacity is None and incumbent.best is not None:
        incumbent.offer(interchange(problem, incumbent.best))
        relaxation = raise_bound(problem, rounds=rounds, incumbent=incumbent, start=relaxation)
    best = incumbent.best
    known = np.inf if best is None else best.value
    targets = [relaxation.bound * (1 + share) for share in _WITHIN] if problem.capacity is not None else []
    for upper in (*(t for t in targets if t < known), known):
        found = branch(problem, relaxation, upper, time_limit_s=time_limit_s, nodes_max=nodes_max)
        if found is not None:
            return found
    if best is None:
        raise PlanError(f"{problem.name}: no assignment of customers to sites exists", code="siting.infeasible",
                        hint="a customer larger than any site's capacity cannot be served from one site")  # fmt: skip
    return replace(best, bound=best.value, status="optimal")
