"""Which site can serve which demand in time and in bounds, and how much of a unit of hardware it takes there.

The time that distance leaves over is the time the hardware may take: nearer sites run larger batches and get more out
of the same silicon. So an arc carries its own throughput.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.plan.capital.bounds import allowed, home_matters, why_none

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.inputs import CapitalInput, Hardware

__all__ = ["Arcs", "DemandRow", "OnPremises", "build_arcs", "unreachable"]

ANYWHERE = -1


@dataclass(frozen=True, slots=True)
class DemandRow:
    """One balance of the model: a class at a place, or (no deadline) pooled over all places of a jurisdiction."""

    place: int
    work_class: int
    jurisdiction: str


@dataclass(frozen=True, slots=True)
class Arcs:
    """Flat arrays, one entry per arc, in order of row. `pool` = site * hardware count + hardware.

    `throughput_per_s`: units of work per second one unit of hardware does over this arc.
    `demand_per_s`: shape (rows, years, hours).
    """

    rows: tuple[DemandRow, ...]
    demand_per_s: NDArray[np.float64]
    row: NDArray[np.intp]
    site: NDArray[np.intp]
    hardware: NDArray[np.intp]
    pool: NDArray[np.intp]
    throughput_per_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OnPremises:
    """Demand that no candidate site can serve at any price, and why. Not "infeasible": it needs compute on premises."""

    place: str
    work_class: str
    reason: str
    demand_per_s: float


def throughput_at(hardware: Hardware, budget_s: NDArray[np.float64] | None) -> NDArray[np.float64] | float:
    """Units per second within each budget (the best listed point not slower than it; 0 where none is)."""
    points = sorted(hardware.throughput)
    best = np.maximum.accumulate([units for _, units in points])
    if budget_s is None:
        return float(best[-1])
    index = np.searchsorted([s for s, _ in points], budget_s + 1e-12, side="right")
    return np.asarray(np.concatenate([[0.0], best])[index])


def _rows(data: CapitalInput) -> tuple[list[DemandRow], list[NDArray[np.float64]]]:
    rows, demand = [], []
    for k, c in enumerate(data.classes):
        if c.objective_s is not None:
            for p in np.flatnonzero(data.demand_per_s[:, k].sum(axis=(1, 2)) > 0):
                rows.append(DemandRow(int(p), k, data.places[p].jurisdiction))
                demand.append(data.demand_per_s[p, k])
            continue
        by_home = home_matters(data, c)
        keys = [p.jurisdiction if by_home else "" for p in data.places]
        for key in sorted(set(keys)):
            mine = data.demand_per_s[[i for i, j in enumerate(keys) if j == key], k].sum(axis=0)
            if mine.sum() > 0:
                rows.append(DemandRow(ANYWHERE, k, key))
                demand.append(mine)
    return rows, demand


def build_arcs(data: CapitalInput) -> Arcs:
    """Every (demand, site, hardware) that is in time and in bounds. Rows without any arc are left out."""
    rows, demand = _rows(data)
    per_hardware = len(data.hardware)
    bounds = {(k, j): allowed(data, c, j) for k, c in enumerate(data.classes)
              for j in {r.jurisdiction for r in rows if r.work_class == k}}  # fmt: skip
    kept_rows: list[DemandRow] = []
    kept_demand: list[NDArray[np.float64]] = []
    columns: list[tuple[NDArray[Any], ...]] = []
    for row, need in zip(rows, demand, strict=True):
        c = data.classes[row.work_class]
        budget = None if c.objective_s is None else c.objective_s - data.rtt_s[row.place]
        rate = np.stack([np.broadcast_to(throughput_at(h, budget), len(data.sites)) for h in data.hardware], axis=1)
        site, hardware = np.nonzero((rate > 0) & bounds[row.work_class, row.jurisdiction])
        if not len(site):
            continue
        number = np.full(len(site), len(kept_rows))
        columns.append((number, site, hardware, site * per_hardware + hardware, rate[site, hardware]))
        kept_rows.append(row)
        kept_demand.append(need)
    years, hours = data.demand_per_s.shape[2:]
    empty = [np.empty(0, dtype=np.intp)] * 4 + [np.empty(0)]
    flat = [np.concatenate(c) for c in zip(*columns, strict=True)] if columns else empty
    stacked = np.stack(kept_demand) if kept_demand else np.zeros((0, years, hours))
    return Arcs(tuple(kept_rows), stacked, *flat)


def unreachable(data: CapitalInput, arcs: Arcs) -> list[OnPremises]:
    """Demand with no arc at all: the nearest site in bounds, what it would take, and what was asked."""
    reached = {(r.place, r.work_class, r.jurisdiction) for r in arcs.rows}
    rows, demand = _rows(data)
    found = []
    for row, need in zip(rows, demand, strict=True):
        if (row.place, row.work_class, row.jurisdiction) in reached:
            continue
        c = data.classes[row.work_class]
        inside = allowed(data, c, row.jurisdiction)
        why = _late(data, row, inside) if inside.any() else why_none(data, c, row.jurisdiction)
        place = data.places[row.place].name if row.place >= 0 else f"anywhere {row.jurisdiction}".strip()
        found.append(OnPremises(place, c.name, f"on premises only: {why}", float(need.max())))
    return found


def _late(data: CapitalInput, row: DemandRow, inside: NDArray[np.bool_]) -> str:
    """Why no site in bounds answers in time: what the nearest would take."""
    rtt = np.where(inside.any(axis=1), data.rtt_s[row.place], np.inf)
    near = int(rtt.argmin())
    listed = [h for h, may in zip(data.hardware, inside[near], strict=True) if may]
    fastest = min(s for h in listed for s, units in h.throughput if units > 0)
    asked_s = data.classes[row.work_class].objective_s or 0.0
    bound = "" if inside.all() else " of the sites in bounds"
    return (
        f"{data.sites[near].name} is nearest{bound} at {1e3 * rtt[near]:.1f} ms round trip; with the fastest listed "
        f"service of {1e3 * fastest:.1f} ms that is {1e3 * (rtt[near] + fastest):.1f} ms, {1e3 * asked_s:.1f} ms is "
        "asked"
    )
