"""An explanation of one contract from one place, as tables."""

from __future__ import annotations

from isochrone.console.tables import Cell, Shown, good, stack, strong, table, wrong
from isochrone.plan.explain import Explanation
from isochrone.plan.plan import Exclusion

__all__ = ["render"]


def render(found: Explanation) -> Shown:
    """Where it goes, why not elsewhere, what would change that."""
    head = f"{found.contract} from {found.ingress} within {found.deadline_ms:g} ms, by plan {found.revision}"
    if found.hedge_ms is not None:
        head += f", hedged after {found.hedge_ms:g} ms"
    parts: list[Shown] = [strong(head)]
    if found.refusal is not None:
        parts.append(stack([wrong(f"refused: {found.refusal.title}"), found.refusal.detail]))
    if found.options:
        parts.append(_options(found))
    if found.exclusions:
        rows = [
            (e.site, e.kind.replace("_", " "), _ms(e.needed_ms), _ms(e.floor_ms), _why(e)) for e in found.exclusions
        ]
        columns = ["site", "why not", "needs ms", "floor ms", "in full"]
        parts.append(table("Not served at", columns, rows, ["needs ms", "floor ms"]))
    if found.changes:
        parts.append("\n".join(["What would change it:", *(f"- {change}" for change in found.changes)]))
    return stack(parts)


def _options(found: Explanation) -> Shown:
    rows: list[tuple[Cell, ...]] = []
    for option in found.options:
        share: Cell = good(f"{option.share:.0%}") if option.share else "fallback"
        times = [_ms(option.needed_ms), _ms(option.rtt_ms), _ms(option.service_ms)]
        costs = [f"{option.cost * 1e3:.4g}", f"{option.price * 1e3:.4g}"]
        known = f"{option.source} +-{option.spread_ms:.1f}"
        rows.append((option.site, share, *times, known, f"{option.late:.2%}", *costs))
    columns = [
        "site",
        "share",
        "needs ms",
        "network ms",
        "service ms",
        "known by",
        "late",
        "cost per 1k",
        "price per 1k",
    ]
    return table("In time and in bounds, the cheapest first", columns, rows, columns[1:])


def _why(exclusion: Exclusion) -> str:
    """The detail, and what decided it."""
    return f"{exclusion.detail} ({'; '.join(exclusion.policies)})" if exclusion.policies else exclusion.detail


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
