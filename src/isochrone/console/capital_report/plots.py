"""The plot of each answer, as SVG text: axes carry units, legends hide nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.console.capital_report.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    STYLE,
    figure,
    legend_above,
    svg,
)
from isochrone.console.capital_report.maps import plan_map, price_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.plan import CapitalPlan
    from isochrone.plan.capital.tables import Answer

__all__ = ["PLOTS", "map_svg", "plots_for"]

_PRICE_PARTS = (("compute", BLUE), ("energy", ORANGE), ("network", GREY), ("scarcity", RED), ("uplift", PURPLE))
_STRANDED_BARS = (("book_value", GREY), ("value_in_use", BLUE), ("resale_value", GREEN), ("write_down", RED))
_CLASSES_SHOWN = 40
_SITES_SHOWN = 40


def _words(name: str) -> str:
    return name.replace("_", " ")


def _pair(axes: Any, names: list[str], one: Any, two: Any, labels: tuple[str, str]) -> None:
    """Two bars beside each other for every name."""
    at = np.arange(len(names))
    for shift, values, colour, label in ((-0.18, one, BLUE, labels[0]), (0.18, two, ORANGE, labels[1])):
        axes.bar(at + shift, np.array(values, dtype=float), width=0.35, color=colour, label=label)
    axes.set_xticks(at, names)
    legend_above(axes, 2)


def _where(answer: Answer, plan: CapitalPlan) -> Any:
    drawn, axes = figure(2.9)
    rows, years = answer.as_dicts(), list(plan.data.horizon.years)
    bottom = np.zeros(len(years))
    for tier, colour in (("region", BLUE), ("metro", ORANGE), ("edge", GREEN), ("device", PURPLE)):
        total = np.array([sum(r["units"] for r in rows if r["tier"] == tier and r["year"] == y) for y in years])
        if total.sum() > 0:
            axes.bar([str(y) for y in years], total, bottom=bottom, color=colour, label=tier, width=0.55)
            bottom += total
    axes.set_xlim(-0.6, max(len(years), 3) - 0.4)
    axes.set_ylabel("units of hardware standing")
    legend_above(axes)
    return drawn


def _attainment(answer: Answer, _: CapitalPlan) -> Any:
    drawn, axes = figure(0.4 * len(answer.rows) + 1.0)
    left = np.zeros(len(answer.rows))
    for key, colour in (("in_time", GREEN), ("shed", RED), ("on_premises_only", GREY)):
        values = np.array(answer.column(key), dtype=float)
        axes.barh(answer.column("work_class"), values, left=left, color=colour, label=_words(key), height=0.6)
        left += values
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    axes.set_xlabel("% of demand")
    legend_above(axes, 3)
    return drawn


def _cost(answer: Answer, _: CapitalPlan) -> Any:
    drawn, axes = figure(2.6)
    values = np.array(answer.column("present_value")) / 1e6
    bars = axes.barh(answer.column("part"), values, color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="{:,.1f}", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel(f"present value, M {answer.columns[1].unit}")
    return drawn


def _on_premises(answer: Answer, _: CapitalPlan) -> Any:
    """Demand beyond reach by class."""
    asked: dict[str, float] = {}
    for r in answer.as_dicts():
        asked[r["work_class"]] = asked.get(r["work_class"], 0.0) + r["peak_demand"]
    names = sorted(asked, key=lambda n: -asked[n])[:_CLASSES_SHOWN]
    drawn, axes = figure(0.4 * len(names) + 0.8)
    axes.barh(names, [asked[n] / 1e6 for n in names], color=GREY, height=0.6)
    axes.invert_yaxis()
    axes.set_xlabel(f"sum of peak demands no site can answer in time, M {answer.columns[2].unit}")
    return drawn


def _prices(answer: Answer, plan: CapitalPlan) -> Any:
    """Mean price of each class by part, in the first year and the last."""
    rows, years = answer.as_dicts(), plan.data.horizon.years
    shown = [(c, y) for c in dict.fromkeys(answer.column("work_class")) for y in dict.fromkeys((years[0], years[-1]))]
    drawn, axes = figure(3.1)
    bottom = np.zeros(len(shown))
    for part, colour in _PRICE_PARTS:
        mean = np.array([np.mean([r[part] for r in rows if (r["work_class"], r["year"]) == s]) for s in shown])
        axes.bar(range(len(shown)), mean, bottom=bottom, color=colour, label=part, width=0.65)
        bottom += mean
    axes.set_xticks(range(len(shown)), [f"{c}\n{y}" for c, y in shown], fontsize=8)
    axes.set_ylabel(f"{answer.columns[3].unit}, mean over places")
    legend_above(axes, 5)
    return drawn


def _premium(answer: Answer, _: CapitalPlan) -> Any:
    drawn, axes = figure(2.7)
    rows = answer.as_dicts()
    several = len({r["hardware"] for r in rows}) > 1
    names = [f"{r['hardware']}\n{r['year']}" if several else str(r["year"]) for r in rows]
    _pair(axes, names, [r["earns_central"] or 0.0 for r in rows], [r["earns_elsewhere"] or 0.0 for r in rows],
          ("today's regions", "elsewhere"))  # fmt: skip
    axes.set_ylabel(f"earned, {answer.columns[2].unit}")
    return drawn


def _procurement(answer: Answer, plan: CapitalPlan) -> Any:
    """Means over places by objective, in the first year and the last."""
    drawn, axes = figure(2.9)
    rows, years = answer.as_dicts(), plan.data.horizon.years
    objectives = sorted({r["objective"] for r in rows})
    lines = {years[-1]: "s--", years[0]: "o-"}  # one year: as the first
    for year in dict.fromkeys((years[0], years[-1])):
        for key, colour in (("guarantee_price", BLUE), ("rental_cost", ORANGE)):
            means = [[r[key] for r in rows if (r["objective"], r["year"]) == (o, year) and r[key] is not None]
                     for o in objectives]  # fmt: skip
            points = [(o, float(np.mean(m))) for o, m in zip(objectives, means, strict=True) if m]
            if points:
                axes.plot(*zip(*points, strict=True), lines[year], ms=4, mfc="none", color=colour,
                          label=f"{_words(key)}, {year}")  # fmt: skip
    axes.set_xlabel("objective, ms")
    axes.set_ylabel(f"{answer.columns[5].unit},\nmean over places in reach")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.set_xticks(objectives, [f"{o:g}" for o in objectives])
    legend_above(axes, 2)
    return drawn


def _stranded(answer: Answer, _: CapitalPlan) -> Any:
    drawn, axes = figure(2.9)
    lives = sorted(set(answer.column("life")))
    rows = answer.as_dicts()
    for k, (key, colour) in enumerate(_STRANDED_BARS):
        total = [sum(r[key] for r in rows if r["life"] == life) / 1e6 for life in lives]
        axes.bar(np.arange(len(lives)) + 0.2 * k - 0.3, total, width=0.19, color=colour, label=_words(key))
    axes.set_xticks(range(len(lives)), [f"{life:g}-year life" for life in lives])
    axes.set_ylabel(f"M {answer.columns[5].unit}")
    legend_above(axes)
    return drawn


def _schedule(answer: Answer, _: CapitalPlan) -> Any:
    """Book value, recoverable value and write-down of all assets by year, one panel a life."""
    rows = answer.as_dicts()
    lives, years = sorted({r["life"] for r in rows}), sorted({r["year"] for r in rows})
    drawn, panels = figure(2.7, nrows=1, ncols=len(lives), sharey=True, squeeze=False)
    for axes, life in zip(panels[0], lives, strict=True):

        def total(key: str, life: float = life) -> NDArray[np.float64]:
            return np.array([sum(r[key] for r in rows if r["life"] == life and r["year"] == y) for y in years]) / 1e6

        axes.bar(years, total("write_down"), width=0.6, color=RED, label="write-down")
        axes.plot(years, total("book_value"), color=GREY, marker="o", ms=3, label="book value")
        axes.plot(years, total("recoverable"), color=BLUE, marker="o", ms=3, label="recoverable")
        axes.set_xlim(years[0] - 0.6, years[-1] + 0.6)
        axes.set_xticks(years, [f"'{y % 100:02d}" for y in years], fontsize=8)
        axes.set_xlabel(f"{life:g}-year life")
    panels[0][0].set_ylabel(f"M {answer.columns[3].unit}")
    drawn.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn


def _compare(answer: Answer, _: CapitalPlan) -> Any:
    """Attainment above, cost below."""
    rows = answer.as_dicts()
    drawn, (above, below) = figure(4.4, nrows=2, height_ratios=(3, 2))
    kept = [r for r in rows if r["measure"].startswith("in time")]
    _pair(above, [r["measure"].removeprefix("in time: ") for r in kept], [r["central"] for r in kept],
          [r["aligned"] for r in kept], ("today's regions only", "aligned with demand"))  # fmt: skip
    above.set_ylabel("in time, %")
    money = {r["measure"]: r for r in rows}
    left = np.zeros(2)
    for key, colour in (("cost paid", GREY), ("value of lost demand", RED)):
        values = np.array([money[key]["central"], money[key]["aligned"]]) / 1e6
        below.barh(["today's\nregions", "aligned"], values, left=left, color=colour, label=key, height=0.55)
        left += values
    below.invert_yaxis()
    below.set_xlabel(f"present value, M {money['cost paid']['unit']}")
    legend_above(below, 2)
    return drawn


def _sensitivity(answer: Answer, _: CapitalPlan) -> Any:
    drawn, axes = figure(0.3 * len(answer.rows) + 0.9)
    saving = np.array(answer.column("saving"))
    order = np.argsort(saving)
    holds = [answer.rows[i][6] == "holds" for i in order]
    names = [answer.rows[i][0] for i in order]
    axes.barh(names, saving[order], color=[GREEN if h else RED for h in holds], height=0.65)
    said = [f"{s:.0f}" if h else f"{s:.0f}: fails" for s, h in zip(saving[order], holds, strict=True)]
    # Right of the bar, and of zero: left of it the names begin.
    for row, (text, value) in enumerate(zip(said, saving[order], strict=True)):
        axes.annotate(text, (max(value, 0.0), row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.margins(x=0.14)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlabel("saving against today's regions, % of their cost")
    return drawn


def _frontier(answer: Answer, _: CapitalPlan) -> Any:
    drawn, axes = figure(2.9)
    at, least = np.array(answer.column("coverage")), np.array(answer.column("cost_least"), dtype=float) / 1e6
    found = np.array(answer.column("cost"), dtype=float) / 1e6
    axes.fill_between(at, least, found, color=BLUE, alpha=0.18, lw=0, label="what is not proven")
    axes.plot(at, least, color=BLUE, lw=1, ls="--", label="least any plan costs")
    axes.plot(at, found, marker="o", color=BLUE, label="best plan found")
    legend_above(axes, 3)
    axes.set_xlabel("demand in time, % of what can be reached")
    axes.set_ylabel(f"present value, M {answer.columns[1].unit}")
    return drawn


def _alternatives(answer: Answer, _: CapitalPlan) -> Any:
    drawn, axes = figure(0.4 * len(answer.rows) + 0.9)
    for i, r in enumerate(answer.as_dicts()):
        axes.plot([r["least"], r["most"]], [i, i], color=BLUE, lw=6, solid_capstyle="round", alpha=0.5)
        axes.plot([r["best"]], [i], "o", color=INK)
    axes.set_yticks(range(len(answer.rows)), [f"{r['tier']}, +{r['cost_above_best']:g} %" for r in answer.as_dicts()])
    axes.margins(y=0.15)
    axes.set_xlabel("unit-years possible at that cost (dot: least cost)")
    return drawn


def _by_site(answer: Answer, _: CapitalPlan) -> Any:
    """What doing otherwise at a site costs more: from what is proven to what was found, the dearest first."""
    known = [r for r in answer.as_dicts() if r["cost_more_least"] is not None]
    rows = sorted(known, key=lambda r: -r["cost_more_least"])[:_SITES_SHOWN]
    drawn, axes = figure(0.26 * max(len(rows), 1) + 1.0)
    for done, colour in (("kept out", BLUE), ("built on", ORANGE)):
        mine = [(i, r) for i, r in enumerate(rows) if r["otherwise"] == done]
        ends = [r["cost_more_least"] if r["cost_more_found"] is None else r["cost_more_found"] for _, r in mine]
        axes.hlines([i for i, _ in mine], [r["cost_more_least"] for _, r in mine], ends, color=colour, lw=4, alpha=0.4)
        if mine:
            axes.plot(ends, [i for i, _ in mine], "o", color=colour, ms=4, label=f"{done} (dot: plan found)")
    axes.set_yticks(range(len(rows)), [r["site"] for r in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    most = max((r["cost_more_found"] or r["cost_more_least"] for r in rows), default=5.0)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(min([r["cost_more_least"] for r in rows] + [0.0]) - 0.3, 1.5 * max(most, 5.0))
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    for slack in (1, 5):
        axes.axvline(slack, color=GREY, lw=0.8, ls=":")
    axes.set_xlabel("cost above this plan's, %")
    legend_above(axes, 2)
    return drawn


def _regret(answer: Answer, _: CapitalPlan) -> Any:
    drawn, axes = figure(2.8)
    rows = answer.as_dicts()
    _pair(axes, [r["scenario"] for r in rows], [r["regret_expected_plan"] / 1e6 for r in rows],
          [r["regret_regret_plan"] / 1e6 for r in rows], ("least expected cost", "least worst regret"))  # fmt: skip
    axes.set_ylabel(f"regret, M {answer.columns[2].unit}")
    return drawn


PLOTS = {
    "where": _where,
    "attainment": _attainment,
    "cost": _cost,
    "on_premises": _on_premises,
    "prices": _prices,
    "central_premium": _premium,
    "procurement": _procurement,
    "stranded": _stranded,
    "write_down_schedule": _schedule,
    "central_vs_aligned": _compare,
    "sensitivity": _sensitivity,
    "frontier": _frontier,
    "alternatives": _alternatives,
    "alternatives_by_site": _by_site,
    "regret": _regret,
}


def map_svg(plan: CapitalPlan) -> str:
    """The plan on a map."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        return plan_map(plan)


def plots_for(answer: Answer, plan: CapitalPlan) -> tuple[str, str]:
    """(plot, map) of an answer; empty where it has none or no rows."""
    from matplotlib import rc_context

    if answer.name not in PLOTS or not answer.rows:
        return "", ""
    with rc_context(STYLE):
        return (
            svg(PLOTS[answer.name](answer, plan), answer.title),
            price_map(answer, plan) if answer.name == "prices" else "",
        )
