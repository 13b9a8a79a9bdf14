"""Quantile sketches: accuracy, merging, forgetting, and what they refuse."""

from __future__ import annotations

import math
import random

import pytest

from isochrone.errors import InputError
from isochrone.latency.sketch import RELATIVE_ERROR, Sketch


@pytest.mark.parametrize("q", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_within_the_stated_error(q: float) -> None:
    rng = random.Random(4)
    samples = sorted(rng.lognormvariate(-5, 1) for _ in range(5000))
    sketch = Sketch(samples)
    exact = samples[round(q * (len(samples) - 1))]
    assert sketch.quantile(q) == pytest.approx(exact, rel=1.5 * RELATIVE_ERROR)


def test_merging_is_the_sketch_of_all_samples() -> None:
    rng = random.Random(5)
    left, right = ([rng.expovariate(100) for _ in range(300)] for _ in range(2))
    merged = Sketch(left)
    merged.merge(Sketch(right))
    assert merged.to_json() == Sketch(left + right).to_json()


def test_json_gives_the_same_quantiles_back() -> None:
    sketch = Sketch([0.001, 0.002, 0.5, 3.0])
    again = Sketch.from_json(sketch.to_json())
    assert again.count == 4
    assert [again.quantile(q / 10) for q in range(11)] == [sketch.quantile(q / 10) for q in range(11)]
    again.add(9.0)
    assert sketch.count == 4


def test_an_empty_sketch_knows_nothing() -> None:
    assert Sketch().quantile(0.5) is None
    assert Sketch.from_json(Sketch().to_json()).count == 0


@pytest.mark.parametrize("sample", [math.nan, math.inf, -math.inf, -1e-9])
def test_what_is_no_duration_is_refused(sample: float) -> None:
    with pytest.raises(InputError, match="not a duration"):
        Sketch([sample])


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_what_is_no_quantile_is_refused(q: float) -> None:
    with pytest.raises(InputError, match="not a quantile"):
        Sketch([1.0]).quantile(q)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"bins": []},
        {"bins": {"x": 1}},
        {"bins": {"1": -1}},
        {"bins": {"1": 0}},
        {"bins": {"1": math.nan}},
        {"bins": {"1": True}},
        {"bins": {"99999999999": 1}},  # would otherwise allocate a store of that length
    ],
)
def test_what_is_no_sketch_is_refused(data: object) -> None:
    with pytest.raises(InputError, match="not a sketch"):
        Sketch.from_json(data)


def test_tiny_and_huge_durations_cannot_blow_up_the_store() -> None:
    sketch = Sketch([0.0, 1e-300, 1e300])
    assert sketch.count == 3
    assert Sketch.from_json(sketch.to_json()).count == 3


def test_the_mean_is_off_by_at_most_the_sketch_s_error() -> None:
    samples = [0.001 * 1.1**n for n in range(100)]
    mean = Sketch(samples).mean
    assert mean == pytest.approx(sum(samples) / 100, rel=RELATIVE_ERROR)
    assert Sketch.from_json(Sketch(samples).to_json()).mean == mean
    assert Sketch().mean is None


def test_many_are_added_as_one_by_one_and_what_is_wrong_among_them_is_refused() -> None:
    rng = random.Random(6)
    samples = [rng.lognormvariate(-4, 2) for _ in range(500)]
    one_by_one, at_once = Sketch(), Sketch(samples[:100])
    for sample in samples:
        one_by_one.add(sample)
    assert at_once.quantile(0.5) != one_by_one.quantile(0.5)
    at_once.extend(samples[100:])
    assert at_once.to_json() == one_by_one.to_json()
    assert at_once.quantile(0.5) == one_by_one.quantile(0.5), "what was asked before is not remembered"
    with pytest.raises(InputError, match="not a duration"):
        at_once.extend([0.1, math.nan])


def test_a_merged_sketch_shares_nothing_with_its_sources() -> None:
    source, merged = Sketch([0.1]), Sketch()
    merged.merge(source)
    merged.add(0.2)
    assert (source.count, merged.count) == (1, 2)
    assert source.quantile(1.0) == pytest.approx(0.1, rel=RELATIVE_ERROR)
