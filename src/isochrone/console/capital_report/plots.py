"""Maps and plots of a capital plan as SVG text. Colours are distinguishable without colour vision (Okabe and Ito
2008)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.plan import CapitalPlan
    from isochrone.plan.capital.tables import Answer

__all__ = ["PLOTS", "map_svg", "plot_for"]

BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8f98", "#CC79A7"
INK, PALE = "#1c2430", "#d9dee5"
_STRANDED_BARS = (
    (-0.3, "book_value", GREY),
    (-0.1, "value_in_use", BLUE),
    (0.1, "resale_value", GREEN),
    (0.3, "write_down", RED),
)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "isochrone"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def map_svg(plan: CapitalPlan) -> str:
    """Places by people and by what reaches them; sites by units at the end, moved-out regions hollow."""
    data = plan.data
    lat = np.array([p.lat_deg for p in data.places] + [s.lat_deg for s in data.sites])
    lon = np.array([p.lon_deg for p in data.places] + [s.lon_deg for s in data.sites])
    stretch = 1 / max(np.cos(np.radians(float(np.median(lat)))), 0.4)
    wide = float(np.ptp(lon)) + 6
    tall = (float(np.ptp(lat)) + 6) * stretch
    figure, axes = _figure(9.2, float(np.clip(9.2 * tall / wide, 3.6, 6.4)))
    axes.set_aspect(stretch)
    beyond = {o.place for o in plan.on_premises}
    people = np.array([p.population_n for p in data.places])
    size = 6 + 60 * np.sqrt(people / people.max())
    missed = np.array([p.name in beyond for p in data.places])
    for mask, colour, label in (
        (~missed, "#b9c2cd", "place, every class within reach"),
        (missed, "#eb9c6b", "place, a class needs compute on premises"),
    ):
        if mask.any():
            axes.scatter(
                lon[: len(people)][mask], lat[: len(people)][mask], s=size[mask], c=colour, lw=0, label=label, zorder=1
            )
    units = plan.units[:, -1].reshape(len(data.sites), -1).sum(axis=1)
    central = np.array([s.central for s in data.sites])
    site_lon, site_lat = lon[len(people) :], lat[len(people) :]
    most = max(float(units.max()), 1e-9)
    for mask, colour, label in ((central, BLUE, "today's region"), (~central, ORANGE, "site close to demand")):
        stands = mask & (units > 1e-6)
        axes.scatter(
            site_lon[stands],
            site_lat[stands],
            s=14 + 420 * units[stands] / most,
            c=colour,
            alpha=0.75,
            lw=0,
            label=f"{label}, units standing",
            zorder=3,
        )
    empty = central & (units <= 1e-6)
    if empty.any():
        axes.scatter(
            site_lon[empty],
            site_lat[empty],
            s=26,
            facecolors="none",
            edgecolors=BLUE,
            lw=1,
            label="today's region, emptied",
            zorder=2,
        )
    for i in _apart(np.argsort(-units), site_lon / wide, site_lat * stretch / tall):
        if units[i] > 1e-6:
            right = site_lon[i] > lon.min() + 0.8 * np.ptp(lon)
            axes.annotate(
                f"{data.sites[i].name.split(' (')[0]} {units[i]:,.0f}",
                (site_lon[i], site_lat[i]),
                xytext=(-7 if right else 7, 4),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=7.5,
                color=INK,
                zorder=4,
            )
    axes.set_xlabel("longitude", fontsize=8)
    axes.set_ylabel("latitude", fontsize=8)
    legend = axes.legend(fontsize=7.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    for handle in legend.legend_handles:
        handle.set_sizes([30.0])
    return _svg(figure)


def _apart(order: NDArray[np.intp], across: NDArray[np.float64], up: NDArray[np.float64]) -> list[int]:
    """The first eight of `order` whose labels do not run into each other; positions in shares of the map."""
    chosen: list[int] = []
    for i in map(int, order):
        if all(abs(across[i] - across[k]) > 0.3 or abs(up[i] - up[k]) > 0.09 for k in chosen):
            chosen.append(i)
    return chosen[:8]


def _frontier(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 2.9)
    axes.plot(answer.column("coverage"), np.array(answer.column("cost")) / 1e6, marker="o", color=BLUE)
    axes.set_xlabel("demand in time, % of reachable", fontsize=8)
    axes.set_ylabel(f"present value, M {answer.columns[1].unit}", fontsize=8)
    return _svg(figure)


def _sensitivity(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(7.6, 0.32 * len(answer.rows) + 0.9)
    saving, names = np.array(answer.column("saving")), answer.column("assumption")
    order = np.argsort(saving)
    colours = [GREEN if answer.rows[i][6] == "holds" else RED for i in order]
    axes.barh([names[i] for i in order], saving[order], color=colours, height=0.65)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlabel("saving of aligned over central, % of central cost (green: claim holds; red: fails)", fontsize=8)
    return _svg(figure)


def _prices(answer: Answer, _: CapitalPlan) -> str:
    """Mean price of each class by part."""
    figure, axes = _figure(6.4, 2.9)
    classes = list(dict.fromkeys(answer.column("work_class")))
    bottom = np.zeros(len(classes))
    parts = (("compute", BLUE), ("energy", ORANGE), ("network", GREY), ("scarcity", RED), ("uplift", PURPLE))
    for part, colour in parts:
        column = np.array(answer.column(part), dtype=float)
        mean = np.array([column[[c == k for c in answer.column("work_class")]].mean() for k in classes])
        axes.bar(classes, mean, bottom=bottom, color=colour, label=part, width=0.6)
        bottom += mean
    axes.set_ylabel(f"{answer.columns[2].unit}, mean over places", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5)
    return _svg(figure)


def _stranded(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 2.9)
    lives = sorted(set(answer.column("life")))
    rows = answer.as_dicts()
    for shift, key, colour in _STRANDED_BARS:
        total = [sum(r[key] for r in rows if r["life"] == life) / 1e6 for life in lives]
        axes.bar(np.arange(len(lives)) + shift, total, width=0.19, color=colour, label=key.replace("_", " "))
    axes.set_xticks(range(len(lives)), [f"{life:g}-year life" for life in lives])
    axes.set_ylabel(f"M {answer.columns[5].unit}", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)
    return _svg(figure)


def _schedule(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 2.6)
    rows = answer.as_dicts()
    lives = sorted({r["life"] for r in rows})
    for k, (life, colour) in enumerate(zip(lives, (RED, ORANGE, BLUE), strict=False)):
        mine = [r for r in rows if r["life"] == life]
        axes.bar(
            np.arange(len(mine)) + 0.26 * (k - 1),
            [r["write_down"] / 1e6 for r in mine],
            width=0.25,
            color=colour,
            label=f"{life:g}-year life",
        )
        axes.set_xticks(range(len(mine)), [str(r["year"]) for r in mine])
    axes.set_ylabel(f"write-down, M {answer.columns[4].unit}", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False)
    return _svg(figure)


def _where(answer: Answer, plan: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 2.9)
    rows, years = answer.as_dicts(), list(plan.data.horizon.years)
    bottom = np.zeros(len(years))
    for tier, colour in (("region", BLUE), ("metro", ORANGE), ("edge", GREEN), ("device", PURPLE)):
        total = np.array([sum(r["units"] for r in rows if r["tier"] == tier and r["year"] == y) for y in years])
        if total.sum() > 0:
            axes.bar([str(y) for y in years], total, bottom=bottom, color=colour, label=tier, width=0.55)
            bottom += total
    axes.set_xlim(-0.6, max(len(years), 3) - 0.4)
    axes.set_ylabel("units standing", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)
    return _svg(figure)


def _procurement(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 2.9)
    rows = answer.as_dicts()
    objectives = sorted({r["objective"] for r in rows})
    for key, colour in (("guarantee_price", BLUE), ("rental_cost", ORANGE)):
        means = [[r[key] for r in rows if r["objective"] == o and r[key] is not None] for o in objectives]
        points = [(o, float(np.mean(m))) for o, m in zip(objectives, means, strict=True) if m]
        axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", color=colour, label=key.replace("_", " "))
    axes.set_xlabel("objective, ms", fontsize=8)
    axes.set_ylabel(answer.columns[2].unit, fontsize=8)
    axes.set_yscale("log")
    axes.legend(fontsize=7.5, frameon=False)
    return _svg(figure)


def _compare(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 2.9)
    rows = [r for r in answer.as_dicts() if r["unit"] == "%" and r["measure"].startswith("in time")]
    at = np.arange(len(rows))
    axes.bar(at - 0.18, [r["central"] for r in rows], width=0.35, color=BLUE, label="today's regions only")
    axes.bar(at + 0.18, [r["aligned"] for r in rows], width=0.35, color=ORANGE, label="aligned with demand")
    axes.set_xticks(at, [r["measure"].removeprefix("in time: ") for r in rows])
    axes.set_ylabel("in time, %", fontsize=8)
    axes.set_ylim(0, 118)
    axes.legend(fontsize=7.5, frameon=False, loc="upper center", ncols=2)
    return _svg(figure)


def _attainment(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 0.4 * len(answer.rows) + 0.9)
    left = np.zeros(len(answer.rows))
    for key, colour in (("in_time", GREEN), ("shed", RED), ("on_premises_only", GREY)):
        values = np.array(answer.column(key), dtype=float)
        axes.barh(answer.column("work_class"), values, left=left, color=colour, label=key.replace("_", " "), height=0.6)
        left += values
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of demand", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.25))
    return _svg(figure)


def _cost(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 2.4)
    axes.barh(answer.column("part")[::-1], np.array(answer.column("present_value")[::-1]) / 1e6, color=BLUE, height=0.6)
    axes.set_xlabel(f"present value, M {answer.columns[1].unit}", fontsize=8)
    return _svg(figure)


def _alternatives(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 0.4 * len(answer.rows) + 0.8)
    for i, r in enumerate(answer.as_dicts()):
        axes.plot([r["least"], r["most"]], [i, i], color=BLUE, lw=6, solid_capstyle="round", alpha=0.5)
        axes.plot([r["best"]], [i], "o", color=INK)
    axes.set_yticks(range(len(answer.rows)), [f"{r['tier']}, +{r['cost_above_best']:g} %" for r in answer.as_dicts()])
    axes.set_xlabel("unit-years (dot: least cost)", fontsize=8)
    return _svg(figure)


def _regret(answer: Answer, _: CapitalPlan) -> str:
    figure, axes = _figure(6.4, 2.6)
    rows, at = answer.as_dicts(), np.arange(len(answer.rows))
    axes.bar(
        at - 0.18, [r["regret_expected_plan"] / 1e6 for r in rows], width=0.35, color=BLUE, label="least expected cost"
    )
    axes.bar(
        at + 0.18, [r["regret_regret_plan"] / 1e6 for r in rows], width=0.35, color=ORANGE, label="least worst regret"
    )
    axes.set_xticks(at, [r["scenario"] for r in rows])
    axes.set_ylabel(f"regret, M {answer.columns[2].unit}", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False)
    return _svg(figure)


PLOTS = {
    "where": _where,
    "frontier": _frontier,
    "sensitivity": _sensitivity,
    "prices": _prices,
    "stranded": _stranded,
    "write_down_schedule": _schedule,
    "procurement": _procurement,
    "central_vs_aligned": _compare,
    "attainment": _attainment,
    "cost": _cost,
    "alternatives": _alternatives,
    "regret": _regret,
}


def plot_for(answer: Answer, plan: CapitalPlan) -> str:
    """The plot of an answer, empty when it has none or no rows."""
    return PLOTS[answer.name](answer, plan) if answer.name in PLOTS and answer.rows else ""
