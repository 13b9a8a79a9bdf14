"""Importers for common public data: cities, cloud regions, points of presence, power prices, accelerator
measurements, access latency. Each takes files the user has; nothing is downloaded and nothing ships."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from isochrone.errors import InputError
from isochrone.latency.geography import calibrate_access, great_circle_km

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "AccessFit",
    "City",
    "cities",
    "continent_of",
    "edge_pops",
    "fit_access",
    "power_prices",
    "reading",
    "regions",
    "throughput_frontier",
]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in which something is not what it should be."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise InputError(
            f"{path} holds something that cannot be read: {type(exc).__name__}: {exc}",
            code="capital.import",
            hint="docs/howto/plan-capital.md says which files the importer takes",
        ) from exc


@dataclass(frozen=True, slots=True)
class City:
    name: str
    lat: float
    lon: float
    population: float
    utc_offset_h: float
    country: str
    continent: str


def continent_of(timezone: str, lat: float, lon: float) -> str:
    """AF, AS, EU, NA, OC or SA from a tz database name; the Americas are split at Panama."""
    area = timezone.split("/")[0]
    if area == "America":
        return "SA" if lat < 13 and lon > -82 else "NA"
    return {
        "Europe": "EU",
        "Asia": "AS",
        "Africa": "AF",
        "Australia": "OC",
        "Pacific": "OC",
        "Indian": "AF",
        "Atlantic": "EU",
    }.get(area, "AS")


def cities(path: Path, *, continents: set[str] | None = None, top: int | None = None) -> list[City]:
    """GeoNames-style CSV: name, country, lat, lon, population, timezone. Largest first; names made unique by
    country."""
    found, year = [], datetime(2026, 1, 15, tzinfo=UTC)
    for row in _rows(path, ("name", "country", "lat", "lon", "population", "timezone")):
        people = float(row["population"] or 0)
        if people <= 0:
            continue
        lat, lon = float(row["lat"]), float(row["lon"])
        continent = continent_of(row["timezone"], lat, lon)
        if continents is None or continent in continents:
            found.append((people, row["name"], lat, lon, row["country"], row["timezone"], continent))
    found.sort(key=lambda f: (-f[0], f[1]))
    seen: dict[str, int] = defaultdict(int)
    result = []
    for people, name, lat, lon, country, timezone, continent in found[:top]:
        full = f"{name} {country}"
        seen[full] += 1
        label = full if seen[full] == 1 else f"{full} {seen[full]}"
        try:
            offset = year.astimezone(ZoneInfo(timezone)).utcoffset()
            hours = offset.total_seconds() / 3600 if offset else 0.0
        except ZoneInfoNotFoundError:
            hours = round(lon / 15)
        result.append(City(label, lat, lon, people, hours, country, continent))
    return result


def regions(path: Path, provider: str) -> list[dict[str, Any]]:
    """Region JSON: {id: {latitude, longitude, country, ...}}. Entries without coordinates are left out."""
    return [
        {"name": f"{provider}:{key}", "lat": float(v["latitude"]), "lon": float(v["longitude"])}
        for key, v in _json(path).items()
        if v.get("latitude") is not None and v.get("longitude") is not None
    ]


def edge_pops(path: Path) -> list[dict[str, Any]]:
    """Points of presence JSON: {code: {city, countryCode, latitude, longitude}}."""
    return [
        {
            "name": f"{v['city']} ({key})",
            "lat": float(v["latitude"]),
            "lon": float(v["longitude"]),
            "jurisdiction": v.get("countryCode", ""),
        }
        for key, v in _json(path).items()
        if v.get("latitude") is not None
    ]


def power_prices(path: Path, hours_utc: list[float]) -> list[tuple[str, float, float]]:
    """Hourly CSV (region, utc, usd_per_mwh) to (zone, hour, mean price) over the year for blocks around each hour."""
    total: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in _rows(path, ("region", "utc", "usd_per_mwh")):
        if row["usd_per_mwh"]:
            cell = total[row["region"], int(row["utc"][11:13])]
            cell[0] += float(row["usd_per_mwh"])
            cell[1] += 1
    half, out = 12 / len(hours_utc), []
    for zone in sorted({z for z, _ in total}):
        for hour in hours_utc:
            near = [
                total[zone, h]
                for h in range(24)
                if min((h + 0.5 - hour) % 24, (hour - h - 0.5) % 24) <= half and (zone, h) in total
            ]
            out.append((zone, hour, sum(c[0] for c in near) / max(sum(c[1] for c in near), 1)))
    return out


def throughput_frontier(path: Path, model: str, system: str) -> list[tuple[float, float]]:
    """Measured rows to a frontier: (ms per token, tokens per second per accelerator), best first at each speed.

    Raises:
        InputError: no row for that model and system.
    """
    points = []
    for row in _rows(path, ("model_path", "system", "mode", "batch_size", "silicon_tpot_ms")):
        if row["model_path"] != model or row["system"] != system or row["mode"] != "agg" or not row["silicon_tpot_ms"]:
            continue
        accelerators = np.prod([max(float(row.get(k) or 1), 1.0) for k in ("tp_size", "pp_size", "attention_dp_size")])
        ms = float(row["silicon_tpot_ms"])
        points.append((ms, float(row["batch_size"]) / (ms / 1e3) / float(accelerators)))
    if not points:
        raise InputError(f"{path.name} has no measurement of {model} on {system}", code="capital.import")
    frontier: list[tuple[float, float]] = []
    for ms, rate in sorted(points):
        if not frontier or rate > frontier[-1][1] * 1.05:
            frontier.append((round(ms, 3), round(rate, 1)))
    return frontier


@dataclass(frozen=True, slots=True)
class AccessFit:
    """A line fitted to a published CDF of access latency, and how far it misses (share of probes), on fitted and on
    other thresholds. `probes_at` maps thresholds in ms to (measured, predicted)."""

    continent: str
    access_ms: float
    ms_per_1000_km: float
    miss_fitted: float
    miss_held_out: float
    probes_at: dict[float, tuple[float, float]]


THRESHOLDS_MS = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0)


def fit_access(cdf: Path, figure: str, people: list[City], sites: list[dict[str, Any]]) -> list[AccessFit]:
    """Fit per continent so that people's distance to the nearest region explains the published CDF at every other
    threshold."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in _rows(cdf, ("figure", "continent", "rtt_ms", "cdf")):
        if row["figure"] == figure:
            curves[row["continent"]].append((float(row["rtt_ms"]), float(row["cdf"])))
    if not curves:
        raise InputError(f"{cdf.name} has no curve named {figure!r}", code="capital.import")
    lat, lon = np.array([s["lat"] for s in sites]), np.array([s["lon"] for s in sites])
    fits, at = [], np.array(THRESHOLDS_MS)
    for continent, curve in sorted(curves.items()):
        mine = [c for c in people if c.continent == continent]
        if not mine:
            continue
        near = great_circle_km(
            np.array([c.lat for c in mine])[:, None], np.array([c.lon for c in mine])[:, None], lat, lon
        ).min(axis=1)
        known = np.array(sorted(curve))
        measured = np.interp(at, known[:, 0], known[:, 1])
        weight = np.array([c.population for c in mine])
        access, slope, predicted = calibrate_access(
            near, weight, at / 1e3, measured, fitted=np.arange(len(at)) % 2 == 1
        )
        off = np.abs(predicted - measured)
        fits.append(
            AccessFit(
                continent,
                1e3 * access,
                1e6 * slope,
                float(off[1::2].max()),
                float(off[::2].max()),
                {t: (float(m), float(p)) for t, m, p in zip(THRESHOLDS_MS, measured, predicted, strict=True)},
            )
        )
    return fits


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8", newline="") as file
        ):
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"cannot read {path}: {exc}", code="capital.import") from exc
    lacking = [n for n in needed if not rows or n not in rows[0]]
    if lacking:
        raise InputError(f"{path.name} lacks the columns {', '.join(lacking)}", code="capital.import")
    return rows


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot read {path}: {exc}", code="capital.import") from exc
    if not isinstance(value, dict):
        raise InputError(f"{path.name} must be one JSON object", code="capital.import")
    return value
