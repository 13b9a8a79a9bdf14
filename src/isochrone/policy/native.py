"""Formulas as Envoy RBAC permissions: header matchers under and, or and not (`envoy.config.rbac.v3.Permission`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from isochrone.policy.formula import (
    And,
    Constant,
    Fact,
    Formula,
    In,
    Like,
    Opaque,
    Or,
    Pattern,
    Same,
    conj,
    disj,
    is_in,
    negate,
)
from isochrone.policy.vocabulary import ENCODED_JSON, SITES_HEADER

__all__ = ["expressible", "grant_names", "matcher", "regex_quote", "well_formed"]

TREE_MIN = 4
"""Fewer alternatives on one fact are tried one by one."""

ALTERNATIVES_MAX = 8
"""From here on, one regular expression (a single automaton pass) is cheaper than exact matches one by one."""


PROGRAM_MAX = 800
"""Instructions in one regular expression; Envoy is told to refuse those of more than 1,000."""


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
            return {"and_rules": {"rules": _dispatched(parts, conj)}}
        case Or(parts=parts):
            return {"or_rules": {"rules": _dispatched(parts, disj)}}
        case In(fact, values, negated):
            return _negated(negated, _one_of(fact, sorted(values)))
        case Like(fact, pattern, negated):
            return _negated(negated, _header(fact, _pattern(pattern)))
        case _:
            raise ValueError(f"not expressible as header matchers: {formula}")


def _dispatched(parts: tuple[Formula, ...], join: Callable[..., Formula], levels: int = 4) -> list[dict[str, Any]]:
    """Matchers of the parts, with many alternatives on one fact arranged as a tree instead of a list.

    Policies are mostly about one contract each. Half of them can be passed over when the fact is none of the values
    that half asks for: one look in a set. `conj` is the same upside down, with the parts and tests negated. `levels`
    bounds the tree, because Envoy bounds nesting.
    """
    keyed = [(part, _key(part if join is disj else negate(part))) for part in parts]
    counts = Counter(literal.fact for _, literal in keyed if literal)
    fact, count = counts.most_common(1)[0] if counts else (None, 0)
    if count < TREE_MIN or not levels:
        return [matcher(part) for part in parts]
    mine = [(part, literal) for part, literal in keyed if literal and literal.fact == fact]
    mine.sort(key=lambda pair: sorted(pair[1].values))
    rest = [matcher(part) for part, literal in keyed if not literal or literal.fact != fact]
    half = len(mine) // 2
    return [*rest, *(_guarded(side, join, levels - 1) for side in (mine[:half], mine[half:]))]


def _guarded(side: list[tuple[Formula, In]], join: Callable[..., Formula], levels: int) -> dict[str, Any]:
    fact = side[0][1].fact
    asked = is_in(fact, frozenset().union(*(literal.values for _, literal in side)))
    inner = _dispatched(tuple(part for part, _ in side), join, levels)
    if join is disj:
        return {"and_rules": {"rules": [matcher(asked), {"or_rules": {"rules": inner}}]}}
    return {"or_rules": {"rules": [matcher(negate(asked)), {"and_rules": {"rules": inner}}]}}


def _key(part: Formula) -> In | None:
    """The narrowest set that a fact must be in for `part` to hold."""
    literals = part.parts if isinstance(part, And) else (part,)
    sets = [x for x in literals if isinstance(x, In) and not x.negated and not x.fact.domain]
    return min(sets, key=lambda literal: len(literal.values), default=None)


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
        rules = [_header(fact, {"safe_regex": {"regex": "|".join(each)}}) for each in _programs(values)]
    else:
        rules = [_header(fact, {"exact": value}) for value in values]
    return rules[0] if len(rules) == 1 else {"or_rules": {"rules": rules}}


def _programs(values: list[str]) -> Iterator[list[str]]:
    """The values as RE2 literals, in groups that each make a program Envoy loads (`re2.max_program_size`)."""
    group: list[str] = []
    size = 0
    for value in values:
        # A literal takes an instruction for each byte, and one for the alternative.
        length = len(value.encode("utf-8", "surrogatepass")) + 2
        if group and size + length > PROGRAM_MAX:
            yield group
            group, size = [], 0
        group.append(regex_quote(value))
        size += length
    yield group


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
