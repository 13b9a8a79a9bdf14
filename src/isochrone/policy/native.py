"""Formulas as Envoy RBAC permissions: header matchers under and, or and not (`envoy.config.rbac.v3.Permission`)."""

from __future__ import annotations

from typing import Any

from isochrone.policy.formula import And, Constant, Fact, Formula, In, Like, Opaque, Or, Pattern, Same
from isochrone.policy.vocabulary import ENCODED_JSON, SITES_HEADER

__all__ = ["expressible", "grant_names", "matcher", "regex_quote", "well_formed"]

ALTERNATIVES_MAX = 8
"""From here on, one regular expression (a single automaton pass) is cheaper than exact matches one by one."""


def expressible(formula: Formula) -> bool:
    """Whether header matchers suffice: two facts compared, or a fact Envoy computes itself, need CEL."""
    match formula:
        case And(parts=parts) | Or(parts=parts):
            return all(map(expressible, parts))
        case In(fact) | Like(fact):
            return bool(fact.header)
        case Same() | Opaque():
            return False
        case _:
            return True


def matcher(formula: Formula) -> dict[str, Any]:
    """The permission that matches exactly when `formula` holds and every header it reads is present."""
    match formula:
        case Constant(value):
            return {"any": True} if value else {"not_rule": {"any": True}}
        case And(parts=parts):
            return {"and_rules": {"rules": [matcher(part) for part in parts]}}
        case Or(parts=parts):
            return {"or_rules": {"rules": [matcher(part) for part in parts]}}
        case In(fact, values, negated):
            return _negated(negated, _one_of(fact, sorted(values)))
        case Like(fact, pattern, negated):
            return _negated(negated, _header(fact, _pattern(pattern)))
        case _:
            raise ValueError(f"not expressible as header matchers: {formula}")


def well_formed(fact: Fact) -> dict[str, Any]:
    """Present, once, in the fact's own spelling: so that no negation can hold for want of a value."""
    if fact.domain:
        return _one_of(fact, list(fact.domain))
    text = _header(fact, {"safe_regex": {"regex": r"[^\x00-\x1f\x7f,]+"}})
    encoded = _header(fact, {"safe_regex": {"regex": ENCODED_JSON}})
    return {"and_rules": {"rules": [text, _negated(True, encoded)]}}


def grant_names(site: str) -> dict[str, Any]:
    """The grant's site list is ``*`` or has this site."""
    everywhere, here = {"exact": "*"}, {"contains": f"|{site}|"}
    return {"or_rules": {"rules": [{"header": {"name": SITES_HEADER, "string_match": m}} for m in (everywhere, here)]}}


def regex_quote(text: str) -> str:
    """`text` as an RE2 literal. Letters, digits and non-ASCII stand for themselves; the rest is escaped."""
    return "".join(c if c.isalnum() or c in "_-/: " or c > "\x7f" else "\\" + c for c in text)


def _one_of(fact: Fact, values: list[str]) -> dict[str, Any]:
    if len(values) > ALTERNATIVES_MAX:
        return _header(fact, {"safe_regex": {"regex": "|".join(map(regex_quote, values))}})
    exact = [_header(fact, {"exact": value}) for value in values]
    return exact[0] if len(exact) == 1 else {"or_rules": {"rules": exact}}


def _pattern(pattern: Pattern) -> dict[str, Any]:
    match pattern:
        case (str(prefix), None):
            return {"prefix": prefix}
        case (None, str(suffix)):
            return {"suffix": suffix}
        case (None, str(middle), None):
            return {"contains": middle}
        case _:
            return {"safe_regex": {"regex": "".join(".*" if p is None else regex_quote(p) for p in pattern)}}


def _header(fact: Fact, string_match: dict[str, Any]) -> dict[str, Any]:
    return {"header": {"name": fact.header, "string_match": string_match}}


def _negated(negated: bool, rule: dict[str, Any]) -> dict[str, Any]:
    return {"not_rule": rule} if negated else rule
