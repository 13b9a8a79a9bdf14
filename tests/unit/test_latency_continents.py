"""Where nothing is measured: lines per continent, fitted, shipped, and their error on servers never seen."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from isochrone.errors import InputError
from isochrone.latency.continents import PATHS, continent_of, paths_of
from isochrone.latency.estimate import RttTable
from isochrone.latency.floor import rtt_floor_s
from isochrone.latency.geography import FLOOR_S_PER_KM, fit_by_folds, fit_rtt
from isochrone.latency.path import ANY_PATH
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric

PLACES = {
    "zurich": ("CH", 47.4, 8.5),
    "lagos": ("NG", 6.5, 3.4),
    "nairobi": ("KE", -1.3, 36.8),
    "sea": ("ZZ", 0.0, -30.0),
}


def fabric_of(**more: object) -> Fabric:
    sites = {
        name: {"tier": "metro", "jurisdiction": country, "vendor": "v", "at": {"lat": lat, "lon": lon},
               "hardware": {"cpu": {"units": 1}}}
        for name, (country, lat, lon) in PLACES.items()
    }  # fmt: skip
    workload = {
        "protocol": "http",
        "model": {"name": "m"},
        "runtime": {"kind": "process", "command": ["x", "{port}"]},
        "service": {"cpu": {"duration": {"p50_ms": 2, "p99_ms": 6}, "rps_max": 10}},
    }
    contract = {"workload": "w", "in_time": {"objective_ms": 500}}
    document = {"name": "f", "sites": sites, "workloads": {"w": workload}, "contracts": {"c": contract}}
    return Fabric.model_validate(document | more)


def test_a_site_gets_the_line_of_its_continent_with_its_error() -> None:
    fabric = fabric_of()
    assert paths_of(fabric) == {"zurich": PATHS["EU"], "lagos": PATHS["AF"], "nairobi": PATHS["AF"], "sea": ANY_PATH}
    table, line = RttTable.from_fabric(fabric), PATHS["AF"]
    inside = table.estimate("lagos", "nairobi", 0.5, 0.0)
    floor = rtt_floor_s(fabric.sites["lagos"].at, fabric.sites["nairobi"].at)
    assert inside.source == "model"
    assert inside.value_s == pytest.approx(line.access_s + line.stretch * floor)
    assert inside.spread_s == pytest.approx(line.spread * inside.value_s)
    between = table.estimate("zurich", "lagos", 0.5, 0.0)
    floor = rtt_floor_s(fabric.sites["zurich"].at, fabric.sites["lagos"].at)
    assert between.value_s == pytest.approx(PATHS["EU"].access_s + PATHS["EU"].stretch * floor)
    assert between.spread_s == pytest.approx(PATHS["AF"].spread * between.value_s)


def test_no_estimate_is_below_the_floor_and_a_measurement_replaces_it() -> None:
    fabric = fabric_of()
    table = RttTable.from_fabric(fabric)
    for a, b in combinations(PLACES, 2):
        assert table.estimate(a, b, 0.5, 0.0).value_s >= table.floor_s(a, b)
    known, _ = table.with_measured("zurich", "lagos", Sketch([0.09] * 100), 0.0)
    assert known.estimate("lagos", "zurich", 0.5, 0.0).source == "measured"
    assert known.estimate("lagos", "zurich", 0.5, 0.0).value_s == pytest.approx(0.09, rel=0.02)


def test_emulated_distances_are_known() -> None:
    table = RttTable.from_fabric(fabric_of(emulate={"stretch": 3.0}))
    estimate = table.estimate("zurich", "lagos", 0.5, 0.0)
    assert estimate.value_s == pytest.approx(3.0 * table.floor_s("zurich", "lagos"))
    assert estimate.spread_s == 0


@pytest.mark.parametrize(("country", "continent"), [("DE", "EU"), ("US", "NA"), ("CL", "SA"), ("EU", None), ("", None)])
def test_countries_have_continents_and_groups_have_none(country: str, continent: str | None) -> None:
    assert continent_of(country) == continent


def test_the_fit_finds_a_line_and_states_its_error_on_servers_never_seen() -> None:
    rng = np.random.default_rng(1)
    at = rng.uniform(0, 4000, 40)
    a, b = np.array(list(combinations(range(40), 2))).T
    km = np.abs(at[a] - at[b]) + 10
    clean = 0.008 + 2 * FLOOR_S_PER_KM * km
    fit = fit_by_folds("EU", a, b, km, clean * rng.lognormal(0, 0.1, len(km)))
    assert fit.access_s == pytest.approx(0.008, rel=0.1)
    assert fit.s_per_km / FLOOR_S_PER_KM == pytest.approx(2, rel=0.1)
    assert fit.error_share_p68 == pytest.approx(0.1, rel=0.3)
    assert fit.error_s_p50 < fit.error_s_p90
    few = fit_by_folds("EU", a[:12], b[:12], km[:12], clean[:12])
    assert math.isnan(few.error_s_p50)  # every fold that holds a server out keeps fewer pairs than a fit needs


def test_what_beats_light_is_left_out_and_too_little_is_refused() -> None:
    km = np.linspace(100, 2000, 40)
    seconds = 2 * FLOOR_S_PER_KM * km
    wrong = np.where(np.arange(40) % 5 == 0, 1e-4, seconds)
    assert fit_rtt(km, wrong)[1] / FLOOR_S_PER_KM == pytest.approx(2, rel=0.01)
    with pytest.raises(InputError, match="usable pairs"):
        fit_rtt(km[:5], seconds[:5])
    assert fit_rtt(km, km * FLOOR_S_PER_KM * 0.7)[1] == pytest.approx(FLOOR_S_PER_KM)
