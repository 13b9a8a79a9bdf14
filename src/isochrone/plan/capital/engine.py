"""Runs HiGHS on a posed model and reads the answer back by name. Prices only ever come from a proven optimum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np
import scipy.sparse as sp

from isochrone.errors import PlanError

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
class Rows:
    """The solved linear program, for checks that use no solver: rows lower <= A x <= upper, lower <= x <= upper."""

    matrix: sp.csr_matrix
    cost: NDArray[np.float64]
    row_lower: NDArray[np.float64]
    row_upper: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    value: NDArray[np.float64]
    dual: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer by name. `duals` is None unless the last linear program ended proven optimal.

    objective, bound: internal money. `fixed`: the integers were fixed for the duals.
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
    """One model in one HiGHS instance, kept so that a change of demand restarts from the last basis."""

    def __init__(self, program: Program, *, threads: int = 1) -> None:
        self.program = program
        model = program.model
        self._rows = {name: c.labels.values for name, c in model.constraints.items()}
        self._columns = {name: v.labels.values for name, v in model.variables.items()}
        matrices = model.matrices
        self._row_at = _positions(matrices.clabels)
        self._column_at = _positions(matrices.vlabels)
        self._lp = _linear_program(matrices)
        self._highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        options: dict[str, Any] = {"output_flag": False, "threads": threads, "random_seed": 0, "solver": "simplex"}
        for key, value in options.items():
            self._highs.setOptionValue(key, value)
        self._highs.passModel(_highs_model(self._lp))
        whole = np.array([kind != "C" for kind in matrices.vtypes])
        self._integers = np.flatnonzero(whole).astype(np.int32)
        self._plain = (
            program.options.cost_max is None and program.options.regret is None and not program.options.whole_units
        )

    def solve(
        self,
        *,
        gap_rel_max: float = 1e-3,
        time_limit_s: float = 300.0,
        progress: Callable[[Progress], None] | None = None,
    ) -> Solution:
        """Solve; after an integer program fix the integers and solve the linear program for prices.

        Raises:
            PlanError: the solver ended with anything but an optimum or (integers, time limit) a feasible plan.
        """
        h = self._highs
        self._mark_integers(fixed=None)
        self._loosen_link(loose=False)
        h.setOptionValue("mip_rel_gap", gap_rel_max)
        h.setOptionValue("time_limit", h.getRunTime() + time_limit_s)
        if not len(self._integers):
            self._run()
            return self._read(h.getInfo().objective_function_value, proven=True, duals=True)
        if self._plain and len(self._integers):
            self._start()
        h.setOptionValue("time_limit", h.getRunTime() + time_limit_s)
        seen = self._watch(progress) if progress else None
        h.run()
        if seen:
            h.cbMipLogging.unsubscribe(seen)
        proven = h.getModelStatus() == highspy.HighsModelStatus.kOptimal
        info = h.getInfo()
        if not proven and not self._feasible():
            raise _ended(h)
        bound, objective = info.mip_dual_bound, info.objective_function_value
        if not proven:
            return self._read(bound, proven=False, duals=False)
        self._loosen_link(loose=True)
        self._mark_integers(fixed=np.round(np.array(h.getSolution().col_value)[self._integers]))
        h.setOptionValue("time_limit", h.getRunTime() + time_limit_s)
        self._run()
        return self._read(min(bound, objective), proven=True, duals=True)

    def _start(self, rounds: int = 5) -> None:
        """Hand the solver a good plan to begin with, by dynamic slope scaling (Kim and Pardalos 1999, Oper. Res.
        Letters 24).

        The fixed charge of a pool is spread over the units it had in the round before, so that pools too small to
        earn theirs fall out; each set of pools is then costed as it is.
        """
        h, program = self._highs, self.program
        columns = self._column_at[self._columns["units"]].astype(np.int32)
        base, kinds = self._lp.cost[columns.ravel()], len(program.data.hardware)
        charge = np.repeat(program.costs.site, kinds) / program.scale.money
        charge = charge + program.costs.reserve * program.costs.stand.sum(axis=1) / program.scale.money
        best, slope = None, np.zeros(len(charge))
        self._mark_integers(fixed=None, relaxed=True)
        for _ in range(rounds):
            h.changeColsCost(columns.size, columns.ravel(), base + np.repeat(slope, columns.shape[1]))
            h.run()
            if h.getModelStatus() != highspy.HighsModelStatus.kOptimal:
                break
            units = np.array(h.getSolution().col_value)[columns].sum(axis=1)
            used = units > 1e-6
            slope = np.where(used, charge / np.maximum(units, 1e-6), slope)
            h.changeColsCost(columns.size, columns.ravel(), base)
            value = self._cost_of(used)
            if value is not None and (best is None or value[0] < best[0]):
                best = value
            self._mark_integers(fixed=None, relaxed=True)
        h.changeColsCost(columns.size, columns.ravel(), base)
        self._mark_integers(fixed=None)
        if best is not None:
            h.setSolution(best[1])

    def _cost_of(self, used: NDArray[np.bool_]) -> tuple[float, highspy.HighsSolution] | None:
        """Cost and plan with exactly these pools open (None where that cannot meet the limits)."""
        opened = np.zeros(len(self._lp.cost))
        opened[self._column_at[self._columns["open"]]] = used
        self._mark_integers(fixed=opened[self._integers])
        self._highs.run()
        if self._highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        solution = highspy.HighsSolution()
        solution.col_value = list(self._highs.getSolution().col_value)
        return float(self._highs.getInfo().objective_function_value), solution

    def change_demand(self, demand_per_s: NDArray[np.float64]) -> None:
        """Change the right-hand side of `balance`: shape (scenarios, deadline rows, years, hours), units per second.

        The most units that fit a pool stay sized for the demand the model was built with: build with the largest.
        """
        rows = self._row_at[self._rows["balance"].ravel()].astype(np.int32)
        values = np.ascontiguousarray(demand_per_s.ravel() / self.program.scale.work)
        if values.shape != rows.shape:
            raise ValueError(f"demand has {values.size} numbers, the model has {rows.size} balances")
        self._highs.changeRowsBounds(len(rows), rows, values, values)

    def size(self) -> tuple[int, int, int]:
        """(rows, columns, nonzeros)."""
        return self._highs.getNumRow(), self._highs.getNumCol(), self._highs.getNumNz()

    def _run(self) -> None:
        self._highs.run()
        if self._highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise _ended(self._highs)

    def _feasible(self) -> bool:
        state = self._highs.getInfo().primal_solution_status
        return bool(
            self._highs.getModelStatus() == highspy.HighsModelStatus.kTimeLimit
            and state == highspy.SolutionStatus.kSolutionStatusFeasible
        )

    def _watch(self, progress: Callable[[Progress], None]) -> Any:
        def report(event: Any) -> None:
            out = event.data_out
            progress(
                Progress(
                    out.mip_primal_bound * self.program.scale.money,
                    out.mip_dual_bound * self.program.scale.money,
                    out.mip_gap,
                    out.running_time,
                )
            )

        self._highs.cbMipLogging.subscribe(report)
        return report

    def _mark_integers(self, fixed: NDArray[np.float64] | None, *, relaxed: bool = False) -> None:
        index = self._integers
        if not len(index):
            return
        low, high = (self._lp.lower[index], self._lp.upper[index]) if fixed is None else (fixed, fixed)
        whole = fixed is None and not relaxed
        kind = highspy.HighsVarType.kInteger if whole else highspy.HighsVarType.kContinuous
        self._highs.changeColsBounds(len(index), index, np.ascontiguousarray(low), np.ascontiguousarray(high))
        self._highs.changeColsIntegrality(len(index), index, np.full(len(index), kind.value, dtype=np.uint8))

    def _loosen_link(self, *, loose: bool) -> None:
        """Leave out `link` where openings are fixed: it is implied there, and would take a share of the prices for
        itself."""
        if "link" in self._rows:
            rows = self._row_at[self._rows["link"].ravel()].astype(np.int32)
            high = np.full(len(rows), highspy.kHighsInf) if loose else self._lp.row_upper[rows]
            self._highs.changeRowsBounds(
                len(rows), rows, np.full(len(rows), -highspy.kHighsInf), np.ascontiguousarray(high)
            )

    def _read(self, bound: float, *, proven: bool, duals: bool) -> Solution:
        h = self._highs
        solution = h.getSolution()
        value = np.array(solution.col_value)
        dual = np.array(solution.row_dual) if duals else None
        read = {name: _take(value, self._column_at, labels) for name, labels in self._columns.items()}
        priced = (
            {n: _take(dual, self._row_at, labels) for n, labels in self._rows.items()} if dual is not None else None
        )
        rows = self._as_rows(value, dual) if dual is not None else None
        objective = h.getInfo().objective_function_value
        return Solution(objective, min(bound, objective), proven, read, priced, rows, h.getRunTime())

    def _as_rows(self, value: NDArray[np.float64], dual: NDArray[np.float64]) -> Rows:
        """The program as it was solved last: with the integers and the demand now in force."""
        now = self._highs.getLp()
        return replace(
            self._lp,
            row_lower=np.array(now.row_lower_),
            row_upper=np.array(now.row_upper_),
            lower=np.array(now.col_lower_),
            upper=np.array(now.col_upper_),
            value=value,
            dual=dual,
        )


def _linear_program(matrices: Any) -> Rows:
    side, sense = np.array(matrices.b, dtype=float), np.array([str(s)[0] for s in matrices.sense])
    inf = highspy.kHighsInf
    matrix = sp.csr_matrix(matrices.A)
    return Rows(
        matrix,
        np.array(matrices.c, dtype=float),
        np.where(sense == "<", -inf, side),
        np.where(sense == ">", inf, side),
        np.array(matrices.lb, dtype=float),
        np.array(matrices.ub, dtype=float),
        np.zeros(matrix.shape[1]),
        np.zeros(matrix.shape[0]),
    )


def _highs_model(rows: Rows) -> highspy.HighsLp:
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = rows.matrix.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = rows.cost, rows.lower, rows.upper
    lp.row_lower_, lp.row_upper_ = rows.row_lower, rows.row_upper
    by_column = rows.matrix.tocsc()
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = by_column.indptr, by_column.indices, by_column.data
    return lp


def _positions(labels: NDArray[Any]) -> NDArray[np.intp]:
    at = np.full(int(labels.max()) + 2 if len(labels) else 1, -1)
    at[labels] = np.arange(len(labels))
    return at


def _take(values: NDArray[np.float64], at: NDArray[np.intp], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Values by label, 0 where the model has no such row or column (label -1)."""
    position = np.where(labels >= 0, at[np.maximum(labels, 0)], -1)
    return np.where(position >= 0, values[np.maximum(position, 0)], 0.0) if len(values) else np.zeros(labels.shape)


def _ended(h: highspy.Highs) -> PlanError:
    status = h.modelStatusToString(h.getModelStatus())
    impossible = h.getModelStatus() == highspy.HighsModelStatus.kInfeasible
    return PlanError(
        f"the solver ended with {status!r}; no plan and no price is taken from it",
        code="capital.infeasible" if impossible else "capital.status",
        hint="a time limit: allow more time or a wider gap; infeasible: coverage_min or limits ask for more "
        "than exists",
    )
