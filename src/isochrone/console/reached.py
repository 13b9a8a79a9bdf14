"""An isochrone as a table."""

from __future__ import annotations

from isochrone.console.tables import Cell, Shown, good, stack, strong, table, weak, wrong
from isochrone.latency.reach import Isochrone, Reached

__all__ = ["lines", "render"]


def lines(found: Isochrone) -> tuple[str, ...]:
    """The two circles in words: expected, possible. One sentence where there are none."""
    if found.possible_m <= 0:
        return ("service alone takes longer than that: no site can be near enough",)
    return (
        f"a site may be expected in time within {found.expected_m / 1e3:,.0f} km",
        f"beyond {found.possible_m / 1e3:,.0f} km light in fibre alone takes too long",
    )


def render(found: Isochrone) -> Shown:
    """Every site, soonest first, below the two circles in words."""
    head = f"{found.workload} from {found.place} within {found.within_s * 1e3:g} ms at quantile {found.quantile:g}"
    words = f"service takes {found.service_s * 1e3:.1f} ms; " + "; ".join(lines(found))
    columns = ["site", "in time", "needs ms", "slack ms", "network ms", "floor ms", "km", "hardware", "known by"]
    rows = [_row(site) for site in found.sites]
    return stack([strong(head), words, table("Sites", columns, rows, columns[2:7])])


def _row(site: Reached) -> tuple[Cell, ...]:
    verdict = good("yes") if site.in_time else weak("cannot run it") if site.needed_s is None else wrong("no")
    times = [_ms(value) for value in (site.needed_s, site.slack_s, site.rtt_s, site.floor_s)]
    return (site.site, verdict, *times, f"{site.distance_m / 1e3:,.0f}", site.hardware or "-", site.source)


def _ms(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1e3:.1f}"
