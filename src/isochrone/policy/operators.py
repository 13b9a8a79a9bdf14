"""Cedar's operators on values without cases: equality, order, arithmetic, sets, `like`, `is`."""

from __future__ import annotations

from isochrone.policy.engine import pst
from isochrone.policy.formula import (
    TRUE,
    Constant,
    Formula,
    Opaque,
    Pattern,
    conj,
    disj,
    is_in,
    like,
    matches,
    negate,
)
from isochrone.policy.values import FactText, FactUid, Known, Members, Result, Uid, Unknown, Value, equal, unknown

__all__ = ["binary", "equals", "has_type", "like_pattern", "unary"]

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


def equals(left: Value, right: Value, text: str) -> Formula:
    """``left == right``."""
    return equal(left, right, text)


def has_type(value: Value, kind: str) -> Formula:
    """``value is kind``."""
    match value:
        case Known(Uid(known, _)):
            return Constant(known == kind)
        case FactUid(fact):
            return Constant(fact.entity_type == kind)
        case _:
            return Opaque(f"is {kind}", "asks for the type of a value that is not known")


def unary(op: str, value: Value, text: str) -> Result:
    """One operand. Extension functions (decimal, ip, datetime, duration) are left to full Cedar."""
    match op, value:
        case "not" | "is_empty", Unknown(_, why):
            return Result(Opaque(text, why))
        case _, Unknown(_, why):
            return unknown(text, why)
        case "not", _ if isinstance(value, Formula):
            return Result(negate(value))
        case "neg", Known(int() as number):
            return _number(-number)
        case "is_empty", Known(frozenset() as members):
            return Result(Constant(not members))
        case "is_empty", Members(elements):
            return Result(Constant(not elements))
        case _:
            return unknown(text, f"{op} is evaluated by full Cedar only")


def binary(op: str, left: Value, right: Value, text: str) -> Result:
    """Two operands, `and`, `or` and `in` excepted."""
    match op, left, right:
        case "eq", _, _:
            return Result(equal(left, right, text))
        case "not_eq", _, _:
            return Result(negate(equal(left, right, text)))
        case (("add" | "sub" | "mul" | "get_tag"), Unknown(_, why), _) | (
            ("add" | "sub" | "mul" | "get_tag"),
            _,
            Unknown(_, why),
        ):
            return unknown(text, why)
        case (_, Unknown(_, why), _) | (_, _, Unknown(_, why)):
            return Result(Opaque(text, why))
        case (("less" | "less_eq" | "greater" | "greater_eq"), Known(int() as a), Known(int() as b)):
            return Result(Constant({"less": a < b, "less_eq": a <= b, "greater": a > b, "greater_eq": a >= b}[op]))
        case (("add" | "sub" | "mul"), Known(int() as a), Known(int() as b)):
            return _number({"add": a + b, "sub": a - b, "mul": a * b}[op])
        case "contains", _, _:
            return Result(_contains(left, right, text))
        case "contains_all", _, (Known(frozenset()) | Members()):
            return Result(conj(*(_contains(left, element, text) for element in _elements(right))))
        case "contains_any", _, (Known(frozenset()) | Members()):
            return Result(disj(*(_contains(left, element, text) for element in _elements(right))))
        case _:
            return unknown(text, f"{op} is evaluated by full Cedar only")


def like_pattern(value: Value, pattern: tuple[pst.PatternElem, ...], text: str) -> Result:
    """``value like pattern``."""
    pieces = _pattern(pattern)
    match value:
        case Known(str() as known):
            return Result(Constant(matches(pieces, known)))
        case FactText(fact):
            return Result(like(fact, pieces))
        case Unknown(_, why):
            return Result(Opaque(text, why))
        case _:
            return Result(Opaque(text, "matches a value that is not text"))


def _pattern(elements: tuple[pst.PatternElem, ...]) -> Pattern:
    pieces: list[str | None] = []
    for element in elements:
        if isinstance(element, pst.Wildcard):
            if not pieces or pieces[-1] is not None:
                pieces.append(None)
        elif pieces and isinstance(pieces[-1], str):
            pieces[-1] += element.value
        else:
            pieces.append(element.value)
    return tuple(pieces)


def _contains(members: Value, one: Value, text: str) -> Formula:
    match members, one:
        case (Unknown(_, why), _) | (_, Unknown(_, why)):
            return Opaque(text, why)
        case Known(frozenset() as known), FactText(fact):
            return is_in(fact, (value for value in known if isinstance(value, str)))
        case Known(frozenset() as known), FactUid(fact):
            return is_in(fact, (u.id for u in known if isinstance(u, Uid) and u.type == fact.entity_type))
        case ((Known(frozenset()) | Members()), _):
            return disj(*(equal(element, one, text) for element in _elements(members)))
        case _:
            return Opaque(text, "looks into a set that is not known")


def _elements(members: Value) -> tuple[Value, ...]:
    match members:
        case Known(frozenset() as known):
            return tuple(Known(value) for value in known)
        case Members(elements):
            return elements
        case _:
            return ()


def _number(value: int) -> Result:
    """Cedar's integers are 64-bit and overflow is an error."""
    return Result(Known(value)) if INT_MIN <= value <= INT_MAX else Result(Known(0), TRUE)
