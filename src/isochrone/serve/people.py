"""The identity registry as a document: its anchor and every act since, verified again by whoever reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isochrone.authority.identity import ACT_BYTES_MAX, ACT_TYP, Identity, Registry
from isochrone.authority.proof import parse_signed
from isochrone.errors import AuthorityError, IntegrityError

__all__ = ["anchor_digest", "registry_from"]


def anchor_digest(fabric: str, document: Mapping[str, Any]) -> str:
    """What the first act of a registry commits to: who was enrolled before anybody could sign.

    Raises:
        AuthorityError: the anchor is malformed or names no operator.
    """
    return Registry.anchored(fabric, map(Identity.from_json, document["anchor"])).head


def registry_from(
    fabric: str, document: Mapping[str, Any], *, known: Registry | None = None, anchor: str = ""
) -> Registry:
    """The registry of a document ``{"anchor": [identity], "acts": [signed act]}``.

    Args:
        known: the registry held so far: the document has to go on from it, and only what is new is verified.
        anchor: digest of the anchor that is trusted; empty when there is none to hold the document to.

    Raises:
        IntegrityError: ``people.act``, an act does not verify or does not come next; ``people.anchor``, the document
            begins with others than those trusted; ``people.history``, it tells another history than the one held.
        AuthorityError: the anchor is malformed or names no operator.
    """
    acts = document["acts"]
    first = Registry.anchored(fabric, map(Identity.from_json, document["anchor"]))
    if anchor and first.head != anchor:
        raise IntegrityError("the registry begins with other people than were enrolled here", code="people.anchor")
    registry = first
    if known is not None:
        if len(acts) < known.seq or (_digest(acts[known.seq - 1]) if known.seq else first.head) != known.head:
            raise IntegrityError(
                f"the registry does not go on from act {known.seq}, which is held here", code="people.history"
            )
        registry = known
    for act in acts[registry.seq :]:
        applied = registry.apply(act)
        if not isinstance(applied, Registry):
            raise IntegrityError(f"an act does not apply: {applied.reasons[0]}", code="people.act")
        registry = applied
    return registry


def _digest(act: str) -> str:
    try:
        return parse_signed(act, typ=ACT_TYP, bytes_max=ACT_BYTES_MAX).digest
    except AuthorityError as error:
        raise IntegrityError(f"an act does not parse: {error}", code="people.act") from error
