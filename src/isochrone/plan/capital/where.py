"""Where: what to build, keep, move and retire by year, and how well demand is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.plan.capital.tables import Answer, Column, amount

if TYPE_CHECKING:
    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["attainment", "attainment_answer", "capital_employed", "cost_answer", "on_premises_answer", "where_answer"]


def where_answer(plan: CapitalPlan) -> Answer:
    """Units by site, hardware and year, with what changes."""
    data = plan.data
    rows: list[tuple[Any, ...]] = []
    names = [s.name for s in data.sites]
    keep = plan.keep * plan.program.costs.asset_alive  # what is past its life stands no more
    for pool in range(len(plan.units)):
        site, kind = divmod(pool, len(data.hardware))
        home = [i for i, a in enumerate(data.assets) if (a.site, a.hardware) == (names[site], data.hardware[kind].name)]
        for y, year in enumerate(data.horizon.years):
            kept = float(keep[home, y].sum())
            before = float(keep[home, y - 1].sum()) if y else sum(data.assets[i].units for i in home)
            out, into = float(plan.move[home, :, y].sum()), float(plan.move[:, pool, y].sum())
            values = (
                float(plan.units[pool, y]),
                float(plan.build[pool, y]),
                kept,
                into,
                out,
                max(0.0, before - kept - out),
            )
            if max(values) > 1e-6:
                rows.append((data.sites[site].name, data.sites[site].tier, data.hardware[kind].name, year, *values))
    columns = (
        Column("site"),
        Column("tier"),
        Column("hardware"),
        Column("year"),
        Column("units"),
        Column("built"),
        Column("kept"),
        Column("moved_in"),
        Column("moved_out"),
        Column("retired"),
    )
    last = [r for r in rows if r[3] == data.horizon.years[-1]]
    central = {s.name for s in data.sites if s.central}
    total = sum(r[4] for r in last)
    share = sum(r[4] for r in last if r[0] not in central) / total if total else 0.0
    built, moved, gone = (sum(r[i] for r in rows) for i in (5, 7, 9))
    sentence = (
        f"By {data.horizon.years[-1]} {total:,.0f} units stand at {len({r[0] for r in last if r[4] > 1e-6})} "
        f"sites, {100 * share:.0f} % of them "
        f"away from today's regions; the plan builds {built:,.0f}, moves {moved:,.0f} and retires {gone:,.0f}."
    )
    return Answer("where", "What stands where", sentence, columns, tuple(rows))


def attainment(plan: CapitalPlan) -> dict[str, float]:
    """Share of each class's demand served in time over the horizon; demand no site can reach counts as missed."""
    data, result = plan.data, {}
    for k, c in enumerate(data.classes):
        mine = [i for i, r in enumerate(plan.arcs.rows) if r.work_class == k]
        factor = sum(s.probability * s.factor(c.name) for s in data.scenarios)
        asked = float(data.demand_per_s[:, k].sum()) * factor
        served = float(plan.arcs.demand_per_s[mine].sum()) * factor - float(plan.shed[mine].sum())
        result[c.name] = served / asked if asked > 0 else 1.0
    return result


def attainment_answer(plan: CapitalPlan) -> Answer:
    """Attainment by class, and what is missing because no site can reach it."""
    data, reached = plan.data, attainment(plan)
    rows = []
    for k, c in enumerate(data.classes):
        asked = float(data.demand_per_s[:, k].sum())
        mine = [i for i, r in enumerate(plan.arcs.rows) if r.work_class == k]
        beyond = 1.0 - float(plan.arcs.demand_per_s[mine].sum()) / asked if asked else 0.0
        rows.append(
            (
                c.name,
                None if c.objective_s is None else 1e3 * c.objective_s,
                100 * reached[c.name],
                100 * beyond,
                100 * max(0.0, 1.0 - reached[c.name] - beyond),
            )
        )
    columns = (
        Column("work_class"),
        Column("objective", "ms"),
        Column("in_time", "%"),
        Column("on_premises_only", "%"),
        Column("shed", "%"),
    )
    sentence = "Served in time: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in reached.items()) + "."
    return Answer("attainment", "Demand served in time", sentence, columns, tuple(rows))


def on_premises_answer(plan: CapitalPlan) -> Answer:
    """Demand no candidate site can meet at any price, with the reason."""
    rows = tuple((o.place, o.work_class, o.demand_per_s, o.reason) for o in plan.on_premises)
    columns = (Column("place"), Column("work_class"), Column("peak_demand", f"{plan.data.unit}/s"), Column("reason"))
    places = len({r[0] for r in rows})
    sentence = (
        f"{len(rows)} demands at {places} places need compute on premises or a site that is not a candidate here."
        if rows
        else "Every class can be met from some candidate site everywhere."
    )
    return Answer("on_premises", "On premises only", sentence, columns, rows)


def capital_employed(plan: CapitalPlan) -> float:
    """Money spent on building over the horizon (undiscounted list price of units built)."""
    capex = np.tile([h.capex_per_unit for h in plan.data.hardware], len(plan.data.sites))
    return float((plan.build.sum(axis=1) * capex).sum())


def cost_answer(plan: CapitalPlan) -> Answer:
    """Where the money goes, and how far the plan may be from the best."""
    c, money = plan.cost, plan.data.currency
    names = ("capital", "standing", "sites", "holding", "moving", "energy", "network", "penalty")
    rows = tuple((name, getattr(c, name), 100 * getattr(c, name) / c.total if c.total else 0.0) for name in names)
    sentence = (
        f"The plan costs {amount(c.total, money)} in present value, "
        f"{100 * c.penalty / max(c.total, 1e-9):.1f} % of it the value of demand that is not served; "
        f"no plan of this input can cost less than {amount(plan.bound, money)} (gap {100 * plan.gap:.3f} %)."
    )
    return Answer(
        "cost", "Cost", sentence, (Column("part"), Column("present_value", money), Column("share", "%")), rows
    )
