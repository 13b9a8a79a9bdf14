"""FIB: what one site forwards by, derived from the plan. The plan is for the whole fabric; a FIB is for one ingress.

Weights are integers that sum to `WEIGHT_TOTAL`, by largest remainder, so that equal plans give equal bytes.
A site that the bounds do not allow never enters a FIB, whatever the plan says: the plan is advice, the bounds are law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isochrone.model.fabric import Fabric
from isochrone.plan.plan import TRIES_MIN, Plan, Refusal, Rung
from isochrone.plan.verdicts import Verdict

__all__ = ["WEIGHT_TOTAL", "Entry", "Fib", "Path", "fib_for", "paths_for", "weights_of"]

WEIGHT_TOTAL = 1000


@dataclass(frozen=True, slots=True)
class Path:
    """Sites in order of preference: the first is meant, the others take over when it cannot."""

    sites: tuple[str, ...]
    weight: int


@dataclass(frozen=True, slots=True)
class Entry:
    """How requests of one contract with one deadline are forwarded: paths with weights, or a refusal, never neither.

    Attributes:
        deadline_ms: the rung; requests with this deadline or a looser one (below the next rung) use the entry.
        candidates: every site that is in time and in bounds at this rung, best first.
        hedge_ms: when the next site of a path is asked as well; None for never.
        tries: sites of a path that one request is tried at, at most.
    """

    contract: str
    deadline_ms: float
    paths: tuple[Path, ...]
    candidates: tuple[str, ...]
    refusal: Refusal | None
    hedge_ms: float | None = None
    tries: int = TRIES_MIN

    def __post_init__(self) -> None:
        if bool(self.paths) == (self.refusal is not None):
            raise ValueError(
                f"{self.contract}@{self.deadline_ms}: an entry has paths or a refusal, exactly one of them"
            )


@dataclass(frozen=True, slots=True)
class Fib:
    """One site's forwarding table.

    Attributes:
        revision: the plan's that last changed it.
        limits: concurrent executions per contract at this site; absent means none.
    """

    site: str
    revision: int
    entries: tuple[Entry, ...]
    limits: Mapping[str, int]

    def sites_of(self, contract: str) -> frozenset[str]:
        """Every site that any entry of the contract may forward to."""
        return frozenset(site for entry in self.entries if entry.contract == contract for site in entry.candidates)


def fib_for(fabric: Fabric, plan: Plan, site: str, bounds: Mapping[tuple[str, str], Verdict]) -> Fib:
    """The forwarding table of `site`.

    Args:
        bounds: verdict by (contract, site) as this site itself computes it; pairs without a verdict are out of bounds.
    """
    entries = []
    for contract in sorted(fabric.contracts):
        allowed = {name for name in fabric.sites if (v := bounds.get((contract, name))) is not None and v.allowed}
        for rung in plan.routes.get(site, {}).get(contract, ()):
            entries.append(_entry(contract, rung, allowed))
    return Fib(site, plan.forwarding_revision(site), tuple(entries), dict(sorted(plan.limits.get(site, {}).items())))


def _entry(contract: str, rung: Rung, allowed: set[str]) -> Entry:
    shares = {share.site: share.share for share in rung.shares if share.site in allowed and share.share > 0}
    fallbacks = tuple(site for site in rung.fallbacks if site in allowed and site not in shares)
    if not shares and fallbacks:
        shares, fallbacks = {fallbacks[0]: 1.0}, fallbacks[1:]
    if not shares:
        return Entry(contract, rung.deadline_ms, (), (), rung.refusal or _out_of_bounds(rung))
    weights = weights_of(shares)
    ranked = sorted(weights, key=lambda name: (-weights[name], name))
    candidates = (*ranked, *fallbacks)
    paths = paths_for(weights, candidates)
    return Entry(contract, rung.deadline_ms, paths, candidates, None, rung.hedge_ms, rung.tries)


def paths_for(weights: Mapping[str, int], candidates: Sequence[str]) -> tuple[Path, ...]:
    """A path for each site with a weight, the heaviest first; the other candidates take over in their order."""
    ranked = sorted(weights, key=lambda name: (-weights[name], name))
    return tuple(Path((name, *(other for other in candidates if other != name)), weights[name]) for name in ranked)


def _out_of_bounds(rung: Rung) -> Refusal:
    return Refusal(
        title="No site is in bounds",
        detail="This site's own evaluation of the policies leaves no site that the plan names.",
        nearest_site=None,
        needed_ms=None,
        floor_ms=None,
        exclusions=rung.exclusions,
    )


def weights_of(shares: Mapping[str, float]) -> dict[str, int]:
    """Integer weights by largest remainder; ties by name. Every share above zero keeps at least weight 1."""
    total = sum(shares.values())
    exact = {site: WEIGHT_TOTAL * share / total for site, share in shares.items()}
    weights = {site: max(1, int(value)) for site, value in exact.items()}
    by_remainder = sorted(exact, key=lambda site: (int(exact[site]) - exact[site], site))
    for index in range(WEIGHT_TOTAL - sum(weights.values())):
        weights[by_remainder[index % len(by_remainder)]] += 1
    excess = sum(weights.values()) - WEIGHT_TOTAL
    if excess > 0:
        weights[max(weights, key=lambda site: (weights[site], site))] -= excess
    return weights
