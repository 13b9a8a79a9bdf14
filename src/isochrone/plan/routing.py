"""The exact least-cost split, by linear programming, and the prices that prove it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from isochrone.plan.highs import INFINITY, LinearProgram, solve
from isochrone.plan.problem import Routing, RoutingProblem

__all__ = ["cost_scale", "route_exactly", "routing_matrix"]


def cost_scale(problem: RoutingProblem) -> float:
    """What costs are divided by before solving: the median positive arc cost.

    The solver's dual tolerance is absolute (1e-7) while an execution can cost a few millionths.
    """
    positive = problem.cost[problem.cost > 0]
    if positive.size == 0:
        positive = problem.shed_cost[problem.shed_cost > 0]
    return float(np.median(positive)) if positive.size else 1.0


def routing_matrix(problem: RoutingProblem) -> sp.csc_matrix:
    """Rows: demands, then pools, then share limits. Columns: arcs, then unserved demand."""
    demands, pools, arcs = len(problem.rps), len(problem.capacity_rps), len(problem.cost)
    columns = np.arange(arcs)
    serve = sp.csr_matrix((np.ones(arcs), (problem.arc_demand, columns)), shape=(demands, arcs))
    load = sp.csr_matrix((problem.use, (problem.arc_pool, columns)), shape=(pools, arcs))
    below = [rows for rows in (load, problem.limit_rows()) if rows.shape[0]]
    return sp.bmat([[serve, sp.identity(demands)], *([rows, None] for rows in below)], format="csc")


def route_exactly(problem: RoutingProblem, *, time_limit_s: float = 60.0) -> Routing:
    """The optimum of `problem` with its duals. Deterministic.

    Raises:
        PlanError: the optimiser did not prove an optimum.
    """
    demands, pools, arcs = len(problem.rps), len(problem.capacity_rps), len(problem.cost)
    row_upper = np.concatenate([problem.rps, problem.capacity_rps, np.zeros(len(problem.limits))])
    scale = cost_scale(problem)
    program = LinearProgram(
        cost=np.concatenate([problem.cost, problem.shed_cost]) / scale,
        lower=np.zeros(arcs + demands),
        upper=np.full(arcs + demands, INFINITY),
        matrix=routing_matrix(problem),
        row_lower=np.concatenate([problem.rps, np.full(len(row_upper) - demands, -INFINITY)]),
        row_upper=row_upper,
    )
    optimum = solve(program, time_limit_s=time_limit_s)
    value = optimum.value * scale
    prices = np.maximum(-optimum.row_dual[demands:] * scale, 0.0)
    return Routing(
        flow_rps=np.maximum(optimum.x[:arcs], 0.0),
        unserved_rps=np.maximum(optimum.x[arcs:], 0.0),
        capacity_price=prices[:pools],
        demand_price=np.maximum(optimum.row_dual[:demands] * scale, 0.0),
        objective=value,
        bound=value,
        limit_price=prices[pools:],
    )
