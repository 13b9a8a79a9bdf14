"""The capital planner's document: a YAML file, its tables beside it (CSV or Parquet), validated and made an input."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from isochrone.errors import InputError
from isochrone.latency.geography import RttModel, great_circle_km, rtt_matrix_s
from isochrone.plan.capital import inputs as model
from isochrone.plan.capital.headroom import headroom
from isochrone.policy.policies import PolicySet
from isochrone.serve.capital_bounds import check_names, denied_by

__all__ = ["Document", "to_input"]

Percent = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PlaceRow(_Part):
    name: str
    lat: float
    lon: float
    population: float = 0.0
    """may be left out only where `demand` states every class of work at the place"""
    utc_offset_h: float = 0.0
    jurisdiction: str = ""
    continent: str = ""


class SiteRow(_Part):
    name: str
    tier: Literal["device", "edge", "metro", "region"] = "metro"
    lat: float
    lon: float
    jurisdiction: str = ""
    continent: str = ""
    energy_zone: str = ""
    energy_price_per_kwh: float | None = None
    pue: float = 1.3
    fixed_cost_per_year: float = 0.0
    power_kw_max: float | None = None
    egress_per_gb: float = 0.0
    central: bool = False
    rental_factor: float = 1.0
    vendor: str = ""
    operator: str = ""
    """who runs it; the vendor, when left out"""
    attestations: list[str] = []
    currency: str = ""


class HardwareRow(_Part):
    name: str
    capex_per_unit: float
    life_years: float
    power_kw: float
    throughput: list[tuple[float, float]]
    """(service in ms, units of work per second)"""
    opex_per_unit_year: float = 0.0
    idle_power_share: Percent = 0.3
    move_cost_per_unit: float = 0.0
    rental_per_unit_hour: float = 0.0
    build_units_max: float | None = None
    resale_share: Percent = 0.0
    currency: str = ""


class InBounds(_Part):
    """Where a class may run, in the words of a fabric's contracts; what policies say is added."""

    data_class: str = "public"
    jurisdictions: list[str] = []
    """countries, groups such as EU, and the word `same` for the place's own"""
    vendors: list[str] = []
    hardware: list[str] = []
    sites: list[str] = []
    policies: list[str] = []


class ClassRow(_Part):
    name: str
    tenant: str = ""
    objective_ms: float | None = None
    quantile: float = 0.95
    penalty_per_million: float
    gb_per_million: float = 0.0
    in_bounds: InBounds = InBounds()
    units_per_person_day: float = 0.0
    growth_per_year: float = 0.0
    peak_to_mean: float = Field(default=1.0, ge=1.0, le=2.0)
    peak_hour_local: float = 15.0
    currency: str = ""


class AssetRow(_Part):
    name: str
    site: str
    hardware: str
    units: float
    age_years: float
    cost_per_unit: float
    life_years: float
    currency: str = ""


class ScenarioRow(_Part):
    name: str
    probability: float
    demand_factor: float = 1.0
    class_factors: dict[str, float] = {}


class RttRow(_Part):
    continent: str = ""
    access_ms: float
    ms_per_1000_km: float


class MeasuredRttRow(_Part):
    place: str
    site: str
    rtt_ms: float


class DemandRow(_Part):
    place: str
    work_class: str
    year: int
    hour_utc: float
    units_per_s: float


class EnergyRow(_Part):
    zone: str
    hour_utc: float
    price_per_mwh: float
    currency: str = ""

    @property
    def name(self) -> str:
        return f"power price of {self.zone}"


class HeadroomRow(_Part):
    wait_share_max: float = 0.05
    typical_units: dict[str, float] = {"device": 1, "edge": 4, "metro": 20, "region": 500}


class AssumptionRow(_Part):
    name: str
    value: str
    source: str


class Document(_Part):
    """The whole document, tables loaded. Money is in `currency`; a row may repeat it, never differ from it."""

    currency: str
    unit: str = "unit"
    years: list[int]
    years_per_period: float = 1.0
    hours_utc: list[float]
    discount_rate: float
    coverage_min: Percent = 0.0
    places: list[PlaceRow]
    sites: list[SiteRow]
    hardware: list[HardwareRow]
    classes: list[ClassRow]
    assets: list[AssetRow] = []
    scenarios: list[ScenarioRow] = [ScenarioRow(name="expected", probability=1.0)]
    rtt: list[RttRow] = []
    rtt_table: list[MeasuredRttRow] = []
    """measured round trips replace modelled ones"""
    demand: list[DemandRow] = []
    """replaces the proxy for every (place, class) it names"""
    energy: list[EnergyRow] = []
    policies: list[str] = []
    """Cedar files beside the document"""
    headroom: HeadroomRow = HeadroomRow()
    assumptions: list[AssumptionRow] = []


def to_input(doc: Document, policies: PolicySet) -> model.CapitalInput:
    """Make the model's input; `policies` are those of the files the document lists.

    Raises:
        InputError: currencies are mixed, a table names what does not exist, or the model's own checks fail.
    """
    _one_currency(doc)
    check_names(doc, policies)
    horizon = model.Horizon(tuple(doc.years), tuple(doc.hours_utc), doc.discount_rate, doc.years_per_period)
    data = model.CapitalInput(
        currency=doc.currency,
        unit=doc.unit,
        horizon=horizon,
        places=tuple(
            model.Place(p.name, p.lat, p.lon, p.population, p.utc_offset_h, p.jurisdiction, p.continent)
            for p in doc.places
        ),
        sites=_sites(doc),
        hardware=tuple(
            model.Hardware(
                h.name,
                h.capex_per_unit,
                h.life_years,
                h.power_kw,
                tuple((ms / 1e3, units) for ms, units in h.throughput),
                h.opex_per_unit_year,
                h.idle_power_share,
                h.move_cost_per_unit,
                h.rental_per_unit_hour,
                float("inf") if h.build_units_max is None else h.build_units_max,
                h.resale_share,
            )
            for h in doc.hardware
        ),
        classes=tuple(
            model.WorkClass(
                c.name,
                None if c.objective_ms is None else c.objective_ms / 1e3,
                c.penalty_per_million / 1e6,
                c.quantile,
                c.gb_per_million / 1e6,
                _terms(c.in_bounds),
            )
            for c in doc.classes
        ),
        assets=tuple(
            model.Asset(a.name, a.site, a.hardware, a.units, a.age_years, a.cost_per_unit, a.life_years)
            for a in doc.assets
        ),
        demand_per_s=_demand(doc),
        rtt_s=_rtt(doc),
        scenarios=tuple(
            model.Scenario(s.name, s.probability, s.demand_factor, tuple(s.class_factors.items()))
            for s in doc.scenarios
        ),
        coverage_min=doc.coverage_min,
        assumptions=tuple(model.Assumption(a.name, a.value, a.source) for a in doc.assumptions),
        denied=denied_by(doc, policies),
    )
    return model.require_valid(data)


def _terms(row: InBounds) -> model.Terms:
    return model.Terms(tuple(row.jurisdictions), tuple(row.vendors), tuple(row.hardware), tuple(row.sites))


def _one_currency(doc: Document) -> None:
    rows: list[SiteRow | HardwareRow | ClassRow | AssetRow | EnergyRow] = [
        *doc.sites, *doc.hardware, *doc.classes, *doc.assets, *doc.energy
    ]  # fmt: skip
    mixed = sorted({f"{r.name} ({r.currency})" for r in rows if r.currency and r.currency != doc.currency})
    if mixed:
        raise InputError(
            f"currencies are mixed: the document is in {doc.currency}, but {', '.join(mixed[:5])}",
            code="capital.currency",
            hint="convert every amount to one currency first",
        )


def _sites(doc: Document) -> tuple[model.Site, ...]:
    zones: dict[str, list[tuple[float, float]]] = {}
    for row in doc.energy:
        zones.setdefault(row.zone, []).append((row.hour_utc, row.price_per_mwh / 1e3))
    sites = []
    for s in doc.sites:
        reserve, utilisation = headroom(doc.headroom.typical_units.get(s.tier, 20), doc.headroom.wait_share_max)
        if s.energy_zone:
            if s.energy_zone not in zones:
                raise InputError(
                    f"site {s.name!r} is in energy zone {s.energy_zone!r}, which has no prices", code="capital.energy"
                )
            known = sorted(zones[s.energy_zone])
            price = tuple(
                float(np.interp(h, [k for k, _ in known], [v for _, v in known], period=24)) for h in doc.hours_utc
            )
        elif s.energy_price_per_kwh is not None:
            price = (s.energy_price_per_kwh,)
        else:
            raise InputError(f"site {s.name!r} has neither energy_zone nor energy_price_per_kwh", code="capital.energy")
        sites.append(
            model.Site(
                s.name,
                s.tier,
                s.lat,
                s.lon,
                s.jurisdiction,
                s.continent,
                price,
                s.pue,
                s.fixed_cost_per_year,
                float("inf") if s.power_kw_max is None else s.power_kw_max,
                s.egress_per_gb,
                utilisation,
                reserve,
                s.central,
                s.rental_factor,
                s.vendor,
            )
        )
    return tuple(sites)


def _demand(doc: Document) -> np.ndarray:
    """Units per second: people times use per head, shaped over the local day, grown by year; the user's table
    replaces it."""
    people = np.array([p.population for p in doc.places])
    local = (np.array(doc.hours_utc)[None] + np.array([p.utc_offset_h for p in doc.places])[:, None]) % 24
    years = (np.array(doc.years) - doc.years[0]) if doc.years else np.zeros(0)
    out = np.zeros((len(doc.places), len(doc.classes), len(doc.years), len(doc.hours_utc)))
    for k, c in enumerate(doc.classes):
        day = 1.0 + (c.peak_to_mean - 1.0) * np.cos((local - c.peak_hour_local) * np.pi / 12)
        mean = people * c.units_per_person_day / 86400.0
        out[:, k] = (mean[:, None] * day)[:, None] * ((1 + c.growth_per_year) ** years)[None, :, None]
    places, classes = {p.name: i for i, p in enumerate(doc.places)}, {c.name: k for k, c in enumerate(doc.classes)}
    named = {(r.place, r.work_class) for r in doc.demand}
    for place, work_class in named:
        if place not in places or work_class not in classes:
            raise InputError(
                f"demand names {place!r} / {work_class!r}, which is not a place and class here", code="capital.demand"
            )
        out[places[place], classes[work_class]] = 0.0
    _need_people(doc, named)
    for row in doc.demand:
        if row.year not in doc.years or row.hour_utc not in doc.hours_utc:
            raise InputError(
                f"demand names year {row.year}, hour {row.hour_utc:g}, which are not in the document",
                code="capital.demand",
            )
        at = (places[row.place], classes[row.work_class], doc.years.index(row.year), doc.hours_utc.index(row.hour_utc))
        out[at] = row.units_per_s
    return out


def _need_people(doc: Document, named: set[tuple[str, str]]) -> None:
    """People stand for demand wherever the user's own table does not state it."""
    lacking = [
        f"place {p.name!r} has population {p.population:g}, but people are what its demand for {c.name!r} is taken from"
        for p in doc.places
        for c in doc.classes
        if p.population == 0 and c.units_per_person_day > 0 and (p.name, c.name) not in named
    ]
    if lacking:
        raise InputError(
            "the plan's input has mistakes:\n- " + "\n- ".join(lacking[:30]),
            code="capital.demand",
            hint="give the place people, state its demand in the demand table, or leave it out",
        )


def _rtt(doc: Document) -> np.ndarray:
    lat, lon = np.array([p.lat for p in doc.places]), np.array([p.lon for p in doc.places])
    distance = great_circle_km(
        lat[:, None], lon[:, None], np.array([s.lat for s in doc.sites]), np.array([s.lon for s in doc.sites])
    )
    models = {
        r.continent: RttModel(r.continent, r.access_ms / 1e3, r.ms_per_1000_km / 1e6, 0, 0.0, 0.0) for r in doc.rtt
    }
    continents = tuple(p.continent for p in doc.places)
    lacking = sorted({c for c in continents if c not in models} if "" not in models else set())
    if lacking and not doc.rtt_table:
        raise InputError(
            f'no rtt model for continent {", ".join(map(repr, lacking))}, and none for all ("")',
            code="capital.rtt",
            hint="add rtt rows, or an rtt_table of measured round trips",
        )
    out = np.full(distance.shape, np.inf) if lacking else rtt_matrix_s(models, continents, distance)
    places, sites = {p.name: i for i, p in enumerate(doc.places)}, {s.name: i for i, s in enumerate(doc.sites)}
    for row in doc.rtt_table:
        at = places.get(row.place), sites.get(row.site)
        if at[0] is None or at[1] is None:
            raise InputError(
                f"rtt_table names {row.place!r} to {row.site!r}, which are not both here", code="capital.rtt"
            )
        out[at] = row.rtt_ms / 1e3
    if not np.isfinite(out).all():
        raise InputError(
            "rtt_table does not cover every place and site, and no model fills the rest", code="capital.rtt"
        )
    return out
