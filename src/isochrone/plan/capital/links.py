"""What is known of the capital program's columns beforehand: which arcs are likely, and what openings imply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from isochrone.plan.capital.model import flexible_rows
from isochrone.plan.capital.sifting import least_of_each

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.model import Program

    Columns = dict[str, NDArray[np.intp]]

__all__ = ["likely_columns", "link_rows"]

LIKELY_PER_DEMAND = 8


def likely_columns(program: Program, columns: Columns, n: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(group, first) for sifting `n` columns: arcs are grouped by the demand they serve, and those come first that
    were cheapest if every unit of hardware, at what it costs to build and run, earned the same in every hour."""
    arcs, costs, serve = program.arcs, program.costs, columns["serve"]
    scenarios, _, years, hours = serve.shape
    unit = (costs.stand + costs.build) / hours / costs.utilisation[:, None]
    score = costs.serve + (unit[arcs.pool] / arcs.throughput_per_s[:, None])[:, :, None]
    demands = np.arange(scenarios * len(arcs.rows) * years * hours).reshape(scenarios, len(arcs.rows), years, hours)
    group, first = np.full(n, -1), np.zeros(n, dtype=bool)
    group[serve] = demands[:, arcs.row]
    flat = serve.ravel()
    likely = least_of_each(group[flat], np.broadcast_to(score, serve.shape).ravel(), LIKELY_PER_DEMAND)
    first[flat[likely]] = True
    return group, first


def link_rows(program: Program, columns: Columns, demand: NDArray[np.float64], n: int) -> sp.csr_matrix:
    """Rows <= 0 that hold in every plan whose openings are whole, and make the relaxation tight.

    serve <= demand * open (demand: scenarios, rows, years, hours, internal work; of the whole day without a deadline);
    keep <= units * open at home and move <= units * open, in years the asset lives.
    """
    arcs, costs, data = program.arcs, program.costs, program.data
    opened = columns["open"]
    most = np.where(flexible_rows(program)[None, :, None, None], demand.sum(axis=3, keepdims=True), demand)[:, arcs.row]
    blocks = [_at_most(columns["serve"], most, opened[arcs.pool][None, :, None, None], n)]
    if data.assets:
        units = np.array([a.units for a in data.assets])
        alive = costs.asset_alive.astype(bool)
        home = opened[costs.home.argmax(axis=1)]
        keep, move = columns["keep"], columns["move"]
        blocks.append(_at_most(keep, units[:, None], home[:, None], n, where=alive))
        blocks.append(_at_most(move, units[:, None, None], opened[None, :, None], n, where=alive[:, None, :]))
    return sp.csr_matrix(sp.vstack(blocks))


def _at_most(
    column: NDArray[np.intp],
    most: NDArray[np.float64],
    opened: NDArray[np.intp],
    n: int,
    *,
    where: NDArray[np.bool_] | None = None,
) -> sp.csr_matrix:
    """One row `column - most * opened` for every entry of `column` (all arrays broadcast to its shape)."""
    wanted = np.broadcast_to(True if where is None else where, column.shape)
    left, limit, right = (np.broadcast_to(v, column.shape)[wanted] for v in (column, most, opened))
    row = np.arange(len(left))
    entries = np.concatenate([np.ones(len(left)), -limit])
    return sp.csr_matrix((entries, (np.tile(row, 2), np.concatenate([left, right]))), shape=(len(left), n))
