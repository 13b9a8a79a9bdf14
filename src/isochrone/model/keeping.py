"""Keeping: how long records are kept, and who witnesses them. One rule, which every party reads from the document."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from isochrone.model.base import Noun

__all__ = ["WITNESSES_MAX", "Keeping", "Retention", "quorum_of", "witnesses_of"]

# Each log has this many witnesses at most: their number bounds what a fork would have to corrupt and what each second
# costs, and in a fabric of hundreds of sites all of them would be neither needed nor cheap.
WITNESSES_MAX = 5


class Retention(StrEnum):
    """How long records are kept; each class is a log of its own, since a log can only be pruned from its beginning."""

    SIX_MONTHS = "6-months"
    ONE_YEAR = "1-year"
    THREE_YEARS = "3-years"
    FIVE_YEARS = "5-years"
    SIX_YEARS = "6-years"
    SEVEN_YEARS = "7-years"

    @property
    def days(self) -> int:
        """Whole days, leap days and the longer half of a year included, so that nothing goes too early."""
        number, unit = self.value.split("-")
        return int(number) * 31 if unit == "months" else -(-int(number) * 1461 // 4)


class Keeping(Noun):
    """What holds for the records of every site.

    Attributes:
        retention: of each site's main log: exchanges, revocations, activations, findings, and the records of every
            contract that names no class of its own.
        quorum: how many other sites must have cosigned a checkpoint; None is more than half of a log's witnesses.
    """

    retention: Retention = Retention.SEVEN_YEARS
    quorum: Annotated[int, Field(ge=0, le=WITNESSES_MAX)] | None = None


def witnesses_of(sites: frozenset[str], site: str) -> tuple[str, ...]:
    """The sites that witness the logs of `site`: the next ones in the order of names, `WITNESSES_MAX` at most."""
    later = sorted(name for name in sites if name > site)
    earlier = sorted(name for name in sites if name < site)
    return tuple([*later, *earlier][:WITNESSES_MAX])


def quorum_of(keeping: Keeping, witnesses: tuple[str, ...]) -> int:
    """How many of `witnesses` must have cosigned; 0 where there are none.

    More than half by default: then no two histories can both be cosigned by a quorum unless a witness cosigns both.
    """
    if not witnesses:
        return 0
    return len(witnesses) // 2 + 1 if keeping.quorum is None else min(keeping.quorum, len(witnesses))
