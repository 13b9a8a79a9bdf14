"""The isochrone as a picture: true distances and bearings from the place, so that its lines are circles.

Azimuthal equidistant projection (J. P. Snyder, "Map Projections: A Working Manual", USGS Professional Paper 1395,
1987, pages 191 to 202): the distance from the centre is the geodesic, the angle is the bearing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from isochrone.console.reached import lines
from isochrone.errors import InputError, StorageError
from isochrone.latency.reach import Isochrone, Reached
from isochrone.model.fabric import Fabric
from isochrone.model.site import Position

__all__ = ["bearing_rad", "draw"]

_FORMATS = (".png", ".svg", ".pdf")
_IN_TIME, _LATE, _UNABLE, _INK = "#1b7f4d", "#b3261e", "#8a8f98", "#20242b"
# Sites much farther out than the lines would shrink them to a dot: they are named at the rim instead.
_RIM = 1.45


def draw(found: Isochrone, fabric: Fabric, path: Path) -> None:
    """Write the picture to `path`.

    Raises:
        InputError: the file's ending is none that can be drawn, or matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    if path.suffix not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise InputError(f"cannot draw {path.name}", code="picture.format", hint=f"end its name in one of {known}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "pictures need matplotlib", code="picture.library", hint="pip install 'isochrone[hub]'"
        ) from error
    figure = Figure(figsize=(8, 8.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _plot(axes, found, fabric)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", code="picture.write") from error


def bearing_rad(start: Position, end: Position) -> float:
    """Initial bearing on the sphere, clockwise from north; within half a degree of the ellipsoid's."""
    lat_a, lat_b, lon = math.radians(start.lat), math.radians(end.lat), math.radians(end.lon - start.lon)
    east = math.sin(lon) * math.cos(lat_b)
    return math.atan2(east, math.cos(lat_a) * math.sin(lat_b) - math.sin(lat_a) * math.cos(lat_b) * math.cos(lon))


def _plot(axes: Any, found: Isochrone, fabric: Fabric) -> None:
    from matplotlib.patches import Circle

    farthest_km = max((site.distance_m for site in found.sites), default=0.0) / 1e3
    rim_km = found.possible_m / 1e3 * _RIM or farthest_km * 1.15 or 1.0
    for radius_m, style, alpha in ((found.possible_m, "--", 0.06), (found.expected_m, "-", 0.12)):
        if radius_m > 0:
            axes.add_patch(Circle((0, 0), radius_m / 1e3, color=_IN_TIME, alpha=alpha, lw=0))
            axes.add_patch(Circle((0, 0), radius_m / 1e3, fill=False, ec=_IN_TIME, ls=style, lw=1.4))
    axes.plot(0, 0, marker="+", ms=14, mew=2, color=_INK)
    taken: list[tuple[float, float]] = []
    for site in found.sites:
        bearing = bearing_rad(Position(lat=found.lat, lon=found.lon), fabric.sites[site.site].at)
        _site(axes, site, bearing, rim_km, taken)
    axes.set(xlim=(-rim_km, rim_km), ylim=(-rim_km, rim_km), aspect="equal")
    axes.set_xlabel("km east of the place (true distances and bearings from it)")
    axes.set_ylabel("km north")
    axes.grid(visible=True, color="#e6e8ec", lw=0.6)
    axes.set_axisbelow(True)
    title = f"{found.workload} from {found.place} within {found.within_s * 1e3:g} ms"
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=40)
    words = lines(found)
    if len(words) == 2:
        words = (f"solid: {words[0]}", f"dashed: {words[1]}")
    axes.text(0, 1.015, "\n".join(words), transform=axes.transAxes, fontsize=9, color=_INK)


def _site(axes: Any, site: Reached, bearing: float, rim_km: float, taken: list[tuple[float, float]]) -> None:
    distance_km = site.distance_m / 1e3
    shown_km = min(distance_km, rim_km * 0.9)
    east, north = math.sin(bearing), math.cos(bearing)
    x, y = shown_km * east, shown_km * north
    colour = _UNABLE if site.needed_s is None else _IN_TIME if site.in_time else _LATE
    words = "cannot run it" if site.needed_s is None else f"{site.needed_s * 1e3:.1f} ms"
    if shown_km < distance_km:
        words += f", {distance_km:,.0f} km away"
        tail, tip = (x, y), (x + rim_km * 0.08 * east, y + rim_km * 0.08 * north)
        axes.annotate("", tip, xytext=tail, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6})
    else:
        axes.plot(x, y, marker="o", ms=9, color=colour, mec="white", mew=1.0, zorder=3)
    left = x > rim_km * 0.3
    gap, at = rim_km * 0.07, (x + (-1 if left else 1) * rim_km * 0.03, y)
    rows = sorted(range(-20, 21), key=lambda n: (abs(n), n))
    at = next(((at[0], y + n * gap) for n in rows if _free(at[0], y + n * gap, gap, rim_km, taken)), at)
    taken.append(at)
    axes.annotate(
        f"{site.site}  {words}", (x, y), xytext=at, ha="right" if left else "left", va="center", fontsize=9.5,
        color=colour, fontweight="bold", zorder=4,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0},
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "alpha": 0.6},
    )  # fmt: skip


def _free(x: float, y: float, gap: float, rim_km: float, taken: list[tuple[float, float]]) -> bool:
    """Whether a label here would lie on no other; labels are at most about 0.9 rims long."""
    return all(abs(y - there) >= gap * 0.99 or abs(x - across) > rim_km * 0.9 for across, there in taken)
