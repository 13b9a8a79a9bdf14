"""OpenID AuthZEN Authorization API 1.0: its requests in our vocabulary, our verdicts in its answers. Pure.

    subject   {"type": "agent", "id", "properties": {"human", "depth"}}, or {"type": "human", "id"}
    action    {"name": "execute" | "exchange" | "place" | "delegate" | ...}
    resource  {"type": "site", "id"}, or any type and id of the vocabulary
    context   {"contract", "workload", "data_class"} by id; the time (UTC) if left out; other members as Cedar has them

The answer is ``{"decision": bool, "context": {"reasons": [...], "policy": digest}}``. A request that does not fit the
vocabulary is denied with its reason, as sections 5 and 6 of the specification want of evaluations; a body that is no
request at all is an `InputError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isochrone.errors import InputError
from isochrone.policy.pdp import PDP, Request
from isochrone.policy.verdict import Deny, Reason, Verdict
from isochrone.policy.vocabulary import AgentFacts, reference

__all__ = ["EVALUATIONS_MAX", "Clock", "configuration", "evaluate", "evaluate_all"]

EVALUATIONS_MAX = 1000
_PARTS = ("subject", "action", "resource", "context")
_ENTITIES = {"contract": "Contract", "workload": "Workload", "approved_by": "Human"}
_TERMS = ("contract", "workload", "data_class")
_NEEDED = {"place": _TERMS, "exchange": _TERMS, "execute": _TERMS}
_STOPS = {"execute_all": None, "deny_on_first_deny": False, "permit_on_first_permit": True}


@dataclass(frozen=True, slots=True)
class Clock:
    """The hour, 0..23 UTC, and the weekday, 1 = Monday, of a request that does not say when."""

    hour_utc: int
    weekday: int


def configuration(issuer: str, base: str) -> dict[str, str]:
    """The metadata of section 9, for ``/.well-known/authzen-configuration``."""
    return {
        "policy_decision_point": issuer,
        "access_evaluation_endpoint": f"{base}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{base}/access/v1/evaluations",
    }


def evaluate(point: PDP, body: Any, now: Clock) -> dict[str, Any]:
    """Answer an Access Evaluation request.

    Raises:
        InputError: ``authzen.form``, it is none.
    """
    return _answer(point, _decide(point, _object(body), now))


def evaluate_all(point: PDP, body: Any, now: Clock) -> dict[str, Any]:
    """Answer an Access Evaluations request: members at its top are the defaults of each evaluation.

    Raises:
        InputError: ``authzen.form``, it is none, or has more than `EVALUATIONS_MAX` evaluations.
    """
    document = _object(body)
    defaults = {part: document[part] for part in _PARTS if part in document}
    evaluations = document.get("evaluations", [])
    if not isinstance(evaluations, list) or len(evaluations) > EVALUATIONS_MAX:
        raise _malformed(f"evaluations is a list of at most {EVALUATIONS_MAX}")
    if not evaluations:
        return evaluate(point, defaults, now)
    semantic = _object(document.get("options", {})).get("evaluations_semantic", "execute_all")
    if semantic not in _STOPS:
        raise _malformed(f"evaluations_semantic is one of {', '.join(_STOPS)}")
    answers = []
    for evaluation in evaluations:
        answers.append(_answer(point, _decide(point, defaults | _object(evaluation), now)))
        if answers[-1]["decision"] is _STOPS[semantic]:
            break
    return {"evaluations": answers}


def _decide(point: PDP, document: Mapping[str, Any], now: Clock) -> Verdict:
    subject, action, resource = (_object(document.get(part)) for part in ("subject", "action", "resource"))
    context = _object(document.get("context", {}))
    names = (subject.get("type"), subject.get("id"), action.get("name"), resource.get("type"), resource.get("id"))
    if not all(isinstance(name, str) and name for name in names):
        raise _malformed("subject and resource need type and id, action its name, all text")
    kind, identifier, verb, resource_kind, resource_id = map(str, names)
    if kind.lower() not in ("agent", "human"):
        return Deny((Reason("malformed", text=f"a subject is of type agent or human, not {kind}"),))
    agents: tuple[AgentFacts, ...] = ()
    if kind.lower() == "agent":
        properties = _object(subject.get("properties", {}))
        human = properties.get("human")
        if not isinstance(human, str):
            return Deny((Reason("malformed", text="an agent acts for someone: properties.human"),))
        agents = (AgentFacts(identifier, human, properties.get("depth", 1)),)
    if missing := [name for name in _NEEDED.get(verb, ()) if name not in context]:
        return Deny((Reason("malformed", text=f"{verb} lacks {', '.join(missing)} in its context"),))
    if unknown := _unknown(point, resource_kind, resource_id, context):
        return Deny((Reason("malformed", text=f"there is no {unknown}"),))
    request = Request(
        (kind.capitalize(), identifier),
        verb,
        (_camel(resource_kind), resource_id),
        _context(verb, context, now),
        agents,
    )
    return point.verdict(request)


def _unknown(point: PDP, resource_kind: str, resource_id: str, context: Mapping[str, Any]) -> str:
    """What the request names and the world has not, or "": a policy that permits everything would permit it, too."""
    world = point.world
    known = {
        "site": {fact.id for fact in world.sites},
        "contract": {fact.id for fact in world.contracts},
        "workload": {fact.id for fact in world.workloads},
    }
    named = {name: context.get(name) for name in ("contract", "workload")} | {resource_kind.lower(): resource_id}
    for kind, ids in known.items():
        name = named.get(kind)
        if isinstance(name, str) and name not in ids:
            return f"{kind} {name}"
    return ""


def _context(verb: str, given: Mapping[str, Any], now: Clock) -> dict[str, Any]:
    """Ids become references to entities; executions and exchanges have a time."""
    made = {
        name: reference(_ENTITIES[name], value) if name in _ENTITIES and isinstance(value, str) else value
        for name, value in given.items()
    }
    times = {"hour_utc": now.hour_utc, "weekday": now.weekday} if verb in ("execute", "exchange") else {}
    return times | made


def _answer(point: PDP, verdict: Verdict) -> dict[str, Any]:
    reasons = [{"code": each.code, "policy": each.policy, "text": each.text} for each in verdict.reasons]
    return {"decision": bool(verdict), "context": {"reasons": reasons, "policy": point.policies.digest}}


def _camel(kind: str) -> str:
    return kind[:1].upper() + kind[1:]


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed("a request has subject, action and resource, each an object")
    return value


def _malformed(what: str) -> InputError:
    return InputError(what, code="authzen.form", hint="see OpenID AuthZEN Authorization API 1.0, section 6")
