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
from isochrone.latency.floor import FIBRE_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FLOOR_S_PER_KM",
    "RttModel",
    "calibrate_access",
    "fit_by_folds",
    "fit_rtt",
    "great_circle_km",
    "physically_possible",
    "rtt_matrix_s",
]

EARTH_RADIUS_KM = 6371.0088  # mean radius; the sphere is within 0.56 % of the ellipsoid
LIGHT_KM_PER_S = 299_792.458
FLOOR_S_PER_KM = 2 * FIBRE_INDEX / LIGHT_KM_PER_S
PAIRS_MIN = 12


@dataclass(frozen=True, slots=True)
class RttModel:
    """A fitted line. `error_s_p50` and `error_s_p90` are absolute errors on pairs with a held-out server, and
    `error_share_p68` what share of the value 68 % of them stay within; `pairs_n` were fitted."""

    continent: str
    access_s: float
    s_per_km: float
    pairs_n: int
    error_s_p50: float
    error_s_p90: float
    error_share_p68: float = 0.0

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

    The slope is never below light in fibre and the intercept never below zero.

    Raises:
        InputError: fewer than `PAIRS_MIN` usable pairs.
    """
    good = physically_possible(distance_km, rtt_s) & (distance_km > 0)
    x, y = distance_km[good], rtt_s[good]
    if len(x) < PAIRS_MIN:
        raise InputError(f"{len(x)} usable pairs; a fit needs {PAIRS_MIN}", code="latency.fit")
    weight = np.ones_like(x)
    a, s = 0.0, FLOOR_S_PER_KM
    for _ in range(60):
        mx, my = np.average(x, weights=weight), np.average(y, weights=weight)
        spread = np.average((x - mx) ** 2, weights=weight)
        s = float(np.average((x - mx) * (y - my), weights=weight) / max(spread, 1e-12))
        s = max(s, FLOOR_S_PER_KM)
        a = max(float(my - s * mx), 0.0)
        if a == 0.0:
            s = max(float(np.average(x * y, weights=weight) / np.average(x * x, weights=weight)), FLOOR_S_PER_KM)
        residual = y - a - s * x
        weight = np.where(residual > 0, quantile, 1 - quantile) / np.maximum(np.abs(residual), 1e-4)
    return a, s


def fit_by_folds(
    continent: str,
    a: NDArray[np.intp],
    b: NDArray[np.intp],
    distance_km: NDArray[np.float64],
    rtt_s: NDArray[np.float64],
    quantile: float = 0.5,
    folds: int = 9,
) -> RttModel:
    """Fit on all pairs; state the error on pairs with a server that the fit did not see.

    Each fold holds out the servers whose number it leaves when divided by `folds`. Errors are NaN where the pairs are
    too few for any fold.

    Args:
        a, b: the numbers of the two servers of each pair.

    Raises:
        InputError: fewer than `PAIRS_MIN` usable pairs in all.
    """
    access, slope = fit_rtt(distance_km, rtt_s, quantile)
    usable = physically_possible(distance_km, rtt_s) & (distance_km > 0)
    off, true = [np.zeros(0)], [np.zeros(0)]
    for fold in range(folds):
        held = (a % folds == fold) | (b % folds == fold)
        try:
            known_access, known_slope = fit_rtt(distance_km[~held], rtt_s[~held], quantile)
        except InputError:
            continue
        test = held & usable
        off.append(np.abs(rtt_s[test] - known_access - known_slope * distance_km[test]))
        true.append(rtt_s[test])
    errors, times = np.concatenate(off), np.concatenate(true)
    if not len(errors):
        return RttModel(continent, access, slope, len(rtt_s), *(float("nan"),) * 3)
    p50, p90 = (float(np.quantile(errors, q)) for q in (0.5, 0.9))
    return RttModel(continent, access, slope, len(rtt_s), p50, p90, float(np.quantile(errors / times, 0.68)))


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
