"""Coefficients of the capital model: discounting, annuities, energy, egress, lives. Plain arithmetic on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.arcs import Arcs
    from isochrone.plan.capital.inputs import Asset, CapitalInput, Hardware

__all__ = ["Costs", "annuity_factor", "coefficients", "resale_value"]

HOURS_PER_YEAR = 8760.0
_UNBOUNDED_UNITS = 1e5


@dataclass(frozen=True, slots=True)
class Costs:
    """Present values in the input's currency, pools flat (site * hardware count + hardware).

    serve: (arcs, years, hours) per unit of work per second held through that hour block, of which `energy` and
    `network`;
    shed: (rows, years) likewise; build: (pools, years) per unit built then; stand: (pools, years) per unit standing
    then;
    site: (sites,) for being open; move: (assets, years) per unit moved; hold: (assets, years) resale value that a unit
    loses by standing through that period instead of being sold at its start. Limits: units_max, utilisation, reserve,
    power_kw (pools,). Lives, 0 or 1: built_alive (pools, since, years), asset_alive (assets, years), home (assets,
    pools), movable (assets, pools, 1).
    """

    serve: NDArray[np.float64]
    energy: NDArray[np.float64]
    network: NDArray[np.float64]
    shed: NDArray[np.float64]
    build: NDArray[np.float64]
    stand: NDArray[np.float64]
    site: NDArray[np.float64]
    move: NDArray[np.float64]
    hold: NDArray[np.float64]
    units_max: NDArray[np.float64]
    utilisation: NDArray[np.float64]
    reserve: NDArray[np.float64]
    power_kw: NDArray[np.float64]
    built_alive: NDArray[np.float64]
    asset_alive: NDArray[np.float64]
    home: NDArray[np.float64]
    movable: NDArray[np.float64]


def annuity_factor(rate: float, life_years: float) -> float:
    """Yearly payment, in the middle of each year, whose present value over `life_years` is 1."""
    if abs(rate) < 1e-12:
        return 1.0 / life_years
    return float(rate / (1.0 - (1.0 + rate) ** -life_years) / (1.0 + rate) ** 0.5)


def resale_value(data: CapitalInput, asset: Asset, years_later: float = 0.0) -> float:
    """What one unit of an asset fetches on the market, this long after the start of the horizon."""
    hardware = _hardware(data, asset.hardware)
    left = max(0.0, 1.0 - (asset.age_years + years_later) / asset.life_years)
    return hardware.resale_share * hardware.capex_per_unit * left


def _holding_costs(data: CapitalInput) -> NDArray[np.float64]:
    """Present value, per asset and period, of a unit's resale value at its start less that at its end."""
    ends = np.arange(len(data.horizon.years) + 1) * data.horizon.years_per_period
    worth = np.array([[resale_value(data, a, t) for t in ends] for a in data.assets]).reshape(-1, len(ends))
    return np.asarray(-np.diff(worth * (1.0 + data.horizon.discount_rate) ** -ends, axis=1))


def _energy_prices(data: CapitalInput) -> NDArray[np.float64]:
    """Price per kWh of IT load, cooling included; shape (sites, hours)."""
    hours = len(data.horizon.hours_utc)
    prices = np.array([np.broadcast_to(s.energy_price_per_kwh, hours) for s in data.sites])
    return np.asarray(prices * np.array([s.power_usage_effectiveness for s in data.sites])[:, None])


def coefficients(data: CapitalInput, arcs: Arcs) -> Costs:
    """All coefficients of an input."""
    horizon, hardware = data.horizon, data.hardware
    discount, span, block = horizon.discount(), horizon.years_per_period, horizon.seconds_per_hour_block
    prices = _energy_prices(data)
    power = np.array([h.power_kw for h in hardware])
    idle = np.array([h.idle_power_share for h in hardware])
    energy = prices[arcs.site] * (power * (1 - idle))[arcs.hardware, None] / 3600.0 / arcs.throughput_per_s[:, None]
    gb = np.array([data.classes[r.work_class].gb_per_unit for r in arcs.rows])
    egress = np.array([s.egress_per_gb for s in data.sites])
    network = gb[arcs.row] * egress[arcs.site] if len(arcs.row) else np.empty(0)
    weight = discount * block
    energy_cost = weight[None, :, None] * energy[:, None, :]
    network_cost = np.broadcast_to(weight[None, :, None] * network[:, None, None], energy_cost.shape)
    penalty = np.array([data.classes[r.work_class].penalty_per_unit for r in arcs.rows])
    stand, build = _standing_costs(data, prices, discount, span)
    alive = _lives(data)
    sites = len(data.sites)
    unit_kw = np.array([h.power_kw * s.power_usage_effectiveness for s in data.sites for h in hardware])
    room = np.repeat([s.power_kw_max for s in data.sites], len(hardware)) / np.maximum(unit_kw, 1e-9)
    have = np.zeros(sites * len(hardware))
    for a, home in zip(data.assets, alive[2], strict=True):
        have += a.units * home
    return Costs(
        serve=energy_cost + network_cost,
        energy=energy_cost,
        network=network_cost,
        shed=penalty[:, None] * weight[None, :],
        build=build,
        stand=stand,
        site=np.array([s.fixed_cost_per_year for s in data.sites]) * float(discount.sum()) * span,
        move=np.array([[_hardware(data, a.hardware).move_cost_per_unit * d for d in discount] for a in data.assets]
                      ).reshape(len(data.assets), len(discount)),
        hold=_holding_costs(data),
        units_max=np.minimum(np.maximum(room, have), _units_useful(data, arcs)),
        utilisation=np.repeat([s.utilisation_max for s in data.sites], len(hardware)),
        reserve=np.repeat([s.reserve_units for s in data.sites], len(hardware)),
        power_kw=unit_kw,
        built_alive=alive[0],
        asset_alive=alive[1],
        home=alive[2],
        movable=alive[3],
    )  # fmt: skip


def _hardware(data: CapitalInput, name: str) -> Hardware:
    return next(h for h in data.hardware if h.name == name)


def _standing_costs(
    data: CapitalInput, prices: NDArray[np.float64], discount: NDArray[np.float64], span: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(stand, build): opex and idle power per unit-period, and annuities from the period of building to the end of
    life."""
    years = np.arange(len(discount))
    stand, build = [], []
    for mean_price in prices.mean(axis=1):
        for h in data.hardware:
            idle = mean_price * h.power_kw * h.idle_power_share * HOURS_PER_YEAR
            stand.append((h.opex_per_unit_year + idle) * discount * span)
            yearly = h.capex_per_unit * annuity_factor(data.horizon.discount_rate, h.life_years) * span * discount
            lived = (years[None] >= years[:, None]) & (years[None] * span < years[:, None] * span + h.life_years)
            build.append((lived * yearly[None]).sum(axis=1))
    return np.array(stand), np.array(build)


def _lives(data: CapitalInput) -> tuple[NDArray[np.float64], ...]:
    span, n = data.horizon.years_per_period, len(data.horizon.years)
    years, pools = np.arange(n), len(data.sites) * len(data.hardware)
    life = np.tile([h.life_years for h in data.hardware], len(data.sites))
    later = years[None, :] >= years[:, None]
    built = later[None] & ((years[None, :] - years[:, None])[None] * span < life[:, None, None])
    asset_alive = np.array([(a.age_years + years * span < a.life_years) for a in data.assets]).reshape(-1, n)
    sites, kinds = [s.name for s in data.sites], [h.name for h in data.hardware]
    home, movable = np.zeros((len(data.assets), pools)), np.zeros((len(data.assets), pools, 1))
    for i, a in enumerate(data.assets):
        home[i, sites.index(a.site) * len(kinds) + kinds.index(a.hardware)] = 1.0
        movable[i, kinds.index(a.hardware) :: len(kinds)] = 1.0
        movable[i] *= 1.0 - home[i][:, None]
    return built.astype(float), asset_alive.astype(float), home, movable


def _units_useful(data: CapitalInput, arcs: Arcs) -> NDArray[np.float64]:
    """Most units of a pool that all demand within its reach could keep busy, head-room included (a tight big-M)."""
    pools = len(data.sites) * len(data.hardware)
    if not len(arcs.row):
        return np.full(pools, _UNBOUNDED_UNITS)
    factor = max(s.demand_factor * max([1.0, *(f for _, f in s.class_factors)]) for s in data.scenarios)
    flexible = np.array([data.classes[r.work_class].objective_s is None for r in arcs.rows])
    peak = np.where(flexible, arcs.demand_per_s.sum(axis=2).max(axis=1), arcs.demand_per_s.max(axis=(1, 2))) * factor
    load = np.bincount(arcs.pool, weights=peak[arcs.row] / arcs.throughput_per_s, minlength=pools)
    use = np.repeat([s.utilisation_max for s in data.sites], len(data.hardware))
    spare = np.repeat([s.reserve_units for s in data.sites], len(data.hardware))
    kept = np.zeros(pools)
    for a, home in zip(data.assets, _lives(data)[2], strict=True):
        kept += a.units * home
    return np.asarray(np.maximum(np.ceil(load / use + spare + 1.0), kept))
