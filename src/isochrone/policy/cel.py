"""Formulas as CEL syntax trees (`google.api.expr.v1alpha1.Expr`), which Envoy takes as an RBAC `condition`.

Envoy limits the depth of the tree (27 left-deep terms load, 28 do not), so n-ary `and` and `or` become balanced binary
trees. Strings are compared byte for byte. A missing header is an evaluation error, and an ALLOW rule that errs does
not allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isochrone.policy.formula import And, Constant, Fact, Formula, In, Like, Opaque, Or, Pattern, Same
from isochrone.policy.native import regex_quote

__all__ = ["expression"]

# CEL's getDayOfWeek counts from 0 = Sunday; the vocabulary has ISO 8601's 1 = Monday .. 7 = Sunday.
SUNDAY_ISO = 7


def expression(formula: Formula) -> dict[str, Any]:
    """The condition that is true exactly when `formula` holds. Raises ValueError on an opaque condition."""
    match formula:
        case Constant(value):
            return _node(const_expr={"bool_value": value})
        case And(parts=parts):
            return _balanced("_&&_", [expression(part) for part in parts])
        case Or(parts=parts):
            return _balanced("_||_", [expression(part) for part in parts])
        case In(fact, values, negated):
            return _negated(negated, _one_of(fact, sorted(values)))
        case Like(fact, pattern, negated):
            return _negated(negated, _matches(_header(fact), pattern))
        case Same(left, right, negated):
            return _call("_!=_" if negated else "_==_", _header(left), _header(right))
        case Opaque(text):
            raise ValueError(f"not expressible in CEL: {text}")


def _one_of(fact: Fact, values: Sequence[str]) -> dict[str, Any]:
    subject = _header(fact) if fact.header else _clock(fact)
    constants = [_text(value) if fact.header else _integer(fact, value) for value in values]
    if len(constants) == 1:
        return _call("_==_", subject, constants[0])
    return _call("@in", subject, _node(list_expr={"elements": constants}))


def _integer(fact: Fact, value: str) -> dict[str, Any]:
    number = int(value) % SUNDAY_ISO if fact.name == "context.weekday" else int(value)
    return _node(const_expr={"int64_value": number})


def _clock(fact: Fact) -> dict[str, Any]:
    """The hour or weekday, in UTC, at which the request arrived."""
    function = {"context.hour_utc": "getHours", "context.weekday": "getDayOfWeek"}[fact.name]
    time = _node(select_expr={"operand": _node(ident_expr={"name": "request"}), "field": "time"})
    return _node(call_expr={"target": time, "function": function, "args": []})


def _matches(value: dict[str, Any], pattern: Pattern) -> dict[str, Any]:
    quoted = "".join(".*" if piece is None else regex_quote(piece) for piece in pattern)
    return _node(call_expr={"target": value, "function": "matches", "args": [_text(f"^(?s:{quoted})$")]})


def _header(fact: Fact) -> dict[str, Any]:
    headers = _node(select_expr={"operand": _node(ident_expr={"name": "request"}), "field": "headers"})
    return _call("_[_]", headers, _text(fact.header))


def _balanced(function: str, nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(nodes) == 1:
        return nodes[0]
    half = len(nodes) // 2
    return _call(function, _balanced(function, nodes[:half]), _balanced(function, nodes[half:]))


def _negated(negated: bool, node: dict[str, Any]) -> dict[str, Any]:
    return _call("!_", node) if negated else node


def _call(function: str, *args: dict[str, Any]) -> dict[str, Any]:
    return _node(call_expr={"function": function, "args": list(args)})


def _text(value: str) -> dict[str, Any]:
    return _node(const_expr={"string_value": value})


def _node(**kind: Any) -> dict[str, Any]:
    return {"id": "1", **kind}
