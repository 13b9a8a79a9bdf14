"""What every figure shares: colours, type, axes without a box, and SVG that stands inside a page."""

from __future__ import annotations

import html
import io
import re
from typing import Any

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "INK",
    "LAND",
    "ORANGE",
    "PALE",
    "PURPLE",
    "RED",
    "SOFT",
    "STYLE",
    "figure",
    "legend_above",
    "svg",
]

# Distinguishable without colour vision (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8f98", "#CC79A7"
INK, SOFT, PALE, LAND = "#1c2430", "#5b6675", "#d9dee5", "#f3f2ec"
WIDTH_IN = 4.8  # drawn larger on a desk and smaller on a phone: at 310 px wide, 9 pt are 8 px

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "isochrone",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a name with two dollar signs is no formula
}


def figure(height: float, width: float = WIDTH_IN, **panels: Any) -> tuple[Any, Any]:
    """A figure in inches and its axes."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots(**panels)


def legend_above(axes: Any, columns: int = 4) -> None:
    """A legend outside the plot, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, handlelength=1.2, columnspacing=1.0,
                borderpad=0.2, borderaxespad=0.2)  # fmt: skip


def svg(drawn: Any, title: str) -> str:
    """The figure as an SVG element with a name for those who do not see it."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True,
                  bbox_inches="tight", pad_inches=0.05)  # fmt: skip
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Names of groups would be the same in every figure of the page, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title, quote=True)}"', 1)
