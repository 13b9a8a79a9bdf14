"""Values the specialiser computes with: known, symbolic, or split by cases. Programmer-facing only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from isochrone.policy.formula import (
    FALSE,
    TRUE,
    Constant,
    Fact,
    Formula,
    Opaque,
    conj,
    disj,
    iff,
    is_in,
    same,
)

__all__ = [
    "CASES_MAX",
    "Cases",
    "FactText",
    "FactUid",
    "Known",
    "Members",
    "Record",
    "Result",
    "Uid",
    "Unknown",
    "Value",
    "combine",
    "each",
    "either_error",
    "equal",
    "fact_number",
    "merge",
    "spread",
    "truth",
    "unknown",
]

CASES_MAX = 4096
"""More combinations than this of small facts are left to the external authorizer."""


@dataclass(frozen=True, slots=True)
class Uid:
    """An entity."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Known:
    """A string, 64-bit integer, entity, or set of these. (Booleans are formulas.)"""

    value: str | int | Uid | frozenset[str | int | Uid]


@dataclass(frozen=True, slots=True)
class FactText:
    """The text of a fact."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class FactUid:
    """The entity of type `fact.entity_type` that a fact names."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class Cases:
    """One of several values; the conditions exclude each other and, where there is no error, one of them holds."""

    cases: tuple[tuple[Formula, Value], ...]


@dataclass(frozen=True, slots=True)
class Members:
    """A set with elements that are not all known."""

    elements: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Record:
    fields: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value no fact gives; `text` identifies the expression, `why` says what is missing.

    `entity` is true when it names an entity that may not exist, so that reading its attributes may err.
    """

    text: str
    why: str
    entity: bool = False


Value = Formula | Known | FactText | FactUid | Cases | Members | Record | Unknown


@dataclass(frozen=True, slots=True)
class Result:
    """A value and the condition under which computing it is an error."""

    value: Value
    error: Formula = FALSE


def fact_number(fact: Fact) -> Cases:
    """A small integer fact, as one case per value of its domain."""
    return Cases(tuple((is_in(fact, [text]), Known(int(text))) for text in fact.domain))


def spread(value: Value) -> Iterator[tuple[Formula, Value]]:
    """The cases of a value; a value that has none is its own single case."""
    if isinstance(value, Cases):
        yield from value.cases
    else:
        yield TRUE, value


def merge(cases: list[tuple[Formula, Value]]) -> Value:
    """Cases with equal values joined, impossible ones dropped; one formula when all are booleans."""
    joined: dict[Value, Formula] = {}
    for condition, value in cases:
        if condition != FALSE:
            joined[value] = disj(joined.get(value, FALSE), condition)
    if len(joined) == 1:
        return next(iter(joined))
    if all(isinstance(value, Formula) for value in joined):
        return disj(*(conj(condition, value) for value, condition in joined.items() if isinstance(value, Formula)))
    return Cases(tuple((condition, value) for value, condition in joined.items()))


def truth(value: Value, text: str) -> Formula:
    """A value used as a boolean. Validation has excluded all but formulas, cases of them and unknowns."""
    match value:
        case Unknown(name, why):
            return Opaque(name, why)
        case Cases(cases):
            return disj(*(conj(condition, truth(inner, text)) for condition, inner in cases))
        case _ if isinstance(value, Formula):
            return value
        case _:
            return Opaque(text, "used as a boolean")


def equal(left: Value, right: Value, text: str) -> Formula:
    """Cedar's ``==`` on two values without cases."""
    match left, right:
        case (Unknown(_, why), _) | (_, Unknown(_, why)):
            return Opaque(text, why)
        case Known(a), Known(b):
            return Constant(type(a) is type(b) and a == b)
        case (FactText(fact), Known(known)) | (Known(known), FactText(fact)):
            return is_in(fact, [known]) if isinstance(known, str) else FALSE
        case (FactUid(fact), Known(known)) | (Known(known), FactUid(fact)):
            return is_in(fact, [known.id]) if isinstance(known, Uid) and known.type == fact.entity_type else FALSE
        case FactText(a), FactText(b):
            return same(a, b)
        case FactUid(a), FactUid(b):
            return same(a, b) if a.entity_type == b.entity_type else FALSE
        case _ if isinstance(left, Formula) and isinstance(right, Formula):
            return iff(left, right)
        case _:
            return Opaque(text, "compares sets or records that are not known before the request")


def combine(left: Value, right: Value, apply: Callable[[Value, Value], Result], text: str) -> Result:
    """`apply` on every combination of cases."""
    lefts, rights = list(spread(left)), list(spread(right))
    if len(lefts) * len(rights) > CASES_MAX:
        why = f"has more than {CASES_MAX} combinations of facts"
        return Result(Unknown(text, why), Opaque(f"error in {text}", why))
    outcomes = [(conj(a, b), apply(x, y)) for a, x in lefts for b, y in rights]
    error = disj(*(conj(condition, outcome.error) for condition, outcome in outcomes))
    return Result(merge([(condition, outcome.value) for condition, outcome in outcomes]), error)


def either_error(result: Result, *errors: Formula) -> Result:
    """`result` with more ways to err."""
    return Result(result.value, disj(result.error, *errors))


def each(result: Result, apply: Callable[[Value], Result]) -> Result:
    """`apply` on every case of a result."""
    outcomes = [(condition, apply(value)) for condition, value in spread(result.value)]
    errors = [conj(condition, outcome.error) for condition, outcome in outcomes]
    return Result(merge([(condition, o.value) for condition, o in outcomes]), disj(result.error, *errors))


def unknown(text: str, why: str) -> Result:
    """An unknown value whose computing may also err: as a condition that is opaque too, so that it denies."""
    return Result(Unknown(text, why), Opaque(f"error in {text}", why))
