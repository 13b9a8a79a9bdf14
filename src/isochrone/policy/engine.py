"""The one door to Cedar (`cedarpy`): parse, validate, tree, evaluate. What leaves is plain data or `pst` nodes.

Cedar skips a policy that errors, a forbid too, so an `Answer` with errors is never to be read as an Allow; `pdp` sees
to that. Language: https://docs.cedarpolicy.com (Cedar 4).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from cedarpy import _internal, pst

from isochrone.errors import PolicyError

__all__ = [
    "Answer",
    "Entities",
    "Handle",
    "add_entities",
    "build",
    "entities",
    "evaluate",
    "parse",
    "pst",
    "schema_text",
    "to_json",
    "validate",
]

Handle = _internal.PolicySet
Entities = _internal.Entities


@dataclass(frozen=True, slots=True)
class Answer:
    """Cedar's own answer: `allowed`, the ids of the policies that determined it, and evaluation errors."""

    allowed: bool
    policies: tuple[str, ...]
    errors: tuple[str, ...]


@cache
def schema_text() -> str:
    """The vocabulary in Cedar's schema syntax, as shipped in this package."""
    return resources.files(__package__).joinpath("schema.cedarschema").read_text(encoding="utf-8")


@cache
def _schema() -> Any:
    return _internal.Schema.from_str(schema_text())


NESTING_MAX = 200
OPERATORS_MAX = 1000
_NOISE = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*', re.DOTALL)
_OPERATOR = re.compile(r"&&|\|\||[-+*.!]|[<>=]=?|\b(?:if|in|has|like|is)\b")


def _bounded(text: str) -> str:
    """The text, if it is safe to parse: Cedar's parser recurses, and a deep enough text ends the whole process.

    Cedar's tree has at most 100 levels anyway; both limits are well above that and well below a crash.
    """
    depth = deepest = 0
    bare = _NOISE.sub("", text)
    for char in bare:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if deepest > NESTING_MAX:
        raise ValueError(f"brackets are nested {deepest} deep; the limit is {NESTING_MAX}")
    if (count := sum(1 for _ in _OPERATOR.finditer(bare))) > OPERATORS_MAX:
        raise ValueError(f"the policy has {count} operators; the limit is {OPERATORS_MAX}")
    return text


def parse(text: str) -> pst.PolicySet:
    """Syntax tree of Cedar text. Raises ValueError with Cedar's own words, or when it is too deep or long to parse."""
    return _internal.PolicySet.from_str(_bounded(text)).to_pst()


def to_json(text: str) -> dict[str, Any]:
    """Cedar's JSON policy format of the text, for canonical forms."""
    decoded: dict[str, Any] = json.loads(_internal.policies_to_json_str(_bounded(text)))
    return decoded


def validate(text: str) -> tuple[str, ...]:
    """What the strict validator says against our schema about this text; empty when it is valid."""
    result = json.loads(_internal.validate_policies(_bounded(text), _schema()))
    return tuple(str(error["error"]) for error in result.get("errors", []))


def build(templates: Mapping[str, pst.Template]) -> Handle:
    """A prepared policy set whose Cedar ids are the mapping's keys."""
    return _internal.PolicySet.from_pst(pst.PolicySet({}, dict(templates), ()))


def entities(documents: list[dict[str, Any]]) -> Entities:
    """Prepared entities, validated against the schema. Raises PolicyError naming what does not fit."""
    try:
        return _internal.Entities.from_json_str(json.dumps(documents), _schema())
    except ValueError as error:
        raise PolicyError(
            f"entities do not fit the vocabulary: {error}",
            code="policy.entities",
            hint="compare with docs/reference/policy-vocabulary.md",
        ) from error


def add_entities(base: Entities, documents: list[dict[str, Any]]) -> Entities:
    """A new handle with `documents` added. Raises ValueError when one contradicts the base."""
    return base.with_added_json_str(json.dumps(documents))


def evaluate(policies: Handle, known: Entities, request: Mapping[str, Any]) -> Answer:
    """One decision. `request` has principal, action, resource as {type, id} and context as JSON text.

    Raises ValueError when Cedar cannot read the request or reaches no decision.
    """
    # The wrapper in `cedarpy` copies and re-encodes around this call; this is its documented extension function.
    (text,) = _internal.is_authorized_batch([dict(request)], policies, known, None, False)
    answer = json.loads(text)
    if answer["decision"] not in ("Allow", "Deny"):
        raise ValueError("; ".join(answer["diagnostics"].get("errors", [])) or "no decision")
    diagnostics = answer["diagnostics"]
    return Answer(answer["decision"] == "Allow", tuple(diagnostics["reason"]), tuple(diagnostics["errors"]))
