"""What physics allows: no answer returns before light has gone there and back.

Distances are geodesics on the WGS 84 ellipsoid (Karney, "Algorithms for geodesics", J. Geodesy 2013), which converge
everywhere, antipodes included.
"""

from __future__ import annotations

import math
from functools import lru_cache

from geographiclib.geodesic import Geodesic

from isochrone.model.site import Position

__all__ = ["FIBRE_INDEX", "LIGHT_M_PER_S", "geodesic_m", "rtt_floor_s", "rtt_light_s"]

LIGHT_M_PER_S = 299_792_458.0
# Group index of standard single-mode fibre (ITU-T G.652) at 1550 nm, as its makers state it (1.467 to 1.4682).
FIBRE_INDEX = 1.468


@lru_cache(maxsize=262_144)
def _geodesic_m(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    line = Geodesic.WGS84.Inverse(lat_a, lon_a, lat_b, lon_b, Geodesic.DISTANCE)
    return float(line["s12"])


def geodesic_m(a: Position, b: Position) -> float:
    """Shortest distance over the ellipsoid between two positions, in metres; the same in both directions."""
    first, second = sorted(((a.lat, a.lon), (b.lat, b.lon)))
    distance = 0.0 if first == second else _geodesic_m(*first, *second)
    assert math.isfinite(distance)
    return distance


def rtt_floor_s(a: Position, b: Position) -> float:
    """Round trip in seconds through fibre laid along the geodesic: 2 d n / c with n = `FIBRE_INDEX`.

    No estimate goes below it. Radio links along the same line can be faster; none is assumed.
    """
    return 2.0 * geodesic_m(a, b) * FIBRE_INDEX / LIGHT_M_PER_S


def rtt_light_s(a: Position, b: Position) -> float:
    """Round trip in seconds of light in vacuum, 2 d / c: a measurement below it is wrong."""
    return 2.0 * geodesic_m(a, b) / LIGHT_M_PER_S
