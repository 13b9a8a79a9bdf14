"""The routing problem of a fabric: an arc wherever a site answers in time and in bounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isochrone.model.fabric import Fabric
from isochrone.plan.candidates import Candidates, execution_cost
from isochrone.plan.problem import RoutingProblem, limits_of
from isochrone.plan.qualified import Pool, qualified_rps

__all__ = ["Demand", "marginal_costs", "pool_queue", "routing_problem"]

# Contract to ingress to executions per second.
Demand = Mapping[str, Mapping[str, float]]
# Slacks are rounded down to this ladder before the queue is asked, so that few distinct queues are solved.
_SLACK_LADDER_S = np.concatenate([[0.0], np.geomspace(1e-4, 100.0, 49)])


def routing_problem(
    fabric: Fabric,
    candidates: Candidates,
    replicas: Mapping[tuple[str, str], int] | None,
    demand: Demand,
) -> RoutingProblem:
    """Arcs in time and in bounds, for all contracts and ingresses.

    Args:
        replicas: (site, workload) to replicas; None asks for the placement problem: every pool that could stand, with
            the capacity of one replica, and arcs that cost only their expected lateness.
    """
    index = {site: s for s, site in enumerate(candidates.sites)}
    pools = _pools(fabric, candidates, replicas)
    number = {pool: p for p, pool in enumerate(pools)}
    queues = [pool_queue(candidates, pool, 1 if replicas is None else replicas[pool]) for pool in pools]
    demands: list[tuple[str, str]] = []
    rps: list[float] = []
    shed: list[float] = []
    parts: list[tuple[NDArray[np.float64], ...]] = []
    for name in candidates.contracts:
        contract = fabric.contracts[name]
        usable = candidates.in_time(name, contract.in_time.objective_ms / 1e3)
        columns = [(index[site], p) for (site, w), p in number.items() if w == contract.workload]
        first = len(demands)
        demands += [(name, ingress) for ingress in candidates.sites]
        rps += [float(demand.get(name, {}).get(ingress, 0.0)) for ingress in candidates.sites]
        arcs = [_arcs(fabric, candidates, name, usable[:, s], s, p, queues[p], replicas is None) for s, p in columns]
        dearest = max((float(part[2].max(initial=0.0)) for part in arcs), default=0.0)
        # Serving what can be served comes before its cost, whatever the penalty.
        shed += [max(contract.penalty_per_1k / 1e3, 2 * dearest, 1e-9)] * len(candidates.sites)
        parts += [(part[0] + first, *part[1:]) for part in arcs]
    arrays = [np.concatenate([part[k] for part in parts]) if parts else np.zeros(0) for k in range(5)]
    order = np.argsort(arrays[0], kind="stable")
    return RoutingProblem(
        demands=tuple(demands),
        pools=pools,
        rps=np.array(rps),
        shed_cost=np.array(shed),
        capacity_rps=np.array([queue.rate_rps for queue in queues]),
        arc_demand=arrays[0][order].astype(np.int32),
        arc_pool=arrays[1][order].astype(np.int32),
        cost=arrays[2][order],
        use=arrays[3][order],
        cost_error=arrays[4][order],
        limits=limits_of(fabric),
    )


def _pools(
    fabric: Fabric, candidates: Candidates, replicas: Mapping[tuple[str, str], int] | None
) -> tuple[tuple[str, str], ...]:
    if replicas is not None:
        return tuple(pool for pool, count in replicas.items() if count > 0)
    opened = {
        (site, fabric.contracts[name].workload)
        for name in candidates.contracts
        for site, bar in zip(candidates.sites, candidates.bars[name], strict=True)
        if bar is None
    }
    return tuple((site, w) for site in candidates.sites for w in fabric.workloads if (site, w) in opened)


def pool_queue(candidates: Candidates, pool: tuple[str, str], replicas: int) -> Pool:
    """The queue that replicas of a workload at a site make now."""
    site, workload = pool
    return Pool.of(candidates.profiles[workload, site], replicas)


def _arcs(
    fabric: Fabric,
    candidates: Candidates,
    name: str,
    usable: NDArray[np.bool_],
    site: int,
    pool: int,
    queue: Pool,
    placing: bool,
) -> tuple[NDArray[np.float64], ...]:
    """Ingress, pool, cost, use and error of the cost of the arcs into one pool for one contract."""
    contract = fabric.contracts[name]
    objective_s = contract.in_time.objective_ms / 1e3
    slack = objective_s - candidates.believed_s(name, objective_s)[:, site]
    steps = np.searchsorted(_SLACK_LADDER_S, slack, side="right") - 1
    by_step = {
        step: qualified_rps(queue, float(_SLACK_LADDER_S[step]), contract.in_time.quantile)
        for step in set(steps[usable].tolist())
    }
    ingress = np.array([i for i in np.flatnonzero(usable) if by_step[steps[i]] > 0], dtype=np.int64)
    work = candidates.work.get(name, 1.0)
    use = np.array([work * max(1.0, queue.rate_rps / by_step[steps[i]]) for i in ingress], dtype=float)
    late = np.minimum(candidates.late[name][ingress, site], 1.0)
    cost = late * contract.penalty_per_1k / 1e3
    kind = candidates.hardware[contract.workload, candidates.sites[site]]
    # What an execution costs is what was declared: a slow hour at a site does not raise what its hardware costs, and
    # cost must not favour the sites that were never measured.
    profile = fabric.workloads[contract.workload].service[kind]
    running = work * execution_cost(fabric.sites[candidates.sites[site]], kind, profile)
    # Among equals the nearer wins: a second of waiting weighs as much as a thousandth of the execution's own cost.
    cost = cost + 1e-3 * max(running, 1e-9) * candidates.needed_s[name][ingress, site]
    error = candidates.late_error[name][ingress, site] * contract.penalty_per_1k / 1e3
    return ingress.astype(float), np.full(len(ingress), float(pool)), cost + (0.0 if placing else running), use, error


def marginal_costs(
    problem: RoutingProblem, capacity_price: NDArray[np.float64], limit_price: NDArray[np.float64] | None = None
) -> dict[tuple[str, str], dict[str, float]]:
    """(contract, ingress) to site to what one more execution costs there, prices of capacity and limits included."""
    cost = problem.cost + problem.use * capacity_price[problem.arc_pool]
    if limit_price is not None and limit_price.any():
        cost = cost + problem.limit_rows().T @ limit_price
    table: dict[tuple[str, str], dict[str, float]] = {}
    for d, p, value in zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), cost.tolist(), strict=True):
        table.setdefault(problem.demands[d], {})[problem.pools[p][0]] = value
    return table
