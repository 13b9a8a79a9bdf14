"""The answers about prices: by place, class and year with their parts; what hardware earns centrally and elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.plan.capital.pricing import LOST_DEMAND, PriceParts, earnings, parts
from isochrone.plan.capital.tables import Answer, Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["premium_answer", "prices_answer"]

_PARTS = ("price", "compute", "energy", "network", "scarcity", "uplift", "price_with_uplift", "latency_premium")
_LOST = "lost demand"


def prices_answer(plan: CapitalPlan) -> Answer:
    """Price by place, class and year with its parts, premium over the loosest class of the place, and who sets it."""
    data, split = plan.data, parts(plan)
    money = f"{data.currency}/M {data.unit}"
    columns = (Column("place"), Column("work_class"), Column("year"), *(Column(n, money) for n in _PARTS),
               Column("set_by_site"), Column("set_by_hardware"))  # fmt: skip
    loosest = _loosest(plan)
    base = {r.place: i for i, r in enumerate(plan.arcs.rows) if r.place >= 0 and r.work_class == loosest}
    rows = [_row(plan, split, base, i, y) for y in range(len(data.horizon.years)) for i in range(len(plan.arcs.rows))]
    return Answer("prices", "What serving one more unit costs", _said(plan, split, rows), columns, tuple(rows))


def _loosest(plan: CapitalPlan) -> int | None:
    deadlines = [k for k, c in enumerate(plan.data.classes) if c.objective_s is not None]
    return max(deadlines, key=lambda k: plan.data.classes[k].objective_s or 0.0, default=None)


def _row(plan: CapitalPlan, split: PriceParts, base: dict[int, int], i: int, y: int) -> tuple[Any, ...]:
    data, row = plan.data, plan.arcs.rows[i]
    loose = base.get(row.place)
    premium = None if loose is None else 1e6 * float(split.total[i, y] - split.total[loose, y])
    values = [1e6 * float(v[i, y]) for v in (split.total, split.compute, split.energy, split.network, split.scarcity,
                                             split.fixed_charge, split.total + split.fixed_charge)]  # fmt: skip
    site, hardware = divmod(int(split.setter[i, y]), len(data.hardware))
    lost = split.setter[i, y] == LOST_DEMAND
    setter = (_LOST, "") if lost else (data.sites[site].name, data.hardware[hardware].name)
    place = data.places[row.place].name if row.place >= 0 else f"anywhere {row.jurisdiction}".strip()
    return (place, data.classes[row.work_class].name, data.horizon.years[y], *values, premium, *setter)


def _said(plan: CapitalPlan, split: PriceParts, rows: Sequence[tuple[Any, ...]]) -> str:
    data, loosest = plan.data, _loosest(plan)
    weight = plan.arcs.demand_per_s.sum(axis=2).T.ravel()
    tight = [(r[10], w) for r, w in zip(rows, weight, strict=True)
             if r[10] is not None and loosest is not None and r[1] != data.classes[loosest].name]  # fmt: skip
    total = sum(w for _, w in tight)
    said = ""
    if total and loosest is not None:
        mean = sum(v * w for v, w in tight) / total
        said = (
            f"A tighter class costs on average {mean:.3g} {data.currency}/M {data.unit} "
            f"more than {data.classes[loosest].name} at the same place. "
        )
    setters: dict[str, float] = {}
    for row, w in zip(rows, weight, strict=True):
        setters[row[11]] = setters.get(row[11], 0.0) + float(w)
    most = sorted(setters, key=lambda s: -setters[s])[:3]
    shares = ", ".join(f"{s} ({100 * setters[s] / max(sum(setters.values()), 1e-300):.0f} % of the work)" for s in most)
    return said + (
        f"Prices are set by {shares}. " if most else ""
    ) + "A price is what one more unit costs; uplift is what fixed charges add on average."  # fmt: skip


def premium_answer(plan: CapitalPlan) -> Answer:
    """What a standing unit earns a year in today's regions and elsewhere, above its running cost: the central premium
    (or, below zero, discount). None where no such unit stands."""
    data, earned = plan.data, earnings(plan)
    central = np.repeat([s.central for s in data.sites], len(data.hardware))
    kind = np.tile(np.arange(len(data.hardware)), len(data.sites))
    rows: list[tuple[Any, ...]] = []
    for k, h in enumerate(data.hardware):
        for y, year in enumerate(data.horizon.years):
            here, there = (
                float(np.average(earned[mask, y], weights=plan.units[mask, y]))
                if plan.units[mask, y].sum() > 1e-6 else None
                for mask in ((kind == k) & central, (kind == k) & ~central)
            )  # fmt: skip
            gap = round(here - there, 6) if here is not None and there is not None else None
            share = 100 * gap / there if gap is not None and there else None
            if here is not None or there is not None:
                rows.append((h.name, year, here, there, gap, share))
    money = f"{data.currency}/unit/year"
    columns = (Column("hardware"), Column("year"), Column("earns_central", money), Column("earns_elsewhere", money),
               Column("central_premium", money), Column("central_premium_share", "%"))  # fmt: skip
    known = [r for r in rows if r[5] is not None]
    if known:
        name, year, here, _, _, share = known[0]
        word = "the same as" if abs(share) < 0.5 else f"{abs(share):.0f} % {'more' if share > 0 else 'less'} than"
        said = f"In {year} a unit of {name} earns {here:,.0f} {data.currency} in today's regions, {word} elsewhere"
        worst = min(known, key=lambda r: r[5])
        if worst[5] < min(share, 0.0) - 0.5:
            said += f"; the deepest central discount is {-worst[5]:.0f} % in {worst[1]} ({worst[0]})"
        said += "." if abs(share) >= 0.5 else ": new units are worth the same at both."
    else:
        said = "Nothing of one kind stands both in today's regions and elsewhere: there is no premium to state."
    return Answer(
        "central_premium", "What hardware earns, in today's regions and elsewhere", said, columns, tuple(rows)
    )
