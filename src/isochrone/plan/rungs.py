"""From flows to what a site forwards by: shares, fallbacks and refusals for every deadline a request can ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from isochrone.model.fabric import Fabric
from isochrone.plan.candidates import Candidates
from isochrone.plan.plan import TRIES_MAX, TRIES_MIN, Rung, Share
from isochrone.plan.refusal import EXCLUSIONS_MAX, Reasons, refuse

__all__ = ["Rungs", "round_shares"]

# Shares are whole ten-thousandths: a solver's last digits must not make new files at every site.
_PARTS = 10_000
# Nor must the last digits of a measurement.
_HEDGE_STEPS = 20
# So many times as dear is clearly dearer.
_DEARER = 1.25


def round_shares(weights: Mapping[str, float]) -> tuple[Share, ...]:
    """Weights as shares of whole ten-thousandths that sum to exactly 1 (largest remainders), the largest first."""
    total = sum(weights.values())
    if total <= 0:
        return ()
    exact = {site: weight / total * _PARTS for site, weight in weights.items()}
    parts = {site: int(value) for site, value in exact.items()}
    by_remainder = sorted(exact, key=lambda site: (parts[site] - exact[site], site))
    for site in by_remainder[: _PARTS - sum(parts.values())]:
        parts[site] += 1
    kept = sorted(((-part, site) for site, part in parts.items() if part > 0))
    return tuple(Share(site, -part / _PARTS) for part, site in kept)


class Rungs:
    """The rungs of one contract, ingress by ingress.

    Args:
        answering: (site, workload) placed to the replicas that answer there already.
    """

    def __init__(
        self, fabric: Fabric, candidates: Candidates, answering: Mapping[tuple[str, str], int], name: str
    ) -> None:
        self._candidates, self._name, self._contract = candidates, name, fabric.contracts[name]
        self._placed = {site: n for (site, workload), n in answering.items() if workload == self._contract.workload}
        self._number = {site: s for s, site in enumerate(candidates.sites)}
        self._deadlines_ms = self._contract.rungs_ms
        self._believed_s = [candidates.believed_s(name, ms / 1e3) for ms in self._deadlines_ms]

    def of(
        self,
        ingress: int,
        shares: tuple[Share, ...],
        marginal: Mapping[str, float],
        held: tuple[Rung, ...] = (),
    ) -> tuple[Rung, ...]:
        """One rung per deadline, tightest first.

        Args:
            ingress: its index.
            shares: the optimiser's split at the contract's own objective; empty means it serves nothing from here.
            marginal: site to marginal cost, for every site with an arc from this ingress.
            held: the rungs in force; what differs from them by little stays.
        """
        cheapest = sorted(marginal, key=lambda site: (marginal[site], site))
        before = {rung.deadline_ms: rung for rung in held}
        reasons = Reasons(self._candidates, self._name, ingress, self._placed)
        rungs = []
        for deadline_ms, believed_s in zip(self._deadlines_ms, self._believed_s, strict=True):
            last = deadline_ms == self._deadlines_ms[-1]
            needed = dict(zip(self._candidates.sites, believed_s[ingress].tolist(), strict=True))
            in_time = [site for site in cheapest if needed[site] <= deadline_ms / 1e3]
            mine = _restrict(shares, in_time)
            strained = self._strained(ingress) if last else []
            if not mine and strained:
                # Nothing was planned for here; the site's own limit says how much of it is too much.
                mine = (Share(strained[0], 1.0),)
            if not mine:
                rungs.append(self._refused(ingress, deadline_ms, reasons))
                continue
            serving = frozenset([share.site for share in mine])
            fallbacks = tuple([site for site in in_time if site not in serving])
            fallbacks = _kept_order(fallbacks, before.get(deadline_ms), marginal)
            fallbacks += tuple([site for site in strained if site not in in_time and site not in serving])
            order = [*(share.site for share in mine), *fallbacks]
            tries = _tries(deadline_ms, len(mine), order, needed, self._rtt_s(ingress, order))
            if deadline_ms in before and abs(before[deadline_ms].tries - tries) <= 1:
                tries = before[deadline_ms].tries
            hedge_ms = _hedge_ms(deadline_ms, len(mine), order, needed) if self._contract.hedge else None
            out = reasons.exclusions(deadline_ms / 1e3, set(order), EXCLUSIONS_MAX) if last else ()
            rungs.append(Rung(deadline_ms, mine, fallbacks, exclusions=out, hedge_ms=hedge_ms, tries=tries))
        return tuple(rungs)

    def _strained(self, ingress: int) -> list[str]:
        """Better late, and likely not, than refused because the only site in time has just died."""
        needed_s = self._candidates.needed_s[self._name][ingress]
        row = self._candidates.strained[self._name][ingress].nonzero()[0].tolist()
        found = [site for site in map(self._candidates.sites.__getitem__, row) if site in self._placed]
        return sorted(found, key=lambda site: (needed_s[self._number[site]], site))

    def _rtt_s(self, ingress: int, sites: list[str]) -> dict[str, float]:
        row = self._candidates.rtt_s[self._name][ingress]
        return {site: row.item(self._number[site]) for site in sites}

    def _refused(self, ingress: int, deadline_ms: float, reasons: Reasons) -> Rung:
        out = reasons.exclusions(deadline_ms / 1e3, frozenset(), EXCLUSIONS_MAX)
        where = self._candidates.sites[ingress]
        return Rung(deadline_ms, (), refusal=refuse(self._name, self._contract, where, deadline_ms, out))


def _kept_order(fallbacks: tuple[str, ...], held: Rung | None, marginal: Mapping[str, float]) -> tuple[str, ...]:
    """The same sites in the order in force, unless one is clearly dearer than the one behind it."""
    if held is None or set(held.fallbacks) != set(fallbacks):
        return fallbacks
    is_clear = any(marginal[a] > _DEARER * marginal[b] for a, b in pairwise(held.fallbacks))
    return fallbacks if is_clear else held.fallbacks


def _tries(
    deadline_ms: float, shares: int, order: list[str], needed_s: Mapping[str, float], rtt_s: Mapping[str, float]
) -> int:
    """How many sites a request may be tried at: what comes too late anyway takes the room of what could be in time.

    Each refusal costs a round trip. The share that allows the fewest counts: one retry policy serves them all. But two
    at least: a site that is down, and not known to be, is no reason to give up.
    """
    fewest = len(order)
    for first in range(shares):
        spent_s, tries = 0.0, 0
        for site in [order[first], *order[:first], *order[first + 1 :]][:fewest]:
            if spent_s + needed_s[site] > deadline_ms / 1e3:
                break
            spent_s, tries = spent_s + rtt_s[site], tries + 1
        fewest = tries
    return min(max(TRIES_MIN, fewest), TRIES_MAX)


def _hedge_ms(deadline_ms: float, shares: int, order: list[str], needed_s: Mapping[str, float]) -> float | None:
    """The last moment at which the site that comes second can still answer in time, in twentieths of the deadline."""
    # Each share is followed by the largest of the others; a single one by the first fallback.
    second = order[:2] if shares > 1 else order[1:2]
    left = min((1 - needed_s[site] * 1e3 / deadline_ms for site in second), default=0.0)
    hedge_ms = math.floor(left * _HEDGE_STEPS) / _HEDGE_STEPS * deadline_ms
    return hedge_ms if hedge_ms >= 1 else None


def _restrict(shares: tuple[Share, ...], in_time: list[str]) -> tuple[Share, ...]:
    """The optimiser's shares among the sites in time; else the cheapest of those; nothing where it serves nothing."""
    if not (shares and in_time):
        return ()
    kept = {share.site: share.share for share in shares if share.site in in_time}
    return round_shares(kept) or (Share(in_time[0], 1.0),)
