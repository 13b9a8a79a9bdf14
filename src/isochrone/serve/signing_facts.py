"""What the hub knows of a document that a person is asked to sign, for the page to say what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isochrone.authority.acts import apply_subject
from isochrone.control.mandate import DesiredText
from isochrone.errors import InputError
from isochrone.model.difference import difference
from isochrone.serve.desired import validate_desired

if TYPE_CHECKING:
    from isochrone.serve.hub import Hub

__all__ = ["facts_about"]


def facts_about(hub: Hub, claims: Mapping[str, Any], documents: object) -> dict[str, Any]:
    """Members of `console.words.Facts`.

    Args:
        documents: what an act applies: ``{"fabric": text, "policies": {file: text}}``.

    Raises:
        InputError: ``sign.documents``: these are not the documents that the act names.
        DocumentError: they have mistakes.
    """
    desired = hub.state.desired
    contracts = desired.fabric.contracts if desired else {}
    registry = hub.registry()
    facts: dict[str, Any] = {
        "terms": {each.digest: each.model_dump(mode="json", exclude_none=True) for each in contracts.values()},
        "approvals": {
            each.id: f"contract {each.contract}, approved by {each.by}: {each.reason}"
            for each in registry.approvals.values()
        },
    }
    if claims.get("act") != "apply":
        return facts
    given = DesiredText.from_json(documents)
    subject = claims.get("subject")
    revision = subject.get("revision") if isinstance(subject, dict) else None
    if type(revision) is not int or subject != apply_subject(revision, given.fabric, given.policies):
        raise InputError("the act names other documents than these", code="sign.documents")
    noun, _ = validate_desired(given.fabric, given.policies)
    changes = difference(desired.fabric if desired else None, noun, hub.texts[1] if hub.texts else {}, given.policies)
    return facts | {"changes": tuple(map(str, changes))}
