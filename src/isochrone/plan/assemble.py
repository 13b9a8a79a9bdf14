"""From the optimiser's numbers to the plan's words: routes, limits, prices, shortfalls."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from isochrone.model.fabric import Fabric
from isochrone.plan.arcs import marginal_costs, pool_queue
from isochrone.plan.candidates import Candidates
from isochrone.plan.damping import resting_site
from isochrone.plan.placement import Placement
from isochrone.plan.plan import ExclusionKind, Plan, Prices, Routes, Rung, Share, Shortfall
from isochrone.plan.problem import Routing, RoutingProblem
from isochrone.plan.qualified import concurrency_limit
from isochrone.plan.ready import Replicas
from isochrone.plan.rungs import Rungs, round_shares
from isochrone.plan.spread import Apart, barred, unmeetable

T = TypeVar("T")
# A dual below this is a solver's rounding, not a price.
_PRICE_MIN = 1e-12

__all__ = ["Answer", "assemble", "fabric_digest", "reach_digest"]


def fabric_digest(fabric: Fabric) -> str:
    """`sha256:` and the digest of the fabric's canonical document."""
    return "sha256:" + hashlib.sha256(fabric.model_dump_json().encode()).hexdigest()


def reach_digest(fabric: Fabric, candidates: Candidates) -> str:
    """Digest of which sites could serve which contract from where, and on which hardware."""
    digest = hashlib.sha256(repr(sorted(candidates.hardware.items())).encode())
    for name in candidates.contracts:
        objective_s = fabric.contracts[name].in_time.objective_ms / 1e3
        digest.update(np.packbits(candidates.in_time(name, objective_s)).tobytes())
    return "sha256:" + digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found.

    Attributes:
        answering: replicas that answer, of those placed; routed: those the routing problem was made with.
        in_force: what is forwarded by.
    """

    fabric: Fabric
    candidates: Candidates
    placement: Placement
    answering: Replicas
    routed: Replicas
    problem: RoutingProblem
    routing: Routing
    apart: Apart
    in_force: Routes

    def binding(self) -> dict[str, dict[str, float]]:
        """Contract to its share limits that have a price: where they leave no room at all, that of all it sheds."""
        table: dict[str, dict[str, float]] = {}
        for limit in unmeetable(self.fabric, self.candidates):
            table.setdefault(limit.contract, {})[limit.label] = (
                self.fabric.contracts[limit.contract].penalty_per_1k / 1e3
            )
        for limit, price in zip(self.problem.limits, self.routing.limit_price.tolist(), strict=True):
            if price > _PRICE_MIN:
                table.setdefault(limit.contract, {})[limit.label] = price
        return table

    def flows(self) -> dict[tuple[str, str], dict[str, float]]:
        """(contract, ingress) to site to executions per second, positive ones only."""
        table: dict[tuple[str, str], dict[str, float]] = {}
        for arc in np.flatnonzero(self.routing.flow_rps > 1e-9):
            pair = self.problem.demands[self.problem.arc_demand[arc]]
            site = self.problem.pools[self.problem.arc_pool[arc]][0]
            table.setdefault(pair, {})[site] = float(self.routing.flow_rps[arc])
        return table


def assemble(answer: Answer, revision: int, now: float) -> Plan:
    """The plan that says what `answer` found."""
    fabric, problem, routing, binding = answer.fabric, answer.problem, answer.routing, answer.binding()
    candidates = barred(fabric, answer.candidates, answer.apart, binding)
    flows, marginal = answer.flows(), marginal_costs(problem, routing.capacity_price, routing.limit_price)
    wanted = dict(zip(problem.demands, problem.rps.tolist(), strict=True))
    answering = {pool: n for pool, n in answer.answering.items() if answer.placement.replicas[pool] > 0}
    shed = dict(zip(problem.demands, problem.shed_cost.tolist(), strict=True))
    routes: dict[str, dict[str, tuple[Rung, ...]]] = {ingress: {} for ingress in candidates.sites}
    for name in candidates.contracts:
        rungs = Rungs(fabric, candidates, answering, name)
        for i, ingress in enumerate(candidates.sites):
            pair, held = (name, ingress), answer.in_force.get(ingress, {}).get(name, ())
            shares = round_shares(flows.get(pair, {}))
            if not shares and wanted[pair] <= 0 and marginal.get(pair):
                standing = {share.site: share.share for share in held[-1].shares} if held else {}
                shares = (Share(resting_site(marginal[pair], shed[pair], standing), 1.0),)
            routes[ingress][name] = rungs.of(i, shares, marginal.get(pair, {}), held)
    placements = _nested({pool: n for pool, n in answer.placement.replicas.items() if n > 0})
    loading = {pool: answer.placement.replicas[pool] - n for pool, n in answering.items()}
    return Plan(
        revision=revision,
        fabric_digest=fabric_digest(fabric),
        reach_digest=reach_digest(fabric, answer.candidates),
        placements=placements,
        hardware=_nested({(s, w): candidates.hardware[w, s] for s, row in placements.items() for w in row}),
        placed_since=_nested(answer.placement.since_s),
        routes=routes,
        limits=_limits(answer),
        prices=Prices(
            capacity=_nested(dict(zip(problem.pools, map(float, routing.capacity_price), strict=True))),
            demand=_nested(dict(zip(problem.demands, map(float, routing.demand_price), strict=True))),
            limits=binding,
        ),
        shortfalls=_shortfalls(answer, routes),
        objective=routing.objective,
        solved_s=now,
        placed_s=answer.placement.placed_s,
        loading=_nested({pool: n for pool, n in loading.items() if n > 0}),
        solver=routing.solver,
        gap=routing.gap,
        placement_gap=answer.placement.gap,
        wanted_at=_nested(answer.placement.wanted_s),
        apart=answer.apart,
        exposures=answer.placement.exposures,
        site_revisions=dict.fromkeys(routes, revision),
        site_changed_s=dict.fromkeys(routes, now),
    )


def _nested(flat: Mapping[tuple[str, str], T]) -> dict[str, dict[str, T]]:
    table: dict[str, dict[str, T]] = {}
    for (outer, inner), value in flat.items():
        table.setdefault(outer, {})[inner] = value
    return table


def _limits(answer: Answer) -> dict[str, dict[str, int]]:
    """Requests in flight per (site, contract): what the queue bears at the tightest slack the contract is planned with,
    less the part of the pool that is planned for other contracts. Room that nobody is planned for is open to all.
    Where a contract is in time from nowhere nothing may wait: what model servers work on at once is the limit."""
    problem, candidates, fabric = answer.problem, answer.candidates, answer.fabric
    index = {site: s for s, site in enumerate(candidates.sites)}
    believed = {
        name: candidates.believed_s(name, contract.in_time.objective_ms / 1e3)
        for name, contract in fabric.contracts.items()
    }
    taken: dict[int, dict[str, float]] = {}
    slack: dict[tuple[int, str], tuple[bool, float]] = {}
    flows = (answer.routing.flow_rps * problem.use).tolist()
    for d, p, load in zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), flows, strict=True):
        name, ingress = problem.demands[d]
        spare = fabric.contracts[name].in_time.objective_ms / 1e3
        spare -= float(believed[name][index[ingress], index[problem.pools[p][0]]])
        # Arcs that carry traffic decide; among the others the tightest.
        slack[p, name] = min(slack.get((p, name), (True, np.inf)), (load <= 1e-9, spare))
        taken.setdefault(p, {}).setdefault(name, 0.0)
        taken[p][name] += load / max(float(problem.capacity_rps[p]), 1e-12)
    for p, (site, workload) in enumerate(problem.pools):
        for name in candidates.contracts:
            # A fallback of last resort is in nobody's plan, and must not be without a limit for that.
            if fabric.contracts[name].workload == workload and candidates.bars[name][index[site]] is None:
                slack.setdefault((p, name), (True, 0.0))
                taken.setdefault(p, {}).setdefault(name, 0.0)
    limits: dict[str, dict[str, int]] = {}
    for p, shares in taken.items():
        site, workload = problem.pools[p]
        queue = pool_queue(candidates, (site, workload), answer.routed[site, workload])
        for name, share in shares.items():
            others = min(1.0, sum(shares.values()) - share)
            work = candidates.work.get(name, 1.0)
            whole = concurrency_limit(queue, slack[p, name][1] / work, fabric.contracts[name].in_time.quantile)
            limits.setdefault(site, {})[name] = max(1, round(whole * (1 - others)))
    return limits


def _shortfalls(answer: Answer, routes: Routes) -> tuple[Shortfall, ...]:
    found = []
    for pair, unserved in zip(answer.problem.demands, answer.routing.unserved_rps.tolist(), strict=True):
        if unserved <= 1e-9:
            continue
        refusal = routes[pair[1]][pair[0]][-1].refusal
        binding = [str(limit) for limit in answer.problem.limits if limit.label in answer.binding().get(pair[0], {})]
        if refusal is None and binding:
            found.append(Shortfall(*pair, unserved, "spread", "; ".join(dict.fromkeys(binding))))
        elif refusal is None:
            detail = "the sites that can answer in time and in bounds are full"
            found.append(Shortfall(*pair, unserved, "full", detail))
        else:
            nearest = next((e for e in refusal.exclusions if e.site == refusal.nearest_site), None)
            kind: ExclusionKind = nearest.kind if nearest else "out_of_bounds"
            found.append(Shortfall(*pair, unserved, kind, refusal.detail))
    return (*found, *_cannot_survive(answer), *_too_few(answer))


def _too_few(answer: Answer) -> Iterator[Shortfall]:
    """Contracts whose workload has fewer replicas than it asks for."""
    stand: Counter[str] = Counter()
    for (_, workload), count in answer.placement.replicas.items():
        stand[workload] += count
    for name, contract in answer.fabric.contracts.items():
        asked, workload = answer.fabric.workloads[contract.workload].replicas_min, contract.workload
        if stand[workload] < asked:
            detail = f"replicas_min asks for {asked} replicas of {workload}, {stand[workload]} can stand"
            yield Shortfall(name, "", 0.0, "not_placed", detail)


def _cannot_survive(answer: Answer) -> Iterator[Shortfall]:
    """Demand that is served now and would not be after the loss of one site, though its contract asks for that."""
    problem = answer.problem
    stands = np.bincount(problem.arc_demand, minlength=len(problem.rps)).tolist()
    exposed = {(each.contract, each.ingress): each for each in answer.placement.exposures}
    for pair, rps, sites in zip(problem.demands, problem.rps.tolist(), stands, strict=True):
        asked = answer.fabric.contracts[pair[0]].survive_sites
        if not asked or rps <= 0 or not sites:
            continue
        if sites <= asked:
            detail = f"survive_sites asks for {1 + asked} sites in time and in bounds, {sites} stand"
            yield Shortfall(*pair, 0.0, "not_placed", detail)
        elif pair in exposed:
            lost = exposed[pair]
            detail = f"after losing {lost.site}, {lost.rps:.4g} of {rps:.4g} executions per second would find no room"
            yield Shortfall(*pair, 0.0, "full", detail)
