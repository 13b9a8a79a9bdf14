"""Is the queue taken out of what was seen, and the error stated, so that busy is told from slow?"""

from __future__ import annotations

import heapq
import random

import pytest

from isochrone.latency.calibration import DECLARED_ERROR, FADE_S, FRESH_S, Calibration
from isochrone.latency.sketch import Sketch
from isochrone.model.workload import ServiceProfile, ServiceTime
from isochrone.plan.calibrate import SAMPLES_MIN, Observation, calibrate, load_band, with_observation
from isochrone.plan.qualified import Pool

DECLARED = ServiceProfile(duration=ServiceTime(p50_ms=20, p99_ms=60), concurrency=4, rps_max=160)
MEAN_S = Pool.of(DECLARED, 1).mean_s


def queue(rps: float, slowdown: float, seed: int = 1, count: int = 4000, at_s: float = 0.0) -> Observation:
    """A simulated first-come queue with the declared servers and log-normal service: what a site would have seen."""
    rng, pool = random.Random(seed), Pool.of(DECLARED, 1)
    sigma = 0.4722
    free = [0.0] * pool.servers
    clock, times = 0.0, []
    for _ in range(count):
        clock += rng.expovariate(rps)
        start = max(clock, heapq.heappop(free))
        end = start + slowdown * 0.020 * rng.lognormvariate(0.0, sigma)
        heapq.heappush(free, end)
        times.append(end - clock)
    return Observation(count / clock, Sketch(times), Sketch(times), 1, at_s)


@pytest.mark.parametrize("slowdown", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("utilisation", [0.1, 0.5, 0.8])
def test_a_busy_site_is_not_a_slow_one(slowdown: float, utilisation: float) -> None:
    servers = Pool.of(DECLARED, 1).servers
    seen = queue(utilisation * servers / (slowdown * MEAN_S), slowdown, count=8000)
    found = calibrate(DECLARED, "cpu", [seen], 0.0)
    assert found is not None
    assert found.slowdown == pytest.approx(slowdown, rel=0.12)
    assert abs(found.slowdown / slowdown - 1) <= 3 * found.error, "the stated error covers the true one"


def test_loads_that_agree_narrow_the_error_and_those_that_do_not_widen_it() -> None:
    at = [queue(rps, 2.0, seed=n, count=500, at_s=n) for n, rps in enumerate((5.0, 30.0, 60.0))]
    one, three = calibrate(DECLARED, "cpu", at[:1], 3.0), calibrate(DECLARED, "cpu", at, 3.0)
    assert one is not None
    assert three is not None
    assert (one.loads, three.loads) == (1, 3)
    assert three.slowdown == pytest.approx(2.0, rel=0.1)


def test_what_contradicts_the_newest_was_seen_before_a_change() -> None:
    before, after = queue(30.0, 1.0, at_s=0.0), queue(5.0, 4.0, at_s=20.0)
    found = calibrate(DECLARED, "cpu", [before, after], 20.0)
    assert found is not None
    assert (found.loads, found.at_s) == (1, 20.0)
    assert found.slowdown == pytest.approx(4.0, rel=0.1)


def test_few_executions_leave_what_was_declared() -> None:
    few = Observation(1.0, Sketch([0.1] * (SAMPLES_MIN - 1)), Sketch([0.1] * (SAMPLES_MIN - 1)), 1, 0.0)
    assert calibrate(DECLARED, "cpu", [few], 0.0) is None
    assert calibrate(DECLARED, "cpu", [], 0.0) is None


def test_the_first_byte_is_calibrated_beside_the_whole() -> None:
    seen = Observation(1.0, Sketch([0.2] * 50), Sketch([0.01] * 50), 1, 0.0)
    found = calibrate(DECLARED, "cpu", [seen], 0.0)
    assert found is not None
    assert found.first_byte.p50_ms == pytest.approx(10.0, rel=0.1)
    assert found.duration.p50_ms == pytest.approx(200.0, rel=0.1)


def test_what_a_replica_was_seen_to_sustain_it_is_given_again_and_more() -> None:
    slow = calibrate(DECLARED, "cpu", [queue(40.0, 2.0)], 0.0)
    assert slow is not None
    assert slow.sustained_rps == pytest.approx(40.0, rel=0.1)
    assert slow.applied(DECLARED, 0.0).rps_max == pytest.approx(160 / slow.slowdown)
    seen = Observation(120.0, Sketch([0.030 * (1 + n / 99) for n in range(100)]), Sketch([0.03] * 100), 8, 0.0)
    wide = calibrate(DECLARED, "cpu", [seen], 0.0)
    assert wide is not None
    assert 0 < wide.sustained_rps <= 15.0 + 1e-9
    busy = calibrate(DECLARED, "cpu", [queue(75.0, 2.0)], 0.0)
    assert busy is not None
    assert busy.sustained_rps == 0.0, "executions waited: that is no rate to promise"


def test_observations_are_kept_by_load_and_forgotten_with_time() -> None:
    quiet, busy = queue(5.0, 1.0, at_s=0.0), queue(140.0, 1.0, at_s=10.0)
    assert load_band(quiet) < load_band(busy)
    known = with_observation(with_observation({}, quiet), busy)
    assert len(known) == 2
    assert list(with_observation(known, queue(5.0, 1.0, at_s=5000.0)).values()) != [quiet]
    assert len(with_observation(known, queue(5.0, 1.0, at_s=5000.0))) == 1


def calibration(slowdown: float) -> Calibration:
    times = ServiceTime(p50_ms=20 * slowdown, p99_ms=60 * slowdown)
    return Calibration("cpu", times, times, slowdown, 0.02, 1, 100.0, 0.0)


@pytest.mark.parametrize("slowdown", [0.25, 4.0])
def test_silence_fades_into_what_was_declared_whether_slower_or_faster(slowdown: float) -> None:
    learned = calibration(slowdown)
    at = [learned.applied(DECLARED, now) for now in (FRESH_S, FRESH_S + FADE_S, FRESH_S + 10 * FADE_S)]
    assert at[0].duration.p50_ms == pytest.approx(20 * slowdown)
    assert at[0].rps_max == pytest.approx(160 / max(1.0, slowdown))  # quick under little load is not much in all
    away = [abs(profile.duration.p50_ms - 20) for profile in at]
    assert away[0] > away[1] > away[2] == pytest.approx(0.0)
    spreads = [learned.spread(now) for now in (FRESH_S, FRESH_S + FADE_S, FRESH_S + 10 * FADE_S)]
    assert spreads[0] < spreads[1] < spreads[2] == DECLARED_ERROR
