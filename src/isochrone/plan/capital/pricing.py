"""Prices: what serving one more unit costs by place and class, its parts, the latency premium, and who sets the price.

Everything here is read from the duals of the linear program with its integers fixed. What those prices leave unpaid
(fixed charges of sites and of head-room) is stated beside them as uplift, averaged over the work a site does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import PlanError
from isochrone.plan.capital.arcs import throughput_at
from isochrone.plan.capital.costs import HOURS_PER_YEAR, annuity_factor
from isochrone.plan.capital.tables import Answer, Column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.plan import CapitalPlan, Prices

__all__ = ["PriceParts", "central_premium", "earnings", "parts", "prices_answer", "quote", "require_prices"]


def require_prices(plan: CapitalPlan) -> Prices:
    """The plan's prices, or a refusal: an unproven plan has none."""
    if plan.prices is None:
        raise PlanError(
            "this plan is not proven optimal, so it has no prices",
            code="capital.no-prices",
            hint="allow more time, or a wider gap with --gap",
        )
    return plan.prices


def _arc_cost(plan: CapitalPlan) -> NDArray[np.float64]:
    """Energy and network per unit of work on each arc, undiscounted; shape (arcs, years, hours)."""
    horizon = plan.data.horizon
    return plan.program.costs.serve / (horizon.discount()[None, :, None] * horizon.seconds_per_hour_block)


def _full_cost(plan: CapitalPlan) -> NDArray[np.float64]:
    """Annuity, opex and idle power of a new unit, per pool and year."""
    data, horizon = plan.data, plan.data.horizon
    annuity = np.tile(
        [h.capex_per_unit * annuity_factor(horizon.discount_rate, h.life_years) for h in data.hardware], len(data.sites)
    )
    return annuity[:, None] + _running_cost(plan)


def _running_cost(plan: CapitalPlan) -> NDArray[np.float64]:
    """Opex and idle power of a standing unit, per pool and year."""
    horizon = plan.data.horizon
    return plan.program.costs.stand / (horizon.discount() * horizon.years_per_period)


def earnings(plan: CapitalPlan) -> NDArray[np.float64]:
    """What one unit would earn in each pool at the plan's prices, above its running cost; shape (pools, years), per
    year.

    In every hour it serves whatever pays best there: max over arcs of (price - energy - network) * throughput. Where
    capacity stands and is in use this is the dual of `capacity`; where none stands it is the least rent consistent with
    the prices, not a vertex's accident.
    """
    prices, arcs = require_prices(plan), plan.arcs
    margin = (prices.per_unit[arcs.row] - _arc_cost(plan)) * arcs.throughput_per_s[:, None, None] * 3600.0
    hourly = np.zeros_like(prices.rent)
    np.maximum.at(hourly, arcs.pool, margin)
    hours = HOURS_PER_YEAR / len(plan.data.horizon.hours_utc)
    gross = hourly.sum(axis=2) * hours * plan.program.costs.utilisation[:, None]
    return np.asarray(gross - _running_cost(plan))


@dataclass(frozen=True, slots=True)
class PriceParts:
    """Per row of demand and year, averaged over hours by demand, money per unit of work. `total` is the marginal price;
    `fixed_charge` is uplift on top of it. `setter` is the pool whose arc sets the price in the dearest hour."""

    total: NDArray[np.float64]
    energy: NDArray[np.float64]
    network: NDArray[np.float64]
    compute: NDArray[np.float64]
    scarcity: NDArray[np.float64]
    fixed_charge: NDArray[np.float64]
    setter: NDArray[np.intp]


def parts(plan: CapitalPlan) -> PriceParts:
    """Split every price along the arc that sets it: the cheapest at the margin."""
    prices, arcs, c = require_prices(plan), plan.arcs, plan.program.costs
    rows, (years, hours) = len(arcs.rows), prices.per_unit.shape[1:]
    block = plan.data.horizon.discount()[None, :, None] * plan.data.horizon.seconds_per_hour_block
    energy, network = c.energy / block, c.network / block
    rent = prices.rent[arcs.pool] / 3600.0 / arcs.throughput_per_s[:, None, None]
    scarce = _scarce_share(plan)[arcs.pool][:, :, None]
    whole = energy + network + rent
    first = np.searchsorted(arcs.row, np.arange(rows))
    least = np.minimum.reduceat(whole, first, axis=0) if rows else np.zeros((0, years, hours))
    arc_at = np.zeros((rows, years, hours), dtype=np.intp)
    is_least = whole <= least[arcs.row] * (1 + 1e-9) + 1e-15
    preferred = np.where(is_least, plan.serve, -1.0)  # among ties the arc that carries most
    order = np.argsort(preferred, axis=0, kind="stable")
    y, h = np.meshgrid(np.arange(years), np.arange(hours), indexing="ij")
    for k in range(len(order)):
        arc = order[k]
        arc_at[arcs.row[arc], y, h] = arc
    pick = (arc_at, y[None], h[None])
    weight = arcs.demand_per_s / np.maximum(arcs.demand_per_s.sum(axis=2, keepdims=True), 1e-300)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((values * weight).sum(axis=2))

    beyond = np.maximum(prices.per_unit - whole[pick], 0.0)
    scarcity = rent[pick] * np.broadcast_to(scarce, rent.shape)[pick] + beyond
    dear = prices.per_unit.argmax(axis=2)
    setter = arcs.pool[np.take_along_axis(arc_at, dear[:, :, None], axis=2)[:, :, 0]]
    compute = prices.per_unit - energy[pick] - network[pick] - scarcity
    return PriceParts(
        mean(prices.per_unit),
        mean(energy[pick]),
        mean(network[pick]),
        mean(compute),
        mean(scarcity),
        _uplift(plan),
        setter,
    )


def _scarce_share(plan: CapitalPlan) -> NDArray[np.float64]:
    """Share of a pool's rent above what a new unit would cost there, per year: only limits can sustain it."""
    prices = require_prices(plan)
    hours = HOURS_PER_YEAR / len(plan.data.horizon.hours_utc)
    earned = prices.rent.sum(axis=2) * hours * plan.program.costs.utilisation[:, None]
    return np.asarray(np.clip(1.0 - _full_cost(plan) / np.maximum(earned, 1e-9), 0.0, 1.0))


def _uplift(plan: CapitalPlan) -> NDArray[np.float64]:
    """Fixed charges per unit of work: site charge and head-room of the sites that serve a row; shape (rows, years)."""
    data, arcs, c = plan.data, plan.arcs, plan.program.costs
    seconds = plan.data.horizon.seconds_per_hour_block
    work = plan.serve.sum(axis=2) * seconds / data.horizon.years_per_period
    by_site = np.zeros((len(data.sites), work.shape[1]))
    np.add.at(by_site, arcs.site, work)
    fixed = np.array([s.fixed_cost_per_year for s in data.sites])[:, None] * plan.site_open[:, None]
    reserve = (_full_cost(plan) * (c.reserve * plan.open)[:, None]).reshape(len(data.sites), -1, work.shape[1]).sum(1)
    rate = (fixed + reserve) / np.maximum(by_site, 1e-9) * (by_site > 0)
    paid, served = np.zeros((len(arcs.rows), work.shape[1])), np.zeros((len(arcs.rows), work.shape[1]))
    np.add.at(paid, arcs.row, work * rate[arcs.site])
    np.add.at(served, arcs.row, work)
    return np.asarray(paid / np.maximum(served, 1e-9) * (served > 0))


def prices_answer(plan: CapitalPlan, year: int = 0) -> Answer:
    """Price by place and class with its parts, premium over the loosest class of the place, and who sets it."""
    p, data, arcs = parts(plan), plan.data, plan.arcs
    deadlines = [k for k, c in enumerate(data.classes) if c.objective_s is not None]
    loosest = max(deadlines, key=lambda k: data.classes[k].objective_s or 0.0) if deadlines else -1
    base = {r.place: p.total[i, year] for i, r in enumerate(arcs.rows) if r.work_class == loosest}
    rows, weights = [], []
    for i, r in enumerate(arcs.rows):
        premium = p.total[i, year] - base[r.place] if r.place in base and r.work_class in deadlines else None
        place = data.places[r.place].name if r.place >= 0 else f"(batch {r.jurisdiction})".replace(" )", ")")
        site, hardware = divmod(int(p.setter[i, year]), len(data.hardware))
        million = [
            1e6 * float(v[i, year]) for v in (p.total, p.compute, p.energy, p.network, p.scarcity, p.fixed_charge)
        ]
        rows.append(
            (
                place,
                data.classes[r.work_class].name,
                *million,
                None if premium is None else 1e6 * float(premium),
                data.sites[site].name,
                data.hardware[hardware].name,
            )
        )
        weights.append(arcs.demand_per_s[i, year].sum())
    money = f"{data.currency}/M {data.unit}"
    names = ("price", "compute", "energy", "network", "scarcity", "uplift", "latency_premium")
    columns = (
        Column("place"),
        Column("work_class"),
        *(Column(n, money) for n in names),
        Column("set_by_site"),
        Column("set_by_hardware"),
    )
    premiums = [
        (row[8], w)
        for row, w in zip(rows, weights, strict=True)
        if row[8] is not None and row[1] != data.classes[loosest].name
    ]
    total = sum(w for _, w in premiums)
    mean = sum(v * w for v, w in premiums) / total if total else 0.0
    central, aligned = central_premium(plan, year)
    sentence = (
        f"In {data.horizon.years[year]} a tighter class costs on average {mean:.3g} {money} more than "
        f"{data.classes[loosest].name if deadlines else 'none'} at the same place; a unit of hardware earns "
        f"{central:,.0f} {data.currency} a year at a central site and {aligned:,.0f} elsewhere (before its own "
        f"capital cost). "
        "The prices are marginal; uplift is what fixed charges add on average."
    )
    return Answer("prices", "What serving one more unit costs", sentence, columns, tuple(rows))


def central_premium(plan: CapitalPlan, year: int = 0) -> tuple[float, float]:
    """Mean yearly earnings of a standing unit at central sites and at all others, weighted by units standing."""
    earned = earnings(plan)[:, year]
    central = np.repeat([s.central for s in plan.data.sites], len(plan.data.hardware))
    units = plan.units[:, year]

    def mean(mask: NDArray[np.bool_]) -> float:
        weight = units[mask] if units[mask].sum() > 1e-9 else np.ones(int(mask.sum()))
        return float(np.average(earned[mask], weights=weight)) if mask.any() else 0.0

    return mean(central), mean(~central)


def quote(
    plan: CapitalPlan, place: int, objective_s: float, *, year: int = 0, gb_per_unit: float = 0.0
) -> float | None:
    """Marginal price of one more unit at a place under any objective, by duality: no new solve.

    An infinitesimal demand costs, hour by hour, the least of energy + network + rent / throughput over the sites within
    reach where hardware stands. Returns the mean over hours, money per unit; None when nothing that stands can answer.
    """
    prices, data, horizon = require_prices(plan), plan.data, plan.data.horizon
    best: NDArray[np.float64] | None = None
    for k, h in enumerate(data.hardware):
        rate = throughput_at(h, objective_s - data.rtt_s[place])
        stands = plan.units[k :: len(data.hardware), year] > 1e-6
        for s in np.flatnonzero((np.asarray(rate) > 0) & stands):
            site, units = data.sites[s], float(np.asarray(rate)[s])
            power = np.broadcast_to(site.energy_price_per_kwh, len(horizon.hours_utc)) * site.power_usage_effectiveness
            moving = power * h.power_kw * (1 - h.idle_power_share) / 3600.0 / units + gb_per_unit * site.egress_per_gb
            cost = moving + prices.rent[plan.pool(int(s), k), year] / 3600.0 / units
            best = cost if best is None else np.minimum(best, cost)
    return None if best is None else float(best.mean())
