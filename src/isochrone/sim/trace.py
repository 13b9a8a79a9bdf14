"""Arrivals: published traces of real requests, spread over places by population and local time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from isochrone.errors import InputError

__all__ = ["Trace", "day_weight", "parse_azure", "parse_mooncake", "spread"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival.

    Attributes:
        at_s: (N,) seconds from the start.
        prompt_tokens, answer_tokens: (N,).
    """

    at_s: Floats
    prompt_tokens: Floats
    answer_tokens: Floats

    def __post_init__(self) -> None:
        if not len(self.at_s) == len(self.prompt_tokens) == len(self.answer_tokens):
            raise InputError("arrays of a trace differ in length", code="sim.trace")
        if len(self.at_s) and (not np.isfinite(self.at_s).all() or (np.diff(self.at_s) < 0).any()):
            raise InputError("a trace must be in order of arrival", code="sim.trace")


def parse_azure(text: str) -> Trace:
    """A trace of the Azure LLM inference dataset: CSV of TIMESTAMP, ContextTokens, GeneratedTokens."""
    rows = list(csv.DictReader(io.StringIO(text)))
    try:
        at = np.array([datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows])
        tokens = np.array([[float(row["ContextTokens"]), float(row["GeneratedTokens"])] for row in rows])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"not an Azure trace: {error}", code="sim.trace") from error
    return _ordered(at, tokens)


def parse_mooncake(text: str) -> Trace:
    """A Mooncake trace: one JSON object a line with timestamp (ms), input_length, output_length."""
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        at = np.array([float(row["timestamp"]) / 1e3 for row in rows])
        tokens = np.array([[float(row["input_length"]), float(row["output_length"])] for row in rows])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"not a Mooncake trace: {error}", code="sim.trace") from error
    return _ordered(at, tokens)


def _ordered(at: Floats, tokens: Floats) -> Trace:
    if not len(at):
        raise InputError("the trace is empty", code="sim.trace")
    order = np.argsort(at, kind="stable")
    return Trace(at[order] - at.min(), tokens[order, 0], tokens[order, 1])


def day_weight(hour_utc: float, lon: float) -> float:
    """How busy a place is: a day curve over its solar hour, least at 4 and most at 16, between 0.3 and 1."""
    hour = (hour_utc + lon / 15.0) % 24.0
    return float(0.65 - 0.35 * np.cos((hour - 4.0) / 24.0 * 2 * np.pi))


def spread(
    trace: Trace, weights: Sequence[float], times: int, rng: np.random.Generator
) -> tuple[Trace, NDArray[np.int64]]:
    """`times` copies of the trace, each shifted by its own offset (wrapping round), and the place of every request.

    Args:
        weights: how many requests each place makes, relative to the others.
    """
    share = np.asarray(weights, dtype=float)
    if times < 1 or not len(share) or not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise InputError("nothing to spread the trace over", code="sim.trace")
    length = float(trace.at_s[-1]) + 1e-3
    at = np.concatenate([(trace.at_s + offset) % length for offset in rng.uniform(0, length, times)])
    order = np.argsort(at, kind="stable")
    copies = Trace(at[order], np.tile(trace.prompt_tokens, times)[order], np.tile(trace.answer_tokens, times)[order])
    return copies, rng.choice(len(share), size=len(at), p=share / share.sum())
