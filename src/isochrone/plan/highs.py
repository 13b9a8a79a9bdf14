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

__all__ = ["INFINITY", "LinearProgram", "Optimum", "solve"]

INFINITY = highspy.kHighsInf
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
    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("random_seed", 0)
    highs.setOptionValue("time_limit", float(time_limit_s))
    if program.integer is None:
        highs.setOptionValue("solver", "simplex")
    else:
        highs.setOptionValue("mip_rel_gap", float(gap))
    highs.passModel(_model(program))
    if start is not None:
        point = highspy.HighsSolution()
        point.col_value = start.tolist()
        highs.setSolution(point)
    highs.run()
    status = highs.getModelStatus()
    if not _usable(highs, program.integer is not None):
        raise PlanError(
            f"the optimiser ended with status {highs.modelStatusToString(status)!r}",
            code="plan.not-optimal",
            hint="the last plan stays in force; if this repeats, the fabric is too large for the time limit",
        )
    solution, info = highs.getSolution(), highs.getInfo()
    value = float(info.objective_function_value)
    whole = program.integer is not None
    return Optimum(
        x=np.asarray(solution.col_value),
        value=value,
        bound=float(info.mip_dual_bound) if whole else value,
        row_dual=np.zeros(len(program.row_lower)) if whole else np.asarray(solution.row_dual),
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
