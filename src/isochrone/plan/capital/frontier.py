"""What it costs to serve more of the demand in time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from isochrone.errors import PlanError
from isochrone.plan.capital.model import Options
from isochrone.plan.capital.studies import Solve, relaxed
from isochrone.plan.capital.tables import Answer, Column, amount
from isochrone.plan.capital.where import capital_employed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isochrone.plan.capital.inputs import CapitalInput
    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["COVERAGES", "frontier_answer"]

COVERAGES = (0.90, 0.925, 0.95, 0.975, 0.99, 1.0)
_Row = tuple[float, float | None, float, float | None, float | None, float | None]


def frontier_answer(data: CapitalInput, solve: Solve = relaxed, coverages: Sequence[float] = COVERAGES) -> Answer:
    """Cost of serving such shares (rising) of reachable deadline demand in time: of the best plan found, and what any
    costs at least. Penalties of deadline demand are left out; work without deadline that is not served counts."""
    free = replace(
        data,
        classes=tuple(replace(c, penalty_per_unit=1e-15) if c.objective_s is not None else c for c in data.classes),
    )
    rows: list[_Row] = []
    like: CapitalPlan | None = None
    for coverage in reversed(coverages):  # what serves more serves less too, so each plan is one to try at the next
        asked = replace(free, coverage_min=coverage)
        try:
            plan = solve(asked, Options(), like)
        except PlanError as exc:
            if exc.code == "capital.status":
                rows.append((100 * coverage, None, _least(asked), None, None, None))
            elif exc.code != "capital.infeasible":
                raise
            continue
        like = plan
        rows.append((100 * coverage, plan.cost.total, plan.bound, 100 * plan.gap, capital_employed(plan),
                     float(plan.units[:, -1].sum())))  # fmt: skip
    rows = _least_raised(rows[::-1])
    money = data.currency
    columns = (Column("coverage", "% of reachable demand"), Column("cost", money), Column("cost_least", money),
               Column("gap", "%"), Column("capital", money), Column("units"))  # fmt: skip
    whole = like is None or like.program.options.integer
    return Answer("frontier", "Cost against coverage", _said(rows, coverages, money, whole=whole), columns, tuple(rows))


def _least(data: CapitalInput) -> float:
    """What any plan costs at least, where none was found in time."""
    return relaxed(data, Options()).bound


def _least_raised(rows: Sequence[_Row]) -> list[_Row]:
    """Serving more never costs less: each bound is also one on all that serve more."""
    raised, least = [], float("-inf")
    for coverage, cost, bound, _, capital, units in rows:
        least = max(least, bound)
        gap = None if cost is None else 100 * max(0.0, cost - least) / max(abs(cost), 1e-9)
        raised.append((coverage, cost, least if cost is None else min(least, cost), gap, capital, units))
    return raised


def _said(rows: Sequence[_Row], coverages: Sequence[float], currency: str, *, whole: bool) -> str:
    how = "" if whole else " (relaxation: openings may be fractional, so fixed charges are understated)"
    ending = ""
    if len(rows) < len(coverages):
        ending = f"the limits given (power, supply) do not allow {100 * coverages[len(rows)]:g} % at any price"
    found: list[tuple[Any, ...]] = [r for r in rows if r[1] is not None]
    if len(found) < 2:
        said = ending or "no two points were solved in the time given, only what they cost at least"
        return f"{said[0].upper()}{said[1:]}{how}."
    first, (before, last) = (found[1][1] - found[0][1]) / (found[1][0] - found[0][0]), found[-2:]
    width = last[0] - before[0]
    step, least, most = ((a - b) / width for a, b in ((last[1], before[1]), (last[2], before[1]), (last[1], before[2])))
    more = f"a percent more near {last[0]:g} %" if last[0] < 100 else "the last percent"
    times = f", {step / first:.1f} times a percent near 90 %" if first > 0 else ""
    wide = whole and most - least > 0.01 * abs(step)
    proven = f" (between {amount(max(least, 0.0), currency)} and {amount(most, currency)} by what is proven)"
    widest = max(r[3] for r in found)
    return (
        f"{more[0].upper()}{more[1:]} costs {amount(step, currency)}{proven if wide else ''}{times}"
        + (f"; each plan is proven within {widest:.2f} % of the best" if whole else "")
        + (f"; {ending}" if ending else "")
        + f"{how}."
    )
