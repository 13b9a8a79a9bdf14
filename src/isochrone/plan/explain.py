"""Why a contract's requests from a place go where they go, why not elsewhere, and what would change that."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from isochrone.errors import InputError
from isochrone.latency.estimate import RttTable, ServiceTable, Source, answer_time_s
from isochrone.latency.portable import Portable
from isochrone.model.fabric import Fabric
from isochrone.plan.arcs import marginal_costs, routing_problem
from isochrone.plan.candidates import Candidates, find_candidates
from isochrone.plan.plan import Exclusion, Plan, Refusal
from isochrone.plan.ready import loading, prefer_ready, serving
from isochrone.plan.refusal import Reasons
from isochrone.plan.spread import barred
from isochrone.plan.verdicts import Bounds

__all__ = ["Explanation", "Option", "explain"]

# Slower than declared by so much is worth a word.
_SLOW = 1.5


@dataclass(frozen=True, slots=True)
class Option(Portable):
    """A site in time and in bounds.

    Attributes:
        share: of this ingress's requests; 0 for a fallback.
        cost: currency per execution: hardware, and the contract's penalty times the chance of being late.
        price: currency per execution for capacity that is scarce there and for share limits that bind, less than 0
            where an execution there makes room for others elsewhere; 0 where there is room.
        late: chance that an execution there misses the contract's objective, from the service time model.
        source: the weakest source that `needed_ms` rests on; spread_ms: its standard error.
    """

    site: str
    share: float
    needed_ms: float
    rtt_ms: float
    service_ms: float
    cost: float
    price: float
    late: float
    source: Source
    spread_ms: float


@dataclass(frozen=True, slots=True)
class Explanation(Portable):
    """Everything the plan knew when it decided.

    Attributes:
        options: sites in time and in bounds, the cheapest first (cost + price).
        exclusions: every other site and why it is out, the nearest first.
        changes: sentences, each one change that would alter the answer.
        hedge_ms: after so long without an answer the next site is asked as well; None for never.
    """

    contract: str
    ingress: str
    deadline_ms: float
    revision: int
    options: tuple[Option, ...]
    exclusions: tuple[Exclusion, ...]
    refusal: Refusal | None
    changes: tuple[str, ...]
    hedge_ms: float | None = None

    def __str__(self) -> str:
        lines = [f"{self.contract} from {self.ingress} within {self.deadline_ms:g} ms (plan {self.revision})"]
        for option in self.options:
            what = f"{option.share:7.2%}" if option.share else "fallback"
            lines.append(
                f"  {what}  {option.site}: {option.needed_ms:.1f} ms ({option.rtt_ms:.1f} network, "
                f"{option.service_ms:.1f} service), {option.cost * 1e3:.4g} + {option.price * 1e3:.4g} per 1,000"
            )
        if self.refusal:
            lines.append(f"  refused: {self.refusal.title}. {self.refusal.detail}")
        lines += [f"  not {e.site}: {e.kind.replace('_', ' ')}: {e.detail}" for e in self.exclusions]
        lines += [f"  would change it: {change}" for change in self.changes]
        return "\n".join(lines)


def explain(
    fabric: Fabric,
    rtt: RttTable,
    service: ServiceTable,
    bounds: Bounds,
    up: Set[str],
    plan: Plan,
    contract: str,
    ingress: str,
    now: float,
    deadline_ms: float | None = None,
) -> Explanation:
    """Explain one pair of `plan`; the other arguments as in `make_plan`.

    Args:
        deadline_ms: a rung of the contract; its own objective when None.

    Raises:
        InputError: no such contract, ingress or rung in the plan.
    """
    rungs = {rung.deadline_ms: rung for rung in plan.routes.get(ingress, {}).get(contract, ())}
    if contract not in fabric.contracts or not rungs:
        raise InputError(f"the plan has no routes for {contract!r} from {ingress!r}", code="plan.unknown")
    deadline = fabric.contracts[contract].in_time.objective_ms if deadline_ms is None else deadline_ms
    if deadline not in rungs:
        offered = ", ".join(f"{rung:g}" for rung in rungs)
        raise InputError(f"{contract} has no rung at {deadline:g} ms", code="plan.unknown", hint=f"rungs: {offered}")
    candidates = find_candidates(fabric, rtt, service, bounds, up, now)
    limited = barred(fabric, candidates, plan.apart, plan.prices.limits)
    rung = rungs[deadline]
    options = _options(fabric, rtt, service, candidates, plan, contract, ingress, deadline, now)
    workload = fabric.contracts[contract].workload
    placed = {
        site: row[workload] - plan.loading.get(site, {}).get(workload, 0)
        for site, row in plan.placements.items()
        if row.get(workload, 0) > 0
    }
    serving = frozenset(option.site for option in options) if rung.shares else frozenset()
    where = candidates.sites.index(ingress)
    out = Reasons(limited, contract, where, placed).exclusions(deadline / 1e3, serving)
    changes = _changes(contract, ingress, deadline, options, out) + _limit_changes(contract, plan)
    late = [exclusion.site for exclusion in out if exclusion.kind == "out_of_time"]
    changes += _slowed(service, workload, [*late, *(option.site for option in options if not option.share)], now)
    return Explanation(contract, ingress, deadline, plan.revision, options, out, rung.refusal, changes, rung.hedge_ms)


def _options(
    fabric: Fabric,
    rtt: RttTable,
    service: ServiceTable,
    candidates: Candidates,
    plan: Plan,
    contract: str,
    ingress: str,
    deadline_ms: float,
    now: float,
) -> tuple[Option, ...]:
    terms = fabric.contracts[contract]
    placed = {(site, w): n for site, row in plan.placements.items() for w, n in row.items()}
    answer = {(site, w): n - plan.loading.get(site, {}).get(w, 0) for (site, w), n in placed.items()}
    problem = prefer_ready(routing_problem(fabric, candidates, serving(placed, answer), {}), loading(answer))
    price = np.array([plan.prices.capacity.get(site, {}).get(w, 0.0) for site, w in problem.pools])
    limits = np.array([plan.prices.limits.get(each.contract, {}).get(each.label, 0.0) for each in problem.limits])
    costs = marginal_costs(problem, np.zeros(len(problem.pools))).get((contract, ingress), {})
    totals = marginal_costs(problem, price, limits).get((contract, ingress), {})
    rung = next(r for r in plan.routes[ingress][contract] if r.deadline_ms == deadline_ms)
    shares = {share.site: share.share for share in rung.shares}
    i = candidates.sites.index(ingress)
    found = []
    for site, cost in costs.items():
        s = candidates.sites.index(site)
        needed = float(candidates.needed_s[contract][i, s])
        if needed <= deadline_ms / 1e3 and site not in plan.apart.get(contract, {}):
            kind = candidates.hardware[terms.workload, site]
            known = answer_time_s(
                rtt, service, ingress, site, terms.workload, kind, terms.in_time.metric, terms.in_time.quantile, now
            )
            option = Option(
                site=site,
                share=shares.get(site, 0.0),
                needed_ms=round(needed * 1e3, 3),
                rtt_ms=round(float(candidates.rtt_s[contract][i, s]) * 1e3, 3),
                service_ms=round(float(candidates.service_s[contract][s]) * 1e3, 3),
                cost=cost,
                price=totals[site] - cost,
                late=float(candidates.late[contract][i, s]),
                source=known.source,
                spread_ms=round(known.spread_s * 1e3, 3),
            )
            found.append(option)
    return tuple(sorted(found, key=lambda option: (option.cost + option.price, option.site)))


def _changes(
    contract: str, ingress: str, deadline_ms: float, options: tuple[Option, ...], out: tuple[Exclusion, ...]
) -> tuple[str, ...]:
    said = []
    chosen = [option for option in options if option.share]
    spare = [option for option in options if not option.share]
    if chosen and spare:
        dearest = max(option.cost + option.price for option in chosen)
        for option in spare[:2]:
            less = option.cost + option.price - dearest
            said.append(f"{option.site} would be chosen if it were {less * 1e3:.4g} cheaper per 1,000 executions")
    for exclusion in out:
        late = exclusion.needed_ms is not None and exclusion.needed_ms > deadline_ms
        if exclusion.kind == "out_of_time":
            assert exclusion.needed_ms is not None
            said.append(_faster(exclusion, deadline_ms, ingress))
        elif exclusion.kind == "out_of_bounds" and not late:
            policies = ", ".join(exclusion.policies) or "policy"
            said.append(f"{exclusion.site} could answer in {exclusion.needed_ms:.1f} ms, if {policies} allowed it")
        elif exclusion.kind in ("down", "drained") and not late:
            said.append(f"{exclusion.site} could answer in {exclusion.needed_ms:.1f} ms, once it is back")
        elif exclusion.kind == "not_placed":
            said.append(f"a replica at {exclusion.site} would answer {contract} in {exclusion.needed_ms:.1f} ms")
        elif exclusion.kind == "loading":
            said.append(f"{exclusion.site} could answer in {exclusion.needed_ms:.1f} ms, once its model is loaded")
        elif exclusion.kind == "apart" and not late:
            said.append(f"{exclusion.site} could answer in {exclusion.needed_ms:.1f} ms, were the two not kept apart")
        elif exclusion.kind == "full":
            said.append(f"more units or replicas at {exclusion.site} would take requests that are refused now")
    return tuple(said)


def _limit_changes(contract: str, plan: Plan) -> tuple[str, ...]:
    return tuple(
        f"a larger share for {label} would save {price * 1e3:.4g} per 1,000 executions beyond it"
        for label, price in sorted(plan.prices.limits.get(contract, {}).items())
    )


def _slowed(service: ServiceTable, workload: str, sites: list[str], now: float) -> tuple[str, ...]:
    """Which of these sites do not serve as declared."""
    said = []
    for site in sites:
        learned = service.calibrated.get(site, {}).get(workload)
        if learned and learned.weight(now) and learned.slowdown > _SLOW:
            said.append(
                f"{site} is measured to take {learned.slowdown:.3g} times what is declared "
                f"(+- {learned.error:.0%}, {max(0.0, now - learned.at_s):.0f} s ago); it is tried again as that ages"
            )
    return tuple(said)


def _faster(exclusion: Exclusion, deadline_ms: float, ingress: str) -> str:
    needed, floor = exclusion.needed_ms or 0.0, exclusion.floor_ms or 0.0
    if floor >= deadline_ms:
        return (
            f"nothing brings {exclusion.site} within {deadline_ms:g} ms of {ingress}: light in fibre needs "
            f"{floor:.1f} ms; a deadline of {needed:.1f} ms would admit it"
        )
    return f"a deadline of {needed:.1f} ms, or {needed - deadline_ms:.1f} ms less to {exclusion.site}, would admit it"
