"""Explains a plan at one place: who serves each class, at what price, and why each near site is or is not used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isochrone.plan.capital.arcs import allowed, throughput_at
from isochrone.plan.capital.pricing import parts

if TYPE_CHECKING:
    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["explain_place"]


def explain_place(plan: CapitalPlan, place: int, sites_n: int = 6, year: int = 0) -> list[str]:
    """Lines of text."""
    data = plan.data
    where = data.places[place]
    lines = [
        f"{where.name}: {where.population_n:,.0f} people, {where.jurisdiction or 'no jurisdiction'}; "
        f"{data.horizon.years[year]}"
    ]
    split = parts(plan) if plan.prices is not None else None
    for k, c in enumerate(data.classes):
        if c.objective_s is None:
            continue
        row = next((i for i, r in enumerate(plan.arcs.rows) if (r.place, r.work_class) == (place, k)), None)
        lines.append(f"\n{c.name}: {1e3 * c.objective_s:g} ms at the {100 * c.quantile:g} % quantile")
        if row is None:
            said = [o.reason for o in plan.on_premises if (o.place, o.work_class) == (where.name, c.name)]
            lines.append(f"  {said[0] if said else 'no demand'}")
        elif split is not None:
            million = [
                1e6 * float(v[row, year])
                for v in (split.total, split.compute, split.energy, split.network, split.scarcity, split.fixed_charge)
            ]
            lines.append(
                "  price {:.4f} per M = compute {:.4f} + energy {:.4f} + network {:.4f} + scarcity {:.4f}; "
                "uplift {:.4f}".format(*million)
            )
        lines += [f"  {line}" for line in _near(plan, place, k, row, sites_n, year)]
    return lines


def _near(plan: CapitalPlan, place: int, k: int, row: int | None, sites_n: int, year: int) -> list[str]:
    data, c = plan.data, plan.data.classes[k]
    inside = allowed(data, c, data.places[place].jurisdiction)
    lines = []
    for s in np.argsort(data.rtt_s[place])[:sites_n]:
        site, rtt = data.sites[s], float(data.rtt_s[place, s])
        best = max(float(np.max(throughput_at(h, np.array([(c.objective_s or 0) - rtt])))) for h in data.hardware)
        mine = (
            (plan.arcs.row == row) & (plan.arcs.site == s)
            if row is not None
            else np.zeros(len(plan.arcs.row), dtype=bool)
        )
        served = float(plan.serve[mine, year].sum())
        total = float(plan.arcs.demand_per_s[row, year].sum()) if row is not None else 0.0
        if not inside[s]:
            why = f"out of bounds ({site.jurisdiction} is not allowed)"
        elif best <= 0:
            why = f"out of time: {1e3 * ((c.objective_s or 0) - rtt):.1f} ms left for the hardware"
        elif served > 0:
            why = f"serves {100 * served / total:.0f} %, {best:,.0f} {data.unit}/s per unit"
        elif not plan.open[int(s) * len(data.hardware) : (int(s) + 1) * len(data.hardware)].max() > 0.5:
            why = f"in time, but not opened: its fixed charges are not earned ({best:,.0f} {data.unit}/s per unit)"
        else:
            why = f"in time, but dearer here than the sites used ({best:,.0f} {data.unit}/s per unit)"
        lines.append(f"{site.name:32} {1e3 * rtt:6.1f} ms  {why}")
    return lines
