"""Why not: exclusions per site and the sentences a refused client reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isochrone.model.contract import Contract
from isochrone.plan.candidates import Candidates
from isochrone.plan.plan import Exclusion, Refusal

__all__ = ["EXCLUSIONS_MAX", "exclusions", "refuse"]

# A rung names this many of the sites that do not serve it, the nearest first; `explain` names all.
EXCLUSIONS_MAX = 8


@dataclass(frozen=True, slots=True)
class _Times:
    needed_ms: float | None
    rtt_ms: float
    service_ms: float | None
    floor_ms: float


def exclusions(
    candidates: Candidates,
    contract: str,
    ingress: int,
    deadline_s: float,
    serving: frozenset[str],
    placed: Mapping[str, int],
    most: int | None = None,
) -> tuple[Exclusion, ...]:
    """Sites not in `serving`, each with the one reason that comes first: bounds, hardware, liveness, limits, time,
    placement.

    The sites in bounds come first, the nearest first among them.

    Args:
        ingress: index of the ingress.
        placed: sites with a replica of the contract's workload, to how many of them answer already.
        most: how many to name; None names all.
    """
    needed, bars = candidates.needed_s[contract][ingress], candidates.bars[contract]
    outside = [bar is not None and bar.kind in ("out_of_bounds", "no_hardware") for bar in bars]
    order = [s for s in np.lexsort((needed, outside)).tolist() if candidates.sites[s] not in serving]
    found = []
    for s in order[:most]:
        site = candidates.sites[s]
        times = _times(candidates, contract, ingress, s)
        bar = candidates.bars[contract][s]
        timing = (times.needed_ms, times.rtt_ms, times.service_ms, times.floor_ms)
        if bar is not None:
            found.append(Exclusion(site, bar.kind, *timing, policies=bar.policies, detail=bar.detail))
        elif candidates.needed_s[contract][ingress, s] > deadline_s:
            detail = f"{site} needs {times.needed_ms:.1f} ms, the deadline is {deadline_s * 1e3:g} ms"
            found.append(Exclusion(site, "out_of_time", *timing, detail=detail))
        elif site not in placed:
            found.append(Exclusion(site, "not_placed", *timing, detail=f"{site} runs no replica now"))
        elif not placed[site]:
            found.append(Exclusion(site, "loading", *timing, detail=f"{site} is still loading the model"))
        else:
            found.append(Exclusion(site, "full", *timing, detail=f"all of {site} that answers in time is taken"))
    return tuple(found)


def _times(candidates: Candidates, contract: str, ingress: int, site: int) -> _Times:
    needed_s, service_s = candidates.needed_s[contract].item(ingress, site), candidates.service_s[contract].item(site)
    return _Times(
        needed_ms=round(needed_s * 1e3, 3) if math.isfinite(needed_s) else None,
        rtt_ms=round(candidates.rtt_s[contract].item(ingress, site) * 1e3, 3),
        service_ms=round(service_s * 1e3, 3) if math.isfinite(service_s) else None,
        floor_ms=round(candidates.floor_s.item(ingress, site) * 1e3, 3),
    )


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
