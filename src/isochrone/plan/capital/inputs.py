"""What the capital model is asked about: places, sites, hardware, classes of work, standing assets, years and hours.

Work is counted in *units* of the caller's choice (tokens, frames, requests); money in one currency; distance enters
only
as a round-trip time at the quantile promised. Everything is checked once, by `findings`, and every mistake is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "Asset",
    "Assumption",
    "CapitalInput",
    "Hardware",
    "Horizon",
    "Place",
    "Scenario",
    "Site",
    "Terms",
    "WorkClass",
    "findings",
    "require_valid",
]

HOURS_PER_YEAR = 8760.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where demand arises. `population_n` is the default proxy for how much."""

    name: str
    lat_deg: float
    lon_deg: float
    population_n: float
    utc_offset_h: float = 0.0
    jurisdiction: str = ""
    continent: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """A place with compute, standing or possible.

    `energy_price_per_kwh` has one number per hour of the horizon (or one for all); prices below zero exist and are
    allowed. `reserve_units` and `utilisation_max` are the queueing head-room: load <= utilisation_max * units -
    reserve_units for every pool that is open (see `headroom`). `central` marks today's regions. `rental_factor`: what
    renting a unit costs here, as a multiple of the hardware's `rental_per_unit_hour`; 0 where nothing is for rent.
    """

    name: str
    tier: str
    lat_deg: float
    lon_deg: float
    jurisdiction: str = ""
    continent: str = ""
    energy_price_per_kwh: tuple[float, ...] = (0.1,)
    power_usage_effectiveness: float = 1.3
    fixed_cost_per_year: float = 0.0
    power_kw_max: float = float("inf")
    egress_per_gb: float = 0.0
    utilisation_max: float = 0.9
    reserve_units: float = 0.0
    central: bool = False
    rental_factor: float = 1.0
    vendor: str = ""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One unit of hardware (one accelerator with its share of a server and a building).

    `throughput` lists (service_s, units_per_s): how much one unit does when each step must be served within service_s.
    It falls as the time allowed falls; between points the slower one holds. `resale_share`: what a used unit
    fetches, as a share of `capex_per_unit` when new, falling in a straight line to nothing at the end of its life.
    """

    name: str
    capex_per_unit: float
    life_years: float
    power_kw: float
    throughput: tuple[tuple[float, float], ...]
    opex_per_unit_year: float = 0.0
    idle_power_share: float = 0.3
    move_cost_per_unit: float = 0.0
    rental_per_unit_hour: float = 0.0
    build_units_max: float = float("inf")
    resale_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Terms:
    """Where a class may run, in the words of a contract's `in_bounds`; an empty list bounds nothing.

    `jurisdictions` are countries or groups of them, and the word ``same`` for the place's own. What `vendors`, `sites`
    and `hardware` do not name is not used.
    """

    jurisdictions: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    @property
    def bind(self) -> bool:
        """Whether they bound anything."""
        return bool(self.jurisdictions or self.vendors or self.hardware or self.sites)


@dataclass(frozen=True, slots=True)
class WorkClass:
    """A class of contracts. `objective_s` bounds round trip plus service at `quantile`; None means no deadline (batch).

    `in_bounds`: where it may run. `penalty_per_unit` is the value of lost demand.
    """

    name: str
    objective_s: float | None
    penalty_per_unit: float
    quantile: float = 0.95
    gb_per_unit: float = 0.0
    in_bounds: Terms = Terms()


@dataclass(frozen=True, slots=True)
class Asset:
    """Standing capital: `units` of hardware at a site, `age_years` old at the start of the horizon."""

    name: str
    site: str
    hardware: str
    units: float
    age_years: float
    cost_per_unit: float
    life_years: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """A possible future: demand is multiplied by `demand_factor` (per class, else all)."""

    name: str
    probability: float
    demand_factor: float = 1.0
    class_factors: tuple[tuple[str, float], ...] = ()

    def factor(self, work_class: str) -> float:
        return self.demand_factor * dict(self.class_factors).get(work_class, 1.0)


@dataclass(frozen=True, slots=True)
class Horizon:
    """`years`: first year of each period; `hours_utc`: the representative hours of a day, equally long."""

    years: tuple[int, ...]
    hours_utc: tuple[float, ...]
    discount_rate: float
    years_per_period: float = 1.0

    def discount(self) -> NDArray[np.float64]:
        """Present value at the start of money paid in the middle of each period; shape (years,)."""
        middle = (np.arange(len(self.years)) + 0.5) * self.years_per_period
        return np.asarray((1.0 + self.discount_rate) ** -middle, dtype=np.float64)

    @property
    def seconds_per_hour_block(self) -> float:
        """Seconds one representative hour stands for in one period."""
        return HOURS_PER_YEAR * 3600.0 * self.years_per_period / len(self.hours_utc)


@dataclass(frozen=True, slots=True)
class Assumption:
    """A number the answers rest on: its source, or the word that it is an assumption."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class CapitalInput:
    """Everything the model needs.

    Args:
        demand_per_s: shape (places, classes, years, hours), units of work per second.
        rtt_s: shape (places, sites), round-trip time at the quantile the classes promise.
        coverage_min: least share of each deadline class that must be served in time (0 lets penalties decide).
        denied: (class, jurisdiction the work arises in, site, hardware) to the reason why policies deny it there.
    """

    currency: str
    unit: str
    horizon: Horizon
    places: tuple[Place, ...]
    sites: tuple[Site, ...]
    hardware: tuple[Hardware, ...]
    classes: tuple[WorkClass, ...]
    assets: tuple[Asset, ...]
    demand_per_s: NDArray[np.float64]
    rtt_s: NDArray[np.float64]
    scenarios: tuple[Scenario, ...] = (Scenario("expected", 1.0),)
    coverage_min: float = 0.0
    assumptions: tuple[Assumption, ...] = field(default_factory=tuple)
    denied: Mapping[tuple[str, str, str, str], str] = field(default_factory=dict)


def require_valid(data: CapitalInput) -> CapitalInput:
    """Return `data`, or raise `InputError` naming every mistake at once."""
    found = findings(data)
    if found:
        raise InputError(
            "the plan's input has mistakes:\n- " + "\n- ".join(found),
            code="capital.input",
            hint="mend every line above and run again",
        )
    return data


def findings(data: CapitalInput) -> list[str]:
    """Every mistake, in words. Classes no site can meet are not mistakes: see `arcs.unreachable`."""
    shape = (len(data.places), len(data.classes), len(data.horizon.years), len(data.horizon.hours_utc))
    found = [
        f"there are no {what}"
        for what, have in (
            ("places", shape[0]),
            ("classes", shape[1]),
            ("years", shape[2]),
            ("hours", shape[3]),
            ("sites", len(data.sites)),
            ("hardware", len(data.hardware)),
        )
        if not have
    ]
    if found:
        return found
    if data.demand_per_s.shape != shape:
        found.append(f"demand has shape {data.demand_per_s.shape}, expected (places, classes, years, hours) = {shape}")
    elif not (np.isfinite(data.demand_per_s).all() and (data.demand_per_s >= 0).all()):
        found.append("demand holds a number that is not finite or is below zero")
    elif not data.demand_per_s.any():
        found.append("there is no demand: give classes units_per_person_day, or a demand table")
    if data.rtt_s.shape != (shape[0], len(data.sites)):
        found.append(f"rtt has shape {data.rtt_s.shape}, expected (places, sites)")
    elif not (np.isfinite(data.rtt_s).all() and (data.rtt_s >= 0).all()):
        found.append("a round-trip time is not finite or is below zero")
    found += _numbers(data) + _coordinates(data) + _sites(data) + _hardware(data) + _classes(data) + _assets(data)
    if not 0 <= data.coverage_min <= 1:
        found.append(f"coverage_min is {data.coverage_min}, must lie between 0 and 1")
    total = sum(s.probability for s in data.scenarios)
    if not data.scenarios or abs(total - 1) > 1e-9:
        found.append(f"the scenarios' probabilities sum to {total:g}, not to 1")
    return found + _horizon(data.horizon)


def _horizon(horizon: Horizon) -> list[str]:
    found = []
    if not -1 < horizon.discount_rate <= 1:
        found.append(
            f"the discount rate is {100 * horizon.discount_rate:g} % a year (0.09 means 9 %); it must lie above -100 % "
            "and not above 100 %"
        )
    steps = {later - before for before, later in pairwise(horizon.years)}
    if horizon.years_per_period <= 0 or not steps <= {horizon.years_per_period}:
        found.append(
            f"the years {', '.join(map(str, horizon.years))} must follow each other in steps of "
            f"years_per_period = {horizon.years_per_period:g}"
        )
    hours = horizon.hours_utc
    if len(set(hours)) < len(hours) or not all(0 <= h < 24 for h in hours):
        found.append(f"the hours {', '.join(f'{h:g}' for h in hours)} must lie in 0 to 24, each listed once")
    return found


def _numbers(data: CapitalInput) -> list[str]:
    """Numbers that are none, but those whose own checks say so."""
    found: list[str] = []
    everything: tuple[Place | Site | Hardware | WorkClass | Asset | Scenario, ...] = (
        *data.places,
        *data.sites,
        *data.hardware,
        *data.classes,
        *data.assets,
        *data.scenarios,
    )
    for one in everything:
        lost = [f.name for f in fields(one) if isinstance(v := getattr(one, f.name), float) and np.isnan(v)]
        found += [f"{type(one).__name__.lower()} {one.name!r}: {name} is not a number" for name in lost
                  if name not in ("lat_deg", "lon_deg", "population_n")]  # fmt: skip
    return found


def _coordinates(data: CapitalInput) -> list[str]:
    found = []
    located: tuple[Place | Site, ...] = (*data.places, *data.sites)
    for thing in located:
        if not (-90 <= thing.lat_deg <= 90 and -180 <= thing.lon_deg <= 180):  # NaN fails both
            found.append(f"{type(thing).__name__.lower()} {thing.name!r} has no usable coordinates")
    found += [
        f"place {p.name!r} has population {p.population_n:g} and no demand; give it people or demand, or leave it out"
        for p, need in zip(data.places, data.demand_per_s, strict=False)
        if not p.population_n > 0 and not (p.population_n == 0 and need.sum() > 0)
    ]
    for what, things in (
        ("site", data.sites),
        ("place", data.places),
        ("class", data.classes),
        ("hardware", data.hardware),
        ("asset", data.assets),
    ):
        names = [t.name for t in things]
        found += [
            f"{what} {n!r} is listed {names.count(n)} times" for n in sorted({n for n in names if names.count(n) > 1})
        ]
    return found


def _sites(data: CapitalInput) -> list[str]:
    found = []
    for s in data.sites:
        if len(s.energy_price_per_kwh) not in (1, len(data.horizon.hours_utc)):
            found.append(f"site {s.name!r}: one energy price, or one per hour ({len(data.horizon.hours_utc)})")
        if not np.isfinite(s.energy_price_per_kwh).all():
            found.append(f"site {s.name!r}: an energy price is missing")
        if s.power_usage_effectiveness < 1 or not 0 < s.utilisation_max <= 1:
            found.append(f"site {s.name!r}: power_usage_effectiveness must be at least 1, utilisation_max in (0, 1]")
        if min(s.fixed_cost_per_year, s.egress_per_gb, s.reserve_units, s.power_kw_max, s.rental_factor) < 0:
            found.append(f"site {s.name!r}: costs, reserve, power limit and rental_factor cannot be below zero")
    return found


def _hardware(data: CapitalInput) -> list[str]:
    found = []
    for h in data.hardware:
        if not h.throughput or min(min(p) for p in h.throughput) < 0 or max(p[1] for p in h.throughput) <= 0:
            found.append(f"hardware {h.name!r} states no throughput; list (service_s, units_per_s) points")
        if min(h.capex_per_unit, h.power_kw, h.opex_per_unit_year, h.move_cost_per_unit) < 0 or h.life_years <= 0:
            found.append(f"hardware {h.name!r}: costs and power cannot be below zero, life must be above it")
        if h.rental_per_unit_hour < 0 or not 0 <= h.resale_share <= 1:
            found.append(f"hardware {h.name!r}: rental cannot be below zero, resale_share must lie between 0 and 1")
    deadlines = [c for c in data.classes if c.objective_s is not None]
    for c in deadlines:
        if all(min((s for s, _ in h.throughput), default=np.inf) > (c.objective_s or 0) for h in data.hardware):
            found.append(
                f"class {c.name!r}: no hardware has a throughput at {1e3 * (c.objective_s or 0):g} ms, "
                "even with no distance at all"
            )
    return found


def _classes(data: CapitalInput) -> list[str]:
    lost = [p.name for p in data.places if not p.jurisdiction]
    found = [
        f"class {c.name!r} stays in its place's own jurisdiction, and place {lost[0]!r} states none"
        for c in data.classes
        if lost and "same" in c.in_bounds.jurisdictions
    ]
    return found + [
        f"class {c.name!r}: objective and penalty must be above zero, quantile inside (0, 1)"
        for c in data.classes
        if (c.objective_s is not None and c.objective_s <= 0) or c.penalty_per_unit <= 0 or not 0 < c.quantile < 1
    ]


def _assets(data: CapitalInput) -> list[str]:
    sites, hardware = {s.name for s in data.sites}, {h.name for h in data.hardware}
    found = []
    for a in data.assets:
        if a.site not in sites:
            found.append(f"asset {a.name!r} stands at {a.site!r}, which is not a site")
        if a.hardware not in hardware:
            found.append(f"asset {a.name!r} is {a.hardware!r}, which is not listed hardware")
        if a.units <= 0 or a.cost_per_unit < 0 or a.life_years <= 0 or a.age_years < 0:
            found.append(f"asset {a.name!r}: units and life must be above zero, cost and age not below it")
        if a.age_years >= a.life_years > 0:
            found.append(
                f"asset {a.name!r} is {a.age_years:g} years old with a life of {a.life_years:g}: "
                "it is written off; leave it out or state a longer life"
            )
    return found
