"""The identity registry as a document: its anchor and every act since, verified again by whoever reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isochrone.authority.identity import Identity, Registry
from isochrone.errors import IntegrityError

__all__ = ["registry_from"]


def registry_from(fabric: str, document: Mapping[str, Any]) -> Registry:
    """The registry of a document ``{"anchor": [identity], "acts": [signed act]}``.

    Raises:
        IntegrityError: ``people.act``, an act does not verify or does not come next.
        AuthorityError: the anchor is malformed or names no operator.
    """
    registry = Registry.anchored(fabric, map(Identity.from_json, document["anchor"]))
    for act in document["acts"]:
        applied = registry.apply(act)
        if not isinstance(applied, Registry):
            raise IntegrityError(f"an identity act does not apply: {applied.reasons[0]}", code="people.act")
        registry = applied
    return registry
