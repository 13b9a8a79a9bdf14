"""The door to HiGHS: linear and integer programs in, a proven optimum out, or a `PlanError`.

A linear program yields numbers only with the status `optimal`: under a time limit HiGHS can report success with
worthless duals. An integer program that runs out of time yields its best feasible point and the proven bound, so that
the gap is known. The simplex method is pinned so that equal problems give equal vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from isochrone.errors import PlanError

__all__ = ["INFINITY", "GrowingProgram", "LinearProgram", "Optimum", "solve"]

INFINITY = highspy.kHighsInf
# Values of HiGHS's option simplex_strategy.
_DUAL, _PRIMAL = 1, 4
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearProgram:
    """minimise cost x subject to row_lower <= matrix x <= row_upper, lower <= x <= upper, integer x where marked."""

    cost: Floats
    lower: Floats
    upper: Floats
    matrix: sp.csc_matrix
    row_lower: Floats
    row_upper: Floats
    integer: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Optimum:
    """x, the value, and the row duals (d value / d row bound; all zero for an integer program)."""

    x: Floats
    value: float
    bound: float
    row_dual: Floats

    @property
    def gap(self) -> float:
        """(value - bound) / |value|; 0 when both are 0."""
        return 0.0 if self.value == self.bound else max(0.0, (self.value - self.bound) / max(abs(self.value), 1e-12))


def solve(
    program: LinearProgram, *, time_limit_s: float = 60.0, gap: float = 1e-6, start: Floats | None = None
) -> Optimum:
    """The optimum; for an integer program the best point found within `gap` or `time_limit_s`.

    Args:
        time_limit_s: when to give up.
        gap: relative gap at which an integer program counts as solved.
        start: a feasible point to begin an integer program from.

    Raises:
        PlanError: any other end (infeasible, unbounded, limit reached with nothing proven, numerical trouble).
    """
    if program.matrix.shape[0] == 0 or program.matrix.shape[1] == 0:
        return Optimum(np.zeros(len(program.cost)), 0.0, 0.0, np.zeros(len(program.row_lower)))
    highs = _quiet(time_limit_s)
    if program.integer is not None:
        highs.setOptionValue("solver", "choose")
        highs.setOptionValue("mip_rel_gap", float(gap))
    highs.passModel(_model(program))
    if start is not None:
        point = highspy.HighsSolution()
        point.col_value = start.tolist()
        highs.setSolution(point)
    highs.run()
    if not _usable(highs, program.integer is not None):
        raise _failure(highs)
    solution, info = highs.getSolution(), highs.getInfo()
    value = float(info.objective_function_value)
    whole = program.integer is not None
    return Optimum(
        x=np.asarray(solution.col_value),
        value=value,
        bound=float(info.mip_dual_bound) if whole else value,
        row_dual=np.zeros(len(program.row_lower)) if whole else np.asarray(solution.row_dual),
    )


class GrowingProgram:
    """A linear program over fixed rows that gains columns, and is solved again from where it stood.

    All columns are at least 0 and unbounded above.

    Args:
        row_lower, row_upper: shape (rows,).
    """

    def __init__(self, row_lower: Floats, row_upper: Floats, *, time_limit_s: float = 60.0) -> None:
        self._highs = _quiet(time_limit_s)
        # Presolve would throw the basis away.
        self._highs.setOptionValue("presolve", "off")
        self._rows = np.arange(len(row_lower), dtype=np.int32)
        self._columns = 0
        empty = np.zeros(0)
        starts = np.zeros(len(row_lower), dtype=np.int32)
        self._highs.addRows(len(row_lower), row_lower, row_upper, 0, starts, empty.astype(np.int32), empty)

    def add(self, cost: Floats, starts: NDArray[np.int32], rows: NDArray[np.int32], values: Floats) -> None:
        """Add columns, compressed by column: `starts` says where each one's `rows` and `values` begin."""
        count = len(cost)
        zero, infinite = np.zeros(count), np.full(count, INFINITY)
        self._highs.addCols(count, cost, zero, infinite, len(rows), starts, rows, values)
        self._columns += count
        # The basis stays feasible, the new columns only lower the value: the primal method goes on from here.
        self._highs.setOptionValue("simplex_strategy", _PRIMAL)

    def change(self, cost: Floats, row_lower: Floats, row_upper: Floats) -> None:
        """Replace the costs of all columns and the bounds of all rows."""
        self._highs.changeColsCost(self._columns, np.arange(self._columns, dtype=np.int32), cost)
        self._highs.changeRowsBounds(  # type: ignore[attr-defined]
            len(self._rows), self._rows, row_lower, row_upper
        )
        self._highs.setOptionValue("simplex_strategy", _DUAL)

    def solve(self) -> Optimum:
        """The optimum over the columns so far.

        Raises:
            PlanError: any other end.
        """
        self._highs.run()
        if not _usable(self._highs, False):
            raise _failure(self._highs)
        solution = self._highs.getSolution()
        value = float(self._highs.getInfo().objective_function_value)
        return Optimum(np.asarray(solution.col_value), value, value, np.asarray(solution.row_dual))


def _quiet(time_limit_s: float) -> highspy.Highs:
    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("random_seed", 0)
    highs.setOptionValue("solver", "simplex")
    highs.setOptionValue("time_limit", float(time_limit_s))
    return highs


def _failure(highs: highspy.Highs) -> PlanError:
    return PlanError(
        f"the optimiser ended with status {highs.modelStatusToString(highs.getModelStatus())!r}",
        code="plan.not-optimal",
        hint="the last plan stays in force; if this repeats, the fabric is too large for the time limit",
    )


def _usable(highs: highspy.Highs, whole: bool) -> bool:
    if highs.getModelStatus() == highspy.HighsModelStatus.kOptimal:
        return True
    out_of_time = highs.getModelStatus() == highspy.HighsModelStatus.kTimeLimit
    feasible = highs.getInfo().primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    return bool(whole and out_of_time and feasible)


def _model(program: LinearProgram) -> highspy.HighsLp:
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = program.matrix.shape
    model.col_cost_ = program.cost
    model.col_lower_, model.col_upper_ = program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = program.matrix.indptr
    model.a_matrix_.index_ = program.matrix.indices
    model.a_matrix_.value_ = program.matrix.data
    if program.integer is not None:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[int(flag)] for flag in program.integer]
    return model
