"""From a fabric and what is known about it to a plan: placement, then routing, then rungs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from isochrone.errors import InputError
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.model.fabric import Fabric
from isochrone.plan.arcs import Demand, routing_problem
from isochrone.plan.assemble import Answer, assemble, fabric_digest, reach_digest
from isochrone.plan.candidates import Candidates, find_candidates
from isochrone.plan.damping import damped, settled_limits
from isochrone.plan.placement import DEFAULT_RULES, Cover, Placement, PlacementRules, place
from isochrone.plan.plan import Infeasible, Plan, Shortfall, difference
from isochrone.plan.problem import Routing, RoutingProblem
from isochrone.plan.ready import Ready, Replicas, answering, loading, prefer_ready, serving
from isochrone.plan.routing import route_exactly
from isochrone.plan.settle import settle
from isochrone.plan.spread import kept_apart
from isochrone.plan.survival import Survival
from isochrone.plan.verdicts import Bounds

Router: TypeAlias = Callable[[RoutingProblem], Routing]

__all__ = ["Demand", "Router", "declared_demand", "fabric_digest", "make_plan", "open_sites"]


def declared_demand(fabric: Fabric) -> Demand:
    """What the contracts themselves expect."""
    return {name: dict(contract.demand_rps) for name, contract in fabric.contracts.items()}


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
    router: Router = route_exactly,
    reserve: Demand | None = None,
    ready: Ready | None = None,
) -> Plan | Infeasible:
    """The plan for this moment. Deterministic; with nothing changed it is `previous` itself, and where only what it
    says of itself has changed (gap, prices, shortfalls) it has the revision of `previous`.

    Args:
        bounds: (contract, site) to verdict; a pair without one is out of bounds.
        up: names of live sites.
        demand: executions per second; contracts and ingresses left out want none (they still get routes).
        now: seconds of the caller's clock, as in the measurements' `at_s`.
        router: what solves the routing problem; a `RouterBySize` where plans follow one another.
        reserve: demand that replicas stand for even while there is less; `demand` alone is routed.
        ready: replicas that answer; all that are placed where nothing is known.

    Returns:
        A plan, in which refused contracts carry their refusal and unserved demand is listed, or `Infeasible` when no
        site is up at all.

    Raises:
        PlanError: the optimiser gave no proven answer.
        InputError: demand is not a finite number of at least 0, or names what is not in the fabric.
    """
    _check_demand(fabric, demand)
    _check_demand(fabric, reserve or {})
    if not up & set(fabric.sites):
        return Infeasible("no site of the fabric is up", _all_unserved(demand))
    digest = fabric_digest(fabric)
    before = previous if previous and previous.fabric_digest == digest else None
    candidates = find_candidates(fabric, rtt, service, bounds, up, now, before.routes if before else None)
    recent = before is not None and now - before.placed_s < rules.every_s
    same_reach = before is not None and before.reach_digest == reach_digest(fabric, candidates)
    # Thinking placement over costs seconds on large fabrics: only when it is due, or when something has changed.
    standing = _as_placement(before) if recent and same_reach else None
    wanted = _larger(demand, reserve or {})
    made = partial(_plan, fabric, candidates, ready or {}, demand, wanted, previous, now, rules, router)
    plan = made(standing)
    if standing and _short(plan) - _short(before):
        plan = made(None)
    if before is None:
        return plan
    settled = settle(before, plan, open_sites(candidates, plan), now)
    return _restated(before, settled, now) if difference(before, settled).empty else settled


def open_sites(candidates: Candidates, plan: Plan) -> dict[str, set[str]]:
    """Contract to the sites that nothing bars and that the plan has not left to a contract it is kept apart from."""
    return {
        name: {candidates.sites[s] for s in candidates.open(name).nonzero()[0]} - plan.apart.get(name, {}).keys()
        for name in candidates.contracts
    }


def _restated(before: Plan, plan: Plan, now: float) -> Plan:
    """What is forwarded by stays; what the newest solve says of it may have changed."""
    after = replace(plan, revision=before.revision, solved_s=before.solved_s)
    return before if after == before else replace(after, solved_s=now)


def _plan(
    fabric: Fabric,
    candidates: Candidates,
    ready: Ready,
    demand: Demand,
    wanted: Demand,
    previous: Plan | None,
    now: float,
    rules: PlacementRules,
    router: Router,
    standing: Placement | None,
) -> Plan:
    placed = standing or _place(fabric, candidates, wanted, previous, ready, now, rules)
    placement = _with_drained(fabric, placed, previous)
    answer = answering(fabric, placement.replicas, ready)
    routes = serving(placement.replicas, answer)
    problem, apart = kept_apart(fabric, routing_problem(fabric, candidates, routes, demand))
    problem = prefer_ready(problem, loading(answer))
    routing = damped(problem, router(problem), _standing(previous), _begun(answer, previous))
    revision = previous.revision + 1 if previous else 1
    found = Answer(
        fabric, candidates, placement, answer, routes, problem, routing, apart, previous.routes if previous else {}
    )
    plan = assemble(found, revision, now)
    return replace(plan, limits=settled_limits(plan.limits, previous.limits)) if previous else plan


def _standing(plan: Plan | None) -> dict[tuple[str, str], dict[str, float]]:
    """(contract, ingress) to site to share, on the contract's own rung."""
    if plan is None:
        return {}
    return {
        (contract, ingress): {share.site: share.share for share in rungs[-1].shares}
        for ingress, row in plan.routes.items()
        for contract, rungs in row.items()
    }


def _begun(answer: Replicas, previous: Plan | None) -> frozenset[tuple[str, str]]:
    """Pools of which something answers, and nothing did at the time of the plan before."""
    if previous is None:
        return frozenset()

    def answered(site: str, workload: str) -> bool:
        placed = previous.placements.get(site, {}).get(workload, 0)
        return placed > previous.loading.get(site, {}).get(workload, 0)

    return frozenset(pool for pool, count in answer.items() if count and not answered(*pool))


def _with_drained(fabric: Fabric, placement: Placement, previous: Plan | None) -> Placement:
    """Replicas at drained sites stay: executions end there after the plan has turned away, and it may turn back."""
    before = _as_placement(previous)
    kept = {
        (site, workload): n
        for (site, workload), n in (before.replicas.items() if before else ())
        if site in fabric.sites and fabric.sites[site].drained and workload in fabric.workloads
    }
    return replace(placement, replicas={**placement.replicas, **kept}) if kept else placement


def _larger(demand: Demand, reserve: Demand) -> Demand:
    """The larger of the two, pair by pair."""
    return {
        name: {
            site: max(demand.get(name, {}).get(site, 0.0), reserve.get(name, {}).get(site, 0.0))
            for site in {**demand.get(name, {}), **reserve.get(name, {})}
        }
        for name in {**demand, **reserve}
    }


def _short(plan: Plan | None) -> set[tuple[str, str]]:
    return {(short.contract, short.ingress) for short in plan.shortfalls} if plan else set()


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


def _place(
    fabric: Fabric,
    candidates: Candidates,
    demand: Demand,
    previous: Plan | None,
    ready: Ready,
    now: float,
    rules: PlacementRules,
) -> Placement:
    problem, _ = kept_apart(fabric, routing_problem(fabric, candidates, None, demand))
    covers = _covers(fabric, candidates, problem)
    before = _as_placement(previous)
    stand = {pool: n for pool, n in before.replicas.items() if pool[1] in fabric.workloads} if before else {}
    incomplete = {pool[1] for pool, n in answering(fabric, stand, ready).items() if n < stand[pool]}
    survival = Survival(problem.wanted(), _protected(fabric, problem))
    return place(fabric, problem.wanted(), candidates.hardware, covers, survival, before, incomplete, now, rules)


def _protected(fabric: Fabric, problem: RoutingProblem) -> NDArray[np.bool_]:
    """(D,) demands whose contract is to survive the loss of a site."""
    return np.array([fabric.contracts[name].survive_sites > 0 for name, _ in problem.demands], dtype=bool)


def _covers(fabric: Fabric, candidates: Candidates, problem: RoutingProblem) -> tuple[Cover, ...]:
    """What a contract needs beyond its demand being served: to survive the loss of sites or to hedge at a second one,
    per ingress with demand; and without any demand, somewhere to run at all. And what a workload
    needs, demand or none."""
    reach: dict[tuple[str, str], list[int]] = {}
    for d, p in zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), strict=True):
        reach.setdefault(problem.demands[d], []).append(p)
    wanted = {pair for pair, rps in zip(problem.demands, problem.rps.tolist(), strict=True) if rps > 0}
    covers = []
    for name in candidates.contracts:
        contract = fabric.contracts[name]
        sites = 1 + max(contract.survive_sites, contract.hedge)
        pairs = [pair for pair in problem.demands if pair[0] == name and pair in reach]
        asked = [pair for pair in pairs if pair in wanted]
        for pair in asked if sites > 1 else ():
            covers.append(Cover(*pair, tuple(sorted(reach[pair])), sites))
        if pairs and not asked:
            covers.append(Cover(name, "", _widest([reach[pair] for pair in pairs]), sites))
    for name, workload in fabric.workloads.items():
        if workload.replicas_min:
            pools = tuple(p for p, pool in enumerate(problem.pools) if pool[1] == name)
            covers.append(Cover("", "", pools, 0, replicas=workload.replicas_min))
    return tuple(covers)


def _widest(reaches: list[list[int]]) -> tuple[int, ...]:
    """The pools that most ingresses can reach."""
    counts = Counter(p for reach in reaches for p in reach)
    most = max(counts.values())
    return tuple(sorted(p for p, count in counts.items() if count == most))


def _as_placement(plan: Plan | None) -> Placement | None:
    if plan is None:
        return None
    return Placement(
        replicas={(site, w): n for site, row in plan.placements.items() for w, n in row.items()},
        since_s={(site, w): at for site, row in plan.placed_since.items() for w, at in row.items()},
        wanted_s={(site, w): at for site, row in plan.wanted_at.items() for w, at in row.items()},
        gap=plan.placement_gap,
        placed_s=plan.placed_s,
        exposures=plan.exposures,
    )
