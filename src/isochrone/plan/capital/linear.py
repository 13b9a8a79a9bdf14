"""A linear program as plain arrays, and its passage to HiGHS. The door to the solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np
import scipy.sparse as sp

from isochrone.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "Rows",
    "ended",
    "feasible",
    "highs",
    "infeasible",
    "linear_program",
    "optimal",
    "pass_model",
    "read_integers",
    "start_from",
    "watch",
]


@dataclass(frozen=True, slots=True)
class Rows:
    """A linear program and its answer, for checks that use no solver: least cost @ x with row_lower <= matrix @ x <=
    row_upper, lower <= x <= upper."""

    matrix: sp.csr_matrix
    cost: NDArray[np.float64]
    row_lower: NDArray[np.float64]
    row_upper: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    value: NDArray[np.float64]
    dual: NDArray[np.float64]


def linear_program(matrices: Any) -> Rows:
    """From linopy's matrices; value and dual are zero until solved."""
    side, sense = np.array(matrices.b, dtype=float), np.array([str(s)[0] for s in matrices.sense])
    matrix = sp.csr_matrix(matrices.A)
    return Rows(
        matrix,
        np.array(matrices.c, dtype=float),
        np.where(sense == "<", -np.inf, side),
        np.where(sense == ">", np.inf, side),
        np.array(matrices.lb, dtype=float),
        np.array(matrices.ub, dtype=float),
        np.zeros(matrix.shape[1]),
        np.zeros(matrix.shape[0]),
    )


def highs(**options: Any) -> Any:
    """A silent solver with a fixed seed."""
    solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    for key, value in {"output_flag": False, "random_seed": 0, **options}.items():
        solver.setOptionValue(key, value)
    return solver


def pass_model(solver: Any, rows: Rows, columns: NDArray[np.intp], whole: NDArray[np.intp] | None = None) -> None:
    """Hand over a program with these of its columns only; `whole`: positions among them that must be integers."""
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = rows.matrix.shape[0], len(columns)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = rows.cost[columns], rows.lower[columns], rows.upper[columns]
    lp.row_lower_, lp.row_upper_ = rows.row_lower, rows.row_upper
    held = sp.csc_matrix(rows.matrix[:, columns])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = held.indptr, held.indices, held.data
    if whole is not None:
        kinds = np.full(len(columns), highspy.HighsVarType.kContinuous, dtype=object)
        kinds[whole] = highspy.HighsVarType.kInteger
        lp.integrality_ = list(kinds)
    solver.passModel(lp)


def start_from(solver: Any, values: NDArray[np.float64]) -> None:
    """Give an integer program an answer to begin with."""
    solution = highspy.HighsSolution()
    solution.col_value = list(values)
    solver.setSolution(solution)


def watch(solver: Any, report: Callable[[float, float], None]) -> None:
    """Call `report(value, bound)` while an integer program is being solved."""
    solver.cbMipLogging.subscribe(lambda event: report(event.data_out.mip_primal_bound, event.data_out.mip_dual_bound))


def read_integers(solver: Any) -> tuple[NDArray[np.float64], float]:
    """(values, proven bound) of an integer program."""
    return np.array(solver.getSolution().col_value), float(solver.getInfo().mip_dual_bound)


def optimal(solver: Any) -> bool:
    """Whether it ended with a proof."""
    return bool(solver.getModelStatus() == highspy.HighsModelStatus.kOptimal)


def infeasible(solver: Any) -> bool:
    """Whether it proved that there is no answer."""
    return bool(solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible)


def feasible(solver: Any) -> bool:
    """Whether it has an answer, though it ran out of time."""
    state = solver.getInfo().primal_solution_status
    return bool(
        solver.getModelStatus() == highspy.HighsModelStatus.kTimeLimit
        and state == highspy.SolutionStatus.kSolutionStatusFeasible
    )


def ended(solver: Any) -> PlanError:
    """The error for a solver that ended with anything but what was asked of it."""
    status = solver.modelStatusToString(solver.getModelStatus())
    return PlanError(
        f"the solver ended with {status!r}; no plan and no price is taken from it",
        code="capital.infeasible" if infeasible(solver) else "capital.status",
        hint="a time limit: allow more time or a wider gap; infeasible: coverage_min or limits ask for more "
        "than exists",
    )
