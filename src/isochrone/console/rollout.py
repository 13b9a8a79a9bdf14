"""A roll-out as people see it: the newest revision by site, those before it, and what a candidate would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from isochrone.console.tables import Cell, Shown, good, stack, strong, table, weak, wrong

__all__ = ["render"]

_SHOWN_MAX = 10
Json = dict[str, Any]


def render(
    rollout: Mapping[str, Any], revisions: Sequence[Mapping[str, Any]], shadow: Mapping[str, Any] | None, now_s: float
) -> Shown:
    """Everything, as tables. `now_s` is this machine's clock."""
    parts: list[Shown] = [_head(rollout), _sites(rollout, now_s), _history(revisions)]
    if shadow:
        parts.append(_shadow(shadow))
    return stack(parts)


def _head(rollout: Mapping[str, Any]) -> str:
    revision, complete_s = rollout["revision"], rollout["complete_s"]
    if complete_s is not None:
        return f"revision {revision} is in force at every site since {_when(complete_s)}"
    missing = [*rollout["waiting"], *rollout["rejected"]]
    return f"revision {revision} is not in force at {', '.join(missing) or 'any site'}"


def _sites(rollout: Mapping[str, Any], now_s: float) -> Shown:
    rows: list[tuple[Cell, ...]] = [
        (strong(site), good("in force"), _when(since_s), f"{max(0.0, now_s - since_s):,.0f} s")
        for site, since_s in rollout["in_force"].items()
    ]
    rows += [(strong(site), weak("waiting"), "-", "-") for site in rollout["waiting"]]
    rows += [(strong(site), wrong("rejected"), wrong(why), "-") for site, why in rollout["rejected"].items()]
    return table(f"Revision {rollout['revision']}", ["site", "state", "since", "for"], rows, ["for"])


def _history(revisions: Sequence[Mapping[str, Any]]) -> Shown:
    rows = [
        (strong(str(each["revision"])), _when(each["applied_s"]), _last(each["in_force"]), str(len(each["in_force"])))
        for each in revisions[-_SHOWN_MAX:]
    ]
    columns = ["revision", "applied", "last acknowledged", "sites"]
    return table("Revisions kept (isochrone rollback --to N)", columns, rows, ["revision", "sites"])


def _last(in_force: Mapping[str, float]) -> str:
    return _when(max(in_force.values())) if in_force else "-"


def _shadow(shadow: Mapping[str, Any]) -> Shown:
    rows: list[tuple[Cell, ...]] = []
    for site, contracts in shadow["sites"].items():
        for contract, count in contracts.items():
            by = ", ".join(f"{name} {n:,}" for name, n in sorted(count["by_policy"].items()))
            changed = [_marked(count["would_deny"]), _marked(count["would_allow"])]
            rows.append((strong(site), contract, f"{count['tried']:,}", *changed, by or "-"))
    columns = ["site", "contract", "tried", "would deny", "would allow", "by policy"]
    title = f"In shadow beside revision {shadow['base']} (isochrone promote)"
    return table(title, columns, rows, columns[2:5])


def _marked(count: int) -> Cell:
    return wrong(f"{count:,}") if count else "0"


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
