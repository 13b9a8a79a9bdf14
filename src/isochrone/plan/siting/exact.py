"""The door to HiGHS for siting: the part of a problem that bounds could not settle, closed by branch and cut."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import highspy
import numpy as np
import scipy.sparse as sp

from isochrone.errors import PlanError
from isochrone.plan.siting.problem import Siting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.siting.problem import SitingProblem

__all__ = ["Remaining", "close"]


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left to decide: `sites` that may open, `must` that are known to open, `arcs` (sites, customers) that may
    carry, all boolean."""

    sites: NDArray[np.bool_]
    must: NDArray[np.bool_]
    arcs: NDArray[np.bool_]


def close(
    problem: SitingProblem, remaining: Remaining, *, better_than: float = math.inf, time_limit_s: float = 60.0
) -> Siting | None:
    """Solve the remaining problem with HiGHS, without a gap.

    Returns:
        The optimum of the remaining problem, or None where it has none that costs less than `better_than`.

    Raises:
        PlanError: the solver stopped without a proof (time limit, numerical trouble).
    """
    model = _Columns.of(problem, remaining)
    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    for key, value in {"output_flag": False, "mip_rel_gap": 0.0, "mip_abs_gap": 0.0, "time_limit": time_limit_s,
                       "threads": 1, "random_seed": 0, "objective_bound": better_than}.items():  # fmt: skip
        highs.setOptionValue(key, value)
    highs.passModel(model.lp(problem, remaining))
    highs.run()
    status = highs.getModelStatus()
    if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kObjectiveBound):
        return None
    if status != highspy.HighsModelStatus.kOptimal:
        raise PlanError(
            f"{problem.name}: the solver ended with {highs.modelStatusToString(status)!r}, not with a proven optimum",
            code="siting.unproven",
            hint="raise the time limit",
        )
    found = model.read(problem, np.array(highs.getSolution().col_value))
    return found if found.value < better_than else None


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns: one per site in `site`, then one per arc (i, j) in `i`, `j`."""

    site: NDArray[np.intp]
    i: NDArray[np.intp]
    j: NDArray[np.intp]

    @classmethod
    def of(cls, problem: SitingProblem, remaining: Remaining) -> _Columns:
        i, j = np.nonzero(remaining.arcs & remaining.sites[:, None])
        return cls(np.flatnonzero(remaining.sites), i, j)

    def lp(self, problem: SitingProblem, remaining: Remaining) -> highspy.HighsLp:
        sites, arcs = len(self.site), len(self.i)
        customers = problem.serve_cost.shape[1]
        position = np.full(len(problem.open_cost), -1)
        position[self.site] = np.arange(sites)
        arc = np.arange(arcs)
        of_site = position[self.i]
        inf = highspy.kHighsInf
        unsure = np.flatnonzero(~remaining.must[self.i])
        each = np.arange(len(unsure))
        linked = (np.r_[each, each], np.r_[sites + unsure, of_site[unsure]])
        blocks = [  # rows: served once; an arc needs its site open
            (sp.csr_matrix((np.ones(arcs), (self.j, sites + arc)), (customers, sites + arcs)), 1.0, 1.0),
            (sp.csr_matrix((np.repeat([1.0, -1.0], len(unsure)), linked), (len(unsure), sites + arcs)), -inf, 0.0),
        ]
        if problem.capacity is not None and problem.demand is not None:
            entries = np.r_[problem.demand[self.j], -problem.capacity[self.site]]
            where = (np.r_[of_site, np.arange(sites)], np.r_[sites + arc, np.arange(sites)])
            blocks.append((sp.csr_matrix((entries, where), (sites, sites + arcs)), -inf, 0.0))
        if problem.sites_open_min > 1:
            count = sp.csr_matrix((np.ones(sites), (np.zeros(sites, int), np.arange(sites))), (1, sites + arcs))
            most = float(problem.sites_open_n) if problem.sites_open_n is not None else inf
            blocks.append((count, float(problem.sites_open_min), most))
        matrix = sp.vstack([b[0] for b in blocks]).tocsc()
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = matrix.shape[1], matrix.shape[0]
        lp.col_cost_ = np.r_[problem.open_cost[self.site], problem.serve_cost[self.i, self.j]]
        lp.col_lower_ = np.r_[remaining.must[self.site].astype(float), np.zeros(arcs)]
        lp.col_upper_ = np.ones(sites + arcs)
        lp.row_lower_ = np.concatenate([np.full(b[0].shape[0], b[1]) for b in blocks])
        lp.row_upper_ = np.concatenate([np.full(b[0].shape[0], b[2]) for b in blocks])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        kind = highspy.HighsVarType
        whole = kind.kInteger if problem.single_source else kind.kContinuous
        lp.integrality_ = [kind.kInteger] * sites + [whole] * arcs
        return lp

    def read(self, problem: SitingProblem, values: NDArray[np.float64]) -> Siting:
        """Round what must be whole, clean what is rounding noise, and state the value of exactly that answer."""
        sites = len(self.site)
        opened = tuple(int(s) for s in self.site[values[:sites] > 0.5])
        share = np.zeros_like(problem.serve_cost)
        carried = values[sites:]
        share[self.i, self.j] = carried.round() if problem.single_source else np.where(carried > 1e-9, carried, 0.0)
        share /= share.sum(axis=0)
        value = float(problem.open_cost[list(opened)].sum() + (share * problem.serve_cost).sum())
        return Siting(value=value, bound=value, open=opened, share=share, status="optimal")
