"""Jurisdictions: countries, and the named groups of them that the package knows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = ["JurisdictionGroup", "jurisdiction_groups", "within"]


@dataclass(frozen=True, slots=True)
class JurisdictionGroup:
    """A named set of ISO 3166-1 alpha-2 codes, as of a date, from a source."""

    id: str
    name: str
    members: frozenset[str]
    as_of: str
    source: str


@cache
def jurisdiction_groups() -> tuple[JurisdictionGroup, ...]:
    """The groups shipped with the package (`jurisdictions.json`)."""
    document = json.loads(resources.files(__package__).joinpath("jurisdictions.json").read_text(encoding="utf-8"))
    return tuple(
        JurisdictionGroup(g["id"], g["name"], frozenset(g["members"]), g["as_of"], g["source"])
        for g in document["groups"]
    )


def within(jurisdiction: str, area: str) -> bool:
    """Whether a jurisdiction is the area or belongs to it."""
    return jurisdiction == area or any(area == g.id and jurisdiction in g.members for g in jurisdiction_groups())
