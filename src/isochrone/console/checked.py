"""What a checked fabric document promises: per contract, where it may run and where that is in time."""

from __future__ import annotations

from typing import Any

from isochrone.console.known import Known
from isochrone.console.tables import Cell, Shown, good, stack, strong, table, weak, wrong
from isochrone.model.contract import Contract
from isochrone.plan.candidates import Candidates, find_candidates

__all__ = ["objective_text", "render", "summary"]


def objective_text(contract: Contract) -> str:
    """``99 % of durations within 20 ms``."""
    terms = contract.in_time
    what = {"duration": "answers", "first_byte": "first bytes"}[terms.metric.value]
    return f"{terms.quantile * 100:g} % of {what} within {terms.objective_ms:g} ms"


def summary(known: Known) -> dict[str, Any]:
    """The findings of a check that found no mistake, as plain data. Times in milliseconds.

    Every contract is judged from each ingress that has demand, or from every site when none is stated.
    """
    candidates = find_candidates(known.fabric, known.rtt, known.service, known.bounds, known.up, known.now_s)
    return {
        "fabric": known.fabric.name,
        "sites": sorted(known.fabric.sites),
        "contracts": {name: _contract(known, candidates, name) for name in known.fabric.contracts},
        "placements": {site: dict(row) for site, row in known.plan.placements.items()},
        "shortfalls": [short.to_json() for short in known.plan.shortfalls],
        "warnings": list(known.findings),
    }


def _contract(known: Known, candidates: Candidates, name: str) -> dict[str, Any]:
    contract = known.fabric.contracts[name]
    bars = dict(zip(candidates.sites, candidates.bars[name], strict=True))
    ingresses = [site for site, rps in contract.demand_rps.items() if rps > 0] or list(known.fabric.sites)
    verdicts = {site: known.bounds[name, site] for site in candidates.sites}
    return {
        "workload": contract.workload,
        "objective": objective_text(contract),
        "objective_ms": contract.in_time.objective_ms,
        "in_bounds": [site for site, verdict in verdicts.items() if verdict.allowed],
        "out_of_bounds": {site: list(v.reasons) for site, v in verdicts.items() if not v.allowed},
        "cannot_run": {s: bar.detail for s, bar in bars.items() if bar is not None and verdicts[s].allowed},
        "from": {ingress: _from(candidates, name, contract, ingress) for ingress in ingresses},
    }


def _from(candidates: Candidates, name: str, contract: Contract, ingress: str) -> dict[str, dict[str, Any]]:
    """In time: by expected distances. Possible: only if the path were as short as light in fibre. Impossible: never."""
    i, objective_s = candidates.sites.index(ingress), contract.in_time.objective_ms / 1e3
    found: dict[str, dict[str, Any]] = {"in_time": {}, "possible": {}, "impossible": {}}
    for s in candidates.open(name).nonzero()[0].tolist():
        needed_s = float(candidates.needed_s[name][i, s])
        least_s = needed_s - float(candidates.rtt_s[name][i, s] - candidates.floor_s[i, s])
        kind = "in_time" if needed_s <= objective_s else "possible" if least_s <= objective_s else "impossible"
        times = {"needed_ms": round(needed_s * 1e3, 3), "least_ms": round(least_s * 1e3, 3)}
        found[kind][candidates.sites[s]] = times
    return {kind: dict(sorted(sites.items(), key=lambda item: item[1]["needed_ms"])) for kind, sites in found.items()}


def render(found: dict[str, Any]) -> Shown:
    """The same for people."""
    parts: list[Shown] = [_contracts(found)]
    if found["placements"]:
        placed = [
            f"{workload} x{count} at {site}"
            for site, row in found["placements"].items()
            for workload, count in row.items()
        ]
        parts.append(f"A plan for the declared demand places {', '.join(placed)}.")
    if found["shortfalls"]:
        rows = [
            (
                each["contract"],
                each["ingress"],
                f"{each['unserved_rps']:g}",
                each["kind"].replace("_", " "),
                each["detail"],
            )
            for each in found["shortfalls"]
        ]
        parts.append(
            table("Demand that would be refused", ["contract", "from", "rps", "why", "in full"], rows, ["rps"])
        )
    parts += [wrong(f"warning: {warning}") for warning in found["warnings"]]
    count = f"sites: {len(found['sites'])}, contracts: {len(found['contracts'])}"
    parts.append(good(f"{found['fabric']}: no mistakes ({count})"))
    return stack(parts)


def _contracts(found: dict[str, Any]) -> Shown:
    rows: list[tuple[Cell, ...]] = []
    for name, contract in found["contracts"].items():
        outside = [*contract["out_of_bounds"], *contract["cannot_run"]]
        bounds = ", ".join(site for site in contract["in_bounds"] if site not in outside) or "-"
        for at, (ingress, seen) in enumerate(contract["from"].items()):
            first = (strong(name), contract["objective"], bounds) if at == 0 else ("", "", "")
            times, allowed = _times(seen["in_time"], "needed_ms"), _times(seen["possible"], "least_ms")
            never = weak(_times(seen["impossible"], "least_ms") or "-")
            rows.append((*first, ingress, good(times) if times else wrong("nowhere"), allowed or "-", never))
    columns = [
        "contract",
        "objective",
        "may run at",
        "from",
        "in time at",
        "only at the speed of light",
        "never in time",
    ]
    return table("Contracts, with the time each site is expected to need, or at least needs", columns, rows)


def _times(sites: dict[str, dict[str, float]], kind: str) -> str:
    return ", ".join(f"{site} {times[kind]:.1f} ms" for site, times in sites.items())
