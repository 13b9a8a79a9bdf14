"""Stranded and misplaced capital: what each standing asset is carried at, what it will earn, and where it would earn
more.

The value of a unit is the discounted rent it earns at the plan's prices for the rest of its life, never below zero in
a year
(it can be switched off). Years beyond the horizon earn what the last year of the horizon earns. An asset carried
above that, and above what it would fetch if sold, is written down to the larger of the two (the recoverable amount of
IAS 36); depreciation is straight-line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.plan.capital.costs import resale_value
from isochrone.plan.capital.pricing import earnings
from isochrone.plan.capital.tables import Answer, Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from isochrone.plan.capital.inputs import Asset
    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["LIVES_YEARS", "book_value", "schedule_answer", "stranded_answer", "stranded_share", "value_in_use"]

LIVES_YEARS = (3.0, 5.0, 6.0)


def book_value(asset: Asset, life_years: float, years_later: float = 0.0) -> float:
    """Straight-line book value of all its units, this long after the start of the horizon."""
    left = max(0.0, 1.0 - (asset.age_years + years_later) / life_years)
    return asset.units * asset.cost_per_unit * left


def value_in_use(yearly: NDArray[np.float64], rate: float, span: float, years_left: float, start: float = 0.0) -> float:
    """Present value at `start` of yearly rents (one per period, the last one repeated) for `years_left`."""
    total, t = 0.0, 0.0
    while t < years_left - 1e-9:
        step = min(1.0, years_left - t)
        period = min(int((start + t) / span), len(yearly) - 1)
        total += max(float(yearly[period]), 0.0) * step / (1 + rate) ** (t + step / 2)
        t += step
    return total


def _place_of(plan: CapitalPlan, asset: Asset) -> tuple[int, int]:
    data = plan.data
    site = [s.name for s in data.sites].index(asset.site)
    return site, [h.name for h in data.hardware].index(asset.hardware)


def _value(plan: CapitalPlan, earned: NDArray[np.float64], pool: int, life_left: float, start: float = 0.0) -> float:
    horizon = plan.data.horizon
    return value_in_use(earned[pool], horizon.discount_rate, horizon.years_per_period, life_left, start)


def stranded_answer(plan: CapitalPlan) -> Answer:
    """Per asset and life: book value, value in use, write-down; the best site for it and what moving would gain."""
    data, earned = plan.data, earnings(plan)
    rows = []
    for asset in data.assets:
        site, kind = _place_of(plan, asset)
        for life in LIVES_YEARS:
            left = max(0.0, life - asset.age_years)
            sold = asset.units * resale_value(data, asset)
            book = book_value(asset, life)
            value = asset.units * _value(plan, earned, plan.pool(site, kind), left)
            # only where hardware stands: elsewhere the first unit earns a price that a fleet would not find
            stands = plan.units[kind :: len(data.hardware)].max(axis=1) > 1e-6
            each = [_value(plan, earned, plan.pool(s, kind), left) * stands[s] for s in range(len(data.sites))]
            best = int(np.argmax(each))
            gain = asset.units * (each[best] - data.hardware[kind].move_cost_per_unit) - max(value, sold)
            gain = gain if best != site else 0.0
            rows.append((asset.name, asset.site, asset.hardware, asset.units, life, book, value, sold,
                         max(0.0, book - max(value, sold)),
                         data.sites[best].name if gain > 0 else asset.site, max(0.0, gain)))  # fmt: skip
    money = data.currency
    columns = (Column("asset"), Column("site"), Column("hardware"), Column("units"), Column("life", "years"),
               Column("book_value", money), Column("value_in_use", money), Column("resale_value", money),
               Column("write_down", money), Column("best_site"), Column("gain_by_moving", money))  # fmt: skip
    shares = {life: _share(rows, life) for life in LIVES_YEARS}
    moved = sum(r[10] for r in rows if r[4] == LIVES_YEARS[1])
    sentence = (
        "Stranded at the plan's prices: "
        + ", ".join(f"{100 * share:.0f} % of book value on a {life:g}-year life" for life, share in shares.items())
        + f". At the best site for each, net of moving, the same hardware would be worth {moved:,.0f} {money} more "
        "(one asset at a time, prices unchanged)."
    )
    return Answer("stranded", "Stranded and misplaced capital", sentence, columns, tuple(rows))


def _share(rows: Sequence[tuple[Any, ...]], life: float) -> float:
    book = float(sum(r[5] for r in rows if r[4] == life))
    return float(sum(r[8] for r in rows if r[4] == life)) / book if book else 0.0


def stranded_share(plan: CapitalPlan, life_years: float = 5.0) -> float:
    """Write-down over book value of all assets, on one life."""
    return _share(stranded_answer(plan).rows, life_years) if plan.data.assets else 0.0


def schedule_answer(plan: CapitalPlan) -> Answer:
    """Year by year: book value by depreciation alone, recoverable value, and the write-down taken that year."""
    data, earned, span = plan.data, earnings(plan), plan.data.horizon.years_per_period
    rows = []
    for life in LIVES_YEARS:
        totals = np.zeros((len(data.horizon.years), 3))
        for asset in data.assets:
            pool, carried_share = plan.pool(*_place_of(plan, asset)), 1.0
            for y in range(len(data.horizon.years)):
                book = book_value(asset, life, y * span)
                left = max(0.0, life - asset.age_years - y * span)
                used = asset.units * _value(plan, earned, pool, left, y * span)
                value = max(used, asset.units * resale_value(data, asset, y * span))
                carried = book * carried_share
                down = max(0.0, carried - value)
                carried_share *= 1.0 - down / carried if carried > 0 else 1.0
                totals[y] += (book, value, down)
        rows += [(life, year, *map(float, totals[y])) for y, year in enumerate(data.horizon.years)]
    money = data.currency
    columns = (Column("life", "years"), Column("year"), Column("book_value", money), Column("recoverable", money),
               Column("write_down", money))  # fmt: skip
    first = sum(r[4] for r in rows if r[0] == LIVES_YEARS[1] and r[1] == data.horizon.years[0])
    later = sum(r[4] for r in rows if r[0] == LIVES_YEARS[1]) - first
    sentence = (
        f"On a 5-year life {first:,.0f} {money} would be written down at once and {later:,.0f} {money} in later years."
    )
    return Answer("write_down_schedule", "Write-downs by year", sentence, columns, tuple(rows))
