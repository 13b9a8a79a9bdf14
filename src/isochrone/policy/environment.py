"""What is known before a request: the stored entities, and which facts stand for what the request will bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from isochrone.policy.engine import pst
from isochrone.policy.formula import Constant
from isochrone.policy.values import FactText, FactUid, Known, Record, Result, Uid, Value, fact_number
from isochrone.policy.vocabulary import FACTS, World

__all__ = ["Environment", "Specialiser", "Stored"]

Shared = dict[int, tuple[pst.Expr, Result | None]]
"""Results by the identity of an expression, cheaper than its equality; it is kept so that it stays alive."""


@dataclass(frozen=True)
class Environment:
    """What is known: the action, values for principal, resource and context, and the stored entities."""

    action: str
    principal: Value
    resource: Value
    context: Record
    entities: Mapping[Uid, Stored]
    complete: frozenset[str]
    """Entity types of which `entities` has every member; of others a missing one is unknown, not an error."""
    shared: Shared = field(default_factory=dict, compare=False)
    """Results that hold at every site; None for an expression that reads the resource."""
    cache: dict[int, Result] = field(default_factory=dict, compare=False)
    """Results that hold here, by the identity of expressions that `shared` keeps."""


@dataclass(frozen=True)
class Specialiser:
    """A world prepared for specialising: its entities with their ancestors closed over."""

    entities: Mapping[Uid, Stored]
    complete: frozenset[str]
    shared: dict[tuple[Any, ...], Shared] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, world: World) -> Specialiser:
        complete = {"Site", "Contract", "Workload", "Jurisdiction", "Tenant", "Team", "Action"}
        return cls(_store(world), frozenset(complete | ({"Human"} if world.humans is not None else set())))

    def environment(self, site: str, action: str = "execute", known: Mapping[str, Value] | None = None) -> Environment:
        """Requests for `action` at a site by any principal; `known` fixes facts by name (``context.contract``)."""
        facts: dict[str, Value] = {
            "principal": FactUid(FACTS["principal"]),
            "context.contract": FactUid(FACTS["context.contract"]),
            "context.workload": FactUid(FACTS["context.workload"]),
            "context.data_class": FactText(FACTS["context.data_class"]),
        }
        if action == "place":
            facts["principal"] = FactUid(FACTS["principal.human"])
        else:
            facts["context.hour_utc"] = fact_number(FACTS["context.hour_utc"])
            facts["context.weekday"] = fact_number(FACTS["context.weekday"])
        facts.update(known or {})
        context = {name.removeprefix("context."): v for name, v in facts.items() if name.startswith("context.")}
        resource = Known(Uid("Site", site))
        return Environment(
            action,
            facts["principal"],
            resource,
            Record(pst.FrozenMap(context)),
            self.entities,
            self.complete,
            shared=self.shared.setdefault((action, *sorted((known or {}).items(), key=itemgetter(0))), {}),
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """An entity of the world: its attributes as values, and all its ancestors."""

    attrs: Mapping[str, Value]
    ancestors: frozenset[Uid]


def _store(world: World) -> dict[Uid, Stored]:
    """The world's entities with their ancestors closed over."""
    documents = {Uid(d["uid"]["type"], d["uid"]["id"]): d for d in world.documents}

    def ancestors(uid: Uid) -> frozenset[Uid]:
        parents = [Uid(p["type"], p["id"]) for p in documents[uid]["parents"]] if uid in documents else []
        return frozenset(parents).union(*map(ancestors, parents))

    return {
        uid: Stored({name: _value(attr) for name, attr in document["attrs"].items()}, ancestors(uid))
        for uid, document in documents.items()
    }


def _value(attr: Any) -> Value:
    match attr:
        case {"__entity": {"type": kind, "id": identifier}}:
            return Known(Uid(kind, identifier))
        case bool():
            return Constant(attr)
        case list():
            return Known(frozenset(attr))
        case _:
            return Known(attr)
