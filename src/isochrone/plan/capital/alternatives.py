"""Near-optimal alternatives: how much of a plan is forced, and how much is taste."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.errors import PlanError
from isochrone.plan.capital.engine import Engine
from isochrone.plan.capital.model import Options
from isochrone.plan.capital.studies import Solve, relaxed
from isochrone.plan.capital.tables import Answer, Column

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from isochrone.plan.capital.inputs import CapitalInput
    from isochrone.plan.capital.openings import Search
    from isochrone.plan.capital.plan import CapitalPlan

__all__ = ["by_site_answer", "by_tier_answer"]

SLACKS = (0.01, 0.05)
_CLOSE, _WIDE = (100 * slack for slack in SLACKS)


def by_tier_answer(data: CapitalInput, best: CapitalPlan | None = None, solve: Solve = relaxed) -> Answer:
    """Within 1 and 5 % of a plan's cost: the least and most units each tier can have (modelling to generate
    alternatives, Brill, Chang and Hopkins 1982, Manage. Sci. 28(3)).

    `solve` relaxes the openings, so no plan with whole ones lies outside; not every mix inside is one.
    """
    best = best or solve(data, Options())
    of_tier = np.repeat([s.tier for s in data.sites], len(data.hardware))
    rows: list[tuple[Any, ...]] = []
    for slack in SLACKS:
        for tier in sorted({s.tier for s in data.sites}):
            ends = [
                solve(data, Options(cost_max=(1 + slack) * best.objective, prefer=((tier, sign),)))
                for sign in (1.0, -1.0)
            ]
            units = [float(p.units[of_tier == tier].sum()) for p in ends]
            rows.append((100 * slack, tier, float(best.units[of_tier == tier].sum()), *units))
    columns = (Column("cost_above_best", "%"), Column("tier"), Column("best", "unit-years"),
               Column("least", "unit-years"), Column("most", "unit-years"))  # fmt: skip
    wide = max(rows, key=lambda r: r[4] - r[3])
    sentence = (
        f"No plan at up to {wide[0]:g} % more cost has fewer than {wide[3]:,.0f} or more than {wide[4]:,.0f} "
        f"unit-years in the {wide[1]} tier (this one: {wide[2]:,.0f}): what lies outside is forced. These are bounds "
        "by the relaxation; whole openings may leave less room."
    )
    return Answer("alternatives", "Near-optimal alternatives", sentence, columns, tuple(rows))


@dataclass(frozen=True, slots=True)
class _Otherwise:
    """Doing otherwise at one site: percent more than the plan that any such plan costs at least and that the best one
    found costs, and the unit-years it has at the site; NaN where not known, infinite where there is no such plan."""

    least: float
    found: float
    units: float

    @property
    def settled(self) -> bool:
        """Whether it is proven to be within 1 %, between 1 and 5 %, or above."""
        return self.found <= _CLOSE or self.least > _WIDE or (self.found <= _WIDE and self.least > _CLOSE)

    @property
    def verdict(self) -> str:
        """In words, by what is found and what is proven."""
        if self.least == np.inf:
            return "no plan"
        if self.found <= _WIDE:
            return f"within {_CLOSE if self.found <= _CLOSE else _WIDE:g} %"
        return f"above {_WIDE:g} %" if self.least > _WIDE else "open"


def by_site_answer(
    plan: CapitalPlan,
    *,
    gap_rel_max: float = 0.005,
    time_limit_s: float = 20.0,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Answer:
    """For each site the opposite of what the plan does: kept out where hardware stands, built on where none does.

    Everything else may change, the other openings too. Each case is a whole plan found and a bound on any; both are
    set against what the plan itself costs.

    Args:
        plan: with whole openings.
        gap_rel_max, time_limit_s: when the search for one case ends.
        progress: told of each site as it is done.
    """
    data, kinds = plan.data, len(plan.data.hardware)
    engine = Engine(plan.program, threads=threads)
    search = engine.search(gap_rel_max, time_limit_s)
    opened = np.round(plan.open)
    rows: list[tuple[Any, ...]] = []
    for s, site in enumerate(data.sites):
        pools = np.arange(s * kinds, (s + 1) * kinds)
        stands = bool(opened[pools].any())
        cases = [_kept_out(opened, pools)] if stands else [_built_on(opened, k) for k in pools]
        each = [_otherwise(plan, engine, search, pools, case) for case in cases]
        best = min(each, key=lambda o: (np.isnan(o.found), o.found))
        best = replace(best, least=float(np.min([o.least for o in each])))
        done = "kept out" if stands else "built on"
        rows.append((site.name, site.tier, float(plan.units[pools].sum()), done,
                     *map(_finite, (best.least, best.found, best.units)), best.verdict))  # fmt: skip
        if progress:
            progress(f"{site.name} {done}: {best.verdict}")
    columns = (Column("site"), Column("tier"), Column("units_in_plan", "unit-years"), Column("otherwise"),
               Column("cost_more_least", "%"), Column("cost_more_found", "%"), Column("units_found", "unit-years"),
               Column("verdict"))  # fmt: skip
    return Answer("alternatives_by_site", "How much each site matters", _said(rows, plan), columns, tuple(rows))


_Range = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


def _kept_out(opened: NDArray[np.float64], pools: NDArray[np.intp]) -> _Range:
    high = np.ones_like(opened)
    high[pools] = 0.0
    return np.zeros_like(opened), high


def _built_on(opened: NDArray[np.float64], pool: np.intp) -> _Range:
    low = np.zeros_like(opened)
    low[pool] = 1.0
    return low, np.ones_like(opened)


def _otherwise(
    plan: CapitalPlan, engine: Engine, search: Search, pools: NDArray[np.intp], between: _Range
) -> _Otherwise:
    """Search until the verdict is settled, by branching where rounding does not settle it."""
    search.begin_again(*between)
    search.cost(np.round(plan.open))
    try:
        search.tighten()
        if not _so_far(plan, engine, search, pools).settled:
            engine.branch(search)
    except PlanError as exc:
        if search.answer is None and exc.code == "capital.infeasible":
            return _Otherwise(np.inf, np.inf, np.nan)
    return _so_far(plan, engine, search, pools)


def _so_far(plan: CapitalPlan, engine: Engine, search: Search, pools: NDArray[np.intp]) -> _Otherwise:
    scale = 100 * plan.program.scale.money / plan.objective
    least = search.bound * scale - 100 if np.isfinite(search.bound) else np.nan
    if search.answer is None:
        return _Otherwise(least, np.nan, np.nan)
    found = search.value * scale - 100
    return _Otherwise(min(least, found), found, float(engine.units(search.answer)[pools].sum()))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _said(rows: list[tuple[Any, ...]], plan: CapitalPlan) -> str:
    close, wide = _CLOSE, _WIDE

    def some(done: str, *verdicts: str) -> list[str]:
        return [r[0] for r in rows if r[3] == done and r[7] in verdicts]

    def counted(done: str) -> str:
        every = [r for r in rows if r[3] == done]
        needed = some(done, f"above {wide:g} %", "no plan")
        named = f" ({', '.join(needed[:5])}{', ...' if len(needed) > 5 else ''})" if needed else ""
        return (
            f"{len(some(done, f'within {close:g} %'))} of {len(every)} can be {done} for at most {close:g} % more, "
            f"{len(some(done, f'within {wide:g} %'))} for up to {wide:g} %, {len(needed)} only for more{named}"
        )

    parts = [f"of sites with hardware {counted('kept out')}", f"of the others {counted('built on')}"]
    unsettled = [r[0] for r in rows if r[7] == "open"]
    left = f" What is proven leaves open: {', '.join(unsettled[:5])}." if unsettled else ""
    said = "; ".join(
        p for p, done in zip(parts, ("kept out", "built on"), strict=True) if any(r[3] == done for r in rows)
    )
    return (
        f"{said[0].upper()}{said[1:]}.{left} Each is one change at a time, all other openings free: the cost found is "
        "that of a whole plan found in limited time, so better ones may exist down to the least, which no such plan "
        f"is under; both against this plan, itself proven within {100 * plan.gap:.2f} %."
    )
