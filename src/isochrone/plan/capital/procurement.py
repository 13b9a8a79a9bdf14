"""Procurement: what honouring an execution guarantee costs at a place, against renting capacity, and when each pays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.plan.capital.arcs import throughput_at
from isochrone.plan.capital.headroom import units_needed
from isochrone.plan.capital.pricing import quote
from isochrone.plan.capital.tables import Answer, Column

if TYPE_CHECKING:
    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["OBJECTIVES_S", "procurement_answer", "rental_cost"]

OBJECTIVES_S = (0.010, 0.020, 0.030, 0.050, 0.100)


def rental_cost(
    plan: CapitalPlan, place: int, objective_s: float, peak_per_s: float, mean_per_s: float, *, wait_share_max: float
) -> float | None:
    """Least cost per unit of work of renting whole units, with head-room for the same attainment, at any site in reach
    that rents.

    Args:
        peak_per_s, mean_per_s: demand; the peak sizes the rental, the mean spreads its cost.
        wait_share_max: share of requests that may wait for a free unit.
    """
    offers = _offers(plan, place, objective_s)
    return min((_cost_of(o, peak_per_s, mean_per_s, wait_share_max) for o in offers), default=None)


def _offers(plan: CapitalPlan, place: int, objective_s: float) -> set[tuple[float, float]]:
    """(units of work per second, money per hour) of each unit for rent in reach that no other beats in both."""
    offers = set()
    for h in plan.data.hardware:
        rate = np.asarray(throughput_at(h, objective_s - plan.data.rtt_s[place]))
        for s, site in enumerate(plan.data.sites):
            if rate[s] > 0 and h.rental_per_unit_hour * site.rental_factor > 0:
                offers.add((float(rate[s]), h.rental_per_unit_hour * site.rental_factor))
    found, cheapest = set(), math.inf
    for rate_per_s, price in sorted(offers, key=lambda o: (-o[0], o[1])):
        if price < cheapest:
            cheapest = price
            found.add((rate_per_s, price))
    return found


def _cost_of(offer: tuple[float, float], peak_per_s: float, mean_per_s: float, wait_share_max: float) -> float:
    rate, price_per_hour = offer
    return math.ceil(units_needed(peak_per_s / rate, wait_share_max)) * price_per_hour / (mean_per_s * 3600.0)


def _break_even_per_s(
    plan: CapitalPlan, place: int, objective_s: float, price: float, wait: float, peak: float
) -> float | None:
    """Least mean demand from which renting is no dearer than the guarantee (None: renting never is)."""
    low, high = 1e-3, 1e9
    offers = _offers(plan, place, objective_s)

    def dearer(mean: float) -> bool:
        return all(_cost_of(o, mean * peak, mean, wait) > price for o in offers)

    if dearer(high):
        return None
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if dearer(middle) else (low, middle)
    return high


def procurement_answer(plan: CapitalPlan, places: tuple[int, ...], wait_share_max: float = 0.05) -> Answer:
    """Guarantee against rental, at several places, for each standard objective and every year."""
    data = plan.data
    money = f"{data.currency}/M {data.unit}"
    rows = tuple(row for year in range(len(data.horizon.years)) for p in places
                 for row in _rows(plan, p, year, wait_share_max))  # fmt: skip
    names = ("marginal_price", "uplift", "guarantee_price", "rental_cost")
    columns = (Column("place"), Column("year"), Column("objective", "ms"), *(Column(n, money) for n in names),
               Column("rent_from_demand", f"{data.unit}/s"), Column("penalty_exposure_central", money),
               Column("penalty_exposure_guarantee", money), Column("penalty_break_even", money),
               Column("cheaper"))  # fmt: skip
    answer = Answer("procurement", "What a guarantee costs, against renting", "", columns, rows)
    return replace(answer, sentence=_said(plan, answer, len(places), wait_share_max))


def _promised(plan: CapitalPlan) -> tuple[float, float]:
    """(penalty per unit, quantile) that exposure is reckoned at: the largest of the deadline classes."""
    classes = [c for c in plan.data.classes if c.objective_s is not None]
    penalty = max((c.penalty_per_unit for c in classes), default=0.0)
    return penalty, max((c.quantile for c in classes), default=0.95)


def _rows(plan: CapitalPlan, place: int, year: int, wait_share_max: float) -> list[tuple[Any, ...]]:
    data, (penalty, quantile) = plan.data, _promised(plan)
    deadline = [k for k, c in enumerate(data.classes) if c.objective_s is not None]
    fastest = min(s for h in data.hardware for s, units in h.throughput if units > 0)
    near = min((float(data.rtt_s[place, i]) for i, s in enumerate(data.sites) if s.central), default=math.inf)
    demand = data.demand_per_s[place][deadline, year].sum(axis=0)
    mean, peak = float(demand.mean()), float(demand.max())
    effort, rows = quote(plan, place, 10.0, year=year), []
    for objective in OBJECTIVES_S:
        offer = quote(plan, place, objective, year=year)
        missed = (1 - quantile) if near + fastest <= objective else 1.0
        price, uplift = (offer.price, offer.uplift) if offer else (None, None)
        full = None if offer is None else offer.price + offer.uplift
        rent = even = worth = None
        if full is not None and mean > 0:
            rent = rental_cost(plan, place, objective, peak, mean, wait_share_max=wait_share_max)
            even = _break_even_per_s(plan, place, objective, full, wait_share_max, peak / mean)
        saved = missed - (1 - quantile)
        if full is not None and saved > 0:
            worth = (full - (effort.price + effort.uplift if effort else 0.0)) / saved
        best = "nothing in reach" if full is None else "guarantee" if rent is None or full <= rent else "rent"
        exposed = (missed * penalty, (1 - quantile) * penalty if offer else None)
        rows.append((data.places[place].name, data.horizon.years[year], objective * 1e3,
                     *map(_million, (price, uplift, full, rent)), even, *map(_million, (*exposed, worth)),
                     best))  # fmt: skip
    return rows


def _million(value: float | None) -> float | None:
    return None if value is None else 1e6 * value


def _said(plan: CapitalPlan, answer: Answer, places_n: int, wait_share_max: float) -> str:
    data, given = plan.data, [r for r in answer.as_dicts() if r["marginal_price"] is not None]
    if not given:
        return f"No guarantee can be given at any of {places_n} places: nothing that stands is in reach."
    tightest = min(r["objective"] for r in given)
    at = len({r["place"] for r in given if r["objective"] == tightest})
    lost = sorted({r["objective"] for r in given if r["penalty_break_even"] is not None})
    exposed = (
        f" Where today's regions cannot answer in time ({lost[0]:g} to {lost[-1]:g} ms), a buyer whose penalty per "
        "missed unit is above the table's break-even should buy the guarantee."
        if lost
        else " Today's regions answer in time for every objective here."
    )
    by_year = []
    for year in dict.fromkeys((data.horizon.years[0], data.horizon.years[-1])):
        mine = [r for r in given if r["year"] == year]
        by_year.append(f"{sum(r['cheaper'] == 'guarantee' for r in mine)} of {len(mine)} in {year}")
    return (
        f"Of the guarantees at the {100 * _promised(plan)[1]:g} % quantile that can be given at {places_n} places, "
        f"{' and '.join(by_year)} cost less, fixed charges included, than renting whole units to the same attainment "
        f"({100 * (1 - wait_share_max):g} % find a free unit); the tightest is {tightest:g} ms, at {at} of the "
        f"places.{exposed}"
    )
