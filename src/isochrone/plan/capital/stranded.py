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
from isochrone.plan.capital.tables import Answer, Column, amount

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
            move = data.hardware[kind].move_cost_per_unit
            each = [_value(plan, earned, plan.pool(s, kind), left) - move if stands[s] else 0.0
                    for s in range(len(data.sites))]  # fmt: skip
            each[site] = value / asset.units
            best = int(np.argmax(each))
            best = best if each[best] > each[site] else site
            there = asset.units * each[best]
            rows.append((asset.name, asset.site, asset.hardware, asset.units, life, book, value, sold,
                         max(0.0, book - max(value, sold)), data.sites[best].name, there,
                         max(0.0, there - max(value, sold))))  # fmt: skip
    money = data.currency
    columns = (Column("asset"), Column("site"), Column("hardware"), Column("units"), Column("life", "years"),
               Column("book_value", money), Column("value_in_use", money), Column("resale_value", money),
               Column("write_down", money), Column("best_site"), Column("value_at_best_site_less_move", money),
               Column("gain_by_moving", money))  # fmt: skip
    shares = {life: _share(rows, life) for life in LIVES_YEARS}
    better = [r for r in rows if r[4] == LIVES_YEARS[1] and r[11] > 0]
    sentence = "Stranded at the plan's prices: " + ", ".join(
        f"{100 * share:.0f} % of book value on a {life:g}-year life" for life, share in shares.items()
    )
    if better:
        sentence += (
            f". On a {LIVES_YEARS[1]:g}-year life {len(better)} of {len(data.assets)} assets would be worth "
            f"{amount(sum(r[11] for r in better), money)} more at their best site, moving paid "
            "(one at a time, prices unchanged)."
        )
    else:
        sentence += ". None would be worth more at another site once moving is paid."
    return Answer("stranded", "Stranded and misplaced capital", sentence, columns, tuple(rows))


def _share(rows: Sequence[tuple[Any, ...]], life: float) -> float:
    book = float(sum(r[5] for r in rows if r[4] == life))
    return float(sum(r[8] for r in rows if r[4] == life)) / book if book else 0.0


def stranded_share(plan: CapitalPlan, life_years: float = 5.0) -> float:
    """Write-down over book value of all assets, on one life."""
    return _share(stranded_answer(plan).rows, life_years) if plan.data.assets else 0.0


def schedule_answer(plan: CapitalPlan) -> Answer:
    """Per asset, life and year: book value by depreciation alone, recoverable value, and the write-down taken then."""
    data, earned = plan.data, earnings(plan)
    rows = [(asset.name, life, year, *values)
            for asset in data.assets for life in LIVES_YEARS
            for year, values in zip(data.horizon.years, _schedule(plan, earned, asset, life), strict=True)]  # fmt: skip
    money, first = data.currency, data.horizon.years[0]
    columns = (Column("asset"), Column("life", "years"), Column("year"), Column("book_value", money),
               Column("recoverable", money), Column("write_down", money))  # fmt: skip
    said = []
    for life in LIVES_YEARS:
        now = sum(r[5] for r in rows if r[1] == life and r[2] == first)
        later = sum(r[5] for r in rows if r[1] == life) - now
        said.append(f"{amount(now, money)} in {first} and {amount(later, money)} later on a {life:g}-year life")
    return Answer("write_down_schedule", "Write-downs by year", f"To be written down: {'; '.join(said)}.", columns,
                  tuple(rows))  # fmt: skip


def _schedule(
    plan: CapitalPlan, earned: NDArray[np.float64], asset: Asset, life: float
) -> list[tuple[float, float, float]]:
    """(book value, recoverable value, write-down) at the start of each period. What was written down before is no
    longer depreciated: the carrying amount falls in proportion."""
    data, span = plan.data, plan.data.horizon.years_per_period
    pool, carried_share, found = plan.pool(*_place_of(plan, asset)), 1.0, []
    for y in range(len(data.horizon.years)):
        book = book_value(asset, life, y * span)
        left = max(0.0, life - asset.age_years - y * span)
        used = asset.units * _value(plan, earned, pool, left, y * span)
        value = max(used, asset.units * resale_value(data, asset, y * span))
        carried = book * carried_share
        down = max(0.0, carried - value)
        carried_share *= 1.0 - down / carried if carried > 0 else 1.0
        found.append((book, value, down))
    return found
