"""What physics allows."""

from __future__ import annotations

import pytest

from isochrone.latency.floor import geodesic_m, rtt_floor_s, rtt_light_s
from isochrone.model.site import Position

KONSTANZ = Position(lat=47.66, lon=9.18)
ASHBURN = Position(lat=39.04, lon=-77.49)


def test_a_degree_along_the_equator_is_its_arc_of_the_wgs84_radius() -> None:
    # 6,378,137 m x pi / 180: the equator is a circle and a geodesic at this length.
    assert geodesic_m(Position(lat=0, lon=0), Position(lat=0, lon=1)) == pytest.approx(111_319.4908, abs=1e-3)


def test_pole_to_pole_is_twice_the_meridian_quadrant() -> None:
    # The WGS 84 meridian quadrant is 10,001,965.729 m.
    assert geodesic_m(Position(lat=90, lon=0), Position(lat=-90, lon=0)) == pytest.approx(2 * 10_001_965.729, abs=0.01)


def test_nearly_antipodal_points_converge() -> None:
    # GeodTest case quoted in Karney 2013, section 5 (Vincenty's method does not converge here): 19,989,832.82761 m.
    far = geodesic_m(Position(lat=-30, lon=0), Position(lat=29.9, lon=179.8))
    assert far == pytest.approx(19_989_832.82761, abs=0.01)


def test_distance_is_the_same_both_ways_and_zero_to_itself() -> None:
    assert geodesic_m(KONSTANZ, ASHBURN) == geodesic_m(ASHBURN, KONSTANZ)
    assert geodesic_m(KONSTANZ, KONSTANZ) == 0.0


def test_a_thousand_kilometres_there_and_back_take_9_79_ms_in_fibre() -> None:
    a, b = Position(lat=0, lon=0), Position(lat=0, lon=1)
    per_km = rtt_floor_s(a, b) / (geodesic_m(a, b) / 1e3)
    assert per_km == pytest.approx(9.7935e-6, rel=1e-4)


def test_light_in_vacuum_is_faster_than_in_fibre_by_the_refractive_index() -> None:
    assert rtt_floor_s(KONSTANZ, ASHBURN) / rtt_light_s(KONSTANZ, ASHBURN) == pytest.approx(1.468)
