"""Runs HiGHS on a posed model and reads the answer back by name. Prices only ever come from a proven optimum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from isochrone.plan.capital.linear import (
    Rows,
    ended,
    feasible,
    highs,
    linear_program,
    optimal,
    pass_model,
    read_integers,
    start_from,
    watch,
)
from isochrone.plan.capital.links import likely_columns, link_rows
from isochrone.plan.capital.model import flexible_rows, internal_demand
from isochrone.plan.capital.openings import Search
from isochrone.plan.capital.sifting import Sifted

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from isochrone.plan.capital.model import Program

__all__ = ["Engine", "Progress", "Rows", "Solution"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the solver stands: the best plan so far, what is proven, and the relative gap between them."""

    value: float
    bound: float
    gap: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer by name. `duals` is None unless the openings are proven within the gap asked for.

    objective, bound: internal money. seconds: the solver's, all programs together.
    """

    objective: float
    bound: float
    proven: bool
    values: dict[str, NDArray[np.float64]]
    duals: dict[str, NDArray[np.float64]] | None
    rows: Rows | None
    seconds: float

    @property
    def gap(self) -> float:
        """Relative distance between the answer and what is proven."""
        return max(0.0, self.objective - self.bound) / max(abs(self.objective), 1e-9)


class Engine:
    """One model, kept so that a change of demand restarts from the last basis."""

    def __init__(self, program: Program, *, threads: int = 1) -> None:
        self.program = program
        model = program.model
        matrices = model.matrices
        self._row_at, self._column_at = _positions(matrices.clabels), _positions(matrices.vlabels)
        self._rows = {name: c.labels.values for name, c in model.constraints.items()}
        self._columns = {name: v.labels.values for name, v in model.variables.items()}
        self._lp, self._threads = linear_program(matrices), threads
        self._integers = np.flatnonzero([kind != "C" for kind in matrices.vtypes])
        self._demand = internal_demand(program)
        group, first = likely_columns(program, self._places(), len(self._lp.cost))
        self._priced = Sifted(self._lp, group, first, threads=threads)

    def solve(
        self,
        *,
        gap_rel_max: float = 1e-3,
        time_limit_s: float = 300.0,
        progress: Callable[[Progress], None] | None = None,
        openings: NDArray[np.float64] | None = None,
    ) -> Solution:
        """Solve; where openings are whole, find and prove them, fix them, and solve the linear program for prices.

        openings: (pools,), 0 or 1, known to be good: tried first.

        Raises:
            PlanError: the solver ended with anything but an optimum or (integers, time limit) a feasible plan.
        """
        began = self._priced.seconds
        if not len(self._integers):
            self._priced.solve(time_limit_s)
            return self._read(self._priced.objective, self._priced.seconds - began, proven=True)
        search = self.search(gap_rel_max, time_limit_s, progress)
        if openings is not None:
            search.cost(openings)
        search.tighten()
        if search.best is not None and search.closed:
            fixed, proven, branching_s = search.best, True, 0.0
        else:
            fixed, proven, branching_s = self._branch(search)
        self._priced.bound_columns(self._integers, fixed, fixed)
        self._priced.solve(time_limit_s)
        seconds = self._priced.seconds - began + search.relaxed.seconds + branching_s
        return self._read(search.bound, seconds, proven=proven)

    def search(
        self, gap_rel_max: float, time_limit_s: float, progress: Callable[[Progress], None] | None = None
    ) -> Search:
        """A search for the openings, not begun."""
        places, n = self._places(), len(self._lp.cost)
        links = link_rows(self.program, places, self._demand, n)
        program = replace(self._priced.program, lower=self._lp.lower, upper=self._lp.upper)
        relaxed = Sifted(program, np.full(n, -1), np.ones(n, dtype=bool), lazy=links, threads=self._threads)
        options, began = self.program.options, self._priced.seconds
        settled = options.cost_max is None and options.regret is None and not options.whole_units

        def spent_s() -> float:
            return relaxed.seconds + self._priced.seconds - began

        def report(value: float, bound: float) -> None:
            if progress:
                money = self.program.scale.money
                gap = (value - bound) / abs(value) if np.isfinite(value) else np.inf
                progress(Progress(value * money, bound * money, gap, spent_s()))

        priced = self._priced if settled else None
        return Search(relaxed, priced, places["open"].ravel(), gap_rel_max, time_limit_s, spent_s, report)

    def branch(self, search: Search) -> None:
        """Close the gap a search has left, as far as its time allows."""
        fixed, _, _ = self._branch(search)
        search.cost(fixed)

    def units(self, answer: NDArray[np.float64]) -> NDArray[np.float64]:
        """Units standing in an answer of a search; shape (pools, years)."""
        return answer[self._places()["units"]]

    def _branch(self, search: Search) -> tuple[NDArray[np.float64], bool, float]:
        """Close the gap that is left by branching, from the tightened relaxation and the best openings so far.

        Returns the integers, whether the gap was closed, and the solver's seconds.
        """
        links, base = search.relaxed.tightened, search.relaxed.program
        tightened = replace(
            base,
            matrix=sp.csr_matrix(sp.vstack([base.matrix, links])),
            row_lower=np.append(base.row_lower, np.full(links.shape[0], -np.inf)),
            row_upper=np.append(base.row_upper, np.zeros(links.shape[0])),
        )
        solver = highs(threads=self._threads, mip_rel_gap=search.gap_rel_max, time_limit=search.left_s())
        pass_model(solver, tightened, np.arange(len(base.cost)), self._integers)
        if search.answer is not None:
            start_from(solver, search.answer)
        watch(solver, lambda value, bound: search.report(value, max(bound, search.bound)))
        solver.run()
        if not optimal(solver) and not feasible(solver):
            if search.best is None:
                raise ended(solver)
            return search.best, False, float(solver.getRunTime())
        values, bound = read_integers(solver)
        search.bound = max(search.bound, bound)
        return np.round(values[self._integers]), optimal(solver), float(solver.getRunTime())

    def change_demand(self, demand_per_s: NDArray[np.float64]) -> None:
        """Change the right-hand side of `balance`: shape (scenarios, deadline rows, years, hours), units per second.

        The most units that fit a pool stay sized for the demand the model was built with: build with the largest.
        """
        rows = self._row_at[self._rows["balance"].ravel()]
        values = demand_per_s / self.program.scale.work
        if values.size != rows.size:
            raise ValueError(f"demand has {values.size} numbers, the model has {rows.size} balances")
        self._demand[:, ~flexible_rows(self.program)] = values
        self._priced.set_sides(rows, values.ravel())

    def size(self) -> tuple[int, int, int]:
        """(rows, columns, nonzeros)."""
        return *self._lp.matrix.shape, self._lp.matrix.nnz

    def _places(self) -> dict[str, NDArray[np.intp]]:
        """Positions of the columns, by variable."""
        return {name: self._column_at[labels] for name, labels in self._columns.items()}

    def _read(self, bound: float, seconds: float, *, proven: bool) -> Solution:
        p = self._priced
        read = {name: _take(p.value, self._column_at, labels) for name, labels in self._columns.items()}
        duals = {n: _take(p.dual, self._row_at, labels) for n, labels in self._rows.items()} if proven else None
        rows = replace(p.program, value=p.value, dual=p.dual) if proven else None
        return Solution(p.objective, min(bound, p.objective), proven, read, duals, rows, seconds)


def _positions(labels: NDArray[Any]) -> NDArray[np.intp]:
    at = np.full(int(labels.max()) + 2 if len(labels) else 1, -1)
    at[labels] = np.arange(len(labels))
    return at


def _take(values: NDArray[np.float64], at: NDArray[np.intp], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Values by label, 0 where the model has no such row or column (label -1)."""
    position = np.where(labels >= 0, at[np.maximum(labels, 0)], -1)
    return np.where(position >= 0, values[np.maximum(position, 0)], 0.0) if len(values) else np.zeros(labels.shape)
