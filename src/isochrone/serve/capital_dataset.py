"""Builds a worked example, a whole document with its tables, from public data files that the user names.

What the files do not say is an assumption, listed as such in the document with the rest: who the demand is, how much,
what it is worth, what a small site costs. Change the lines and run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from isochrone.errors import InputError, StorageError
from isochrone.latency.geography import great_circle_km
from isochrone.serve import capital_import as source
from isochrone.serve.capital_io import write_csv

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Files", "Size", "build_dataset"]

# Where each power market's main load is (facts of geography), to find the nearest market of a site.
_MARKETS = {
    "AT": (48.2, 16.4),
    "AU-NSW": (-33.9, 151.2),
    "AU-VIC": (-37.8, 145.0),
    "BE": (50.8, 4.4),
    "BR-SP": (-23.5, -46.6),
    "CA-ON": (43.7, -79.4),
    "CH": (47.4, 8.5),
    "CL-SIC": (-33.4, -70.7),
    "DE-LU": (50.1, 8.7),
    "ES": (40.4, -3.7),
    "FR": (48.9, 2.4),
    "IN-WE": (19.1, 72.9),
    "JP-TK": (35.7, 139.7),
    "KR": (37.6, 127.0),
    "NL": (52.4, 4.9),
    "PT": (38.7, -9.1),
    "SG": (1.35, 103.8),
    "US-CAL-CISO": (34.1, -118.2),
    "US-MIDA-PJM": (39.9, -75.2),
    "US-NY-NYIS": (40.7, -74.0),
    "US-TEX-ERCO": (29.8, -95.4),
    "ZA": (-26.2, 28.0),
}
_CLASSES = [
    # name, objective ms, penalty per M, GB per M, tokens per person and day, growth
    ("act-20", 20.0, 5.0, 0.004, 4000.0, 0.5),
    ("act-30", 30.0, 5.0, 0.004, 4000.0, 0.5),
    ("talk-100", 100.0, 2.0, 0.004, 12000.0, 0.3),
    ("batch", None, 0.5, 0.004, 12000.0, 0.2),
]


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of the data: cities CSV, folder of region JSON, PoP JSON, hourly prices CSV, accelerator CSV, access CDF
    CSV."""

    cities: Path
    regions: Path
    pops: Path
    prices: Path
    accelerators: Path
    access: Path


@dataclass(frozen=True, slots=True)
class Size:
    """How large: continents, places, candidate metro sites, years and hours of the day."""

    continents: tuple[str, ...]
    places: int
    metros: int
    years: tuple[int, ...] = (2026, 2027, 2028)
    hours: tuple[float, ...] = (2.0, 8.0, 14.0, 20.0)
    providers: tuple[str, ...] = ("aws", "azure", "gcp")
    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    system: str = "h100_sxm"


def build_dataset(files: Files, size: Size, out: Path) -> list[source.AccessFit]:
    """Write `plan.yaml` and its tables to `out`; return the latency fits used, so that they can be shown.

    Raises:
        InputError: a file lacks what is needed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot write to {out}: {exc.strerror}", code="capital.write") from exc
    with source.reading(files.cities):
        people = source.cities(files.cities)
    with source.reading(files.regions):
        found = sorted(files.regions.glob("*_regions.json"))
        every = [r for p in found for r in source.regions(p, p.name.split("_")[0])]
    if not every:
        raise InputError(f"{files.regions} holds no PROVIDER_regions.json with coordinates", code="capital.import")
    with source.reading(files.access):
        fits = source.fit_access(files.access, "all-pings-closest-dc", people, every)
    wanted = set(size.continents)
    places = [c for c in people if c.continent in wanted][: size.places]
    if not places:
        raise InputError(
            f"no city lies in {', '.join(size.continents)}", code="capital.import", hint="use AF AS EU NA OC SA"
        )
    central = _clusters([r for r in every if r["name"].split(":")[0] in size.providers], people, wanted)
    with source.reading(files.pops):
        metros = _metros(source.edge_pops(files.pops), people, wanted, size.metros)
    with source.reading(files.accelerators):
        frontier = source.throughput_frontier(files.accelerators, size.model, size.system)
    _write_places(out, places)
    _write_sites(out, central, metros)
    _write_assets(out, central, places, size, frontier[-1][1])
    with source.reading(files.prices):
        prices = source.power_prices(files.prices, list(size.hours))
    write_csv(out / "energy.csv", ["zone", "hour_utc", "price_per_mwh"], [(z, h, round(p, 2)) for z, h, p in prices])
    (out / "plan.yaml").write_text(
        yaml.safe_dump(_document(size, frontier, fits, len(central), len(metros)), sort_keys=False, width=120),
        encoding="utf-8",
    )
    return fits


def _continent_of_point(point: dict[str, Any], people: list[source.City], lat: Any, lon: Any) -> source.City:
    return people[int(great_circle_km(lat, lon, point["lat"], point["lon"]).argmin())]


def _clusters(points: list[dict[str, Any]], people: list[source.City], wanted: set[str]) -> list[dict[str, Any]]:
    """Regions of several providers within 80 km are one central site."""
    lat, lon = np.array([c.lat for c in people]), np.array([c.lon for c in people])
    kept: list[dict[str, Any]] = []
    for point in points:
        city = _continent_of_point(point, people, lat, lon)
        if city.continent not in wanted:
            continue
        near = [k for k in kept if float(great_circle_km(point["lat"], point["lon"], k["lat"], k["lon"])) < 80]
        if near:
            near[0]["merged"] += 1
        else:
            kept.append({**point, "jurisdiction": city.country, "continent": city.continent, "merged": 1})
    return kept


def _metros(points: list[dict[str, Any]], people: list[source.City], wanted: set[str], n: int) -> list[dict[str, Any]]:
    """The n points of presence with most people within 100 km that no chosen one already has (greedy coverage)."""
    lat, lon = np.array([c.lat for c in people]), np.array([c.lon for c in people])
    inside = []
    for point in points:
        city = _continent_of_point(point, people, lat, lon)
        if city.continent in wanted:
            inside.append({**point, "continent": city.continent, "jurisdiction": city.country})
    left = np.array([c.population for c in people])
    reach = [great_circle_km(lat, lon, p["lat"], p["lon"]) < 100 for p in inside]
    chosen: list[dict[str, Any]] = []
    while inside and len(chosen) < n:
        gains = [float(left[r].sum()) for r in reach]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        left[reach[best]] = 0.0
        chosen.append(inside.pop(best))
        reach.pop(best)
    return chosen


def _write_places(out: Path, places: list[source.City]) -> None:
    rows = [(c.name, c.lat, c.lon, c.population, c.utc_offset_h, c.country, c.continent) for c in places]
    write_csv(
        out / "places.csv", ["name", "lat", "lon", "population", "utc_offset_h", "jurisdiction", "continent"], rows
    )


def _zone(point: dict[str, Any]) -> str:
    return min(
        _MARKETS, key=lambda z: float(great_circle_km(point["lat"], point["lon"], *map(np.asarray, _MARKETS[z])))
    )


def _write_sites(out: Path, central: list[dict[str, Any]], metros: list[dict[str, Any]]) -> None:
    rows: list[tuple[Any, ...]] = [
        (
            p["name"],
            "region",
            p["lat"],
            p["lon"],
            p["jurisdiction"],
            p["continent"],
            _zone(p),
            1.2,
            2_000_000,
            "",
            0.02,
            "true",
            1.0,
        )
        for p in central
    ]
    rows += [
        (
            p["name"],
            "metro",
            p["lat"],
            p["lon"],
            p["jurisdiction"],
            p["continent"],
            _zone(p),
            1.4,
            400_000,
            8000,
            0.02,
            "false",
            1.5,
        )
        for p in metros
    ]
    write_csv(
        out / "sites.csv",
        [
            "name",
            "tier",
            "lat",
            "lon",
            "jurisdiction",
            "continent",
            "energy_zone",
            "pue",
            "fixed_cost_per_year",
            "power_kw_max",
            "egress_per_gb",
            "central",
            "rental_factor",
        ],
        rows,
    )


def _write_assets(out: Path, central: list[dict[str, Any]], places: list[source.City], size: Size, rate: float) -> None:
    """Standing fleet: what all first-year demand needs at full throughput, spread over central sites by regions
    merged in each."""
    people = sum(c.population for c in places)
    per_s = people * sum(c[4] for c in _CLASSES) / 86400.0
    units, weight = per_s / rate * 1.2, sum(p["merged"] for p in central)
    rows = []
    for p in central:
        for age in (1, 3):
            rows.append(
                (
                    f"{p['name']} bought {size.years[0] - age}",
                    p["name"],
                    "H100",
                    round(0.5 * units * p["merged"] / weight, 1),
                    age,
                    40000,
                    6,
                )
            )
    write_csv(
        out / "assets.csv", ["name", "site", "hardware", "units", "age_years", "cost_per_unit", "life_years"], rows
    )


def _document(
    size: Size, frontier: list[tuple[float, float]], fits: list[source.AccessFit], central: int, metros: int
) -> dict[str, Any]:
    own = [f for f in fits if f.continent in size.continents]
    assumption = "assumption"
    return {
        "currency": "USD",
        "unit": "token",
        "years": list(size.years),
        "hours_utc": list(size.hours),
        "discount_rate": 0.09,
        "places": {"file": "places.csv"},
        "sites": {"file": "sites.csv"},
        "assets": {"file": "assets.csv"},
        "energy": {"file": "energy.csv"},
        "hardware": [
            {
                "name": "H100",
                "capex_per_unit": 40000.0,
                "life_years": 5,
                "power_kw": 1.3,
                "opex_per_unit_year": 1500.0,
                "idle_power_share": 0.3,
                "move_cost_per_unit": 2500.0,
                "rental_per_unit_hour": 3.0,
                "resale_share": 0.5,
                "throughput": [list(p) for p in frontier],
            }
        ],
        "classes": [
            {
                "name": n,
                "objective_ms": ms,
                "penalty_per_million": value,
                "gb_per_million": gb,
                "units_per_person_day": use,
                "growth_per_year": growth,
                "peak_to_mean": 1.0 if ms is None else 1.5,
                "peak_hour_local": 15.0,
            }
            for n, ms, value, gb, use, growth in _CLASSES
        ],
        "rtt": [{"continent": f.continent, "access_ms": f.access_ms, "ms_per_1000_km": f.ms_per_1000_km} for f in own],
        "headroom": {"wait_share_max": 0.05, "typical_units": {"metro": 100, "region": 1000}},
        "assumptions": [
            {"name": n, "value": v, "source": s}
            for n, v, s in (
                (
                    "places",
                    f"{size.places} largest cities of {', '.join(size.continents)}",
                    "GeoNames cities15000 (CC BY 4.0)",
                ),
                (
                    "central sites",
                    f"{central} clusters of {', '.join(size.providers)} regions",
                    "cloud-regions-info (MIT)",
                ),
                (
                    "candidate sites",
                    f"{metros} cities with points of presence, by people within 100 km",
                    "cloudflare-edge-locations (MIT)",
                ),
                (
                    "energy prices",
                    "mean by hour of day in 2024, nearest market",
                    "SustainCluster standardized market data (MIT)",
                ),
                (
                    "throughput",
                    f"measured {size.model} on {size.system}, frontier of tokens/s per accelerator by ms per token",
                    "aiconfigurator-core 0.12 silicon_sample.csv (Apache-2.0)",
                ),
                (
                    "round trips",
                    "line per continent fitted to all pings to the closest data centre",
                    "Corneo et al., WWW 2021 (MIT)",
                ),
                ("use per head", ", ".join(f"{c[0]} {c[4]:,.0f} tokens/day" for c in _CLASSES), assumption),
                ("growth per year", ", ".join(f"{c[0]} {100 * c[5]:.0f} %" for c in _CLASSES), assumption),
                ("value of lost demand", ", ".join(f"{c[0]} {c[2]:g} USD/M" for c in _CLASSES), assumption),
                (
                    "hardware",
                    "40,000 USD and 1.3 kW per accelerator with its share of server; 1,500 USD/year; 2,500 USD to "
                    "move; half the list price when sold, falling to nothing over its life",
                    assumption,
                ),
                ("rent", "3 USD an hour in today's regions, 1.5 times that at a metro site", assumption),
                ("sites", "fixed 0.4 MUSD/year and 8 MW for a metro site, 2 MUSD/year for a region", assumption),
                (
                    "standing fleet",
                    "sized for all first-year demand at full throughput, 20 % spare, all in today's regions",
                    assumption,
                ),
            )
        ],
    }
