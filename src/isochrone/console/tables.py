"""Tables and colours in the terminal: the door to `rich`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Cell", "Shown", "good", "live", "show", "stack", "strong", "table", "weak", "wrong"]

Cell = str | Text
Shown = RenderableType
# Without a terminal there is no width to keep to; a table then is as wide as this at most.
_WIDE = 180


def console(*, stderr: bool = False) -> Console:
    """The terminal, or a plain file of fixed width."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDE
    return Console(width=width, stderr=stderr, highlight=False, soft_wrap=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], numbers: Iterable[str] = ()) -> Table:
    """A table without frames; `numbers` names the columns that are aligned to the right."""
    right = set(numbers)
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", header_style="dim", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def good(text: str) -> Text:
    return Text(text, style="green")


def wrong(text: str) -> Text:
    return Text(text, style="bold red")


def weak(text: str) -> Text:
    return Text(text, style="dim")


def strong(text: str) -> Text:
    return Text(text, style="bold")


def stack(parts: Iterable[Shown]) -> Group:
    """One below the other, a blank line between."""
    lines: list[Shown] = []
    for part in parts:
        lines += ["", part] if lines else [part]
    return Group(*lines)


def show(what: Shown) -> None:
    """Print it."""
    console().print(what)


def live() -> AbstractContextManager[Any]:
    """A part of the screen that is drawn again: ``screen.update(what)``."""
    return Live(console=console(), auto_refresh=False, screen=False)
