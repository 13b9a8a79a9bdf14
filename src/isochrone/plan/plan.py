"""The plan: the optimiser's answer, as a value that travels to every site. Nothing here needs the optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from isochrone.latency.portable import Portable

__all__ = [
    "TRIES_MIN",
    "Exclusion",
    "ExclusionKind",
    "Exposure",
    "Infeasible",
    "Plan",
    "PlanChange",
    "Prices",
    "Refusal",
    "Routes",
    "Rung",
    "Share",
    "Shortfall",
    "difference",
]

# A request is tried at a second site whatever the time: the first may be down before anyone knows.
TRIES_MIN = 2
# Where so many sites have refused, the fabric is full, and each further try takes the room of what could be in time.
TRIES_MAX = 4

ExclusionKind = Literal[
    "out_of_time", "out_of_bounds", "full", "down", "drained", "no_hardware", "not_placed", "loading", "spread", "apart"
]


@dataclass(frozen=True, slots=True)
class Exclusion(Portable):
    """Why a site does not serve a contract from an ingress. Times in milliseconds; None where they do not apply.

    Attributes:
        needed_ms: round trip + service time + hops, at the contract's quantile.
        floor_ms: the physics floor of the round trip.
        policies: what put the site out of bounds.
        detail: one sentence for people.
    """

    site: str
    kind: ExclusionKind
    needed_ms: float | None = None
    rtt_ms: float | None = None
    service_ms: float | None = None
    floor_ms: float | None = None
    policies: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refusal(Portable):
    """What a client is told when no site can serve: the problem details of RFC 9457 in our words.

    Attributes:
        nearest_site: the site in bounds that comes closest to the deadline; None when none is in bounds.
        needed_ms: what that site would need.
        floor_ms: the physics floor of the round trip to it.
    """

    title: str
    detail: str
    nearest_site: str | None = None
    needed_ms: float | None = None
    floor_ms: float | None = None
    exclusions: tuple[Exclusion, ...] = ()


@dataclass(frozen=True, slots=True)
class Share(Portable):
    """The part of an ingress's requests that goes to a site; the shares of a rung sum to 1."""

    site: str
    share: float


@dataclass(frozen=True, slots=True)
class Rung(Portable):
    """What happens to requests of one contract, from one ingress, with one deadline.

    Attributes:
        shares: sites in time and in bounds and how much each gets; empty means refused.
        fallbacks: further sites in time and in bounds, in the order to try them.
        refusal: set exactly when `shares` is empty.
        hedge_ms: after so long without an answer the next site is asked as well; None where that is not bought, or
            where no second site could still answer in time.
        tries: sites that one request is tried at, at most: the last still answers in time when those before refused.
        exclusions: why the other sites are out, the nearest first, on the contract's own rung (the last). A refused
            rung has them in its refusal; `explain` gives all sites for every rung.
    """

    deadline_ms: float
    shares: tuple[Share, ...]
    fallbacks: tuple[str, ...] = ()
    refusal: Refusal | None = None
    exclusions: tuple[Exclusion, ...] = ()
    hedge_ms: float | None = None
    tries: int = TRIES_MIN

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site it may forward to, in the order of preference."""
        return (*(share.site for share in self.shares), *self.fallbacks)


@dataclass(frozen=True, slots=True)
class Prices(Portable):
    """Duals of the routing problem, in currency per execution.

    Attributes:
        capacity: site to workload: what capacity for one more execution there would save.
        demand: contract to ingress: what one more execution costs; at most the contract's penalty.
        limits: contract to the share limits that bind it (`vendor v`, `site s`): what one more execution beyond would
            save.
    """

    capacity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    demand: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shortfall(Portable):
    """Demand the plan does not serve, and the reason that binds."""

    contract: str
    ingress: str
    unserved_rps: float
    kind: ExclusionKind
    detail: str


@dataclass(frozen=True, slots=True)
class Exposure(Portable):
    """Executions per second of a contract that is to survive the loss of a site, for which there would be no room if
    that site were lost: the worst one for them."""

    contract: str
    ingress: str
    site: str
    rps: float


Routes = Mapping[str, Mapping[str, tuple[Rung, ...]]]


@dataclass(frozen=True, slots=True)
class Plan(Portable):
    """Who serves what, from where, and what it is worth.

    Attributes:
        reach_digest: digest of which sites can serve which contract from where.
        placements: site to workload to replicas.
        hardware: site to workload to the hardware class its replicas take.
        loading: site to workload to the replicas that are placed there and did not answer yet.
        placed_since: site to workload to the time of the last change of its replicas, in seconds.
        wanted_at: site to workload to when all of its replicas were last wanted; those unwanted for long are stopped.
        routes: ingress to contract to rungs, tightest deadline first.
        limits: site to contract to the requests that may be in flight there with the objective still held.
        objective: cost and penalties per second, in the fabric's currency.
        apart: contract to sites it keeps out of, and the contract it leaves each to.
        solved_s: when it was made or last found to be good still; placed_s: when its placement was last thought over.
        solver: what solved the routing.
        site_revisions: site to the revision that last changed what it forwards by: what it is told by later ones is the
            same, and its proxy is left alone. site_changed_s: when that was.
        gap: proven distance of the routing to its optimum, as a share of it; placement_gap: of the placement.
        exposures: what could not survive a loss, when placement was last thought over.
    """

    revision: int
    fabric_digest: str
    reach_digest: str
    placements: Mapping[str, Mapping[str, int]]
    hardware: Mapping[str, Mapping[str, str]]
    placed_since: Mapping[str, Mapping[str, float]]
    routes: Routes
    limits: Mapping[str, Mapping[str, int]]
    prices: Prices
    shortfalls: tuple[Shortfall, ...]
    objective: float
    solved_s: float
    placed_s: float
    gap: float
    placement_gap: float
    wanted_at: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    apart: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    loading: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    solver: Literal["exact", "coordinated"] = "exact"
    exposures: tuple[Exposure, ...] = ()
    site_revisions: Mapping[str, int] = field(default_factory=dict)
    site_changed_s: Mapping[str, float] = field(default_factory=dict)

    def forwarding_revision(self, site: str) -> int:
        """The revision that last changed what a site forwards by."""
        return self.site_revisions.get(site, self.revision)

    def for_site(self, site: str) -> Plan:
        """What one site needs of it: its own routes and limits, and all placements. A large plan does not fit into
        one message; this does."""
        return replace(
            self,
            routes={site: self.routes[site]} if site in self.routes else {},
            limits={site: self.limits[site]} if site in self.limits else {},
            site_revisions={site: self.forwarding_revision(site)},
            site_changed_s={},
            prices=Prices(),
            exposures=(),
            shortfalls=tuple(short for short in self.shortfalls if short.ingress == site),
        )


@dataclass(frozen=True, slots=True)
class Infeasible(Portable):
    """There is nothing to plan with; the last plan stays in force.

    Attributes:
        reason: what binds.
        shortfalls: all demand, unserved.
    """

    reason: str
    shortfalls: tuple[Shortfall, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanChange(Portable):
    """What differs between two plans.

    Attributes:
        placements: (site, workload, replicas before, after).
        routes: (ingress, contract) whose shares, fallbacks or refusals differ.
        limits: (site, contract, before, after); 0 where there was or is none.
        churn: share of the routed (ingress, contract, rung) traffic that moves to another site, 0 to 1.
    """

    placements: tuple[tuple[str, str, int, int], ...]
    routes: tuple[tuple[str, str], ...]
    limits: tuple[tuple[str, str, int, int], ...]
    churn: float

    @property
    def empty(self) -> bool:
        """Nothing a site forwards by differs."""
        return not (self.placements or self.routes or self.limits)


def difference(before: Plan, after: Plan) -> PlanChange:
    """What a site would have to change to go from one plan to the other; prices and numbers in reasons do not count."""
    moved = [_moved(before, after, ingress, contract) for ingress, contract in _pairs(before.routes, after.routes)]
    changed = [(ingress, contract) for ingress, contract, differs, _ in moved if differs]
    return PlanChange(
        placements=_counts(before.placements, after.placements),
        routes=tuple(changed),
        limits=_counts(before.limits, after.limits),
        churn=sum(part for *_, part in moved) / len(moved) if moved else 0.0,
    )


def _pairs(*tables: Mapping[str, Mapping[str, object]]) -> list[tuple[str, str]]:
    return sorted({(outer, inner) for table in tables for outer, row in table.items() for inner in row})


def _counts(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> tuple[tuple[str, str, int, int], ...]:
    rows = ((a, b, before.get(a, {}).get(b, 0), after.get(a, {}).get(b, 0)) for a, b in _pairs(before, after))
    return tuple(row for row in rows if row[2] != row[3])


def _moved(before: Plan, after: Plan, ingress: str, contract: str) -> tuple[str, str, bool, float]:
    """Whether the pair's forwarding differs, and the mean over its rungs of the traffic that moves."""
    old = before.routes.get(ingress, {}).get(contract, ())
    new = after.routes.get(ingress, {}).get(contract, ())
    if [_forwarding(rung) for rung in old] == [_forwarding(rung) for rung in new]:
        return ingress, contract, False, 0.0
    if [rung.deadline_ms for rung in old] != [rung.deadline_ms for rung in new]:
        return ingress, contract, True, 1.0
    return ingress, contract, True, sum(map(_distance, old, new)) / len(new)


def _forwarding(rung: Rung) -> tuple[object, ...]:
    return rung.deadline_ms, rung.shares, rung.fallbacks, _reason(rung.refusal), rung.hedge_ms, rung.tries


def _reason(refusal: Refusal | None) -> tuple[object, ...] | None:
    """Why, without the numbers, which move a little all the time."""
    if refusal is None:
        return None
    return refusal.title, refusal.nearest_site, tuple((each.site, each.kind) for each in refusal.exclusions)


def _distance(old: Rung, new: Rung) -> float:
    a = {share.site: share.share for share in old.shares}
    b = {share.site: share.share for share in new.shares}
    if bool(a) != bool(b):
        return 1.0
    return sum(abs(a.get(site, 0.0) - b.get(site, 0.0)) for site in {**a, **b}) / 2
