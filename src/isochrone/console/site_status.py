"""One site as it tells of itself, for when its hub cannot be asked."""

from __future__ import annotations

from isochrone.console.tables import Cell, Shown, good, stack, strong, table, wrong
from isochrone.control.report import SiteReport

__all__ = ["render"]


def render(report: SiteReport) -> Shown:
    """What is in force there, how old that is, and what runs."""
    ready = ", ".join(f"{workload} {count}" for workload, count in sorted(report.ready.items())) or "-"
    rows: list[tuple[Cell, ...]] = [
        ("hub", good("heard") if report.stale_since_s is None else _unheard(report)),
        ("plan", str(report.plan)),
        ("desired", str(report.desired)),
        ("revocations", str(report.epoch)),
        ("ready", ready),
        ("running now", str(report.in_flight)),
        ("records", f"{report.log_size:,}"),
    ]
    rows += [
        ("late", wrong(f"{site} keeps {part:.1%} of its share of {contract} here"))
        for contract, sites in sorted(report.doubted.items())
        for site, part in sorted(sites.items())
    ]
    rows += [("alarm", wrong(text)) for text in report.alarms]
    return stack([strong(report.site), table("In force", ["what", "is"], rows)])


def _unheard(report: SiteReport) -> Cell:
    assert report.stale_since_s is not None
    away_s = max(0.0, report.at_s - report.stale_since_s)
    return wrong(f"the hub is not heard: all below is as of {away_s:.0f} s ago, and goes on")
