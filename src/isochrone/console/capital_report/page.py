"""The page: sentences first, then plots, then the tables behind them, then every assumption. No script is needed to
read it."""

from __future__ import annotations

import html
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from isochrone.console.capital_report.maps import tightest
from isochrone.console.capital_report.plots import map_svg, plots_for

if TYPE_CHECKING:
    from isochrone.plan.capital.plan import CapitalPlan
    from isochrone.plan.capital.tables import Answer

__all__ = ["render_report"]

_ORDER = (
    "central_vs_aligned",
    "sensitivity",
    "where",
    "attainment",
    "cost",
    "prices",
    "central_premium",
    "procurement",
    "stranded",
    "write_down_schedule",
    "frontier",
    "alternatives",
    "alternatives_by_site",
    "regret",
    "on_premises",
)
_ROWS_SHOWN = 400
_STYLE = files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def render_report(plan: CapitalPlan, answers: list[Answer]) -> str:
    """One HTML page; everything it shows is inside it."""
    place = {name: i for i, name in enumerate(_ORDER)}
    ordered = sorted(answers, key=lambda a: place.get(a.name, len(place)))
    data = plan.data
    first, last = data.horizon.years[0], data.horizon.years[-1]
    title = f"Capital plan {first}" + (f"–{last}" if last != first else "")
    lead = (
        f"{len(data.places):,} places, {len(data.sites):,} sites ({sum(s.central for s in data.sites)} of "
        f"them today's regions), {len(data.classes)} classes of work, {len(data.assets)} standing assets. Amounts in "
        f"{data.currency}; work in {data.unit}s."
    )
    links = "".join(f'<a href="#{a.name}">{html.escape(a.title)}</a>' for a in ordered)
    body = "".join(_section(a, plan) for a in ordered)
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
    )
    top = (
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>'
        f'<nav>{links}<a href="#assumptions">Assumptions</a></nav>{_facts(plan, answers)}'
        f'<section id="map"><h2>The plan on the map</h2><p class="say">{html.escape(_map_said(plan))}</p>'
        f'<div class="map">{map_svg(plan)}</div></section>'
    )
    return f"{head}<body><main>{top}{body}{_assumptions(plan)}{_footer(plan)}</main></body></html>\n"


def _facts(plan: CapitalPlan, answers: list[Answer]) -> str:
    named = {a.name: a for a in answers}
    facts = [
        (f"{plan.cost.total / 1e6:,.1f} M", f"present value, {plan.data.currency}"),
        (f"{100 * plan.gap:.2f} %", "at most above the best possible"),
    ]
    if "central_vs_aligned" in named:
        rows = {r["measure"]: r for r in named["central_vs_aligned"].as_dicts()}
        cost, stranded = rows["cost with lost demand"], rows["stranded share, 5-year life"]
        if cost["central"]:
            facts.append(
                (
                    f"{100 * (1 - cost['aligned'] / cost['central']):.0f} %",
                    "saved against today's regions, lost demand valued",
                )
            )
        if stranded["central"] is not None:
            facts.append(
                (f"{stranded['central']:.0f} %", "of standing book value stranded if nothing moves, 5-year life")
            )
    total = float(plan.units[:, -1].sum())
    central = sum(
        float(plan.units[plan.pool(i, k), -1])
        for i, s in enumerate(plan.data.sites)
        if s.central
        for k in range(len(plan.data.hardware))
    )
    facts.append(
        (f"{100 * (1 - central / total) if total else 0:.0f} %", "of units stand away from today's regions at the end")
    )
    return (
        '<div class="facts">'
        + "".join(f'<div class="fact"><b>{html.escape(b)}</b><span>{html.escape(s)}</span></div>' for b, s in facts)
        + "</div>"
    )


def _map_said(plan: CapitalPlan) -> str:
    k = tightest(plan)
    lines = (
        f" A line leads from a place to each site that serves its {plan.data.classes[k].name}." if k is not None else ""
    )
    return f"Sites are as large as the units standing there in {plan.data.horizon.years[-1]}, places as people.{lines}"


def _section(answer: Answer, plan: CapitalPlan) -> str:
    plot, on_map = plots_for(answer, plan)
    figures = (f'<div class="plot">{plot}</div>' if plot else "") + (
        f'<div class="map">{on_map}</div>' if on_map else ""
    )
    return (
        f'<section id="{answer.name}"><h2>{html.escape(answer.title)}</h2>'
        f'<p class="say">{html.escape(answer.sentence)}</p>'
        f"{figures}{_table(answer)}</section>"
    )


def _table(answer: Answer) -> str:
    if not answer.rows:
        return ""
    numeric = [
        all(isinstance(v, int | float) or v is None or hasattr(v, "dtype") for v in answer.column(c.name))
        for c in answer.columns
    ]
    head = "".join(
        f"<th{_n(n)}>{html.escape(c.name.replace('_', ' '))}<small>{html.escape(c.unit)}</small></th>"
        for c, n in zip(answer.columns, numeric, strict=True)
    )
    years = [c.name == "year" for c in answer.columns]
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td{_n(n)}>{html.escape(str(v) if y else _text(v))}</td>"
            for v, n, y in zip(row, numeric, years, strict=True)
        )
        + "</tr>"
        for row in answer.rows[:_ROWS_SHOWN]
    )
    plural = "" if len(answer.rows) == 1 else "s"
    more = (
        f"the first {_ROWS_SHOWN} of {len(answer.rows):,}" if len(answer.rows) > _ROWS_SHOWN else f"{len(answer.rows)}"
    )
    return (
        f"<details><summary>Table: {more} row{plural}</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _n(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str | bool):
        return str(value)
    number = float(value)
    if number == 0 or abs(number) < 5e-10:
        return "0"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:,.1f}" if abs(number) >= 10 else f"{number:.4g}"


def _assumptions(plan: CapitalPlan) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(a.name)}</td><td>{html.escape(a.value)}</td><td>"
        + (f'<span class="tag">{html.escape(a.source)}</span>' if a.source == "assumption" else html.escape(a.source))
        + "</td></tr>"
        for a in plan.data.assumptions
    )
    none = '<tr><td colspan="3">The document lists none.</td></tr>'
    return (
        '<section id="assumptions"><h2>What this rests on</h2><p class="say">Every input that decides the answer, '
        "with its source. Change a line in the document and run again.</p>"
        '<div class="scroll"><table><thead><tr><th>input</th><th>value</th><th>source</th></tr></thead>'
        f"<tbody>{rows or none}</tbody></table></div></section>"
    )


def _footer(plan: CapitalPlan) -> str:
    priced = (
        "Prices are duals of the linear program with openings fixed as planned; they leave fixed charges to uplift."
        if plan.prices is not None
        else "The plan is not proven, so no price is stated."
    )
    return (
        f"<footer><p>{priced} Solved with HiGHS; the optimality conditions can be recomputed without it.</p></footer>"
    )
