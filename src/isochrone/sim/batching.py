"""How a model server slows down as it works on more at once, fitted to measured rows.

A server with continuous batching answers a prompt of n tokens after about ttft_s + n x prefill_s, then gives one token
each step, and a step takes longer the more sequences share it: step(b) = step_s + b x step_per_active_s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from isochrone.errors import InputError
from isochrone.latency.portable import Portable

__all__ = ["Batching", "fit_batching"]


@dataclass(frozen=True, slots=True)
class Batching(Portable):
    """One replica of a language model.

    Attributes:
        ttft_s, prefill_s: constant and per prompt token part of the time to the first token.
        step_s, step_per_active_s: time of a decoding step alone, and what each further sequence adds.
        slots: sequences in one batch.
        error: median relative error of the fit on the rows it was made from.
        rows: how many those were.
    """

    ttft_s: float
    prefill_s: float
    step_s: float
    step_per_active_s: float
    slots: int
    error: float = 0.0
    rows: int = 0

    @property
    def slowdown(self) -> float:
        """What each further active sequence adds to a step, as a share of the step alone."""
        return self.step_per_active_s / self.step_s

    def first_s(self, prompt_tokens: np.ndarray) -> np.ndarray:
        """Time to the first token, alone on the server."""
        return np.asarray(self.ttft_s + self.prefill_s * prompt_tokens)

    def whole_s(self, prompt_tokens: np.ndarray, answer_tokens: np.ndarray) -> np.ndarray:
        """Time to the whole answer, alone on the server."""
        return np.asarray(self.first_s(prompt_tokens) + (self.step_s + self.step_per_active_s) * answer_tokens)


def fit_batching(rows: Iterable[Mapping[str, str]], model: str, system: str, slots: int) -> Batching:
    """Least squares over the measured rows of one model on one system.

    Args:
        rows: with the columns model_path, system, isl (prompt tokens), batch_size, silicon_ttft_ms, silicon_tpot_ms.

    Raises:
        InputError: fewer than 8 usable rows, or rows that do not vary.
    """
    mine = [row for row in rows if row["model_path"] == model and row["system"] == system and row["batch_size"]]
    table = np.array(
        [
            [float(row[name]) for name in ("isl", "batch_size", "silicon_ttft_ms", "silicon_tpot_ms")]
            for row in mine
            if row["silicon_tpot_ms"] and row["silicon_ttft_ms"]
        ]
    )
    if len(table) < 8:
        raise InputError(f"{len(table)} rows of {model} on {system} are too few to fit", code="sim.batching")
    prompt, batch, first, step = table.T
    ttft, prefill = _line(prompt, first)
    alone, more = _line(batch, step)
    predicted = alone + more * batch
    return Batching(
        ttft_s=ttft / 1e3,
        prefill_s=prefill / 1e3,
        step_s=alone / 1e3,
        step_per_active_s=more / 1e3,
        slots=slots,
        error=float(np.median(np.abs(predicted - step) / step)),
        rows=len(table),
    )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the robust line through (x, y): medians by value of x, so that outliers weigh little."""
    values = np.unique(x)
    if len(values) < 2:
        raise InputError("rows that do not vary cannot be fitted", code="sim.batching")
    medians = np.array([np.median(y[x == value]) for value in values])
    slope, intercept = np.polyfit(values, medians, 1)
    return max(float(intercept), 1e-3), max(float(slope), 0.0)
