"""A linear program of which the solver holds only the columns and rows that matter.

Sifting (Bixby, Gregory, Lustig, Marsten and Shanno 1992, Oper. Res. 40(5)): solve with a few likely columns, price all
others by the duals, take in those that would improve, repeat. It ends at an optimum of the whole program, since no
column left out has a negative reduced cost. Rows that every answer of interest keeps anyway (`lazy`, each <= 0) are
taken in once they are violated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from isochrone.plan.capital.linear import Rows, ended, highs, infeasible, optimal, pass_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sifted", "least_of_each"]

IMPROVES = -1e-7
VIOLATED = 1e-6
ADDED_PER_GROUP = 4
_DUAL, _PRIMAL = 1, 4


class Sifted:
    """One program in one HiGHS instance, kept so that a change of bounds restarts from the last basis.

    group: a number per column, -1 for those that are always held; at most a few of each group are taken in at a time.
    """

    def __init__(
        self,
        program: Rows,
        group: NDArray[np.intp],
        first: NDArray[np.bool_],
        *,
        lazy: sp.csr_matrix | None = None,
        threads: int = 1,
    ) -> None:
        self.program, self._group = program, group
        self._by_column = sp.csc_matrix(program.matrix)
        self._lazy = sp.csr_matrix((0, len(group))) if lazy is None else lazy
        self._lazy_held = np.empty(0, dtype=np.intp)
        self._held = np.flatnonzero(first | (group < 0))
        self._place = np.full(len(group), -1)
        self._place[self._held] = np.arange(len(self._held))
        self._highs = highs(solver="simplex", threads=threads)
        pass_model(self._highs, program, self._held)
        self.value, self.dual, self.objective = program.value, program.dual, 0.0

    @property
    def seconds(self) -> float:
        """Time spent in the solver so far."""
        return float(self._highs.getRunTime())

    @property
    def tightened(self) -> sp.csr_matrix:
        """The rows taken in so far, over all columns."""
        return self._lazy[self._lazy_held]

    def bound_columns(self, columns: NDArray[np.intp], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """Change the bounds of columns that are always held."""
        lower, upper = self.program.lower.copy(), self.program.upper.copy()
        lower[columns], upper[columns] = low, high
        self.program = replace(self.program, lower=lower, upper=upper)
        at = self._place[columns].astype(np.int32)
        self._highs.changeColsBounds(len(at), at, *map(np.ascontiguousarray, (low, high)))

    def set_sides(self, rows: NDArray[np.intp], values: NDArray[np.float64]) -> None:
        """Change the right-hand side of equations."""
        low, high = self.program.row_lower.copy(), self.program.row_upper.copy()
        low[rows] = high[rows] = values
        self.program = replace(self.program, row_lower=low, row_upper=high)
        values = np.ascontiguousarray(values)
        self._highs.changeRowsBounds(len(rows), rows.astype(np.int32), values, values)

    def solve(self, limit_s: float) -> None:
        """To an optimum of the whole program under the lazy rows held.

        Raises:
            PlanError: it has none, or not within `limit_s` of the solver's time.
        """
        until = self.seconds + limit_s
        self._highs.setOptionValue("time_limit", until)
        self._highs.setOptionValue("simplex_strategy", _DUAL)
        while True:
            self._highs.run()
            if optimal(self._highs):
                more = self._improving()
            elif infeasible(self._highs):
                more = np.flatnonzero(self._place < 0)  # a column left out may be what makes it feasible
                if not len(more):
                    raise ended(self._highs)
            else:
                raise ended(self._highs)
            if not len(more):
                break
            self._take_columns(more)
            self._highs.setOptionValue("simplex_strategy", _PRIMAL)
        self.objective = float(self._highs.getInfo().objective_function_value)

    def tighten(self) -> int:
        """Take in the lazy rows that the answer violates; how many there were."""
        violated = np.flatnonzero(self._lazy @ self.value > VIOLATED)
        violated = np.setdiff1d(violated, self._lazy_held)
        if len(violated):
            self._lazy_held = np.concatenate([self._lazy_held, violated])
            rows = sp.csr_matrix(self._lazy[violated][:, self._held])
            self._highs.addRows(
                len(violated), np.full(len(violated), -np.inf), np.zeros(len(violated)), rows.nnz,
                rows.indptr[:-1].astype(np.int32), rows.indices.astype(np.int32), rows.data,
            )  # fmt: skip
        return len(violated)

    def _improving(self) -> NDArray[np.intp]:
        """Read the answer, and price the columns left out: those to take in."""
        solution = self._highs.getSolution()
        self.value = np.zeros(len(self._group))
        self.value[self._held] = solution.col_value
        dual, base = np.array(solution.row_dual), len(self.program.row_lower)
        self.dual = dual[:base]
        reduced = self.program.cost - self._by_column.T @ self.dual - self.tightened.T @ dual[base:]
        better = np.flatnonzero((self._place < 0) & (reduced < IMPROVES))
        return better[least_of_each(self._group[better], reduced[better], ADDED_PER_GROUP)]

    def _take_columns(self, columns: NDArray[np.intp]) -> None:
        entries = sp.csc_matrix(sp.vstack([self._by_column[:, columns], self.tightened[:, columns]]))
        self._place[columns] = len(self._held) + np.arange(len(columns))
        self._held = np.concatenate([self._held, columns])
        p = self.program
        self._highs.addCols(
            len(columns), p.cost[columns], p.lower[columns], p.upper[columns], entries.nnz,
            entries.indptr[:-1].astype(np.int32), entries.indices.astype(np.int32), entries.data,
        )  # fmt: skip


def least_of_each(group: NDArray[np.intp], score: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Positions of the `n` least scores of each group."""
    order = np.lexsort((score, group))
    sorted_group = group[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_group[1:] != sorted_group[:-1]])) if len(order) else order
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return np.asarray(order[rank < n])
