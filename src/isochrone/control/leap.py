"""What a report changes so much that the next plan should not wait for its turn."""

from __future__ import annotations

from collections.abc import Iterator

from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.plan.arcs import Demand

__all__ = ["leaps"]

# A median that is so many times another one has leapt, and so has a rate; what is smaller than these has not.
_LEAP = 1.5
_RTT_S_MIN, _RPS_MIN = 0.002, 1.0

# The demand to plan for, service times, round trips.
Known = tuple[Demand, ServiceTable, RttTable]


def leaps(site: str, before: Known, after: Known) -> bool:
    """Whether demand, service or round trips of a site are far from what was known of them."""
    pairs = (
        *_demand(site, before[0], after[0]),
        *_service(site, before[1], after[1]),
        *_rtt(site, before[2], after[2]),
    )
    return any(max(old, new) > _LEAP * min(old, new) and abs(new - old) >= least for old, new, least in pairs)


def _demand(site: str, before: Demand, after: Demand) -> Iterator[tuple[float, float, float]]:
    for contract, row in after.items():
        yield before.get(contract, {}).get(site, 0.0), row.get(site, 0.0), _RPS_MIN


def _service(site: str, before: ServiceTable, after: ServiceTable) -> Iterator[tuple[float, float, float]]:
    for workload, found in after.calibrated.get(site, {}).items():
        held = before.calibrated.get(site, {}).get(workload)
        declared = after.profiles[workload].get(found.hardware)
        old = held or declared
        if old is not None:
            yield old.duration.p50_ms, found.duration.p50_ms, 0.0


def _rtt(site: str, before: RttTable, after: RttTable) -> Iterator[tuple[float, float, float]]:
    for peer, measured in after.measured.get(site, {}).items():
        held = before.measured.get(site, {}).get(peer)
        old, new = held.sketch.quantile(0.5) if held else None, measured.sketch.quantile(0.5)
        if old is not None and new is not None:
            yield old, new, _RTT_S_MIN
