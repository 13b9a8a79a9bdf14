"""An answer: a sentence, and a table whose columns carry their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Column", "amount"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `name` in snake case, `unit` as printed (empty for names and counts)."""

    name: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `name` is its key in JSON and its file name; rows are tuples in column order."""

    name: str
    title: str
    sentence: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]

    def as_dicts(self) -> list[dict[str, Any]]:
        """Rows keyed by column name."""
        names = [c.name for c in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def column(self, name: str) -> list[Any]:
        """One column's values."""
        at = [c.name for c in self.columns].index(name)
        return [row[at] for row in self.rows]


def amount(value: float, currency: str) -> str:
    """Money as it is said: 25.5 M USD."""
    for least, word in ((1e9, " bn"), (1e6, " M")):
        if abs(value) >= least:
            return f"{value / least:,.1f}{word} {currency}"
    return f"{value:,.0f} {currency}"
