"""Explains a plan at one place: who serves each class, at what price, and why each near site is or is not used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isochrone.plan.capital.arcs import throughput_at
from isochrone.plan.capital.bounds import allowed, barred
from isochrone.plan.capital.pricing import parts

if TYPE_CHECKING:
    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["ClassStory", "SiteStory", "explain_place", "told"]

_PARTS = ("price", "compute", "energy", "network", "scarcity", "uplift")


@dataclass(frozen=True, slots=True)
class SiteStory:
    """One site seen from the place: `share` of the class's demand it serves there, and why no more."""

    site: str
    rtt_ms: float
    share: float
    units_per_s_per_unit: float
    why: str


@dataclass(frozen=True, slots=True)
class ClassStory:
    """One class at the place. `price_per_million` holds the price and its parts, empty where there is none."""

    work_class: str
    objective_ms: float
    quantile: float
    on_premises: str
    price_per_million: dict[str, float]
    sites: tuple[SiteStory, ...]


def explain_place(plan: CapitalPlan, place: int, sites_n: int = 6, year: int = 0) -> list[ClassStory]:
    """Every class with a deadline, with the sites nearest to the place."""
    data, stories = plan.data, []
    split = parts(plan) if plan.prices is not None else None
    for k, c in enumerate(data.classes):
        if c.objective_s is None:
            continue
        row = next((i for i, r in enumerate(plan.arcs.rows) if (r.place, r.work_class) == (place, k)), None)
        price: dict[str, float] = {}
        if row is not None and split is not None:
            found = (split.total, split.compute, split.energy, split.network, split.scarcity, split.fixed_charge)
            price = {name: 1e6 * float(v[row, year]) for name, v in zip(_PARTS, found, strict=True)}
        beyond = [o.reason for o in plan.on_premises if (o.place, o.work_class) == (data.places[place].name, c.name)]
        near = tuple(_site(plan, place, k, row, int(s), year) for s in np.argsort(data.rtt_s[place])[:sites_n])
        stories.append(ClassStory(c.name, 1e3 * c.objective_s, c.quantile, "".join(beyond[:1]), price, near))
    return stories


def _site(plan: CapitalPlan, place: int, k: int, row: int | None, s: int, year: int) -> SiteStory:
    data, c, site = plan.data, plan.data.classes[k], plan.data.sites[s]
    left_s = (c.objective_s or 0.0) - float(data.rtt_s[place, s])
    home = data.places[place].jurisdiction
    inside = [h for h, may in zip(data.hardware, allowed(data, c, home)[s], strict=True) if may]
    best = max((float(np.max(throughput_at(h, np.array([left_s])))) for h in inside), default=0.0)
    mine = (plan.arcs.row == (-1 if row is None else row)) & (plan.arcs.site == s)
    asked = float(plan.arcs.demand_per_s[row, year].sum()) if row is not None else 0.0
    share = float(plan.serve[mine, year].sum()) / asked if asked else 0.0
    if not inside:
        reasons = dict.fromkeys(r for h in data.hardware for r in barred(data, c, home, site, h))
        why = f"out of bounds: {'; '.join(reasons)}"
    elif best <= 0:
        why = f"out of time: {1e3 * left_s:.1f} ms left for the hardware"
    elif share > 5e-4:
        why = f"serves {100 * share:.0f} %, {best:,.0f} {data.unit}/s per unit"
    elif row is None:
        why = "in time, but nothing is asked"
    else:
        why = f"in time, but {_unused(plan, s, mine, row, year)} ({best:,.0f} {data.unit}/s per unit)"
    return SiteStory(site.name, 1e3 * float(data.rtt_s[place, s]), share, best, why)


def _unused(plan: CapitalPlan, s: int, mine: np.ndarray, row: int, year: int) -> str:
    """Why a site in time and in bounds does not serve."""
    data, kinds = plan.data, len(plan.data.hardware)
    if not plan.open[s * kinds : (s + 1) * kinds].max() > 0.5:
        return "not opened: its fixed charges are not earned"
    if plan.prices is None:
        return "not used"
    discounted = plan.program.costs.serve[mine, year] / data.horizon.seconds_per_hour_block
    cost = discounted / data.horizon.discount()[year]
    cost = cost + plan.prices.rent[plan.arcs.pool[mine], year] / 3600.0 / plan.arcs.throughput_per_s[mine, None]
    here, price = 1e6 * float(cost.min(axis=0).mean()), 1e6 * float(plan.prices.per_unit[row, year].mean())
    if here <= price * 1.001:
        return "others do it at the same cost"
    return f"dearer: {here:.4f} {data.currency}/M {data.unit} here, the price is {price:.4f}"


def told(plan: CapitalPlan, place: int, stories: list[ClassStory], year: int = 0) -> list[str]:
    """The stories as lines of text."""
    data, where = plan.data, plan.data.places[place]
    people = f"{where.population_n:,.0f} people, " if where.population_n else ""
    lines = [f"{where.name}: {people}{where.jurisdiction or 'no jurisdiction'}; {data.horizon.years[year]}"]
    for story in stories:
        lines.append(f"\n{story.work_class}: {story.objective_ms:g} ms at the {100 * story.quantile:g} % quantile")
        if story.on_premises:
            lines.append(f"  {story.on_premises}")
        elif p := story.price_per_million:
            split = " + ".join(f"{name} {p[name]:.4f}" for name in _PARTS[1:5])
            lines.append(f"  price {p['price']:.4f} {data.currency}/M {data.unit} = {split}; uplift {p['uplift']:.4f}")
        elif plan.prices is None:
            lines.append("  no price: the plan is not proven")
        lines += [f"  {s.site:32} {s.rtt_ms:6.1f} ms  {s.why}" for s in story.sites]
    return lines
