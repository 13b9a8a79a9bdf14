"""Quantile sketches of durations: small, mergeable, and off by at most 1 % of the value.

DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
VLDB 2019). Merging sketches gives exactly the sketch of all samples, so sites can add up what they saw. The mapping of
values to bins is that library's; its stores are arrays that are walked whole at each question, and hubs ask all the
time: here bins are a dictionary, and their running sums are kept until the next sample.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import accumulate
from typing import Any

from ddsketch.mapping import LogarithmicMapping

from isochrone.errors import InputError

__all__ = ["RELATIVE_ERROR", "Sketch"]

RELATIVE_ERROR = 0.01
# Durations outside are no service or network time: they would only make the store long.
_MIN_S, _MAX_S = 1e-7, 1e5
_MAPPING = LogarithmicMapping(RELATIVE_ERROR)
# Every bin, by its name in the plain form.
_KEYS = {str(key): key for key in range(_MAPPING.key(_MIN_S), _MAPPING.key(_MAX_S) + 1)}


@cache
def _value_s(key: int) -> float:
    return float(_MAPPING.value(key))


class Sketch:
    """The distribution of durations in seconds, with quantiles off by at most `RELATIVE_ERROR` of their value."""

    __slots__ = ("_bins", "_count", "_ranks")

    def __init__(self, samples_s: Iterable[float] = ()) -> None:
        self._bins: dict[int, float] = {}
        self._count = 0.0
        # The keys in order and the number of samples up to each, while no sample has come since they were asked for.
        self._ranks: tuple[list[int], list[float]] | None = None
        self.extend(samples_s)

    def add(self, sample_s: float) -> None:
        """Add one duration.

        Raises:
            InputError: the sample is NaN, infinite or negative.
        """
        self.extend((sample_s,))

    def extend(self, samples_s: Iterable[float]) -> None:
        """Add durations.

        Raises:
            InputError: one is NaN, infinite or negative; those before it are added.
        """
        bins, key_of = self._bins, _MAPPING.key
        self._ranks = None
        for sample in samples_s:
            if not 0 <= sample < math.inf:
                raise InputError(f"{sample!r} s is not a duration", code="latency.sample")
            key = key_of(sample if _MIN_S <= sample <= _MAX_S else min(max(sample, _MIN_S), _MAX_S))
            bins[key] = bins.get(key, 0.0) + 1.0
            self._count += 1.0

    @property
    def count(self) -> float:
        """How many samples it holds."""
        return self._count

    def quantile(self, q: float) -> float | None:
        """The duration in seconds that a share `q` of the samples does not exceed; None when empty.

        Raises:
            InputError: `q` is outside 0 to 1.
        """
        if not 0 <= q <= 1:
            raise InputError(f"{q!r} is not a quantile", code="latency.quantile")
        if not self._count:
            return None
        keys, upto = self._ranked()
        return _value_s(keys[min(bisect_right(upto, q * (self._count - 1)), len(keys) - 1)])

    def _ranked(self) -> tuple[list[int], list[float]]:
        if self._ranks is None:
            keys = sorted(self._bins)
            self._ranks = keys, list(accumulate(map(self._bins.__getitem__, keys)))
        return self._ranks

    @property
    def mean(self) -> float | None:
        """Their mean in seconds, off by at most `RELATIVE_ERROR`; None when empty."""
        if not self._count:
            return None
        return sum(self._bins[key] * _value_s(key) for key in self._ranked()[0]) / self._count

    def merge(self, other: Sketch) -> None:
        """Add all samples of `other`."""
        few, many = self._bins, other._bins
        # To copy the larger one whole is quick.
        few, many = (few, many.copy()) if len(few) < len(many) else (many, few)
        for key, count in few.items():
            many[key] = many.get(key, 0.0) + count
        self._bins = many
        self._count += other._count
        self._ranks = None

    def copy(self) -> Sketch:
        """An independent sketch of the same samples."""
        twin = Sketch()
        twin.merge(self)
        return twin

    def to_json(self) -> dict[str, Any]:
        """`{"bins": {key: count}}`; the keys index geometric bins of ratio (1 + e) / (1 - e), e = `RELATIVE_ERROR`."""
        return {"bins": {str(key): self._bins[key] for key in self._ranked()[0]}}

    @classmethod
    def from_json(cls, data: object) -> Sketch:
        """The sketch that `to_json` wrote.

        Raises:
            InputError: not such a document, or bins outside the range of durations.
        """
        bins = data.get("bins") if isinstance(data, Mapping) else None
        if not isinstance(bins, Mapping):
            raise InputError("not a sketch: `bins` is missing", code="latency.sketch")
        sketch = cls()
        for key, count in bins.items():
            number = _KEYS.get(key)
            if number is None:
                raise InputError(f"not a sketch: {key!r} is not a bin", code="latency.sketch")
            if type(count) not in (int, float) or not 0 < count < math.inf:
                raise InputError(f"not a sketch: bin {key} counts {count!r}", code="latency.sketch")
            sketch._bins[number] = float(count)
        sketch._count = sum(sketch._bins.values())
        return sketch
