"""Quantile sketches of durations: small, mergeable, and off by at most 1 % of the value.

DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
VLDB 2019). Merging sketches gives exactly the sketch of all samples, so sites can add up what they saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore

from isochrone.errors import InputError

__all__ = ["RELATIVE_ERROR", "Sketch"]

RELATIVE_ERROR = 0.01
# Durations outside are no service or network time: they would only make the store long.
_MIN_S, _MAX_S = 1e-7, 1e5
_MAPPING = LogarithmicMapping(RELATIVE_ERROR)


class Sketch:
    """The distribution of durations in seconds, with quantiles off by at most `RELATIVE_ERROR` of their value."""

    __slots__ = ("_quantiles", "_sketch", "_store")

    def __init__(self, samples_s: Iterable[float] = ()) -> None:
        self._reset({})
        for sample in samples_s:
            self.add(sample)

    def _reset(self, bins: Mapping[int, float]) -> None:
        # Plans ask the same sketches for the same quantiles again and again.
        self._quantiles: dict[float, float | None] = {}
        self._store = DenseStore()
        for key, count in bins.items():
            self._store.add(key, count)
        self._sketch = BaseDDSketch(_MAPPING, self._store, DenseStore(), 0.0)

    def add(self, sample_s: float) -> None:
        """Add one duration.

        Raises:
            InputError: the sample is NaN, infinite or negative.
        """
        if not (math.isfinite(sample_s) and sample_s >= 0):
            raise InputError(f"{sample_s!r} s is not a duration", code="latency.sample")
        self._sketch.add(min(max(sample_s, _MIN_S), _MAX_S))
        self._quantiles.clear()

    @property
    def count(self) -> float:
        """How many samples it holds."""
        return float(self._sketch.count)

    def quantile(self, q: float) -> float | None:
        """The duration in seconds that a share `q` of the samples does not exceed; None when empty.

        Raises:
            InputError: `q` is outside 0 to 1.
        """
        if not 0 <= q <= 1:
            raise InputError(f"{q!r} is not a quantile", code="latency.quantile")
        if q not in self._quantiles:
            value = self._sketch.get_quantile_value(q)
            self._quantiles[q] = None if value is None else float(value)
        return self._quantiles[q]

    @property
    def mean(self) -> float | None:
        """Their mean in seconds, off by at most `RELATIVE_ERROR`; None when empty."""
        if not self.count:
            return None
        bins = enumerate(self._store.bins, start=self._store.offset)
        return float(sum(count * _MAPPING.value(key) for key, count in bins if count) / self.count)

    def merge(self, other: Sketch) -> None:
        """Add all samples of `other`."""
        self._sketch.merge(other._sketch)
        self._quantiles.clear()

    def copy(self) -> Sketch:
        """An independent sketch of the same samples."""
        twin = Sketch()
        twin.merge(self)
        return twin

    def to_json(self) -> dict[str, Any]:
        """`{"bins": {key: count}}`; the keys index geometric bins of ratio (1 + e) / (1 - e), e = `RELATIVE_ERROR`."""
        offset = self._store.offset
        return {"bins": {str(offset + index): count for index, count in enumerate(self._store.bins) if count}}

    @classmethod
    def from_json(cls, data: object) -> Sketch:
        """The sketch that `to_json` wrote.

        Raises:
            InputError: not such a document, or bins outside the range of durations.
        """
        bins = data.get("bins") if isinstance(data, Mapping) else None
        if not isinstance(bins, Mapping):
            raise InputError("not a sketch: `bins` is missing", code="latency.sketch")
        limit = 2 + max(abs(math.log(bound)) for bound in (_MIN_S, _MAX_S)) / math.log1p(2 * RELATIVE_ERROR)
        read: dict[int, float] = {}
        for key, count in bins.items():
            number = int(key) if isinstance(key, str) and key.removeprefix("-").isdecimal() else None
            if number is None or abs(number) > limit:
                raise InputError(f"not a sketch: {key!r} is not a bin", code="latency.sketch")
            if isinstance(count, bool) or not isinstance(count, int | float) or not 0 < count < math.inf:
                raise InputError(f"not a sketch: bin {key} counts {count!r}", code="latency.sketch")
            read[number] = float(count)
        sketch = cls()
        sketch._reset(read)
        return sketch
