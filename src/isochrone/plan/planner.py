"""From a fabric and what is known about it to a plan: placement, then routing, then rungs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from isochrone.errors import InputError
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.model.fabric import Fabric
from isochrone.plan.candidates import Candidates, execution_cost, find_candidates
from isochrone.plan.placement import DEFAULT_RULES, Cover, Placement, PlacementRules, place
from isochrone.plan.plan import ExclusionKind, Infeasible, Plan, Prices, Routes, Rung, Share, Shortfall, difference
from isochrone.plan.problem import Routing, RoutingProblem
from isochrone.plan.qualified import Pool, concurrency_limit, qualified_rps
from isochrone.plan.routing import route_exactly
from isochrone.plan.rungs import build_rungs, round_shares
from isochrone.plan.verdicts import Bounds

T = TypeVar("T")

__all__ = ["Demand", "declared_demand", "fabric_digest", "make_plan", "routing_problem"]

# Contract to ingress to executions per second.
Demand = Mapping[str, Mapping[str, float]]
# Slacks are rounded down to this ladder before the queue is asked, so that few distinct queues are solved.
_SLACK_LADDER_S = np.concatenate([[0.0], np.geomspace(1e-4, 100.0, 49)])


def declared_demand(fabric: Fabric) -> Demand:
    """What the contracts themselves expect."""
    return {name: dict(contract.demand_rps) for name, contract in fabric.contracts.items()}


def fabric_digest(fabric: Fabric) -> str:
    """`sha256:` and the digest of the fabric's canonical document."""
    return "sha256:" + hashlib.sha256(fabric.model_dump_json().encode()).hexdigest()


def make_plan(
    fabric: Fabric,
    rtt: RttTable,
    service: ServiceTable,
    bounds: Bounds,
    up: Set[str],
    previous: Plan | None,
    demand: Demand,
    now: float,
    rules: PlacementRules = DEFAULT_RULES,
) -> Plan | Infeasible:
    """The plan for this moment. Deterministic; with nothing changed it is `previous` itself.

    Args:
        bounds: (contract, site) to verdict; a pair without one is out of bounds.
        up: names of live sites.
        demand: executions per second; contracts and ingresses left out want none (they still get routes).
        now: seconds of the caller's clock, as in the measurements' `at_s`.

    Returns:
        A plan, in which refused contracts carry their refusal and unserved demand is listed, or `Infeasible` when no
        site is up at all.

    Raises:
        PlanError: the optimiser gave no proven answer.
        InputError: demand is not a finite number of at least 0, or names what is not in the fabric.
    """
    _check_demand(fabric, demand)
    if not up & set(fabric.sites):
        return Infeasible("no site of the fabric is up", _all_unserved(demand))
    candidates = find_candidates(fabric, rtt, service, bounds, up, now)
    placement = _place(fabric, candidates, demand, previous, now, rules)
    problem = routing_problem(fabric, candidates, placement.replicas, demand)
    routing = route_exactly(problem)
    plan = _assemble(_Answer(fabric, candidates, placement, problem, routing), previous, now)
    if previous and previous.fabric_digest == plan.fabric_digest and difference(previous, plan).empty:
        return previous
    return plan


def _check_demand(fabric: Fabric, demand: Demand) -> None:
    for contract, row in demand.items():
        if contract not in fabric.contracts:
            raise InputError(f"demand for {contract!r}, which is no contract of the fabric", code="plan.demand")
        for ingress, rps in row.items():
            if ingress not in fabric.sites:
                raise InputError(f"demand at {ingress!r}, which is no site of the fabric", code="plan.demand")
            if not (np.isfinite(rps) and rps >= 0):
                raise InputError(f"demand of {contract} at {ingress} is {rps!r}", code="plan.demand")


def _all_unserved(demand: Demand) -> tuple[Shortfall, ...]:
    return tuple(
        Shortfall(contract, ingress, rps, "down", "no site of the fabric is up")
        for contract, row in sorted(demand.items())
        for ingress, rps in sorted(row.items())
        if rps > 0
    )


# --- the problem --------------------------------------------------------------------------------------------------


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
    queues = [_queue(fabric, candidates, pool, 1 if replicas is None else replicas[pool]) for pool in pools]
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
    arrays = [np.concatenate([part[k] for part in parts]) if parts else np.zeros(0) for k in range(4)]
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


def _queue(fabric: Fabric, candidates: Candidates, pool: tuple[str, str], replicas: int) -> Pool:
    site, workload = pool
    return Pool.of(fabric.workloads[workload].service[candidates.hardware[workload, site]], replicas)


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
    """Ingress, pool, cost and use of the arcs into one pool for one contract."""
    contract = fabric.contracts[name]
    slack = contract.in_time.objective_ms / 1e3 - candidates.needed_s[name][:, site]
    steps = np.searchsorted(_SLACK_LADDER_S, slack, side="right") - 1
    by_step = {
        step: qualified_rps(queue, float(_SLACK_LADDER_S[step]), contract.in_time.quantile)
        for step in set(steps[usable].tolist())
    }
    ingress = np.array([i for i in np.flatnonzero(usable) if by_step[steps[i]] > 0], dtype=np.int64)
    use = np.array([max(1.0, queue.rate_rps / by_step[steps[i]]) for i in ingress], dtype=float)
    late = np.minimum(candidates.late[name][ingress, site], 1.0)
    cost = late * contract.penalty_per_1k / 1e3
    kind = candidates.hardware[contract.workload, candidates.sites[site]]
    profile = fabric.workloads[contract.workload].service[kind]
    running = execution_cost(fabric.sites[candidates.sites[site]], kind, profile)
    # Among equals the nearer wins: a second of waiting weighs as much as a thousandth of the execution's own cost.
    cost = cost + 1e-3 * max(running, 1e-9) * candidates.needed_s[name][ingress, site]
    return ingress.astype(float), np.full(len(ingress), float(pool)), cost + (0.0 if placing else running), use


# --- placement ----------------------------------------------------------------------------------------------------


def _place(
    fabric: Fabric,
    candidates: Candidates,
    demand: Demand,
    previous: Plan | None,
    now: float,
    rules: PlacementRules,
) -> Placement:
    problem = routing_problem(fabric, candidates, None, demand)
    covers = _covers(fabric, candidates, problem)
    return place(fabric, problem, candidates.hardware, covers, _as_placement(previous), now, rules)


def _covers(fabric: Fabric, candidates: Candidates, problem: RoutingProblem) -> tuple[Cover, ...]:
    """Where each contract must have somewhere to run: per ingress with demand, else once over all ingresses."""
    reach: dict[tuple[str, str], list[int]] = {}
    for d, p in zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), strict=True):
        reach.setdefault(problem.demands[d], []).append(p)
    wanted = {pair for pair, rps in zip(problem.demands, problem.rps.tolist(), strict=True) if rps > 0}
    covers = []
    for name in candidates.contracts:
        sites = 1 + fabric.contracts[name].survive_sites
        pairs = [pair for pair in problem.demands if pair[0] == name and pair in reach]
        asked = [pair for pair in pairs if pair in wanted]
        for pair in asked:
            covers.append(Cover(*pair, tuple(sorted(reach[pair])), sites))
        if pairs and not asked:
            everywhere = tuple(sorted({p for pair in pairs for p in reach[pair]}))
            covers.append(Cover(name, "", everywhere, sites))
    return tuple(covers)


def _as_placement(plan: Plan | None) -> Placement | None:
    if plan is None:
        return None
    return Placement(
        replicas={(site, w): n for site, row in plan.placements.items() for w, n in row.items()},
        since_s={(site, w): at for site, row in plan.placed_since.items() for w, at in row.items()},
        uncovered=(),
    )


# --- the answer ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    fabric: Fabric
    candidates: Candidates
    placement: Placement
    problem: RoutingProblem
    routing: Routing

    def flows(self) -> dict[tuple[str, str], dict[str, float]]:
        """(contract, ingress) to site to executions per second, positive ones only."""
        table: dict[tuple[str, str], dict[str, float]] = {}
        for arc in np.flatnonzero(self.routing.flow_rps > 1e-9):
            pair = self.problem.demands[self.problem.arc_demand[arc]]
            site = self.problem.pools[self.problem.arc_pool[arc]][0]
            table.setdefault(pair, {})[site] = float(self.routing.flow_rps[arc])
        return table

    def marginal(self) -> dict[tuple[str, str], dict[str, float]]:
        """(contract, ingress) to site to what one more execution would cost there, price of capacity included."""
        cost = self.problem.cost + self.problem.use * self.routing.capacity_price[self.problem.arc_pool]
        table: dict[tuple[str, str], dict[str, float]] = {}
        for arc, value in enumerate(cost.tolist()):
            pair = self.problem.demands[self.problem.arc_demand[arc]]
            table.setdefault(pair, {})[self.problem.pools[self.problem.arc_pool[arc]][0]] = value
        return table


def _assemble(answer: _Answer, previous: Plan | None, now: float) -> Plan:
    fabric, candidates, problem, routing = answer.fabric, answer.candidates, answer.problem, answer.routing
    flows, marginal = answer.flows(), answer.marginal()
    wanted = dict(zip(problem.demands, problem.rps.tolist(), strict=True))
    routes: dict[str, dict[str, tuple[Rung, ...]]] = {ingress: {} for ingress in candidates.sites}
    for name in candidates.contracts:
        for i, ingress in enumerate(candidates.sites):
            pair = (name, ingress)
            shares = round_shares(flows.get(pair, {}))
            if not shares and wanted[pair] <= 0 and marginal.get(pair):
                cheapest = min(marginal[pair], key=lambda site: (marginal[pair][site], site))
                shares = (Share(cheapest, 1.0),)
            routes[ingress][name] = build_rungs(
                fabric, candidates, answer.placement.replicas, name, i, shares, marginal.get(pair, {})
            )
    placements = _nested({pool: n for pool, n in answer.placement.replicas.items() if n > 0})
    return Plan(
        revision=previous.revision + 1 if previous else 1,
        fabric_digest=fabric_digest(fabric),
        placements=placements,
        hardware=_nested({(s, w): candidates.hardware[w, s] for s, row in placements.items() for w in row}),
        placed_since=_nested(answer.placement.since_s),
        routes=routes,
        limits=_limits(answer, flows),
        prices=Prices(
            capacity=_nested(dict(zip(problem.pools, map(float, routing.capacity_price), strict=True))),
            demand=_nested(dict(zip(problem.demands, map(float, routing.demand_price), strict=True))),
        ),
        shortfalls=_shortfalls(answer, routes),
        objective=routing.objective,
        solved_s=now,
        gap=routing.gap,
    )


def _nested(flat: Mapping[tuple[str, str], T]) -> dict[str, dict[str, T]]:
    table: dict[str, dict[str, T]] = {}
    for (outer, inner), value in flat.items():
        table.setdefault(outer, {})[inner] = value
    return table


def _limits(answer: _Answer, flows: Mapping[tuple[str, str], Mapping[str, float]]) -> dict[str, dict[str, int]]:
    """Requests in flight per (site, contract): what the queue bears at the tightest slack, divided among the
    contracts that share the pool in proportion to their planned load, each at least a tenth of an equal part."""
    problem, candidates = answer.problem, answer.candidates
    load: dict[tuple[str, str], dict[str, float]] = {pool: {} for pool in problem.pools}
    slack: dict[tuple[str, str, str], float] = {}
    index = {site: s for s, site in enumerate(candidates.sites)}
    for d, p in zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), strict=True):
        (name, ingress), pool = problem.demands[d], problem.pools[p]
        spare = answer.fabric.contracts[name].in_time.objective_ms / 1e3
        spare -= float(candidates.needed_s[name][index[ingress], index[pool[0]]])
        slack[(*pool, name)] = min(slack.get((*pool, name), np.inf), spare)
        load[pool].setdefault(name, 0.0)
        load[pool][name] += flows.get((name, ingress), {}).get(pool[0], 0.0)
    limits: dict[str, dict[str, int]] = {}
    for pool, by_contract in load.items():
        queue = _queue(answer.fabric, candidates, pool, answer.placement.replicas[pool])
        least = 0.1 * max(sum(by_contract.values()), 1e-9) / max(len(by_contract), 1)
        weights = {name: max(rps, least) for name, rps in by_contract.items()}
        for name, weight in weights.items():
            whole = concurrency_limit(queue, slack[(*pool, name)])
            limits.setdefault(pool[0], {})[name] = max(1, round(whole * weight / sum(weights.values())))
    return limits


def _shortfalls(answer: _Answer, routes: Routes) -> tuple[Shortfall, ...]:
    found = []
    for pair, unserved in zip(answer.problem.demands, answer.routing.unserved_rps.tolist(), strict=True):
        if unserved <= 1e-9:
            continue
        refusal = routes[pair[1]][pair[0]][-1].refusal
        if refusal is None:
            detail = "the sites that can answer in time and in bounds are full"
            found.append(Shortfall(*pair, unserved, "full", detail))
        else:
            nearest = next((e for e in refusal.exclusions if e.site == refusal.nearest_site), None)
            kind: ExclusionKind = nearest.kind if nearest else "out_of_bounds"
            found.append(Shortfall(*pair, unserved, kind, refusal.detail))
    for cover, missing in answer.placement.uncovered:
        detail = f"{cover.sites} sites are asked for by survive_sites, {cover.sites - missing} can stand"
        found.append(Shortfall(cover.contract, cover.ingress, 0.0, "not_placed", detail))
    return tuple(found)
