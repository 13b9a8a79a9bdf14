"""The isochrone: what is reachable from a place within a given time, service included.

Two lines are drawn round the place. Within the inner one a site is expected to answer in time (round trip by the
table's model); beyond the outer one light in fibre alone takes too long, whatever is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from geographiclib.geodesic import Geodesic

from isochrone.errors import InputError
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.latency.floor import FIBRE_INDEX, LIGHT_M_PER_S, geodesic_m, rtt_floor_s
from isochrone.latency.path import ANY_PATH, Path
from isochrone.latency.portable import Portable
from isochrone.model.contract import Metric
from isochrone.model.fabric import Fabric
from isochrone.model.site import Position

__all__ = ["Isochrone", "Reached", "outline", "reach"]

_HALF_EARTH_M = 20_003_931.0  # pole to pole: nothing is much farther


@dataclass(frozen=True, slots=True)
class Reached(Portable):
    """One site as seen from the place.

    Attributes:
        hardware: the class that answers soonest; None where the site cannot run the workload.
        needed_s: round trip + service + hops; None without hardware.
        slack_s: what is left of the time; negative when out of time.
        source: the weakest source the time rests on.
    """

    site: str
    distance_m: float
    floor_s: float
    rtt_s: float
    hardware: str | None
    needed_s: float | None
    slack_s: float | None
    source: str

    @property
    def in_time(self) -> bool:
        """Whether it answers within the time."""
        return self.slack_s is not None and self.slack_s >= 0


@dataclass(frozen=True, slots=True)
class Isochrone(Portable):
    """Every site of the fabric, soonest first, and the two lines.

    Attributes:
        service_s: the soonest service time of any hardware class of the workload, hops included.
        expected_m: how far a site may stand and still be expected in time; 0 when service alone takes too long.
        possible_m: how far light in fibre reaches in the time that service leaves.
    """

    place: str
    lat: float
    lon: float
    within_s: float
    workload: str
    quantile: float
    service_s: float
    expected_m: float
    possible_m: float
    sites: tuple[Reached, ...]


def reach(
    fabric: Fabric,
    rtt: RttTable,
    service: ServiceTable,
    place: str | Position,
    within_s: float,
    workload: str,
    metric: Metric,
    quantile: float,
    now_s: float,
) -> Isochrone:
    """The isochrone of `within_s` round a place.

    Args:
        place: a site (measured round trips are then used), or any position (modelled ones are).

    Raises:
        InputError: no such site or workload, or a time that is not positive.
    """
    if not (math.isfinite(within_s) and within_s > 0):
        raise InputError(f"within {within_s!r} s is no time", code="reach.time", hint="give a positive time")
    if workload not in fabric.workloads:
        known = ", ".join(fabric.workloads)
        raise InputError(f"there is no workload {workload!r}", code="reach.workload", hint=f"workloads: {known}")
    if isinstance(place, str) and place not in fabric.sites:
        known = ", ".join(fabric.sites)
        raise InputError(f"there is no site {place!r}", code="reach.place", hint=f"sites: {known}; or give lat,lon")
    at = fabric.sites[place].at if isinstance(place, str) else place
    name = place if isinstance(place, str) else f"{at.lat:g},{at.lon:g}"
    sites = [
        _reached(fabric, rtt, service, place, site, within_s, workload, metric, quantile, now_s)
        for site in fabric.sites
    ]
    sites.sort(key=lambda r: (r.needed_s is None, r.needed_s or r.rtt_s, r.site))
    soonest = min(
        service.estimate(site, workload, hardware, metric, quantile, now_s).value_s
        for site in fabric.sites
        for hardware in fabric.workloads[workload].service
    )
    hops = [service.hop(site, now_s).value_s for site in fabric.sites]
    service_s = soonest + service.hop_s + min(hops)
    path = _path(fabric, rtt, name, at)
    possible = max(0.0, within_s - service_s) * LIGHT_M_PER_S / (2 * FIBRE_INDEX)
    left_s = max(0.0, within_s - service_s - path.access_s)
    expected = left_s * LIGHT_M_PER_S / (2 * FIBRE_INDEX * path.stretch)
    return Isochrone(
        place=name,
        lat=at.lat,
        lon=at.lon,
        within_s=within_s,
        workload=workload,
        quantile=quantile,
        service_s=service_s,
        expected_m=min(expected, _HALF_EARTH_M),
        possible_m=min(possible, _HALF_EARTH_M),
        sites=tuple(sites),
    )


def _path(fabric: Fabric, rtt: RttTable, name: str, at: Position) -> Path:
    """The path model of the place: its own where it is a site, else that of the nearest one."""
    nearest = min(fabric.sites, key=lambda site: (geodesic_m(at, fabric.sites[site].at), site))
    return rtt.paths.get(name if name in fabric.sites else nearest, ANY_PATH)


def _reached(
    fabric: Fabric,
    rtt: RttTable,
    service: ServiceTable,
    place: str | Position,
    site: str,
    within_s: float,
    workload: str,
    metric: Metric,
    quantile: float,
    now_s: float,
) -> Reached:
    there = fabric.sites[site]
    at = fabric.sites[place].at if isinstance(place, str) else place
    network = (
        rtt.estimate(place, site, quantile, now_s)
        if isinstance(place, str)
        else rtt.modelled(rtt_floor_s(at, there.at), quantile, site)
    )
    here = place if isinstance(place, str) else None
    way_s = service.overhead(here, site, now_s).value_s if here else service.hop_s + service.hop(site, now_s).value_s
    options = [
        (network + service.estimate(site, workload, kind, metric, quantile, now_s), kind)
        for kind, profile in fabric.workloads[workload].service.items()
        if kind in there.hardware and there.hardware[kind].units >= profile.units
    ]
    distance, floor = geodesic_m(at, there.at), rtt_floor_s(at, there.at)
    if not options:
        return Reached(site, distance, floor, network.value_s, None, None, None, network.source)
    total, kind = min(options, key=lambda option: (option[0].value_s, option[1]))
    needed = total.value_s + way_s
    return Reached(site, distance, floor, network.value_s, kind, needed, within_s - needed, total.source)


def outline(lat: float, lon: float, radius_m: float, points: int = 180) -> tuple[Position, ...]:
    """The circle of `radius_m` on the ellipsoid, clockwise from north."""
    found = []
    for n in range(points):
        there = Geodesic.WGS84.Direct(lat, lon, 360.0 * n / points, radius_m)
        longitude = (there["lon2"] + 180.0) % 360.0 - 180.0
        found.append(Position(lat=there["lat2"], lon=longitude))
    return tuple(found)
