"""The capital model: variables, one function per named constraint, the objective.

The table of equations, units, duals and functions is `docs/reference/capital-model.md`. Inside, money is counted in
millions
and work in multiples of a typical unit's throughput, so that coefficients stay near one; `Scale` undoes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import linopy
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from isochrone.plan.capital import costs as cost
from isochrone.plan.capital.arcs import Arcs, build_arcs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.inputs import CapitalInput

__all__ = ["Options", "Program", "Scale", "build", "flexible_rows", "internal_demand"]

linopy.options["semantics"] = "v1"


@dataclass(frozen=True, slots=True)
class Options:
    """How to pose the model.

    integer: opening a pool of hardware at a site is a yes-or-no choice (else the relaxation). whole_units: so are
    units.
    sites: only these may be built on or kept (None: all). cost_max: total cost may not exceed this (then `prefer` is
    minimised: +1 or -1 per tier's units). regret: least best cost per scenario, to minimise the largest regret instead.
    """

    integer: bool = True
    whole_units: bool = False
    sites: tuple[int, ...] | None = None
    cost_max: float | None = None
    prefer: tuple[tuple[str, float], ...] = ()
    regret: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Internal units: `money` of the currency, `work` units of work per second."""

    money: float
    work: float


@dataclass(frozen=True, slots=True)
class Program:
    """A posed model and the arrays that explain its columns and rows."""

    data: CapitalInput
    arcs: Arcs
    options: Options
    scale: Scale
    costs: cost.Costs
    model: Any


def build(data: CapitalInput, options: Options | None = None, arcs: Arcs | None = None) -> Program:
    """Pose the model for a valid input."""
    options = options or Options()
    arcs = arcs or build_arcs(data)
    work = float(np.median(arcs.throughput_per_s)) if len(arcs.row) else 1.0
    scale = Scale(money=1e6, work=work)
    program = Program(data, arcs, options, scale, cost.coefficients(data, arcs), linopy.Model())
    _variables(program)
    for constraint in (balance, batch_balance, capacity, standing, pool_limit, site_power, site_open, build_limit,
                       asset_start, asset_flow, coverage):  # fmt: skip
        constraint(program)
    _objective(program)
    return program


def _index(name: str, n: int) -> pd.RangeIndex:
    return pd.RangeIndex(n, name=name)


def _coords(program: Program) -> dict[str, pd.RangeIndex]:
    data, arcs = program.data, program.arcs
    sizes = {"scenario": len(data.scenarios), "arc": len(arcs.row), "row": len(arcs.rows), "site": len(data.sites),
             "year": len(data.horizon.years), "hour": len(data.horizon.hours_utc), "asset": len(data.assets),
             "pool": len(data.sites) * len(data.hardware), "hardware": len(data.hardware)}  # fmt: skip
    return {name: _index(name, n) for name, n in sizes.items()}


def _array(program: Program, values: Any, *dims: str) -> xr.DataArray:
    coords = _coords(program)
    return xr.DataArray(values, coords=[coords[d] for d in dims], dims=dims)


def _variables(program: Program) -> None:
    m, c, data = program.model, _coords(program), program.data
    n_hardware = len(data.hardware)
    pools = len(c["pool"])
    usable = np.ones(pools)
    if program.options.sites is not None:
        usable = np.isin(np.arange(pools) // n_hardware, program.options.sites).astype(float)
    years, assets = len(c["year"]), len(data.assets)
    most = program.costs.units_max * usable
    m.add_variables(lower=0, coords=[c["scenario"], c["arc"], c["year"], c["hour"]], name="serve")
    m.add_variables(lower=0, coords=[c["scenario"], c["row"], c["year"], c["hour"]], name="shed")
    m.add_variables(lower=0, upper=_array(program, np.tile(most[:, None], years), "pool", "year"),
                    coords=[c["pool"], c["year"]], name="build", integer=program.options.whole_units)  # fmt: skip
    m.add_variables(lower=0, coords=[c["pool"], c["year"]], name="units")
    if program.options.integer:
        m.add_variables(binary=True, coords=[c["pool"]], name="open")
    else:
        m.add_variables(lower=0, upper=1, coords=[c["pool"]], name="open")
    m.add_variables(lower=0, upper=1, coords=[c["site"]], name="site_open")
    if assets:
        room = np.broadcast_to((most[None, :, None] * program.costs.movable), (assets, pools, years))
        m.add_variables(lower=0, coords=[c["asset"], c["year"]], name="keep")
        m.add_variables(lower=0, upper=_array(program, room, "asset", "pool", "year"),
                        coords=[c["asset"], c["pool"], c["year"]], name="move")  # fmt: skip


def _served(program: Program, by: Any, name: str, weight: Any = 1.0) -> Any:
    """Sum of `weight * serve` over arcs grouped by `by`."""
    return (weight * program.model.variables["serve"]).groupby(_array(program, by, "arc").rename(name)).sum()


def flexible_rows(program: Program) -> NDArray[np.bool_]:
    """Which rows have no deadline and may be served at any hour of the day."""
    return np.array([program.data.classes[r.work_class].objective_s is None for r in program.arcs.rows], dtype=bool)


def internal_demand(program: Program) -> NDArray[np.float64]:
    """Demand per scenario, row, year, hour, in internal work."""
    factors = np.array([[s.factor(program.data.classes[r.work_class].name) for r in program.arcs.rows]
                        for s in program.data.scenarios])  # fmt: skip
    return np.asarray(factors[:, :, None, None] * program.arcs.demand_per_s[None] / program.scale.work)


def _demand(program: Program) -> xr.DataArray:
    return _array(program, internal_demand(program), "scenario", "row", "year", "hour")


def balance(program: Program) -> None:
    """served + shed = demand, for every scenario, deadline row, year and hour. Dual: the price of serving there."""
    fixed = np.flatnonzero(~flexible_rows(program))
    if len(fixed):
        served = _served(program, program.arcs.row, "row") + program.model.variables["shed"]
        program.model.add_constraints(served.sel(row=fixed) == _demand(program).sel(row=fixed), name="balance")


def batch_balance(program: Program) -> None:
    """The same over the whole day where no deadline holds: work goes to the hours and places where it is cheapest."""
    loose = np.flatnonzero(flexible_rows(program))
    if len(loose):
        served = _served(program, program.arcs.row, "row") + program.model.variables["shed"]
        program.model.add_constraints(
            served.sel(row=loose).sum("hour") == _demand(program).sel(row=loose).sum("hour"), name="batch_balance"
        )


def capacity(program: Program) -> None:
    """load <= utilisation * units - reserve * open, per scenario, pool, year, hour. Dual: the rent of capacity then."""
    used = np.unique(program.arcs.pool)
    if not len(used):
        return
    per_unit = _array(program, program.scale.work / program.arcs.throughput_per_s, "arc")
    load = _served(program, program.arcs.pool, "pool", per_unit)
    v, costs = program.model.variables, program.costs
    usable = _array(program, costs.utilisation, "pool").sel(pool=used) * v["units"].sel(pool=used)
    reserve = _array(program, costs.reserve * costs.utilisation, "pool").sel(pool=used) * v["open"].sel(pool=used)
    program.model.add_constraints(load - usable + reserve <= 0, name="capacity")


def standing(program: Program) -> None:
    """units = what was built and is alive + what is kept + what was moved in. Dual: the value of a unit for a year."""
    v, alive = program.model.variables, program.costs
    have = v["units"]
    built = v["build"].rename(year="since") * _since(program, alive.built_alive, "hardware_of_pool")
    total = have - built.sum("since")
    if program.data.assets:
        home = _array(program, alive.home, "asset", "pool")
        lives = _array(program, alive.asset_alive, "asset", "year")
        total = total - (v["keep"] * (home * lives)).sum("asset")
        moved = v["move"].rename(year="since") * _asset_since(program)
        total = total - moved.sum(["asset", "since"])
    program.model.add_constraints(total == 0, name="standing")


def _since(program: Program, alive: Any, _: str) -> xr.DataArray:
    c = _coords(program)
    return xr.DataArray(alive, coords={"pool": c["pool"], "since": c["year"].rename("since"), "year": c["year"]},
                        dims=("pool", "since", "year"))  # fmt: skip


def _asset_since(program: Program) -> xr.DataArray:
    """1 where an asset moved in year `since` still stands in `year`."""
    c = _coords(program)
    n = len(c["year"])
    later = np.triu(np.ones((n, n)))
    values = later[None] * program.costs.asset_alive[:, None, :]
    return xr.DataArray(values, coords={"asset": c["asset"], "since": c["year"].rename("since"), "year": c["year"]},
                        dims=("asset", "since", "year"))  # fmt: skip


def pool_limit(program: Program) -> None:
    """units <= most units that fit, only in an open pool."""
    v = program.model.variables
    most = _array(program, program.costs.units_max, "pool")
    program.model.add_constraints(v["units"] - most * v["open"] <= 0, name="pool_limit")


def site_power(program: Program) -> None:
    """power of all standing units, with cooling, <= the site's limit. Dual: what a kW there is worth (scarcity)."""
    limit = np.array([s.power_kw_max for s in program.data.sites])
    limited = np.flatnonzero(np.isfinite(limit))
    if len(limited):
        by_site = _array(program, np.arange(len(_coords(program)["pool"])) // len(program.data.hardware), "pool")
        power = _array(program, program.costs.power_kw, "pool") * program.model.variables["units"]
        total = power.groupby(by_site.rename("site")).sum()
        program.model.add_constraints(total.sel(site=limited) <= _array(program, limit, "site").sel(site=limited),
                                      name="site_power")  # fmt: skip


def site_open(program: Program) -> None:
    """a pool is open only at an open site (whose fixed cost is paid once)."""
    v, n = program.model.variables, len(program.data.hardware)
    of_pool = xr.DataArray(np.arange(len(_coords(program)["pool"])) // n, coords=[_coords(program)["pool"]])
    program.model.add_constraints(v["open"] - (1.0 * v["site_open"].sel(site=of_pool)).drop_vars("site") <= 0,
                                  name="site_open")  # fmt: skip


def build_limit(program: Program) -> None:
    """units of one hardware built anywhere in a period <= what can be bought. Dual: scarcity of that hardware."""
    most = np.array([h.build_units_max for h in program.data.hardware])
    limited = np.flatnonzero(np.isfinite(most))
    if len(limited):
        kind = _array(program, np.arange(len(_coords(program)["pool"])) % len(most), "pool").rename("hardware")
        built = program.model.variables["build"].groupby(kind).sum()
        limits = _array(program, most, "hardware").sel(hardware=limited)
        program.model.add_constraints(built.sel(hardware=limited) <= limits, name="build_limit")


def asset_start(program: Program) -> None:
    """kept + moved in the first period <= what stands. What is neither is retired."""
    if program.data.assets:
        v = program.model.variables
        have = _array(program, np.array([a.units for a in program.data.assets]), "asset")
        first = v["keep"].isel(year=0) + v["move"].isel(year=0).sum("pool")
        program.model.add_constraints(first <= have, name="asset_start")


def asset_flow(program: Program) -> None:
    """kept + moved in a later period <= kept in the one before."""
    v, years = program.model.variables, len(program.data.horizon.years)
    if program.data.assets and years > 1:
        now = v["keep"].isel(year=slice(1, None)) + v["move"].isel(year=slice(1, None)).sum("pool")
        before = v["keep"].isel(year=slice(0, -1)).assign_coords(year=now.coords["year"])
        program.model.add_constraints(now - before <= 0, name="asset_flow")


def coverage(program: Program) -> None:
    """shed <= (1 - coverage) of the demand of each deadline class over the horizon, reachable demand only."""
    fixed = np.flatnonzero(~flexible_rows(program))
    if not program.data.coverage_min or not len(fixed):
        return
    of_class = np.array([r.work_class for r in program.arcs.rows])
    group = _array(program, of_class, "row").sel(row=fixed).rename("work_class")
    shed = program.model.variables["shed"].sel(row=fixed).sum(["year", "hour"]).groupby(group).sum()
    most = (1 - program.data.coverage_min) * _demand(program).sel(row=fixed).sum(["year", "hour"]).groupby(group).sum()
    program.model.add_constraints(shed <= most, name="coverage")


def _scenario_cost(program: Program) -> Any:
    """Cost of serving and shedding per scenario, in internal money."""
    v, costs, scale = program.model.variables, program.costs, program.scale
    serve = _array(program, costs.serve * scale.work / scale.money, "arc", "year", "hour")
    shed = _array(program, costs.shed * scale.work / scale.money, "row", "year")
    return (v["serve"] * serve).sum(["arc", "year", "hour"]) + (v["shed"] * shed).sum(["row", "year", "hour"])


def _capital_cost(program: Program) -> Any:
    """Cost of building, standing, opening, holding and moving, in internal money."""
    v, costs, money = program.model.variables, program.costs, program.scale.money
    total = (v["build"] * _array(program, costs.build / money, "pool", "year")).sum()
    total = total + (v["units"] * _array(program, costs.stand / money, "pool", "year")).sum()
    total = total + (v["site_open"] * _array(program, costs.site / money, "site")).sum()
    if program.data.assets:
        total = total + (v["keep"] * _array(program, costs.hold / money, "asset", "year")).sum()
        moved = costs.move + np.flip(np.flip(costs.hold, axis=1).cumsum(axis=1), axis=1)  # held from then on
        total = total + (v["move"] * _array(program, moved / money, "asset", "year")).sum()
    return total


def _objective(program: Program) -> None:
    m, options, data = program.model, program.options, program.data
    each = _scenario_cost(program)
    chance = _array(program, np.array([s.probability for s in data.scenarios]), "scenario")
    expected = _capital_cost(program) + (each * chance).sum("scenario")
    if options.regret is not None:
        worst = m.add_variables(lower=0, name="regret")
        best = _array(program, np.array(options.regret) / program.scale.money, "scenario")
        m.add_constraints(each + _capital_cost(program) - worst <= best, name="regret")
        m.add_objective(1.0 * worst + 1e-6 * expected)
    elif options.cost_max is not None:
        m.add_constraints(expected <= options.cost_max / program.scale.money, name="cost_max")
        sign = np.array([dict(options.prefer).get(s.tier, 0.0) for s in data.sites for _ in data.hardware])
        m.add_objective((m.variables["units"] * _array(program, sign, "pool")).sum())
    else:
        m.add_objective(expected)
