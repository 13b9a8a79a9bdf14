"""Does a window reach back as far as things stayed as they are, and no further?"""

from __future__ import annotations

import random

import pytest

from isochrone.errors import InputError
from isochrone.latency.recent import RecentCounts, RecentSketch


def arrivals(counts: RecentCounts, rng: random.Random, rps: float, from_s: float, to_s: float) -> None:
    at_s = from_s
    while (at_s := at_s + rng.expovariate(rps)) < to_s:
        counts.add(at_s)


@pytest.mark.parametrize("seed", range(5))
def test_a_steady_rate_is_counted_over_the_whole_memory(seed: int) -> None:
    counts = RecentCounts(0.0)
    arrivals(counts, random.Random(seed), 20.0, 0.0, 100.0)
    count, span_s = counts.window(100.0)
    assert span_s >= 30.0
    assert count / span_s == pytest.approx(20.0, rel=0.25)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("before", "after"), [(5.0, 50.0), (50.0, 5.0), (20.0, 0.001)])
def test_a_change_of_rate_is_seen_within_seconds(seed: int, before: float, after: float) -> None:
    counts, rng = RecentCounts(0.0), random.Random(seed)
    arrivals(counts, rng, before, 0.0, 60.0)
    arrivals(counts, rng, after, 60.0, 64.0)
    count, span_s = counts.window(64.0)
    assert abs(count / span_s - after) < abs(count / span_s - before)


def test_nothing_seen_is_a_rate_of_zero_over_the_time_watched() -> None:
    counts = RecentCounts(1000.0)
    assert counts.window(1000.0)[0] == 0
    assert counts.window(1010.0) == (0, pytest.approx(10.0))
    assert counts.window(5000.0) == (0, pytest.approx(64.0, abs=0.5))


def test_what_is_older_than_the_memory_or_the_beginning_does_not_count() -> None:
    counts = RecentCounts(1000.0)
    counts.add(10.0, 500)
    counts.add(1001.0)
    assert counts.window(1002.0)[0] == 1
    counts.add(2000.0)
    counts.add(1001.0)
    assert counts.window(2000.0)[0] == 1


def test_one_distribution_is_sketched_over_the_whole_memory() -> None:
    recent, rng = RecentSketch(), random.Random(1)
    for n in range(600):
        recent.add(rng.lognormvariate(-4.0, 0.5), n / 10)
    sketch, span_s = recent.window(60.0)
    assert (sketch.count, span_s) == (600, pytest.approx(60.0, abs=1.0))


@pytest.mark.parametrize(("before", "after"), [(0.01, 0.05), (0.05, 0.01)])
def test_after_a_change_of_times_only_the_new_ones_count(before: float, after: float) -> None:
    recent, rng = RecentSketch(), random.Random(2)
    for n in range(660):
        recent.add((before if n < 600 else after) * rng.lognormvariate(0.0, 0.2), n / 10)
    sketch, _ = recent.window(66.0)
    assert sketch.count < 120
    assert sketch.quantile(0.5) == pytest.approx(after, rel=0.3)


def test_few_samples_are_no_change() -> None:
    recent = RecentSketch(samples_min=20)
    for n in range(10):
        recent.add(0.01, float(n))
    recent.add(0.5, 10.0)
    assert recent.window(10.0)[0].count == 11


def test_an_empty_memory_gives_an_empty_sketch() -> None:
    recent = RecentSketch(buckets_n=4)
    assert recent.window(5.0)[0].count == 0
    recent.add(0.01, 5.0)
    assert recent.window(100.0)[0].count == 0


def test_a_memory_of_nothing_is_refused() -> None:
    for bucket_s, buckets_n in ((0.0, 3), (1.0, 0), (float("nan"), 3)):
        with pytest.raises(InputError):
            RecentSketch(bucket_s=bucket_s, buckets_n=buckets_n)
