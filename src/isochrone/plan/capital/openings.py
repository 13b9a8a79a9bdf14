"""Which pools to open: a bound on what any choice can cost, and good choices, without branching.

The relaxation is tightened by rows that whole openings imply (`links`), until its bound hardly moves; rounding its
openings at several levels gives choices, each costed as it is. Often that closes the gap asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from isochrone.plan.capital.sifting import Sifted

__all__ = ["Search"]

ROUNDS_MAX = 40
LITTLE = 0.05
LEVELS = (0.5, 0.2, 0.8, 0.05)


@dataclass(slots=True)
class Search:
    """What is known so far: the best openings, their cost (`value`) and the `bound` below any; internal money.

    relaxed: the program with openings between 0 and 1 and the links as its lazy rows; priced: the program where
    openings are fixed (None: they do not settle the rest, so none are costed); opened: their columns; low, high: what
    they must lie between; limit_s, spent_s: of the solver's time, allowed to this search and used in all.
    """

    relaxed: Sifted
    priced: Sifted | None
    opened: NDArray[np.intp]
    gap_rel_max: float
    limit_s: float
    spent_s: Callable[[], float]
    report: Callable[[float, float], None]
    value: float = np.inf
    bound: float = -np.inf
    best: NDArray[np.float64] | None = None
    answer: NDArray[np.float64] | None = None
    tried: set[bytes] = field(default_factory=set)
    low: NDArray[np.float64] | float = 0.0
    high: NDArray[np.float64] | float = 1.0
    began_s: float = 0.0

    def left_s(self) -> float:
        """How much of its time is left."""
        return max(self.limit_s - self.spent_s() + self.began_s, 0.0)

    def begin_again(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """Forget what is known, for openings that must lie between these; links already taken in stay, they hold."""
        self.low, self.high, self.began_s = low, high, self.spent_s()
        self.value, self.bound, self.best, self.answer = np.inf, -np.inf, None, None
        self.tried.clear()
        self.relaxed.bound_columns(self.opened, low, high)

    @property
    def closed(self) -> bool:
        """Whether the gap asked for is proven."""
        return self.best is not None and self.value - self.bound <= self.gap_rel_max * abs(self.value)

    def tighten(self) -> None:
        """Raise the bound until the gap is closed or a round gains little beside it."""
        for _ in range(ROUNDS_MAX):
            try:
                self.relaxed.solve(self.left_s())
            except PlanError:
                if self.best is None:
                    raise
                break
            gained = self.relaxed.objective - self.bound
            self.bound = max(self.bound, self.relaxed.objective)
            self.report(self.value, self.bound)
            wanted = self.gap_rel_max * abs(self.bound)
            if gained <= wanted:
                self.round()
            if self.closed or gained <= LITTLE * wanted or not self.relaxed.tighten():
                break

    def round(self) -> None:
        """Cost the openings that the relaxation suggests, until the gap is closed."""
        share = self.relaxed.value[self.opened]
        for level in LEVELS:
            if self.closed:
                break
            self.cost(np.where(share >= level, 1.0, 0.0))

    def cost(self, openings: NDArray[np.float64]) -> None:
        """Cost these openings, as near as they may be had, and keep them if none were cheaper."""
        openings = np.clip(openings, self.low, self.high)
        if self.priced is None or openings.tobytes() in self.tried:
            return
        self.tried.add(openings.tobytes())
        self.priced.bound_columns(self.opened, openings, openings)
        try:
            self.priced.solve(self.left_s())
        except PlanError:  # these openings cannot meet the limits
            return
        if self.priced.objective < self.value:
            self.value, self.best, self.answer = self.priced.objective, openings, self.priced.value
            self.report(self.value, self.bound)
