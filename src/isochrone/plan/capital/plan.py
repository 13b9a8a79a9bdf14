"""The answer of the capital model: quantities and prices as arrays in the input's own units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isochrone.plan.capital.arcs import Arcs, OnPremises, build_arcs, unreachable
from isochrone.plan.capital.engine import Engine, Progress, Solution
from isochrone.plan.capital.inputs import CapitalInput, require_valid
from isochrone.plan.capital.model import Options, Program, build

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["CapitalPlan", "CostParts", "Prices", "plan_capital", "read_plan"]


@dataclass(frozen=True, slots=True)
class CostParts:
    """Present value of the expected cost, by what it is paid for; `penalty` is the value of demand not served,
    `holding` the resale value that standing assets lose because they are not sold."""

    capital: float
    standing: float
    sites: float
    holding: float
    moving: float
    energy: float
    network: float
    penalty: float

    @property
    def total(self) -> float:
        return self.fixed + self.energy + self.network + self.penalty

    @property
    def fixed(self) -> float:
        """What is decided before demand is known."""
        return self.capital + self.standing + self.sites + self.holding + self.moving

    @property
    def paid(self) -> float:
        """Without penalties."""
        return self.total - self.penalty


@dataclass(frozen=True, slots=True)
class Prices:
    """Duals of a proven optimum, undiscounted and per natural unit.

    per_unit: (rows, years, hours), money per unit of work; rent: (pools, years, hours), money per unit of hardware and
    hour; unit_value: (pools, years), money per unit of hardware and period: what a standing unit earns above its own
    running cost; power: (sites, years), money per kW and period; build: (hardware, years), money per unit built.
    """

    per_unit: NDArray[np.float64]
    rent: NDArray[np.float64]
    unit_value: NDArray[np.float64]
    power: NDArray[np.float64]
    build: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CapitalPlan:
    """What to build, keep, move and retire; who serves whom; what it costs; and, when proven, what it is worth.

    serve: (arcs, years, hours), shed: (rows, years, hours), expected units of work per second; per scenario:
    shed_by_scenario (scenarios, rows, years, hours). units, build: (pools, years); open: (pools,); keep: (assets,
    years); move: (assets, pools, years). `prices` is None when the plan is not proven (time limit).
    """

    data: CapitalInput
    arcs: Arcs
    program: Program
    on_premises: tuple[OnPremises, ...]
    serve: NDArray[np.float64]
    shed: NDArray[np.float64]
    shed_by_scenario: NDArray[np.float64]
    serve_by_scenario: NDArray[np.float64]
    units: NDArray[np.float64]
    build: NDArray[np.float64]
    open: NDArray[np.float64]
    site_open: NDArray[np.float64]
    keep: NDArray[np.float64]
    move: NDArray[np.float64]
    cost: CostParts
    objective: float
    bound: float
    gap: float
    prices: Prices | None
    solution: Solution

    def pool(self, site: int, hardware: int) -> int:
        """Flat number of a pool."""
        return site * len(self.data.hardware) + hardware


def plan_capital(
    data: CapitalInput,
    options: Options | None = None,
    *,
    gap_rel_max: float = 1e-3,
    time_limit_s: float = 300.0,
    threads: int = 1,
    progress: Callable[[Progress], None] | None = None,
    like: CapitalPlan | None = None,
) -> CapitalPlan:
    """Check the input, pose the model, solve it, read the plan.

    `like`: a plan of a similar input, whose openings are tried first.

    Raises:
        InputError: the input has mistakes (all are named).
        PlanError: the solver ended without a usable plan.
    """
    require_valid(data)
    program = build(data, options, build_arcs(data))
    engine = Engine(program, threads=threads)
    solution = engine.solve(
        gap_rel_max=gap_rel_max, time_limit_s=time_limit_s, progress=progress, openings=_openings(data, like)
    )
    return read_plan(program, solution)


def _openings(data: CapitalInput, like: CapitalPlan | None) -> NDArray[np.float64] | None:
    """The openings of another plan, as far as its sites and hardware are here too; shape (pools,)."""
    if like is None:
        return None
    known = {
        (site.name, h.name): float(round(like.open[like.pool(i, k)]))
        for i, site in enumerate(like.data.sites)
        for k, h in enumerate(like.data.hardware)
    }
    return np.array([known.get((site.name, h.name), 0.0) for site in data.sites for h in data.hardware])


def read_plan(program: Program, solution: Solution) -> CapitalPlan:
    """Undo the internal scales."""
    data, arcs, scale, v = program.data, program.arcs, program.scale, solution.values
    chance = np.array([s.probability for s in data.scenarios])
    serve_all, shed_all = v["serve"] * scale.work, v["shed"] * scale.work
    years, pools = len(data.horizon.years), len(data.sites) * len(data.hardware)
    keep = v.get("keep", np.zeros((0, years)))
    move = v.get("move", np.zeros((0, pools, years)))
    serve, shed = np.tensordot(chance, serve_all, 1), np.tensordot(chance, shed_all, 1)
    c = program.costs
    cost = CostParts(
        capital=float((v["build"] * c.build).sum()),
        standing=float((v["units"] * c.stand).sum()),
        sites=float((v["site_open"] * c.site).sum()),
        holding=float((keep * c.hold).sum() + (move.sum(axis=1).cumsum(axis=1) * c.hold).sum()),
        moving=float((move.sum(axis=1) * c.move).sum()),
        energy=float((serve * c.energy).sum()),
        network=float((serve * c.network).sum()),
        penalty=float((shed * c.shed[:, :, None]).sum()),
    )
    return CapitalPlan(
        data=data, arcs=arcs, program=program, on_premises=tuple(unreachable(data, arcs)), serve=serve, shed=shed,
        shed_by_scenario=shed_all, serve_by_scenario=serve_all, units=v["units"], build=v["build"], open=v["open"],
        site_open=v["site_open"], keep=keep, move=move, cost=cost, objective=solution.objective * scale.money,
        bound=solution.bound * scale.money, gap=solution.gap, prices=_prices(program, solution), solution=solution,
    )  # fmt: skip


def _prices(program: Program, solution: Solution) -> Prices | None:
    plain = program.options.cost_max is None and program.options.regret is None
    if solution.duals is None or not solution.proven or not plain:
        return None
    data, arcs, scale, d = program.data, program.arcs, program.scale, solution.duals
    discount, block = data.horizon.discount(), data.horizon.seconds_per_hour_block
    years, hours = len(data.horizon.years), len(data.horizon.hours_utc)
    per_unit = np.zeros((len(arcs.rows), years, hours))
    flexible = np.array([data.classes[r.work_class].objective_s is None for r in arcs.rows], dtype=bool)
    if "balance" in d:
        per_unit[~flexible] = d["balance"].sum(axis=0)
    if "batch_balance" in d:
        per_unit[flexible] = d["batch_balance"].sum(axis=0)[:, :, None]
    per_unit *= scale.money / scale.work / (discount[None, :, None] * block)
    pools = len(data.sites) * len(data.hardware)
    rent = np.zeros((pools, years, hours))
    if "capacity" in d:
        by_pool = -d["capacity"].sum(axis=0) * scale.money
        rent[np.unique(arcs.pool)] = by_pool / (discount[None, :, None] * block / 3600.0)
    power = np.zeros((len(data.sites), years))
    if "site_power" in d:
        limited = [i for i, s in enumerate(data.sites) if np.isfinite(s.power_kw_max)]
        power[limited] = -d["site_power"] * scale.money / discount
    built = np.zeros((len(data.hardware), years))
    if "build_limit" in d:
        limited = [i for i, h in enumerate(data.hardware) if np.isfinite(h.build_units_max)]
        built[limited] = -d["build_limit"] * scale.money
    return Prices(per_unit, rent, -d["standing"] * scale.money / discount, power, built)
