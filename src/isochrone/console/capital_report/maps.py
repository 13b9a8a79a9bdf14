"""Maps: where the plan stands and whom it serves, and what the tightest class costs from place to place."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from isochrone.console.capital_report.canvas import BLUE, GREY, INK, LAND, ORANGE, PALE, RED, SOFT, figure, svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from isochrone.plan.capital.plan import CapitalPlan
    from isochrone.plan.capital.tables import Answer

__all__ = ["plan_map", "price_map", "tightest"]

_WIDTH_IN = 7.2
_LINES_MAX = 1500
_Box = tuple[float, float, float, float]


def tightest(plan: CapitalPlan) -> int | None:
    """The class with the shortest deadline, None where no class has one."""
    classes = plan.data.classes
    return min((k for k, c in enumerate(classes) if c.objective_s is not None),
               key=lambda k: classes[k].objective_s or 0.0, default=None)  # fmt: skip


def plan_map(plan: CapitalPlan) -> str:
    """Units standing at the end, and who serves the tightest class where."""
    data = plan.data
    drawn, axes = _ground(plan)
    place_at = np.array([(p.lon_deg, p.lat_deg) for p in data.places])
    site_at = np.array([(s.lon_deg, s.lat_deg) for s in data.sites])
    _served(plan, axes, place_at, site_at)
    beyond = {o.place for o in plan.on_premises}
    missed = np.array([p.name in beyond for p in data.places])
    size = _place_sizes(plan)
    for mask, colour, label in ((~missed, "#a9b4c2", "place: every class in reach of a site"),
                                (missed, RED, "place: a class needs compute on premises")):  # fmt: skip
        if mask.any():
            axes.scatter(*place_at[mask].T, s=size[mask], c=colour, lw=0, label=label, zorder=2)
    units = plan.units[:, -1].reshape(len(data.sites), -1).sum(axis=1)
    central, stands = np.array([s.central for s in data.sites]), units > 1e-6
    area = 30 + 400 * units / max(float(units.max()), 1e-9)
    for mask, colour, label in ((central, BLUE, "today's region"), (~central, ORANGE, "site close to demand")):
        if (mask & stands).any():
            axes.scatter(*site_at[mask & stands].T, s=area[mask & stands], c=colour, alpha=0.8, lw=0, zorder=3,
                         label=f"{label}: units standing")  # fmt: skip
        if (mask & ~stands).any():
            axes.scatter(*site_at[mask & ~stands].T, s=24, facecolors="none", edgecolors=colour, lw=1, zorder=3,
                         label=f"{label}: nothing stands")  # fmt: skip
    order = [i for i in np.argsort(-units) if stands[i]]
    named = [(f"{data.sites[i].name.split(' (')[0]}: {units[i]:,.0f}", site_at[i], np.sqrt(area[i]) / 2) for i in order]
    largest = np.argsort(-size)[:30]
    _legend(drawn, axes)
    _labels(axes, named[:12], [(data.places[i].name, place_at[i], np.sqrt(size[i]) / 2) for i in largest])
    return svg(drawn, "Map of the plan: places, sites, units standing, and who serves the tightest class")


def price_map(answer: Answer, plan: CapitalPlan) -> str:
    """What one more unit of the tightest class costs at each place, in the last year."""
    from matplotlib.colors import LogNorm

    data, k = plan.data, tightest(plan)
    year = data.horizon.years[-1]
    price = {r["place"]: r["price"] for r in answer.as_dicts()
             if k is not None and r["work_class"] == data.classes[k].name and r["year"] == year}  # fmt: skip
    here = [i for i, p in enumerate(data.places) if price.get(p.name, 0.0) > 0]
    if k is None or len(here) < 2:
        return ""
    drawn, axes = _ground(plan)
    size, values = 20 + 1.6 * _place_sizes(plan), np.array([price[data.places[i].name] for i in here])
    at = np.array([(p.lon_deg, p.lat_deg) for p in data.places])
    low, high = float(values.min()), float(values.max())
    points = axes.scatter(*at[here].T, s=size[here], c=values, cmap="viridis_r", lw=0, zorder=2,
                          norm=LogNorm(low, max(high, low * 1.01)))  # fmt: skip
    away = [i for i in range(len(data.places)) if i not in set(here)]
    if away:
        axes.scatter(*at[away].T, s=30, c=RED, marker="x", lw=1.2, zorder=2, label="none in reach")
        _legend(drawn, axes)
    bar = drawn.colorbar(points, ax=axes, shrink=0.7, pad=0.02)
    bar.set_label(f"{answer.columns[3].unit}, {data.classes[k].name}, {year}")
    ticks = np.geomspace(low, max(high, low * 1.01), 4)
    bar.set_ticks(ticks, labels=[f"{t:.2g}" for t in ticks], minor=False)
    bar.minorticks_off()
    order = sorted(here, key=lambda i: -float(size[i]))[:24]
    names = [(f"{data.places[i].name} {price[data.places[i].name]:.2g}", at[i], np.sqrt(size[i]) / 2) for i in order]
    _labels(axes, [], names)
    return svg(drawn, f"Map of prices of {data.classes[k].name} by place")


def _ground(plan: CapitalPlan) -> tuple[Any, Any]:
    """Axes for all places and sites, true to scale in the middle latitude, with land, meridians and parallels."""
    places, sites = plan.data.places, plan.data.sites
    lat, lon = np.array([(p.lat_deg, p.lon_deg) for p in places] + [(s.lat_deg, s.lon_deg) for s in sites]).T
    stretch = 1 / max(np.cos(np.radians(float(np.median(lat)))), 0.4)
    margin = 0.06 * max(float(np.ptp(lon)), float(np.ptp(lat)) * stretch, 2.0)
    wide, tall = float(np.ptp(lon)) + 2 * margin, (float(np.ptp(lat)) + 2 * margin / stretch) * stretch
    drawn, axes = figure(float(np.clip(_WIDTH_IN * tall / wide, 3.0, 5.4)) + 0.7, _WIDTH_IN)
    axes.set_aspect(stretch)
    axes.set_xlim(lon.min() - margin, lon.max() + margin)
    axes.set_ylim(lat.min() - margin / stretch, lat.max() + margin / stretch)
    _coasts(axes)
    axes.grid(color=PALE, lw=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelcolor=GREY)
    axes.xaxis.set_major_formatter(lambda v, _: f"{abs(v):g}° {'W' if v < 0 else 'E'}" if v else "0°")
    axes.yaxis.set_major_formatter(lambda v, _: f"{abs(v):g}° {'S' if v < 0 else 'N'}" if v else "0°")
    for side in axes.spines.values():
        side.set_visible(False)
    return drawn, axes


@cache
def _land() -> tuple[NDArray[np.float64], ...]:
    """Outlines of land, (points, longitude and latitude): Natural Earth 1:110m, in the public domain; for the eye."""
    text = files(__package__).joinpath("land.json").read_text(encoding="utf-8")
    return tuple(np.array(ring) for ring in json.loads(text)["rings"])


def _coasts(axes: Any) -> None:
    """Land within the map, as faint ground."""
    from matplotlib.collections import PolyCollection

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    seen = [r for r in _land() if r[:, 0].max() > left and r[:, 0].min() < right and r[:, 1].max() > low
            and r[:, 1].min() < high]  # fmt: skip
    axes.add_collection(PolyCollection(seen, facecolors=LAND, edgecolors=PALE, lw=0.5, zorder=0), autolim=False)


def _place_sizes(plan: CapitalPlan) -> NDArray[np.float64]:
    """Areas by people, by demand where no people are stated."""
    people = np.array([p.population_n for p in plan.data.places])
    much = people if people.max() > 0 else plan.data.demand_per_s.sum(axis=(1, 2, 3))
    return np.asarray(5 + 60 * np.sqrt(much / max(float(much.max()), 1e-300)))


def _served(plan: CapitalPlan, axes: Any, place_at: NDArray[np.float64], site_at: NDArray[np.float64]) -> None:
    """A line from each place to every site that serves its tightest class in the last year, as wide as its share."""
    from matplotlib.collections import LineCollection

    arcs, k = plan.arcs, tightest(plan)
    mine = np.array([r.work_class == k and r.place >= 0 for r in arcs.rows], dtype=bool)
    if k is None or not mine.any():
        return
    served, asked = plan.serve[:, -1].sum(axis=1), arcs.demand_per_s[:, -1].sum(axis=1)
    share = served / np.maximum(asked[arcs.row], 1e-300) * mine[arcs.row]
    used = [a for a in np.argsort(-served * mine[arcs.row])[:_LINES_MAX] if share[a] > 0.02]
    lines = [(place_at[arcs.rows[arcs.row[a]].place], site_at[arcs.site[a]]) for a in used]
    axes.add_collection(LineCollection(lines, linewidths=[0.4 + 1.6 * min(share[a], 1.0) for a in used], colors=INK,
                                       alpha=0.35, zorder=1, label=f"serves {plan.data.classes[k].name}"))  # fmt: skip


def _legend(drawn: Any, axes: Any) -> None:
    legend = drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, columnspacing=1.2)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([30.0])


def _labels(axes: Any, named: Sequence[tuple[str, Any, float]], lesser: Sequence[tuple[str, Any, float]]) -> None:
    """Names beside their points (text, position, radius in points), each only where it runs into no other."""
    axes.figure.draw_without_rendering()
    per_point = axes.figure.dpi / 72
    inside = axes.get_window_extent()
    points = [*named, *lesser]
    spots = [(*(float(v) / per_point for v in axes.transData.transform(at)), radius) for _, at, radius in points]
    taken: list[_Box] = [(x - r, y - r, x + r, y + r) for x, y, r in spots]
    for names, size, wide, weight, colour in ((named, 8.5, 0.68, "bold", INK), (lesser, 7.5, 0.6, "normal", SOFT)):
        for text, at, radius in names:
            x, y = (float(v) / per_point for v in axes.transData.transform(at))
            for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                box = _box(x, y, across, up, radius, len(text) * size * wide, size)
                fits = inside.x0 <= box[0] * per_point and box[2] * per_point <= inside.x1
                if fits and not any(_overlap(box, other) for other in taken):
                    taken.append(box)
                    offset = ((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y)
                    axes.annotate(text, at, xytext=offset, textcoords="offset points", ha="center", va="center",
                                  fontsize=size, weight=weight, color=colour, zorder=5)  # fmt: skip
                    break


def _box(x: float, y: float, across: int, up: int, radius: float, width: float, height: float) -> _Box:
    """Where a text of this size stands beside a point, in points."""
    left = x + across * (radius + 2) - (width if across < 0 else 0 if across > 0 else width / 2)
    low = y + up * (radius + 2) - (height if up < 0 else 0 if up > 0 else height / 2)
    return left, low, left + width, low + height


def _overlap(one: _Box, two: _Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
