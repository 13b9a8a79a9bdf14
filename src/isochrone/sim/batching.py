"""How a model server slows down as it works on more at once, fitted to measured rows.

A server with continuous batching answers a prompt of n tokens after about ttft_s + n x prefill_s, then gives one token
each step. A step reads the weights once, and does and reads something for each of the b sequences that share it and
for each token of their contexts: step(b, n) = step_s + b x (active_s + n x context_s). Over 126 measured configurations
(model, system, engine, precision, parallelism) the median of the median relative errors of such a step is 6.7 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from isochrone.errors import InputError
from isochrone.latency.portable import Portable

__all__ = ["Batching", "fit_batching"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Batching(Portable):
    """One replica of a language model, for prompts of a typical length.

    Attributes:
        ttft_s, prefill_s: constant and per prompt token part of the time to the first token.
        step_s, step_per_active_s: time of a decoding step alone, and what each sequence in the batch adds.
        slots: sequences in one batch.
        error: median relative error of a step, on the third of the rows the fit did not see.
        rows: how many rows there were.
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
        return self.step_per_active_s / (self.step_s + self.step_per_active_s)

    def first_s(self, prompt_tokens: Floats) -> Floats:
        """Time to the first token, alone on the server."""
        return np.asarray(self.ttft_s + self.prefill_s * prompt_tokens)

    def whole_s(self, prompt_tokens: Floats, answer_tokens: Floats) -> Floats:
        """Time to the whole answer, alone on the server."""
        return np.asarray(self.first_s(prompt_tokens) + (self.step_s + self.step_per_active_s) * answer_tokens)


def fit_batching(rows: Iterable[Mapping[str, str]], where: Mapping[str, str], context: float, slots: int) -> Batching:
    """Least squares of the relative error over the measured rows of one configuration.

    Args:
        rows: with the columns isl (prompt tokens), batch_size, silicon_ttft_ms, silicon_tpot_ms, and those of `where`.
        where: what makes the configuration: column to value.
        context: tokens of a typical prompt.

    Raises:
        InputError: fewer than 12 usable rows, or rows that do not vary.
    """
    columns = ("isl", "batch_size", "silicon_ttft_ms", "silicon_tpot_ms")
    mine = [row for row in rows if all(row[name] == value for name, value in where.items())]
    table = np.array([[float(row[name]) for name in columns] for row in mine if all(row[name] for name in columns)])
    if len(table) < 12:
        raise InputError(f"{len(table)} rows of {dict(where)} are too few to fit", code="sim.batching")
    prompt, batch, first, step = table.T
    terms = np.column_stack([np.ones_like(batch), batch, batch * prompt])
    seen = np.arange(len(table)) % 3 > 0
    trial = _least_relative(terms[seen], step[seen])
    error = np.median(np.abs(terms[~seen] @ trial - step[~seen]) / step[~seen])
    alone, active, per_token = _least_relative(terms, step)
    ttft, prefill = _least_relative(np.column_stack([np.ones_like(prompt), prompt]), first)
    return Batching(
        ttft_s=ttft / 1e3,
        prefill_s=prefill / 1e3,
        step_s=alone / 1e3,
        step_per_active_s=(active + per_token * context) / 1e3,
        slots=slots,
        error=float(error),
        rows=len(table),
    )


def _least_relative(terms: Floats, values: Floats) -> list[float]:
    """Coefficients of at least 0 that minimise the squared relative error."""
    if np.linalg.matrix_rank(terms) < terms.shape[1]:
        raise InputError("rows that do not vary cannot be fitted", code="sim.batching")
    found, _ = nnls(terms / values[:, None], np.ones_like(values))
    return [float(value) for value in found]
