"""The isochrone round a place."""

from __future__ import annotations

import math

import pytest

from isochrone.errors import InputError
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.latency.floor import FIBRE_INDEX, LIGHT_M_PER_S, geodesic_m, rtt_floor_s
from isochrone.latency.path import ANY_PATH, Path
from isochrone.latency.reach import Isochrone, outline, reach
from isochrone.latency.sketch import Sketch
from isochrone.model.contract import Metric
from isochrone.model.fabric import Fabric
from isochrone.model.site import Position

# ZZ is no country: paths are those of no continent.
SITE = {"tier": "metro", "jurisdiction": "ZZ", "vendor": "v", "hardware": {"cpu": {"units": 1}}}
FABRIC = Fabric.model_validate(
    {
        "name": "f",
        "sites": {
            "konstanz": SITE | {"at": {"lat": 47.66, "lon": 9.18}},
            "frankfurt": SITE | {"at": {"lat": 50.11, "lon": 8.68}},
            "ashburn": SITE | {"at": {"lat": 39.04, "lon": -77.49}},
            "bare": SITE | {"at": {"lat": 48.0, "lon": 9.0}, "hardware": {"tpu": {"units": 1}}},
        },
        "workloads": {
            "w": {
                "protocol": "http",
                "model": {"name": "m"},
                "runtime": {"kind": "process", "command": ["x", "{port}"]},
                "service": {"cpu": {"duration": {"p50_ms": 2, "p99_ms": 6}, "rps_max": 10}},
            }
        },
        "contracts": {"c": {"workload": "w", "in_time": {"objective_ms": 20}}},
    }
)
RTT, SERVICE = RttTable.from_fabric(FABRIC), ServiceTable.from_fabric(FABRIC)


def from_place(place: str | Position, within_s: float = 0.020, rtt: RttTable = RTT) -> Isochrone:
    return reach(FABRIC, rtt, SERVICE, place, within_s, "w", Metric.DURATION, 0.99, 0.0)


def test_the_line_divides_the_sites_by_time() -> None:
    seen = {site.site: site for site in from_place("konstanz").sites}
    assert {name for name, site in seen.items() if site.in_time} == {"konstanz", "frankfurt"}
    assert seen["konstanz"].needed_s == pytest.approx(0.0063)
    assert seen["ashburn"].slack_s is not None
    assert seen["ashburn"].slack_s < 0
    assert seen["bare"].hardware is None
    assert not seen["bare"].in_time
    assert [site.site for site in from_place("konstanz").sites] == ["konstanz", "frankfurt", "ashburn", "bare"]


def test_a_measured_round_trip_moves_the_line() -> None:
    slow, _ = RTT.with_measured("konstanz", "frankfurt", Sketch([0.03] * 100), 0.0)
    seen = {site.site: site for site in from_place("konstanz", rtt=slow).sites}
    assert not seen["frankfurt"].in_time
    assert seen["frankfurt"].source == "declared"


def test_any_place_can_be_asked_about() -> None:
    zurich = from_place(Position(lat=47.37, lon=8.54))
    assert zurich.place == "47.37,8.54"
    assert {site.site for site in zurich.sites if site.in_time} == {"konstanz", "frankfurt"}
    assert all(site.source == "model" for site in zurich.sites)


def test_the_line_of_a_place_is_drawn_by_the_continent_that_judges_its_sites() -> None:
    paths = dict.fromkeys(FABRIC.sites, Path(stretch=1.9, access_s=0.006, spread=0.3))
    seen = from_place(Position(lat=47.37, lon=8.54), rtt=RttTable.from_fabric(FABRIC, paths))
    left_s = 0.020 - seen.service_s - 0.006
    assert seen.expected_m == pytest.approx(left_s * LIGHT_M_PER_S / (2 * FIBRE_INDEX * 1.9))
    assert all(site.distance_m <= seen.expected_m for site in seen.sites if site.in_time)


def test_at_the_outer_line_light_uses_up_all_the_time() -> None:
    seen = from_place("konstanz")
    centre = Position(lat=seen.lat, lon=seen.lon)
    for point in outline(seen.lat, seen.lon, seen.possible_m, 12):
        assert rtt_floor_s(centre, point) + seen.service_s == pytest.approx(0.020, rel=1e-6)
    for point in outline(seen.lat, seen.lon, seen.expected_m, 12):
        assert geodesic_m(centre, point) == pytest.approx(seen.expected_m)
        assert ANY_PATH.stretch * rtt_floor_s(centre, point) + seen.service_s == pytest.approx(0.020, rel=1e-6)


def test_where_service_alone_takes_too_long_nothing_is_in_reach() -> None:
    seen = from_place("konstanz", within_s=0.005)
    assert (seen.expected_m, seen.possible_m) == (0.0, 0.0)
    assert not any(site.in_time for site in seen.sites)


def test_lines_stay_on_the_earth() -> None:
    assert from_place("konstanz", within_s=60.0).possible_m < 20_010_000
    assert all(-180 <= point.lon < 180 for point in outline(0, 179, 1e6))


@pytest.mark.parametrize(
    ("place", "within_s", "workload"),
    [
        ("atlantis", 0.02, "w"),
        ("konstanz", 0.0, "w"),
        ("konstanz", math.nan, "w"),
        ("konstanz", -1.0, "w"),
        ("konstanz", 0.02, "x"),
    ],
)
def test_questions_that_make_no_sense_are_refused(place: str, within_s: float, workload: str) -> None:
    with pytest.raises(InputError):
        reach(FABRIC, RTT, SERVICE, place, within_s, workload, Metric.DURATION, 0.99, 0.0)


def test_an_isochrone_survives_json() -> None:
    seen = from_place("konstanz")
    assert Isochrone.from_json(seen.to_json()) == seen
