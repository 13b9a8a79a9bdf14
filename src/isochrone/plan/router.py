"""Which solver answers: the exact one while that is quick, and the one that coordinates by prices beyond."""

from __future__ import annotations

from isochrone.errors import PlanError
from isochrone.plan.coordinated import Coordinator
from isochrone.plan.problem import Routing, RoutingProblem
from isochrone.plan.routing import route_exactly

__all__ = ["EXACT_ARCS_MAX", "RouterBySize"]

# Up to so many arcs the whole program takes about a tenth of a second. Its answer depends on the problem alone.
EXACT_ARCS_MAX = 15_000


class RouterBySize:
    """Solves routing problems that follow one another, of any size; every answer states its solver and its gap.

    Args:
        arcs_max: what is still solved exactly.
        gap: proven relative distance to the optimum at which larger ones stop.
    """

    def __init__(self, arcs_max: int = EXACT_ARCS_MAX, gap: float = 0.01) -> None:
        self._arcs_max, self._gap = arcs_max, gap
        self._coordinator = Coordinator(gap)

    def __call__(self, problem: RoutingProblem) -> Routing:
        """A split within `gap` of the optimum, with its prices.

        Raises:
            PlanError: no solver proved an answer.
        """
        if len(problem.cost) <= self._arcs_max:
            return route_exactly(problem)
        try:
            return self._coordinator.solve(problem)
        except PlanError:
            # What it keeps from solve to solve may be what failed: it begins anew, and this time it takes longer.
            self._coordinator = Coordinator(self._gap)
            return route_exactly(problem)
