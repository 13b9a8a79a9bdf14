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

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.plan import CapitalPlan, Prices

__all__ = ["LOST_DEMAND", "PriceParts", "Quote", "earnings", "parts", "quote", "require_prices", "site_uplift"]

LOST_DEMAND = -1


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
    `fixed_charge` is uplift on top of it. `setter` is the pool whose arc sets the price in the dearest hour, or
    LOST_DEMAND where the value of demand that is not served does."""

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

    # compute and scarcity share what the price leaves for hardware; with several scenarios that is less than the rent
    left = prices.per_unit - energy[pick] - network[pick]
    fair = rent[pick] * (1.0 - np.broadcast_to(scarce, rent.shape)[pick])
    compute = np.minimum(fair, np.maximum(left, 0.0))
    worth = np.array([plan.data.classes[r.work_class].penalty_per_unit for r in arcs.rows])[:, None]
    dear = prices.per_unit.argmax(axis=2)
    setter = arcs.pool[np.take_along_axis(arc_at, dear[:, :, None], axis=2)[:, :, 0]]
    setter = np.where(prices.per_unit.max(axis=2) >= worth * (1 - 1e-6), LOST_DEMAND, setter)
    return PriceParts(
        mean(prices.per_unit),
        mean(energy[pick]),
        mean(network[pick]),
        mean(compute),
        mean(left - compute),
        _uplift(plan),
        setter,
    )


def _scarce_share(plan: CapitalPlan) -> NDArray[np.float64]:
    """Share of a pool's rent above what a new unit would cost there, per year: only limits can sustain it."""
    prices = require_prices(plan)
    hours = HOURS_PER_YEAR / len(plan.data.horizon.hours_utc)
    earned = prices.rent.sum(axis=2) * hours * plan.program.costs.utilisation[:, None]
    return np.asarray(np.clip(1.0 - _full_cost(plan) / np.maximum(earned, 1e-9), 0.0, 1.0))


def _work_per_year(plan: CapitalPlan) -> NDArray[np.float64]:
    """Units of work served over each arc in a year of each period; shape (arcs, years)."""
    horizon = plan.data.horizon
    return np.asarray(plan.serve.sum(axis=2) * horizon.seconds_per_hour_block / horizon.years_per_period)


def site_uplift(plan: CapitalPlan) -> NDArray[np.float64]:
    """Fixed charge and head-room of each site per unit of work done there; shape (sites, years)."""
    data, arcs, c, work = plan.data, plan.arcs, plan.program.costs, _work_per_year(plan)
    by_site = np.zeros((len(data.sites), work.shape[1]))
    np.add.at(by_site, arcs.site, work)
    fixed = np.array([s.fixed_cost_per_year for s in data.sites])[:, None] * plan.site_open[:, None]
    reserve = (_full_cost(plan) * (c.reserve * plan.open)[:, None]).reshape(len(data.sites), -1, work.shape[1]).sum(1)
    return np.asarray((fixed + reserve) / np.maximum(by_site, 1e-9) * (by_site > 0))


def _uplift(plan: CapitalPlan) -> NDArray[np.float64]:
    """Fixed charges per unit of work of the sites that serve a row; shape (rows, years)."""
    arcs, work, rate = plan.arcs, _work_per_year(plan), site_uplift(plan)
    paid, served = np.zeros((len(arcs.rows), work.shape[1])), np.zeros((len(arcs.rows), work.shape[1]))
    np.add.at(paid, arcs.row, work * rate[arcs.site])
    np.add.at(served, arcs.row, work)
    return np.asarray(paid / np.maximum(served, 1e-9) * (served > 0))


@dataclass(frozen=True, slots=True)
class Quote:
    """What a guarantee costs, money per unit of work: the marginal `price`, and `uplift` for the fixed charges (site
    and head-room) of the sites that give it."""

    price: float
    uplift: float


def quote(
    plan: CapitalPlan, place: int, objective_s: float, *, year: int = 0, gb_per_unit: float = 0.0
) -> Quote | None:
    """Price of one more unit at a place under any objective, by duality: no new solve.

    An infinitesimal demand costs, hour by hour, the least of energy + network + rent / throughput over the sites within
    reach where hardware stands. Returns the mean over hours; None when nothing that stands can answer. Over several
    scenarios it is an upper bound: one site is chosen for all of them.
    """
    prices, data, horizon = require_prices(plan), plan.data, plan.data.horizon
    hours, charged = len(horizon.hours_utc), site_uplift(plan)[:, year]
    best, uplift = np.full(hours, np.inf), np.zeros(hours)
    for k, h in enumerate(data.hardware):
        rate = throughput_at(h, objective_s - data.rtt_s[place])
        stands = plan.units[k :: len(data.hardware), year] > 1e-6
        for s in np.flatnonzero((np.asarray(rate) > 0) & stands):
            site, units = data.sites[s], float(np.asarray(rate)[s])
            power = np.broadcast_to(site.energy_price_per_kwh, hours) * site.power_usage_effectiveness
            moving = power * h.power_kw * (1 - h.idle_power_share) / 3600.0 / units + gb_per_unit * site.egress_per_gb
            cost = moving + prices.rent[plan.pool(int(s), k), year] / 3600.0 / units
            near = best * (1 + 1e-9)  # among equals the one with least fixed charges
            uplift = np.where(cost < best * (1 - 1e-9), charged[s], uplift)
            uplift = np.where((cost <= near) & (charged[s] < uplift), charged[s], uplift)
            best = np.minimum(best, cost)
    return Quote(float(best.mean()), float(uplift.mean())) if np.isfinite(best).all() else None
