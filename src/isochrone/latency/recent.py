"""What was seen lately, for as long as it holds: windows that reach back to the last change, and no further.

A fixed window is either slow to see a change or noisy where nothing changes. Here a window grows from the newest
samples backwards, doubling, as long as what is older agrees with it within the error of both (Lepski's rule of the
largest window without contradiction: "A problem of adaptive estimation in Gaussian white noise", 1990).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import repeat
from typing import Any

from isochrone.errors import InputError
from isochrone.latency.sketch import RELATIVE_ERROR, Sketch

__all__ = ["RecentCounts", "RecentSketch"]

# Two windows disagree when they are so many standard errors apart.
_DEVIATIONS = 3.0
# A change of either of these is a change: the middle, and what a tail begins with.
_QUANTILES = (0.5, 0.9)


class _Buckets:
    """Time in buckets of `bucket_s`, the newest `buckets_n` of which are remembered."""

    def __init__(self, bucket_s: float, buckets_n: int) -> None:
        if not (bucket_s > 0 and buckets_n >= 1):
            raise InputError(f"{buckets_n!r} buckets of {bucket_s!r} s remember nothing", code="latency.window")
        self.bucket_s, self.buckets_n = bucket_s, buckets_n
        self.newest: int | None = None
        self.first: int | None = None

    def at(self, time_s: float) -> int:
        """The bucket of a time."""
        bucket = math.floor(time_s / self.bucket_s)
        self.newest = bucket if self.newest is None else max(self.newest, bucket)
        self.first = bucket if self.first is None else self.first
        return bucket

    @property
    def oldest(self) -> int:
        """The oldest bucket remembered."""
        assert self.newest is not None
        assert self.first is not None
        return max(self.first, self.newest - self.buckets_n + 1)


class RecentCounts:
    """Events per second, over the longest time for which one rate explains them.

    Args:
        now_s: when counting begins.
        bucket_s: resolution; buckets_n: how many buckets are remembered; shortest: buckets of the shortest window.
    """

    def __init__(self, now_s: float, bucket_s: float = 0.5, buckets_n: int = 128, shortest: int = 4) -> None:
        self._buckets = _Buckets(bucket_s, buckets_n)
        self._shortest = shortest
        self._began_s = now_s
        self._counts: dict[int, int] = {}
        self._buckets.at(now_s)

    def add(self, at_s: float, count: int = 1) -> None:
        """Count events that happened at `at_s`; what is older than the memory is forgotten at once."""
        bucket = self._buckets.at(at_s)
        if bucket >= self._buckets.oldest:
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def window(self, now_s: float) -> tuple[int, float]:
        """(events, seconds) of the window that holds now. Seconds are above 0 once any time has passed."""
        self._buckets.at(now_s)
        newest, oldest = self._buckets.newest, self._buckets.oldest
        assert newest is not None
        _forget(self._counts, oldest)
        length, seen = self._shortest, self._between(newest - self._shortest + 1, newest, now_s)
        while newest - length >= oldest:
            start = newest - 2 * length + 1
            older = self._between(start, newest - length, now_s)
            if not _same_rate(seen, older):
                break
            seen, length = (seen[0] + older[0], seen[1] + older[1]), 2 * length
        return seen

    def _between(self, first: int, last: int, now_s: float) -> tuple[int, float]:
        first = max(first, self._buckets.oldest)
        begin_s = max(first * self._buckets.bucket_s, self._began_s)
        end_s = min((last + 1) * self._buckets.bucket_s, max(now_s, begin_s))
        count = sum(map(self._counts.get, range(first, last + 1), repeat(0)))
        return count, max(0.0, end_s - begin_s)


def _same_rate(a: tuple[int, float], b: tuple[int, float]) -> bool:
    """Whether one Poisson rate explains both. One event more or less is never a contradiction."""
    (count_a, span_a), (count_b, span_b) = a, b
    if span_a <= 0 or span_b <= 0:
        return True
    apart = abs(count_a / span_a - count_b / span_b)
    error = math.sqrt((count_a + 1) / span_a**2 + (count_b + 1) / span_b**2)
    return apart <= _DEVIATIONS * error


class RecentSketch:
    """Durations, over the longest time for which one distribution explains them.

    Args:
        bucket_s: resolution; buckets_n: how many buckets are remembered.
        samples_min: samples of the shortest window.
    """

    def __init__(self, bucket_s: float = 1.0, buckets_n: int = 64, samples_min: int = 20) -> None:
        self._buckets = _Buckets(bucket_s, buckets_n)
        self._samples_min = samples_min
        self._sketches: dict[int, Sketch] = {}

    def add(self, sample_s: float, at_s: float) -> None:
        """Add one duration that ended at `at_s`; what is older than the memory is forgotten at once."""
        self.extend((sample_s,), at_s)

    def extend(self, samples_s: Iterable[float], at_s: float) -> None:
        """Add durations that ended at `at_s`."""
        bucket = self._buckets.at(at_s)
        if bucket >= self._buckets.oldest:
            if bucket not in self._sketches:
                self._sketches[bucket] = Sketch()
            self._sketches[bucket].extend(samples_s)

    def window(self, now_s: float) -> tuple[Sketch, float]:
        """(sketch, seconds) of the window that holds now; an empty sketch when nothing is remembered."""
        self._buckets.at(now_s)
        newest, oldest = self._buckets.newest, self._buckets.oldest
        assert newest is not None
        _forget(self._sketches, oldest)
        length, seen = 1, self._between(newest, newest).copy()
        while newest - length >= oldest:
            older = self._between(max(newest - 2 * length + 1, oldest), newest - length)
            if seen.count >= self._samples_min and older.count and not _same_times(seen, older):
                break
            seen.merge(older)
            length *= 2
        start_s = max(newest - length + 1, oldest) * self._buckets.bucket_s
        return seen, max(self._buckets.bucket_s, now_s - start_s)

    def _between(self, first: int, last: int) -> Sketch:
        """What is in these buckets; not to be changed."""
        found = [sketch for sketch in map(self._sketches.get, range(first, last + 1)) if sketch]
        if len(found) == 1:
            return found[0]
        merged = Sketch()
        for sketch in found:
            merged.merge(sketch)
        return merged


def _forget(buckets: dict[int, Any], oldest: int) -> None:
    """Drop what is older."""
    for bucket in [bucket for bucket in buckets if bucket < oldest]:
        del buckets[bucket]


def _same_times(a: Sketch, b: Sketch) -> bool:
    """Whether one distribution explains both, of which neither is empty: at each quantile the intervals of the order
    statistics overlap."""
    for quantile in _QUANTILES:
        (low_a, high_a), (low_b, high_b) = _interval(a, quantile), _interval(b, quantile)
        if low_a > high_b * (1 + 2 * RELATIVE_ERROR) or low_b > high_a * (1 + 2 * RELATIVE_ERROR):
            return False
    return True


def _interval(sketch: Sketch, quantile: float) -> tuple[float, float]:
    reach = _DEVIATIONS * math.sqrt(quantile * (1 - quantile) / sketch.count)
    low, high = sketch.quantile(max(0.0, quantile - reach)), sketch.quantile(min(1.0, quantile + reach))
    assert low is not None
    assert high is not None
    return low, high
