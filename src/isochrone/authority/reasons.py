"""Why something was refused: refusals are values, and every one of them carries these."""

from __future__ import annotations

from dataclasses import dataclass

from isochrone.errors import IsochroneError

__all__ = ["Reason"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of a refusal.

    Attributes:
        code: stable and for machines, kebab case, e.g. ``scope-widened``.
        text: one sentence for people, naming the thing.
        hop: index of the hop of a chain it concerns, 0 for the root; None when it concerns no single hop.
    """

    code: str
    text: str
    hop: int | None = None

    @classmethod
    def of(cls, error: IsochroneError, hop: int | None = None) -> Reason:
        """The reason that an operating error states, its area left out of the code."""
        return cls(error.code.rpartition(".")[2], str(error), hop)

    def __str__(self) -> str:
        place = "" if self.hop is None else f"hop {self.hop}: "
        return f"{place}{self.text} ({self.code})"
