"""Why not: exclusions per site and the sentences a refused client reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import TypeAlias

import numpy as np

from isochrone.model.contract import Contract
from isochrone.plan.candidates import Candidates
from isochrone.plan.plan import Exclusion, ExclusionKind, Refusal

__all__ = ["EXCLUSIONS_MAX", "Reasons", "refuse"]

# A rung names this many of the sites that do not serve it, the nearest first; `explain` names all.
EXCLUSIONS_MAX = 8
# Needed, in seconds; then as an exclusion states them, in milliseconds: needed, round trip, service, floor.
_Times: TypeAlias = tuple[float, float | None, float, float | None, float]


class Reasons:
    """Why sites do not serve one contract from one ingress: what holds for every deadline is found once.

    Args:
        ingress: its index.
        placed: sites with a replica of the contract's workload, to how many of them answer already.
    """

    def __init__(self, candidates: Candidates, contract: str, ingress: int, placed: Mapping[str, int]) -> None:
        self._sites, self._bars, self._placed = candidates.sites, candidates.bars[contract], placed
        self._needed_s, self._rtt_s = candidates.needed_s[contract][ingress], candidates.rtt_s[contract][ingress]
        self._floor_s, self._service_s = candidates.floor_s[ingress], candidates.service_s[contract]
        outside = [bar is not None and bar.kind in ("out_of_bounds", "no_hardware") for bar in self._bars]
        # The sites in bounds come first, the nearest first among them.
        self._order: list[int] = np.lexsort((self._needed_s, outside)).tolist()
        self._known: dict[int, _Times] = {}

    def exclusions(self, deadline_s: float, serving: Set[str], most: int | None = None) -> tuple[Exclusion, ...]:
        """Sites not in `serving`, each with the one reason that comes first: bounds, hardware, liveness, limits, time,
        placement.

        Args:
            most: how many to name; None names all.
        """
        out = [s for s in self._order if self._sites[s] not in serving]
        return tuple([self._exclusion(s, deadline_s) for s in out[:most]])

    def _exclusion(self, s: int, deadline_s: float) -> Exclusion:
        site, bar = self._sites[s], self._bars[s]
        policies: tuple[str, ...] = ()
        needed_s, needed_ms, rtt_ms, service_ms, floor_ms = self._known.get(s) or self._times(s)
        kind: ExclusionKind
        if bar is not None:
            kind, policies, detail = bar.kind, bar.policies, bar.detail
        elif needed_s > deadline_s:
            kind, detail = "out_of_time", f"{site} needs {needed_ms:.1f} ms, the deadline is {deadline_s * 1e3:g} ms"
        elif site not in self._placed:
            kind, detail = "not_placed", f"{site} runs no replica now"
        elif not self._placed[site]:
            kind, detail = "loading", f"{site} is still loading the model"
        else:
            kind, detail = "full", f"all of {site} that answers in time is taken"
        return Exclusion(site, kind, needed_ms, rtt_ms, service_ms, floor_ms, policies, detail)

    def _times(self, s: int) -> _Times:
        needed_s, service_s = self._needed_s.item(s), self._service_s.item(s)
        found = self._known[s] = (
            needed_s,
            round(needed_s * 1e3, 3) if math.isfinite(needed_s) else None,
            round(self._rtt_s.item(s) * 1e3, 3),
            round(service_s * 1e3, 3) if math.isfinite(service_s) else None,
            round(self._floor_s.item(s) * 1e3, 3),
        )
        return found


def refuse(name: str, contract: Contract, ingress: str, deadline_ms: float, out: Sequence[Exclusion]) -> Refusal:
    """The refusal of a rung that no site serves, given its exclusions (nearest first).

    The nearest site is the one in bounds, and alive where there is one, that needs least.
    """
    deadline = f"{deadline_ms:g} ms"
    inside = [e for e in out if e.kind != "out_of_bounds" and e.needed_ms is not None]
    alive = [e for e in inside if e.kind not in ("down", "drained")]
    if not inside:
        policies = sorted({policy for e in out for policy in e.policies})
        because = f" ({', '.join(policies)})" if policies else ""
        return Refusal(
            title="No site is in bounds" if policies else f"No site can run {contract.workload}",
            detail=f"No site of this fabric that may run {name} can run it: "
            + "; ".join(e.detail for e in out)
            + f"{because}.",
            exclusions=tuple(out),
        )
    nearest = (alive or inside)[0]
    titles = {
        "out_of_time": f"No site can answer within {deadline}",
        "down": "Every site in bounds is down",
        "drained": "Every site in bounds is drained",
        "full": f"Every site that can answer within {deadline} is full",
        "spread": "What may run at one place is taken",
        "apart": "Every site in time has another contract, from which this one is kept apart",
        "loading": f"Every site that can answer within {deadline} is still loading {contract.workload}",
        "not_placed": f"No site that could answer within {deadline} runs {contract.workload} now",
    }
    return Refusal(
        title=titles[nearest.kind],
        detail=_sentence(name, contract, ingress, deadline, nearest),
        nearest_site=nearest.site,
        needed_ms=nearest.needed_ms,
        floor_ms=nearest.floor_ms,
        exclusions=tuple(out),
    )


def _sentence(name: str, contract: Contract, ingress: str, deadline: str, nearest: Exclusion) -> str:
    percent = f"{contract.in_time.quantile * 100:g} %"
    physics = (
        "it is the ingress itself, so the time is all computing"
        if nearest.site == ingress
        else f"light in fibre alone takes {nearest.floor_ms:.2f} ms from {ingress} to {nearest.site} and back"
    )
    needs = (
        f"The nearest site in bounds for {name} is {nearest.site}: it needs {nearest.needed_ms:.1f} ms for {percent} "
        f"of executions ({nearest.rtt_ms:.1f} ms network, {nearest.service_ms:.1f} ms service), and {physics}."
    )
    if nearest.kind == "out_of_time":
        return f"{needs} The deadline is {deadline}."
    return f"{needs} That is within {deadline}, but {nearest.detail}."
