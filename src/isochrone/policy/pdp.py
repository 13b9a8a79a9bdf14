"""The policy decision point: one verdict from full Cedar, with prepared handles. Every error is a Deny."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from isochrone.policy import engine
from isochrone.policy.policies import PolicySet
from isochrone.policy.slices import Slicer
from isochrone.policy.verdict import Allow, Deny, Reason, Verdict
from isochrone.policy.vocabulary import DEPTH_MAX, AgentFacts, World, entity, malformed_fact, reference

__all__ = ["PDP", "Request", "execution_context", "hour_and_weekday"]

ACTIONS_MAX = 8

NEWCOMERS_MAX = 256
"""Combinations of agents whose entities are kept ready."""

Uid = tuple[str, str]
"""(entity type, id)."""


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants to do what to which resource. `context` is in Cedar's JSON form (see `execution_context`)."""

    principal: Uid
    action: str
    resource: Uid
    context: Mapping[str, Any] = field(default_factory=dict)
    agents: tuple[AgentFacts, ...] = ()


class PDP:
    """Decides requests against one policy set in one world.

    Both are prepared once; `verdict` adds only the agents of the request. A new revision is a new PDP.

    Args:
        slices_max: for so many (action, site, contract) the policies that can matter are kept prepared apart, which is
            faster and rests on the compiler (`slices`); with 0 every verdict asks every policy.
    """

    def __init__(self, policies: PolicySet, world: World, *, slices_max: int = 0) -> None:
        self.policies = policies
        self.world = world
        self._handle = lru_cache(maxsize=ACTIONS_MAX)(policies.handle)
        self._slicer = Slicer(policies, world) if slices_max else None
        self._slice = lru_cache(maxsize=slices_max)(self._sliced)
        self._entities = world.entities
        self._people = {human.id for human in world.humans or ()}
        # Adding an agent copies the world, and the same few agents come again and again.
        self._known = lru_cache(maxsize=NEWCOMERS_MAX)(self._with_newcomers)

    def verdict(self, request: Request) -> Verdict:
        """Allow with the permits that fired, or Deny with every reason. Never raises on account of the request."""
        if refused := _malformed(request):
            return Deny((refused,))
        try:
            person = request.principal[1] if request.principal[0] == "Human" else ""
            known = self._known(request.agents, person)
            answer = engine.evaluate(self._policies_for(request), known, _document(request))
        except (ValueError, TypeError, RecursionError) as error:
            return Deny((Reason("error", text=str(error)),))
        if answer.errors:
            return Deny(tuple(Reason("error", text=text) for text in answer.errors))
        if answer.allowed:
            return Allow(tuple(Reason("permit", policy) for policy in sorted(answer.policies)))
        if answer.policies:
            return Deny(tuple(Reason("forbid", policy) for policy in sorted(answer.policies)))
        return Deny((Reason("no-permit", text="no permit policy covers this request"),))

    def _policies_for(self, request: Request) -> engine.Handle:
        if self._slicer is None:
            return self._handle(request.action)
        brought = request.principal[0] == "Human" or any(agent.id == request.principal[1] for agent in request.agents)
        key = self._slicer.key(request.principal, request.action, request.resource, request.context, known=brought)
        return self._slice(*key) if key else self._handle(request.action)

    def _sliced(self, action: str, site: str, contract: str) -> engine.Handle:
        assert self._slicer is not None
        return self._slicer.slice(action, site, contract).handle(action)

    def _with_newcomers(self, agents: tuple[AgentFacts, ...], person: str) -> engine.Entities:
        """The world with what comes into being with a request: its agents, and people the world has not heard of."""
        people = {agent.human for agent in agents} | ({person} if person else set())
        strangers = [entity("Human", name, {"id": name}, []) for name in sorted(people - self._people)]
        return engine.add_entities(self._entities, [*strangers, *(_agent(agent) for agent in agents)])


def execution_context(
    contract: str, workload: str, data_class: str, hour_utc: int, weekday: int, **optional: object
) -> dict[str, Any]:
    """The context of `execute` and `exchange`. `hour_utc` 0..23; `weekday` ISO 8601, 1 = Monday."""
    return {
        "contract": reference("Contract", contract),
        "workload": reference("Workload", workload),
        "data_class": data_class,
        "hour_utc": hour_utc,
        "weekday": weekday,
        **optional,
    }


def hour_and_weekday(at_s: float) -> tuple[int, int]:
    """`hour_utc` and `weekday` of a time in seconds since 1970, which was a Thursday."""
    hours = int(at_s // 3600)
    return hours % 24, (hours // 24 + 3) % 7 + 1


def _agent(agent: AgentFacts) -> dict[str, Any]:
    attrs = {"id": agent.id, "human": reference("Human", agent.human), "depth": agent.depth}
    return entity("Agent", agent.id, attrs, [("Human", agent.human)])


def _document(request: Request) -> dict[str, Any]:
    return {
        "principal": dict(zip(("type", "id"), request.principal, strict=True)),
        "action": {"type": "Action", "id": request.action},
        "resource": dict(zip(("type", "id"), request.resource, strict=True)),
        "context": json.dumps(request.context),
    }


def _malformed(request: Request) -> Reason | None:
    """The first thing in the request that no proxy could carry, whatever the policies say of it."""
    named = [("principal", request.principal[1]), ("resource", request.resource[1])]
    for agent in request.agents:
        named += [("agent", agent.id), ("human", agent.human)]
        if type(agent.depth) is not int or not 1 <= agent.depth <= DEPTH_MAX:
            return Reason("malformed", text=f"delegation depth {agent.depth!r} is not within 1..{DEPTH_MAX}")
    for key in ("contract", "workload", "data_class"):
        value = request.context.get(key)
        if isinstance(value, Mapping):
            value = value.get("__entity", {}).get("id")
        if value is not None:
            named.append((key, value))
    for name, value in named:
        if not isinstance(value, str):
            return Reason("malformed", text=f"{name} is {type(value).__name__}, not text")
        if wrong := malformed_fact(value):
            return Reason("malformed", text=f"{name} {wrong}")
    return None
