"""The smallest step from the split that stands to one that is good enough: plans change little while little changes.

An optimal split is a vertex, and the least noise in demand makes another vertex optimal. What stands, carried over to
today's demand, is one end of a line and the optimum the other; load and cost are linear along it. The point nearest to
what stands is taken that fits into all capacities and limits and costs at most `tolerance` more than the optimum, or no
more than can be told from it, for each workload by itself, as they share no pool. A difference in cost within two
standard errors is no reason to move (within one, every sixth look would find a reason where there is none). Where a
pool has begun to answer, what stands was chosen without it and speaks for nothing: the optimum is taken. The
gap that the plan states counts what was given away.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isochrone.plan.problem import Routing, RoutingProblem

__all__ = ["damped", "resting_site", "settled_limits"]

Floats = NDArray[np.float64]
_STAY_MIN = 0.1
# A difference of so many standard errors is one.
_SURE = 2.0
# A limit stays while what the queue bears is no less than this part of it, and no more than that.
_LIMIT_LEAST, _LIMIT_MOST = 0.9, 1.25
# Where nothing is asked for, routes stay while an execution costs no more than this share of a broken promise more.
_RESTING_WORTH = 0.01

Limits = Mapping[str, Mapping[str, int]]


def damped(
    problem: RoutingProblem,
    optimum: Routing,
    standing: Mapping[tuple[str, str], Mapping[str, float]],
    begun: Set[tuple[str, str]] = frozenset(),
    tolerance: float = 0.01,
) -> Routing:
    """The split to put into force.

    Args:
        standing: (contract, ingress) to site to share, of what is in force; pairs left out stand nowhere.
        begun: pools that answer and did not when what stands was chosen.
    """
    if not len(problem.cost):
        return optimum
    kept = _carried_over(problem, standing)
    served = np.bincount(problem.arc_demand, kept, minlength=len(problem.rps))
    # A demand that stands nowhere, or on arcs that are gone, goes where the optimum puts it.
    gone = served < problem.rps * (1 - 1e-9)
    kept = np.where(gone[problem.arc_demand], optimum.flow_rps, kept)
    stay = _stay(problem, optimum, kept, begun, tolerance)
    flow = optimum.flow_rps + stay[problem.arc_pool] * (kept - optimum.flow_rps)
    unserved = np.maximum(problem.rps - np.bincount(problem.arc_demand, flow, minlength=len(problem.rps)), 0.0)
    unserved[unserved < 1e-9 * problem.rps] = 0.0
    objective = float(flow @ problem.cost + unserved @ problem.shed_cost)
    return replace(optimum, flow_rps=flow, unserved_rps=unserved, objective=max(objective, optimum.bound))


def settled_limits(found: Limits, standing: Limits) -> dict[str, dict[str, int]]:
    """Site to contract to requests in flight: as they stand where the difference is small.

    A limit is a circuit breaker of a cluster, and a cluster that changes gives up its connections.
    """

    def settle(limit: int, held: int | None) -> int:
        return held if held is not None and _LIMIT_LEAST * held <= limit <= _LIMIT_MOST * held else limit

    return {
        site: {contract: settle(limit, standing.get(site, {}).get(contract)) for contract, limit in row.items()}
        for site, row in found.items()
    }


def resting_site(marginal: Mapping[str, float], shed_cost: float, standing: Mapping[str, float]) -> str:
    """Where a first execution would go of what nobody asks for now.

    Args:
        marginal: site to what one execution costs there, prices included; not empty.
        standing: site to share, of what is in force.
    """
    cheapest = min(marginal, key=lambda site: (marginal[site], site))
    most = marginal[cheapest] + _RESTING_WORTH * shed_cost
    held = [site for site in standing if marginal.get(site, np.inf) <= most]
    return max(held, key=lambda site: (standing[site], site), default=cheapest)


def _carried_over(problem: RoutingProblem, standing: Mapping[tuple[str, str], Mapping[str, float]]) -> Floats:
    """(A,) today's demand by yesterday's shares."""
    rows = [standing.get(pair, {}) for pair in problem.demands]
    sites = [site for site, _ in problem.pools]
    pairs = zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), strict=True)
    share = np.array([rows[d].get(sites[p], 0.0) for d, p in pairs])
    return np.asarray(share * problem.rps[problem.arc_demand])


def _stay(
    problem: RoutingProblem, optimum: Routing, kept: Floats, begun: Set[tuple[str, str]], tolerance: float
) -> Floats:
    """(P,) how far from the optimum towards what stands, 0 to 1; equal for all pools of a workload."""
    names = {workload: n for n, workload in enumerate(dict.fromkeys(workload for _, workload in problem.pools))}
    of_pool = np.array([names[workload] for _, workload in problem.pools])
    pools, parts = len(of_pool), len(names)
    best = np.bincount(problem.arc_pool, optimum.flow_rps * problem.use, minlength=pools)
    more = np.bincount(problem.arc_pool, kept * problem.use, minlength=pools) - best
    room = np.maximum(problem.capacity_rps - best, 0.0)
    fits = np.divide(room, more, out=np.ones(pools), where=more > 1e-9)
    stay = np.ones(parts)
    np.minimum.at(stay, of_pool, fits)
    of_arc = of_pool[problem.arc_pool]
    step = kept - optimum.flow_rps
    for row in problem.limit_rows():
        tied, over = row.indices, float((row @ step)[0])
        if over > 1e-9:
            part = of_arc[tied[0]]
            stay[part] = min(stay[part], max(0.0, -float((row @ optimum.flow_rps)[0])) / over)
    price = problem.cost - problem.shed_cost[problem.arc_demand]  # what is not served is shed
    dearer = np.bincount(of_arc, step * price, minlength=parts)
    # A pool that is slower than believed is so for everyone who uses it; of two pools each errs by itself.
    by_pool = np.bincount(problem.arc_pool, step * problem.cost_error, minlength=pools)
    doubt = np.sqrt(np.bincount(of_pool, by_pool**2, minlength=parts))
    worth = tolerance * np.bincount(of_arc, optimum.flow_rps * problem.cost, minlength=parts) + _SURE * doubt
    worth[[names[workload] for site, workload in begun if (site, workload) in problem.pools]] = 0.0
    stay = np.minimum(stay, np.divide(worth, dearer, out=np.ones(parts), where=dearer > worth))
    # Nearly all of the way is all of the way: no crumbs stay behind.
    return np.asarray(np.where(stay < _STAY_MIN, 0.0, stay)[of_pool])
