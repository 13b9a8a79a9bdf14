"""Round-trip time from distance, fitted per continent, with its error on servers the fit never saw.

    rtt = access_s + s_per_km * great-circle distance

No one setting fits all continents, and a geographic model alone misses measured access by tens of points where networks
are sparse: use it to plan, prefer measurements to decide. The fit is a quantile regression (Koenker and Bassett 1978),
robust to the detours that make the mean useless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "RttModel",
    "calibrate_access",
    "fit_rtt",
    "fit_with_holdout",
    "great_circle_km",
    "physically_possible",
    "rtt_matrix_s",
]

EARTH_RADIUS_KM = 6371.0088  # mean radius; the sphere is within 0.56 % of the ellipsoid
LIGHT_KM_PER_S = 299_792.458
PAIRS_MIN = 12


@dataclass(frozen=True, slots=True)
class RttModel:
    """A fitted line. `error_s_p50` and `error_s_p90` are absolute errors on held-out servers; `pairs_n` were fitted."""

    continent: str
    access_s: float
    s_per_km: float
    pairs_n: int
    error_s_p50: float
    error_s_p90: float

    def rtt_s(self, distance_km: NDArray[np.float64]) -> NDArray[np.float64]:
        """Round-trip time for great-circle distances."""
        return np.asarray(self.access_s + self.s_per_km * distance_km)


def great_circle_km(
    lat_a: NDArray[np.float64], lon_a: NDArray[np.float64], lat_b: NDArray[np.float64], lon_b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Haversine distance in km between points in degrees; arguments broadcast."""
    a, b, c, d = (np.radians(np.asarray(v, dtype=float)) for v in (lat_a, lon_a, lat_b, lon_b))
    h = np.sin((c - a) / 2) ** 2 + np.cos(a) * np.cos(c) * np.sin((d - b) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0))))


def physically_possible(distance_km: NDArray[np.float64], rtt_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """False where a measurement beats light in vacuum there and back: a coordinate or a clock is wrong."""
    return np.asarray(rtt_s >= 2 * distance_km * (1 - 0.0056) / LIGHT_KM_PER_S)


def fit_rtt(distance_km: NDArray[np.float64], rtt_s: NDArray[np.float64], quantile: float = 0.5) -> tuple[float, float]:
    """(access_s, s_per_km) by quantile regression, by iteratively reweighted least squares.

    The slope is never below light in vacuum and the intercept never below zero.

    Raises:
        InputError: fewer than `PAIRS_MIN` usable pairs.
    """
    good = physically_possible(distance_km, rtt_s) & (distance_km > 0)
    x, y = distance_km[good], rtt_s[good]
    if len(x) < PAIRS_MIN:
        raise InputError(f"{len(x)} usable pairs; a fit needs {PAIRS_MIN}", code="latency.fit")
    weight = np.ones_like(x)
    a, s = 0.0, 2 / LIGHT_KM_PER_S
    for _ in range(60):
        mx, my = np.average(x, weights=weight), np.average(y, weights=weight)
        spread = np.average((x - mx) ** 2, weights=weight)
        s = float(np.average((x - mx) * (y - my), weights=weight) / max(spread, 1e-12))
        s = max(s, 2 / LIGHT_KM_PER_S)
        a = max(float(my - s * mx), 0.0)
        if a == 0.0:
            s = max(float(np.average(x * y, weights=weight) / np.average(x * x, weights=weight)), 2 / LIGHT_KM_PER_S)
        residual = y - a - s * x
        weight = np.where(residual > 0, quantile, 1 - quantile) / np.maximum(np.abs(residual), 1e-4)
    return a, s


def fit_with_holdout(
    continent: str,
    a: NDArray[np.intp],
    b: NDArray[np.intp],
    distance_km: NDArray[np.float64],
    rtt_s: NDArray[np.float64],
    quantile: float = 0.5,
) -> RttModel:
    """Fit on all pairs; state the error of a fit on pairs of two thirds of the servers, on pairs among the rest or
    mixed.

    `a` and `b` number the two servers of each pair. A server is held out when its number is divisible by three.
    """
    held = (a % 3 == 0) | (b % 3 == 0)
    access, slope = fit_rtt(distance_km, rtt_s, quantile)
    try:
        known_access, known_slope = fit_rtt(distance_km[~held], rtt_s[~held], quantile)
        test = held & physically_possible(distance_km, rtt_s) & (distance_km > 0)
        off = np.abs(rtt_s[test] - known_access - known_slope * distance_km[test])
        p50, p90 = (float(np.quantile(off, q)) for q in (0.5, 0.9)) if test.any() else (float("nan"),) * 2
    except InputError:
        p50 = p90 = float("nan")
    return RttModel(continent, access, slope, len(rtt_s), p50, p90)


def calibrate_access(
    nearest_km: NDArray[np.float64],
    weight: NDArray[np.float64],
    at_s: NDArray[np.float64],
    cdf: NDArray[np.float64],
    *,
    fitted: NDArray[np.bool_],
) -> tuple[float, float, NDArray[np.float64]]:
    """(access_s, s_per_km, predicted cdf): the line whose round trips to the nearest site best give a measured CDF.

    Args:
        nearest_km, weight: distance to the nearest site and people, per place.
        at_s, cdf: thresholds and the share of measured probes within them.
        fitted: which thresholds the fit may see; the largest miss among them is minimised, on a grid.
    """
    order = nearest_km.argsort()
    known, share = nearest_km[order], np.cumsum(weight[order]) / weight.sum()
    best = (np.inf, 0.0, 0.0, np.zeros_like(at_s))
    for access in np.arange(0.0, 0.0301, 0.0005):
        for slope in np.arange(12e-6, 121e-6, 2e-6):
            predicted = np.interp((at_s - access) / slope, known, share, left=0.0)
            miss = float(np.abs(predicted - cdf)[fitted].max())
            if miss < best[0]:
                best = (miss, float(access), float(slope), predicted)
    return best[1], best[2], best[3]


def rtt_matrix_s(
    models: dict[str, RttModel],
    continents: tuple[str, ...],
    distance_km: NDArray[np.float64],
    *,
    access_extra_s: dict[str, float] | None = None,
) -> NDArray[np.float64]:
    """Round trips for rows (places) that lie in `continents`; shape of `distance_km` (places, sites).

    A continent without a model uses the model named ``""``; `access_extra_s` adds the last mile per continent.
    """
    extra = access_extra_s or {}
    out = np.empty_like(distance_km)
    for i, continent in enumerate(continents):
        model = models.get(continent) or models[""]
        out[i] = model.rtt_s(distance_km[i]) + extra.get(continent, extra.get("", 0.0))
    return out
