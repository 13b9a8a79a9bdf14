"""A running fabric as people see it: from the hub's status to figures per contract, and to tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from isochrone.console.tables import Cell, Shown, good, stack, strong, table, weak, wrong

__all__ = ["contracts_of", "render"]

# A checkpoint comes every second, and its cosignatures within another.
_UNCOSIGNED_S_MAX = 5.0
_COUNTS = ("in_time", "late", "refused", "failed")
Json = dict[str, Any]


def contracts_of(status: Mapping[str, Any], plan: Mapping[str, Any] | None) -> dict[str, Json]:
    """Per contract: objective, who serves it from each ingress, and attainment since each site's node started.

    `attained` is the share of answered executions in time; `budget_left` the part of the error budget (1 - quantile)
    that late and failed executions have not used, below 0 when overdrawn; both None while nothing was answered.
    Refused executions are counted apart: they were told at once.
    """
    return {
        name: {
            "workload": contract["workload"],
            "objective": dict(contract["in_time"]),
            "served": _served(name, plan),
            "from": (seen := _seen(name, status)),
            **_attained(seen, float(contract["in_time"]["quantile"])),
        }
        for name, contract in status.get("nouns", {}).get("contracts", {}).items()
    }


def _served(name: str, plan: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Ingress to site to share, at the contract's own objective; empty where it is refused."""
    routes = (plan or {}).get("routes", {})
    rungs = {ingress: by_contract[name][-1] for ingress, by_contract in routes.items() if by_contract.get(name)}
    return {
        ingress: {each["site"]: each["share"] for each in rung["shares"]} for ingress, rung in sorted(rungs.items())
    }


def _seen(name: str, status: Mapping[str, Any]) -> dict[str, Json]:
    reports = status["sites"].items()
    return {site: report["attainment"][name] for site, report in reports if name in report["attainment"]}


def _attained(seen: Mapping[str, Json], quantile: float) -> Json:
    counts: Json = {kind: sum(int(each[kind]) for each in seen.values()) for kind in _COUNTS}
    answered = counts["in_time"] + counts["late"] + counts["failed"]
    if not answered:
        return counts | {"attained": None, "budget_left": None}
    broken = (counts["late"] + counts["failed"]) / answered
    return counts | {"attained": 1 - broken, "budget_left": 1 - broken / (1 - quantile)}


# --- tables ---------------------------------------------------------------------------------------------------------


def render(status: Mapping[str, Any], plan: Mapping[str, Any] | None, now_s: float | None = None) -> Shown:
    """Everything, as tables. `now_s` is this machine's clock, to say how long a site has been silent."""
    now_s = time.time() if now_s is None else now_s
    contracts = contracts_of(status, plan)
    parts: list[Shown] = [_head(status), _sites(status, now_s), _contracts(contracts, status)]
    if status["shortfalls"]:
        rows = [(s["contract"], s["ingress"], f"{s['unserved_rps']:g}", s["detail"]) for s in status["shortfalls"]]
        parts.append(table("Not served", ["contract", "from", "rps", "why"], rows, ["rps"]))
    alarms = [("hub", text) for text in status["alarms"]]
    alarms += [(site, f"rejected, the last good goes on: {why}") for site, why in status["rollout"]["rejected"].items()]
    alarms += [(site, text) for site, report in status["sites"].items() for text in report["alarms"]]
    if alarms:
        parts.append(table("Alarms", ["at", "what"], [(where, wrong(text)) for where, text in alarms]))
    return stack(parts)


def _head(status: Mapping[str, Any]) -> str:
    revisions = f"desired {status['desired']}, plan {status['plan']}, revocations {status['epoch']}"
    solve = status["solve"]
    proven = (
        f"\nplan: {solve['solver']} routing within {solve['gap']:.2%} of the best, placement within "
        f"{solve['placement_gap']:.2%}; cost and penalties {solve['objective'] * 3600:.4g} an hour"
        if solve
        else ""
    )
    return f"fabric {status['fabric']}: {revisions}{proven}"


def _sites(status: Mapping[str, Any], now_s: float) -> Shown:
    rows = [
        _site_row(status, name, noun, status["sites"].get(name), now_s)
        for name, noun in sorted(status.get("nouns", {}).get("sites", {}).items())
    ]
    columns = [
        "site",
        "tier",
        "place",
        "vendor",
        "law",
        "state",
        "ingress",
        "ready",
        "desired",
        "plan",
        "epoch",
        "records",
        "cosigned",
    ]
    return table("Sites", columns, rows, ["desired", "plan", "epoch", "records"])


def _site_row(status: Mapping[str, Any], name: str, noun: Json, report: Json | None, now_s: float) -> tuple[Cell, ...]:
    place = f"{noun['at']['lat']:.2f},{noun['at']['lon']:.2f}"
    about: tuple[Cell, ...] = (strong(name), noun["tier"], place, noun["vendor"], noun["jurisdiction"])
    if report is None:
        return (*about, wrong("never heard of"), *("-" for _ in range(7)))
    state = good("up") if name in status["up"] else wrong(f"silent {max(0.0, now_s - report['at_s']):.0f} s")
    if noun.get("drained") or name in status.get("drained", ()):
        left = report.get("in_flight", 0)
        state = weak(f"drained, {left} left" if left else "drained")
    in_force = [_revision(report[kind], status[kind]) for kind in ("desired", "plan", "epoch")]
    return (
        *about,
        state,
        report["ingress"],
        _ready(status, name, report),
        *in_force,
        *_records(report, now_s),
    )


def _records(report: Json, now_s: float) -> tuple[Cell, Cell]:
    """How many records the site has; and by how many sites its logs are cosigned, or how much waits, since when."""
    size, asked = f"{report['log_size']:,}", [log for log in report["logs"].values() if log["quorum"]]
    if not asked:
        return size, weak("no witnesses")
    waiting = sum(log["size"] - log["cosigned_size"] for log in asked)
    since_s = min((log["waiting_since_s"] for log in asked if log["waiting_since_s"]), default=now_s)
    if now_s - since_s > _UNCOSIGNED_S_MAX:
        return size, wrong(f"{waiting:,} wait since {now_s - since_s:.0f} s")
    fewest = min(asked, key=lambda log: len(log["by"]))
    return size, f"by {len(fewest['by'])} of {fewest['quorum']} asked"


def _ready(status: Mapping[str, Any], name: str, report: Json) -> str:
    """Model servers that answer, of those the plan places; those the site's node does not start are only named."""
    wanted, ready = status["placements"].get(name, {}), report["ready"]
    workloads = status["nouns"]["workloads"]
    models = []
    for workload in sorted(wanted.keys() | {each for each, count in ready.items() if count}):
        external = workloads.get(workload, {}).get("runtime", {}).get("kind") == "external"
        count = f"{ready.get(workload, 0)}/{wanted.get(workload, 0)}"
        models.append(f"{workload} {'external' if external else count}")
    return ", ".join(models) or "-"


def _revision(in_force: int, wanted: int) -> Cell:
    """The revision at the site; marked where it is not the fabric's."""
    return str(in_force) if in_force == wanted else wrong(f"{in_force} (of {wanted})")


def _contracts(contracts: Mapping[str, Json], status: Mapping[str, Any]) -> Shown:
    rows: list[tuple[Cell, ...]] = []
    for name, each in contracts.items():
        terms = each["objective"]
        objective = f"{terms['quantile'] * 100:g} % {terms['metric'].replace('_', ' ')} {terms['objective_ms']:g} ms"
        ingresses = _ingresses(each, status["nouns"]["contracts"][name])
        for at, ingress in enumerate(ingresses):
            seen = each["from"].get(ingress)
            counts = [f"{seen[kind]:,}" if seen else "-" for kind in _COUNTS]
            times = [f"{seen[p]:.1f}" if seen and seen[p] is not None else "-" for p in ("p50_ms", "p99_ms")]
            first = (strong(name), objective) if at == 0 else ("", "")
            budget = _budget(each) if at == 0 else ""
            rows.append((*first, ingress, _shares(each["served"].get(ingress)), *counts, *times, budget))
    columns = ["contract", "objective", "from", "served at", "in time", "late", "refused", "failed", "p50 ms", "p99 ms"]
    return table("Contracts, since each node started", [*columns, "error budget left"], rows, columns[4:])


def _ingresses(each: Json, noun: Json) -> list[str]:
    """Where there is traffic or expected to be; everywhere when it is neither."""
    expected = {site for site, rps in noun.get("demand_rps", {}).items() if rps > 0}
    return sorted(expected | each["from"].keys()) or sorted(each["served"]) or ["-"]


def _shares(shares: Mapping[str, float] | None) -> Cell:
    if not shares:
        return wrong("refused") if shares is not None else "-"
    if len(shares) == 1:
        return next(iter(shares))
    return ", ".join(f"{site} {share:.0%}" for site, share in sorted(shares.items(), key=lambda item: -item[1]))


def _budget(each: Json) -> Cell:
    left = each["budget_left"]
    if left is None:
        return weak("-")
    return good(f"{left:.0%}") if left >= 0 else wrong(f"overdrawn {1 - left:.1f}x")
