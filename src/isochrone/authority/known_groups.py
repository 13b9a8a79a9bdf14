"""The jurisdictions' groups that this release knows, as scopes compare them."""

from __future__ import annotations

from isochrone.authority.scope import Groups
from isochrone.model.jurisdictions import jurisdiction_groups

__all__ = ["known_groups"]


def known_groups() -> Groups:
    """Jurisdictions and the groups they are in."""
    return Groups({group.id: group.members for group in jurisdiction_groups()})
