"""Prices for a large routing problem from its smoothed dual: good ones, from nothing, without a linear program.

The dual of the routing problem (`coordinated.lower_bound`) is concave and piecewise linear in the prices of the pools.
Where each demand spreads over its arcs as exp(-priced cost / T) instead of taking the cheapest alone, it is smooth, its
gradient is load - capacity, and it comes within T log(arcs) of the true one (Nesterov, "Smooth minimization of
non-smooth functions", Mathematical Programming 2005). It is maximised by L-BFGS-B, T falling in steps; the arcs that
still carry anything at the end are where an optimal split is to be looked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from isochrone.plan.problem import RoutingProblem

__all__ = ["promising_arcs"]

Floats = NDArray[np.float64]
# Temperatures as a share of a typical cost, each with the most steps taken at it.
_COOLING = ((0.05, 25), (0.015, 40), (0.005, 80))
# An arc is promising where at least this share of its demand takes it at the last temperature.
_SHARE_MIN = 0.01


def promising_arcs(problem: RoutingProblem, scale: float) -> NDArray[np.bool_]:
    """(A,) arcs that an optimal split is likely to use; a guess that proves nothing.

    Args:
        scale: a typical cost of an execution.
    """
    having, first = np.unique(problem.arc_demand, return_index=True)
    count = np.diff(np.append(first, len(problem.cost)))
    rps, shed = problem.rps[having], problem.shed_cost[having]
    pools = len(problem.capacity_rps)
    # Prices are sought in units in which all pools weigh about the same.
    unit = scale / np.sqrt(np.maximum(problem.capacity_rps, 1e-9))

    def spread(price: Floats, temperature: float) -> tuple[float, Floats]:
        """The smoothed dual, and the share of its demand on each arc."""
        priced = problem.cost + problem.use * price[problem.arc_pool]
        least = np.minimum(np.minimum.reduceat(priced, first), shed)
        weight = np.exp((np.repeat(least, count) - priced) / temperature)
        total = np.add.reduceat(weight, first) + np.exp((least - shed) / temperature)
        value = float(rps @ (least - temperature * np.log(total)) - price @ problem.capacity_rps)
        return value, weight / np.repeat(total, count)

    def descend(scaled: Floats, temperature: float) -> tuple[float, Floats]:
        value, share = spread(scaled * unit, temperature)
        load = np.bincount(problem.arc_pool, share * np.repeat(rps, count) * problem.use, minlength=pools)
        return -value, (problem.capacity_rps - load) * unit

    scaled = np.zeros(pools)
    for temperature, steps in _COOLING:
        options = {"maxiter": steps}
        arguments = (temperature * scale,)
        bounds = [(0.0, None)] * pools
        scaled = minimize(descend, scaled, arguments, "L-BFGS-B", jac=True, bounds=bounds, options=options).x
    return np.asarray(spread(scaled * unit, _COOLING[-1][0] * scale)[1] >= _SHARE_MIN)
