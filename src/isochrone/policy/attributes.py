"""Reading attributes while specialising: of the request, of stored entities, and of entities that only a fact names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from isochrone.policy.environment import Environment
from isochrone.policy.formula import FALSE, TRUE, Constant, Fact, Formula, Opaque, conj, disj, is_in, negate
from isochrone.policy.values import (
    FactText,
    FactUid,
    Known,
    Record,
    Result,
    Uid,
    Unknown,
    Value,
    each,
    fact_number,
    merge,
    truth,
    unknown,
)
from isochrone.policy.vocabulary import FACTS

__all__ = ["attribute", "has"]

REQUEST_ATTRS: Mapping[str, frozenset[str]] = {
    "Agent": frozenset({"id", "human", "depth"}),
    "Human": frozenset({"id"}),
}
"""Entities that come into being with the request, and the attributes it gives them."""

OPTIONAL_ENTITIES = frozenset({"ingress", "approved_by"})
"""Context attributes that name an entity which may not exist."""


def attribute(value: Value, attr: str, env: Environment, text: str) -> Result:
    """``value.attr``; an error where it is certainly not there."""
    match value:
        case Record(fields) if attr in fields:
            return Result(fields[attr])
        case Record():
            return Result(Unknown(text, f"{text} is not a fact that reaches the proxy", attr in OPTIONAL_ENTITIES))
        case Known(Uid() as uid):
            stored = env.entities.get(uid)
            if stored is None and (uid.type not in env.complete or uid.type in REQUEST_ATTRS):
                return unknown(text, f"the attributes of {uid.type} are not known here")
            if stored is None or attr not in stored.attrs:
                return Result(FALSE, TRUE)
            return Result(stored.attrs[attr])
        case FactUid(fact):
            return _fact_attribute(fact, attr, env, text)
        case Unknown(_, why, entity):
            return unknown(text, why) if entity else Result(Unknown(text, why))
        case _:
            return unknown(text, "reads an attribute of a value that is not known")


def _fact_attribute(fact: Fact, attr: str, env: Environment, text: str) -> Result:
    """An attribute of the entity a fact names: the request's own, or a table over all entities of that type."""
    if fact.entity_type in REQUEST_ATTRS:
        own: dict[str, Value] = {
            "id": FactText(fact),
            "human": FactUid(FACTS["principal.human"]),
            "depth": fact_number(FACTS["principal.depth"]),
        }
        return Result(own[attr])
    if fact.entity_type not in env.complete:
        return unknown(text, f"the attributes of {fact.entity_type} are not known here")
    cases: list[tuple[Formula, Value]] = [
        (is_in(fact, [uid.id]), stored.attrs[attr])
        for uid, stored in env.entities.items()
        if uid.type == fact.entity_type and attr in stored.attrs
    ]
    absent = negate(disj(*(condition for condition, _ in cases)))
    if attr == "id":
        return Result(FactText(fact), absent)
    return Result(merge(cases) if cases else FALSE, absent)


def has(result: Result, attrs: tuple[str, ...], env: Environment, text: str) -> Result:
    """``has a.b.c``: each step must be there; a missing entity has nothing."""
    present: Formula = TRUE
    for attr in attrs:
        found = each(result, partial(_has_one, attr=attr, env=env, text=text))
        present = conj(present, truth(found.value, text))
        if present == FALSE:
            break
        step = each(result, partial(attribute, attr=attr, env=env, text=text))
        result = Result(step.value, result.error)
    return Result(present, result.error)


def _has_one(value: Value, attr: str, env: Environment, text: str) -> Result:
    match value:
        case Record(fields) if attr in fields:
            return Result(TRUE)
        case Known(Uid() as uid) if uid in env.entities or uid.type in env.complete - REQUEST_ATTRS.keys():
            return Result(Constant(uid in env.entities and attr in env.entities[uid].attrs))
        case FactUid(fact) if fact.entity_type in REQUEST_ATTRS:
            return Result(Constant(attr in REQUEST_ATTRS[fact.entity_type]))
        case FactUid(fact) if fact.entity_type in env.complete:
            having = (u.id for u, s in env.entities.items() if u.type == fact.entity_type and attr in s.attrs)
            return Result(is_in(fact, having))
        case _:
            return Result(Opaque(text, f"whether {text} is not known here"))
