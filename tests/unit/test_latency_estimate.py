"""One estimate: floor, model, declared, measured, stale; and measurements that cannot be."""

from __future__ import annotations

import math

import pytest

from isochrone.errors import InputError
from isochrone.latency.calibration import Calibration
from isochrone.latency.estimate import (
    Estimate,
    RttTable,
    ServiceTable,
    answer_time_s,
    lognormal_quantile_s,
)
from isochrone.latency.floor import rtt_floor_s, rtt_light_s
from isochrone.latency.path import Path
from isochrone.latency.sketch import Sketch
from isochrone.model.contract import Metric
from isochrone.model.site import Position
from isochrone.model.workload import ServiceProfile, ServiceTime

HERE, THERE = Position(lat=47.66, lon=9.18), Position(lat=39.04, lon=-77.49)
PROFILE = ServiceProfile(duration=ServiceTime(p50_ms=10, p99_ms=40), rps_max=10)
SLOW = Calibration("cpu", ServiceTime(p50_ms=100, p99_ms=200), ServiceTime(p50_ms=50, p99_ms=90), 8.0, 0.05, 1, 100, 0)


@pytest.fixture
def table() -> RttTable:
    return RttTable({"here": HERE, "there": THERE})


@pytest.fixture
def service() -> ServiceTable:
    return ServiceTable({"w": {"cpu": PROFILE}}, hop_s=0.001)


def test_unmeasured_is_the_floor_stretched_and_says_so(table: RttTable) -> None:
    estimate = table.estimate("here", "there", 0.99, 0.0)
    assert estimate.source == "model"
    assert estimate.value_s == pytest.approx(2.1 * rtt_floor_s(HERE, THERE))
    assert estimate.spread_s > 0


def test_a_continent_s_own_line_is_used_and_the_quicker_end_counts(table: RttTable) -> None:
    floor = rtt_floor_s(HERE, THERE)
    lined = RttTable(table.positions, paths={"here": Path(1.7, 0.002, 0.1), "there": Path(3.0, 0.010, 0.4)})
    estimate = lined.estimate("here", "there", 0.5, 0.0)
    assert estimate.value_s == pytest.approx(0.002 + 1.7 * floor)
    assert estimate.spread_s == pytest.approx(0.4 * estimate.value_s)
    assert RttTable.from_json(lined.to_json()) == lined


@pytest.mark.parametrize("numbers", [(0.9, 0, 0), (math.nan, 0, 0), (2, -1, 0), (2, 0, math.inf)])
def test_a_path_faster_than_light_in_fibre_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="no path"):
        Path(*numbers)


def test_measured_replaces_the_model_in_both_directions(table: RttTable) -> None:
    table, finding = table.with_measured("here", "there", Sketch([0.098] * 100), at_s=10)
    assert finding is None
    for pair in (("here", "there"), ("there", "here")):
        estimate = table.estimate(*pair, 0.99, 10)
        assert estimate.source == "measured"
        assert estimate.value_s == pytest.approx(0.098, rel=0.02)


def test_a_measurement_that_beats_light_is_refused_with_the_reason(table: RttTable) -> None:
    light = rtt_light_s(HERE, THERE)
    same, finding = table.with_measured("here", "there", Sketch([0.1] * 99 + [light * 0.9]), at_s=10)
    assert same is table
    assert finding is not None
    assert "beats light" in finding.problem
    assert finding.light_s == pytest.approx(light)


def test_a_measurement_between_light_and_fibre_counts_as_the_floor(table: RttTable) -> None:
    floor = rtt_floor_s(HERE, THERE)
    table, finding = table.with_measured("here", "there", Sketch([0.8 * floor] * 50), at_s=0)
    assert finding is None
    assert table.estimate("here", "there", 0.5, 0.0).value_s == floor


def test_a_site_the_fabric_does_not_have_is_refused(table: RttTable) -> None:
    same, finding = table.with_measured("here", "nowhere", Sketch([0.1] * 99), at_s=0)
    assert same is table
    assert finding is not None


def test_an_empty_measurement_is_refused(table: RttTable) -> None:
    assert table.with_measured("here", "there", Sketch(), at_s=0)[1] is not None


def test_few_samples_do_not_replace_the_model(table: RttTable) -> None:
    table, _ = table.with_measured("here", "there", Sketch([0.09] * 5), at_s=0)
    assert table.estimate("here", "there", 0.5, 0.0).source == "model"


def test_stale_measurements_count_as_slower_and_less_sure(table: RttTable) -> None:
    table, _ = table.with_measured("here", "there", Sketch([0.09] * 100), at_s=0)
    fresh, stale, ancient = (table.estimate("here", "there", 0.5, now) for now in (30, 300, 1e9))
    assert fresh.value_s < stale.value_s < ancient.value_s
    assert fresh.spread_s < stale.spread_s
    assert ancient.value_s == pytest.approx(2 * fresh.value_s)
    assert ancient.age_s == 1e9


def test_a_later_sketch_does_not_change_the_table(table: RttTable) -> None:
    sketch = Sketch([0.09] * 100)
    table, _ = table.with_measured("here", "there", sketch, at_s=0)
    sketch.add(50.0)
    assert table.estimate("here", "there", 1 - 1e-12, 0).value_s == pytest.approx(0.09, rel=0.02)


def test_the_log_normal_goes_through_both_declared_points() -> None:
    time = ServiceTime(p50_ms=10, p99_ms=40)
    assert lognormal_quantile_s(time, 0.5) == pytest.approx(0.010)
    assert lognormal_quantile_s(time, 0.99) == pytest.approx(0.040)
    assert lognormal_quantile_s(time, 0.999) > 0.040


def test_measured_service_times_replace_declared_ones(service: ServiceTable) -> None:
    assert service.estimate("here", "w", "cpu", Metric.DURATION, 0.99, 0).source == "declared"
    measured = service.with_calibration("here", "w", SLOW)
    estimate = measured.estimate("here", "w", "cpu", Metric.DURATION, 0.99, 0)
    assert (estimate.source, estimate.value_s) == ("measured", pytest.approx(0.2, rel=0.02))
    assert estimate.spread_s == pytest.approx(0.05 * estimate.value_s)
    assert measured.estimate("here", "w", "cpu", Metric.DURATION, 0.99, 1000.0).source == "declared", "long ago"
    assert measured.estimate("there", "w", "cpu", Metric.DURATION, 0.99, 0).source == "declared"


def test_an_undeclared_first_byte_takes_the_whole_duration(service: ServiceTable) -> None:
    first = service.estimate("here", "w", "cpu", Metric.FIRST_BYTE, 0.99, 0)
    assert first.value_s == pytest.approx(0.040)


def test_answering_at_the_ingress_costs_one_hop_and_no_round_trip(table: RttTable, service: ServiceTable) -> None:
    def at(site: str) -> Estimate:
        return answer_time_s(table, service, "here", site, "w", "cpu", Metric.DURATION, 0.99, 0)

    assert at("here").value_s == pytest.approx(0.040 + 0.001)
    assert at("there").value_s == pytest.approx(0.040 + 0.002 + 2.1 * rtt_floor_s(HERE, THERE))
    assert at("there").source == "model"  # the weakest part


def test_tables_and_estimates_survive_json(table: RttTable, service: ServiceTable) -> None:
    table, _ = table.with_measured("here", "there", Sketch([0.09, 0.1, 0.2] * 20), at_s=7)
    again = RttTable.from_json(table.to_json())
    assert again.estimate("here", "there", 0.99, 9) == table.estimate("here", "there", 0.99, 9)
    measured = service.with_calibration("here", "w", SLOW)
    twin = ServiceTable.from_json(measured.to_json())
    arguments = ("here", "w", "cpu", Metric.DURATION, 0.5, 3.0)
    assert twin.estimate(*arguments) == measured.estimate(*arguments)
    estimate = Estimate(0.1, 0.01, "measured", 0.99, 4.0)
    assert Estimate.from_json(estimate.to_json()) == estimate


@pytest.mark.parametrize("data", [None, {}, {"positions": {"a": [1]}}, {"positions": {"a": [999, 0]}, "measured": {}}])
def test_what_is_no_table_is_refused(data: object) -> None:
    with pytest.raises(InputError):
        RttTable.from_json(data)


@pytest.mark.parametrize("change", [{"value_s": math.nan}, {"source": "hearsay"}, {"extra": 1}, {"value_s": None}])
def test_what_is_no_estimate_is_refused(change: dict[str, object]) -> None:
    data = Estimate(0.1, 0.01, "measured", 0.99).to_json() | change
    with pytest.raises(InputError):
        Estimate.from_json(data)


def test_what_proxies_add_is_measured_where_it_can_be_and_widens_as_it_ages(
    table: RttTable, service: ServiceTable
) -> None:
    def needed(known: ServiceTable, site: str, now_s: float = 0.0) -> Estimate:
        return answer_time_s(table, known, "here", site, "w", "cpu", Metric.DURATION, 0.99, now_s)

    assert (service.hop("here", 0.0).source, service.hop("here", 0.0).value_s) == ("declared", 0.001)
    known = service.with_hop("here", Sketch([0.0042] * 100), 0.0)
    assert known.hop("here", 0.0).source == "measured"
    assert known.hop("here", 0.0).value_s == pytest.approx(0.0042, abs=2e-4)
    for site in ("here", "there"):  # measured at the ingress, assumed elsewhere
        assert needed(known, site).value_s - needed(service, site).value_s == pytest.approx(0.0032, abs=2e-4)
    old, new = known.hop("here", 500.0), known.hop("here", 0.0)
    assert (old.value_s > new.value_s, old.spread_s > new.spread_s) == (True, True)
    assert ServiceTable.from_json(known.to_json()).hop("here", 0.0) == new


@pytest.mark.parametrize("samples", [[], [3.0] * 50])
def test_what_no_proxy_adds_is_refused(service: ServiceTable, samples: list[float]) -> None:
    with pytest.raises(InputError):
        service.with_hop("here", Sketch(samples), 0.0)


def test_what_sites_have_shown_of_a_workload_is_expected_of_the_one_nobody_measured(service: ServiceTable) -> None:
    def p50_ms(table: ServiceTable) -> float:
        return table.profile("unknown", "w", "cpu", 1000.0).duration.p50_ms

    slower = ServiceTime(p50_ms=15, p99_ms=60)
    slow = Calibration("cpu", slower, slower, 1.5, 0.05, 1, 100, 0)
    one = service.with_calibration("a", "w", slow)
    two = one.with_calibration("b", "w", slow)
    assert p50_ms(service) == 10
    assert p50_ms(one) == pytest.approx(10 * 1.5 ** (1 / 2))
    assert p50_ms(two) == pytest.approx(10 * 1.5 ** (2 / 3))
    # One that is ten times as slow is no news of the others.
    assert p50_ms(service.with_calibration("a", "w", SLOW)) == pytest.approx(10 * 2 ** (1 / 2))
    assert two.profile("unknown", "w", "cpu", 0.0).rps_max == PROFILE.rps_max
    assert p50_ms(two.as_declared()) == 10
    assert p50_ms(ServiceTable.from_json(two.to_json())) == p50_ms(two)


def test_sites_that_are_quicker_than_declared_make_no_other_one_quick(service: ServiceTable) -> None:
    quick = ServiceTime(p50_ms=2, p99_ms=8)
    table = service.with_calibration("a", "w", Calibration("cpu", quick, quick, 0.2, 0.05, 1, 100, 0))
    assert table.profile("unknown", "w", "cpu", 0.0) == PROFILE


def test_what_was_seen_long_ago_is_not_expected_of_others(service: ServiceTable) -> None:
    old = service.with_calibration("a", "w", SLOW)
    assert old.pooled["w"] > 1
    as_it_is = ServiceTime(p50_ms=10, p99_ms=40)
    table = old.with_calibration("b", "w", Calibration("cpu", as_it_is, as_it_is, 1.0, 0.05, 1, 100, 3600.0))
    assert table.pooled["w"] == pytest.approx(1.0)
