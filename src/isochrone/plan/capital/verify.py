"""Checks of a plan that use no solver: arithmetic on the input, and linear-programming duality on the matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isochrone.plan.capital.bounds import barred
from isochrone.plan.capital.costs import HOURS_PER_YEAR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.linear import Rows
    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["Duality", "check_duality", "check_plan"]


@dataclass(frozen=True, slots=True)
class Duality:
    """Largest violations, in internal units: of the rows, of the signs of duals and reduced costs, of complementary
    slackness, and the relative difference of primal and dual objective."""

    primal: float
    dual: float
    slackness: float
    gap: float

    def holds(self, tolerance: float = 1e-5) -> bool:
        return max(self.primal, self.dual, self.slackness, self.gap) <= tolerance


def check_duality(rows: Rows) -> Duality:
    """Recompute every optimality condition of the linear program whose duals are the prices."""
    activity = rows.matrix @ rows.value
    primal = max(_above(rows.row_lower - activity), _above(activity - rows.row_upper),
                 _above(rows.lower - rows.value), _above(rows.value - rows.upper))  # fmt: skip
    reduced = rows.cost - rows.matrix.T @ rows.dual
    dual_row, slack_row, row_value = _side(rows.dual, activity, rows.row_lower, rows.row_upper)
    dual_col, slack_col, col_value = _side(reduced, rows.value, rows.lower, rows.upper)
    objective = float(rows.cost @ rows.value)
    gap = abs(objective - row_value - col_value) / max(1.0, abs(objective))
    return Duality(primal, max(dual_row, dual_col), max(slack_row, slack_col), gap)


def _above(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(max(finite.max(initial=0.0), 0.0))


def _side(
    price: NDArray[np.float64], at: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[float, float, float]:
    """(wrong sign, price times slack, value) of prices on two-sided bounds: above zero needs `low`, below needs
    `high`."""
    bound = np.where(price > 0, low, high)
    finite = np.isfinite(bound)
    wrong = float(np.abs(price[~finite]).max(initial=0.0))
    slack = np.abs(price[finite] * (at[finite] - bound[finite]))
    return wrong, float(slack.max(initial=0.0)), float((price[finite] * bound[finite]).sum())


def check_plan(plan: CapitalPlan, *, tolerance: float = 1e-6) -> list[str]:
    """What is wrong with a plan and its prices, recomputed from its input; empty when all holds."""
    found = _served(plan, tolerance) + _covered(plan, tolerance) + _in_time_and_bounds(plan)
    found += _capacity(plan, tolerance) + _standing(plan) + _limits(plan, tolerance)
    again = _cost(plan)
    if abs(again - plan.cost.total) > tolerance * max(1.0, abs(again)):
        found.append(f"recomputed cost {again:.6g}, the plan says {plan.cost.total:.6g}")
    return found + (_prices(plan) if plan.prices is not None else [])


def _prices(plan: CapitalPlan) -> list[str]:
    """Every published price against what serving costs: no arc is cheaper than the price; one that serves in every
    scenario costs exactly that; where demand is shed in every scenario the price is its value."""
    data, arcs, prices, found = plan.data, plan.arcs, plan.prices, []
    assert prices is not None
    worth = np.array([data.classes[r.work_class].penalty_per_unit for r in arcs.rows])[:, None, None]
    slack = 1e-5 * worth
    if (prices.per_unit > worth + slack).any() and not data.coverage_min:
        found.append("a price is above the value of lost demand")
    if min(v.min(initial=0.0) for v in (prices.rent, prices.power, prices.build)) < -1e-6:
        found.append("a rent or a scarcity is below zero")
    cost = _arc_cost(plan) + prices.rent[arcs.pool] / 3600.0 / arcs.throughput_per_s[:, None, None]
    off = prices.per_unit[arcs.row] - cost
    if (off > slack[arcs.row]).any():
        found.append("a price is above what serving costs at a site in reach")
    least = 1e-6 * plan.program.scale.work
    if (off < -slack[arcs.row])[(plan.serve_by_scenario > least).all(axis=0)].any():
        found.append("a price is below what serving costs at a site that serves")
    if (prices.per_unit < worth - slack)[(plan.shed_by_scenario > least).all(axis=0)].any():
        found.append("a price is below the value of demand that is lost")
    return found


def _arc_cost(plan: CapitalPlan) -> NDArray[np.float64]:
    """Energy and egress per unit of work, straight from the input; shape (arcs, 1, hours)."""
    data, hours = plan.data, len(plan.data.horizon.hours_utc)
    cost = np.empty((len(plan.arcs.row), 1, hours))
    for a, (row, site, kind) in enumerate(zip(plan.arcs.row, plan.arcs.site, plan.arcs.hardware, strict=True)):
        where, h = data.sites[site], data.hardware[kind]
        kwh = h.power_kw * (1 - h.idle_power_share) * where.power_usage_effectiveness
        kwh /= 3600.0 * plan.arcs.throughput_per_s[a]
        gb = data.classes[plan.arcs.rows[row].work_class].gb_per_unit
        cost[a, 0] = kwh * np.broadcast_to(where.energy_price_per_kwh, hours) + gb * where.egress_per_gb
    return cost


def _covered(plan: CapitalPlan, tolerance: float) -> list[str]:
    """The coverage asked, per scenario and deadline class."""
    data, arcs = plan.data, plan.arcs
    found = []
    for k, c in enumerate(data.classes):
        mine = [i for i, r in enumerate(arcs.rows) if r.work_class == k]
        for s, scenario in enumerate(data.scenarios):
            need = float(arcs.demand_per_s[mine].sum()) * scenario.factor(c.name)
            shed = float(plan.shed_by_scenario[s, mine].sum())
            if c.objective_s is not None and shed > (1 - data.coverage_min + tolerance) * need + tolerance:
                found.append(f"{c.name}: {shed / need:.4f} of demand is shed, coverage asks for {data.coverage_min:g}")
    return found


def _standing(plan: CapitalPlan) -> list[str]:
    """Units standing are those built, kept and moved in that are alive, and stand only where a pool is open."""
    data, found = plan.data, []
    span, years = data.horizon.years_per_period, len(data.horizon.years)
    for pool, units in enumerate(plan.units):
        site, h = data.sites[pool // len(data.hardware)], data.hardware[pool % len(data.hardware)]
        for y in range(years):
            have = sum(plan.build[pool, b] for b in range(y + 1) if (y - b) * span < h.life_years)
            for i, a in enumerate(data.assets):
                if a.age_years + y * span < a.life_years:
                    home = (a.site, a.hardware) == (site.name, h.name)
                    have += plan.keep[i, y] * home + float(plan.move[i, pool, : y + 1].sum())
            if abs(units[y] - have) > 1e-5 * max(1.0, have):
                found.append(
                    f"{site.name}: {units[y]:g} units of {h.name} stand, {have:g} were built, kept or moved in"
                )
        if units.max(initial=0.0) > 1e-6 and plan.open[pool] < 1e-9:
            found.append(f"{site.name}: {h.name} stands where nothing is open")
        if plan.open[pool] > plan.site_open[pool // len(data.hardware)] + 1e-6:
            found.append(f"{site.name} is used and its fixed cost is not paid")
    return found


def _served(plan: CapitalPlan, tolerance: float) -> list[str]:
    data, arcs = plan.data, plan.arcs
    found = []
    for s, scenario in enumerate(data.scenarios):
        for i, row in enumerate(arcs.rows):
            c = data.classes[row.work_class]
            need = arcs.demand_per_s[i] * scenario.factor(c.name)
            have = plan.serve_by_scenario[s, arcs.row == i].sum(axis=0) + plan.shed_by_scenario[s, i]
            off = have.sum(axis=1) - need.sum(axis=1) if c.objective_s is None else have - need
            if np.abs(off).max() > tolerance * max(1.0, float(need.max())) + 1e-9 * plan.program.scale.work:
                found.append(f"row {i} of {c.name}: served and shed differ from demand by {np.abs(off).max():g}")
    if (
        min(plan.serve_by_scenario.min(initial=0.0), plan.shed_by_scenario.min(initial=0.0))
        < -1e-6 * plan.program.scale.work
    ):
        found.append("something is served or shed below zero")
    return found


def _in_time_and_bounds(plan: CapitalPlan) -> list[str]:
    data, arcs = plan.data, plan.arcs
    found = []
    for a in np.flatnonzero(plan.serve.sum(axis=(1, 2)) > 1e-9):
        row = arcs.rows[arcs.row[a]]
        c, site, hardware = data.classes[row.work_class], data.sites[arcs.site[a]], data.hardware[arcs.hardware[a]]
        service = min(s for s, units in hardware.throughput if units >= arcs.throughput_per_s[a] * (1 - 1e-9))
        if c.objective_s is not None and data.rtt_s[row.place, arcs.site[a]] + service > c.objective_s + 1e-9:
            found.append(f"{c.name} at {data.places[row.place].name} is served late from {site.name}")
        if why := barred(data, c, row.jurisdiction, site, hardware):
            found.append(f"{c.name} of {row.jurisdiction} runs out of bounds at {site.name}: {'; '.join(why)}")
    return found


def _capacity(plan: CapitalPlan, tolerance: float) -> list[str]:
    data, arcs = plan.data, plan.arcs
    found = []
    for s in range(len(data.scenarios)):
        load = np.zeros((len(data.sites) * len(data.hardware), *plan.serve.shape[1:]))
        np.add.at(load, arcs.pool, plan.serve_by_scenario[s] / arcs.throughput_per_s[:, None, None])
        for pool in np.flatnonzero(load.sum(axis=(1, 2)) > 1e-9):
            site = data.sites[pool // len(data.hardware)]
            room = site.utilisation_max * (plan.units[pool] - site.reserve_units * plan.open[pool])
            if (load[pool] - room[:, None]).max() > 1e-5 * max(1.0, float(room.max())):
                found.append(f"{site.name} carries more than its units and head-room allow")
    return found


def _limits(plan: CapitalPlan, tolerance: float) -> list[str]:
    """Power of sites, supply of hardware, and that no asset is used twice or comes back."""
    data, found = plan.data, []
    for i, site in enumerate(data.sites):
        kw = sum(
            plan.units[plan.pool(i, k)] * h.power_kw * site.power_usage_effectiveness
            for k, h in enumerate(data.hardware)
        )
        if float(np.max(kw)) > site.power_kw_max * (1 + tolerance) + 1e-6:
            found.append(f"{site.name} stands above its power limit")
    for k, h in enumerate(data.hardware):
        if float(plan.build[k :: len(data.hardware)].sum(axis=0).max()) > h.build_units_max * (1 + tolerance) + 1e-6:
            found.append(f"more {h.name} is built than can be bought")
    for i, a in enumerate(data.assets):
        used = plan.keep[i] + plan.move[i].sum(axis=0)
        if (used[1:] > plan.keep[i, :-1] + 1e-6).any():
            found.append(f"asset {a.name}: what was retired or moved comes back")
        if (plan.keep[i] + np.cumsum(plan.move[i].sum(axis=0)) > a.units * (1 + tolerance) + 1e-6).any():
            found.append(f"asset {a.name}: more is kept and moved than stands")
    return found


def _cost(plan: CapitalPlan) -> float:
    """Total present value, straight from the input's own numbers (no coefficient of the model is reused)."""
    data, arcs, horizon = plan.data, plan.arcs, plan.data.horizon
    span, rate, total = horizon.years_per_period, horizon.discount_rate, 0.0
    hours = HOURS_PER_YEAR * span / len(horizon.hours_utc)
    for y in range(len(horizon.years)):
        discount = (1 + rate) ** -((y + 0.5) * span)
        yearly = float(sum(s.fixed_cost_per_year * o for s, o in zip(data.sites, plan.site_open, strict=True))) * span
        for i, site in enumerate(data.sites):
            price = np.broadcast_to(site.energy_price_per_kwh, len(horizon.hours_utc)) * site.power_usage_effectiveness
            for k, h in enumerate(data.hardware):
                pool = plan.pool(i, k)
                idle = float(price.mean()) * h.power_kw * h.idle_power_share * HOURS_PER_YEAR
                yearly += plan.units[pool, y] * (h.opex_per_unit_year + idle) * span
                standing = sum(plan.build[pool, b] for b in range(y + 1) if (y - b) * span < h.life_years)
                growth = (1 + rate) ** 0.5
                payment = rate / (1 - (1 + rate) ** -h.life_years) / growth if rate else 1 / h.life_years
                yearly += standing * h.capex_per_unit * payment * span
                mine = (arcs.site == i) & (arcs.hardware == k)
                busy = (plan.serve[mine, y] / arcs.throughput_per_s[mine, None]).sum(axis=0)
                yearly += float((busy * price).sum()) * h.power_kw * (1 - h.idle_power_share) * hours
            for r in np.unique(arcs.row[arcs.site == i]) if site.egress_per_gb else ():
                c = data.classes[arcs.rows[r].work_class]
                sent = float(plan.serve[(arcs.site == i) & (arcs.row == r), y].sum()) * 3600 * hours
                yearly += sent * c.gb_per_unit * site.egress_per_gb
        for r, row in enumerate(arcs.rows):
            yearly += float(plan.shed[r, y].sum()) * 3600 * hours * data.classes[row.work_class].penalty_per_unit
        for i, a in enumerate(data.assets):
            h = next(h for h in data.hardware if h.name == a.hardware)
            yearly += float(plan.move[i, :, y].sum()) * h.move_cost_per_unit
            stands = plan.keep[i, y] + float(plan.move[i, :, : y + 1].sum())
            start, end = (
                h.resale_share * h.capex_per_unit * max(0.0, 1 - (a.age_years + t) / a.life_years) / (1 + rate) ** t
                for t in (y * span, (y + 1) * span)
            )
            total += stands * (start - end)
        total += yearly * discount
    return total
