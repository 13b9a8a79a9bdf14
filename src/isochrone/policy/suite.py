"""Policy test suites: a request, the expected verdict, its reason. Documents are plain mappings; the caller reads YAML.

A world document has `sites`, `contracts`, `workloads` and `humans` by id. A suite has `defaults`, `cases`, and `also`,
Cedar text added to the policies under test. A case overrides the defaults and says `expect: allow|deny` and, when it
matters, `reason`: a policy id or a reason code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isochrone.errors import PolicyError
from isochrone.policy.pdp import PDP, Request, execution_context
from isochrone.policy.policies import PolicySet
from isochrone.policy.verdict import Allow, Verdict
from isochrone.policy.vocabulary import (
    AgentFacts,
    ContractFacts,
    HumanFacts,
    SiteFacts,
    WorkloadFacts,
    World,
    reference,
)

__all__ = ["CaseResult", "run_suite", "world_from"]

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case: whether the verdict and reason were those expected, and the verdict that was given."""

    name: str
    passed: bool
    expected: str
    verdict: Verdict


def world_from(document: Document) -> World:
    """The world of a document. Raises PolicyError naming the entry that does not fit."""
    humans = document.get("humans")
    return World(
        sites=tuple(_make(SiteFacts, i, {"operator": s.get("vendor"), **s}) for i, s in _items(document, "sites")),
        contracts=tuple(_make(ContractFacts, i, c) for i, c in _items(document, "contracts")),
        workloads=tuple(_make(WorkloadFacts, i, w) for i, w in _items(document, "workloads")),
        humans=None if humans is None else tuple(_make(HumanFacts, i, h) for i, h in _items(document, "humans")),
    )


def run_suite(policies: Mapping[str, str], suite: Document, world: World) -> tuple[CaseResult, ...]:
    """Run every case. Raises PolicyError when the policies or a case cannot be understood."""
    also = {"(also)": str(suite["also"])} if suite.get("also") else {}
    point = PDP(PolicySet.parse({**policies, **also}), world)
    results = []
    for case in suite.get("cases", ()):
        merged = {**suite.get("defaults", {}), **case}
        verdict = point.verdict(_request(merged))
        results.append(_judge(merged, verdict))
    if not results:
        raise PolicyError("the suite has no cases", code="policy.suite", hint="list some under `cases`")
    return tuple(results)


def _judge(case: Document, verdict: Verdict) -> CaseResult:
    expected = case.get("expect")
    if expected not in ("allow", "deny"):
        raise PolicyError(f"case {case.get('name')!r} expects {expected!r}", code="policy.suite", hint="allow or deny")
    given = {reason.policy for reason in verdict.reasons} | {reason.code for reason in verdict.reasons}
    reason = case.get("reason")
    passed = isinstance(verdict, Allow) is (expected == "allow") and (reason is None or reason in given)
    return CaseResult(str(case.get("name", "")), passed, f"{expected} {reason or ''}".strip(), verdict)


def _request(case: Document) -> Request:
    try:
        return _delegation(case) if case["action"] == "delegate" else _at_site(case)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"case {case.get('name')!r} lacks or misspells {error}"
        raise PolicyError(what, code="policy.suite", hint="see docs/reference/policy-vocabulary.md") from error


def _at_site(case: Document) -> Request:
    agents = _agents(case["principal"])
    context = execution_context(
        case["contract"], case["workload"], case["data_class"], case["hour_utc"], case["weekday"]
    )
    if case["action"] == "place":
        del context["hour_utc"], context["weekday"]
        return Request(("Human", case["principal"]["human"]), "place", ("Site", case["site"]), context)
    return Request(("Agent", agents[0].id), case["action"], ("Site", case["site"]), context, agents)


def _delegation(case: Document) -> Request:
    agents, target = _agents(case["principal"]), _agents(case["delegate"])
    principal = ("Agent", agents[0].id) if agents else ("Human", case["principal"]["human"])
    context: dict[str, Any] = {
        "workloads": [reference("Workload", w) for w in case.get("workloads", ())],
        "jurisdictions": [reference("Jurisdiction", j) for j in case.get("jurisdictions", ())],
        "vendors": list(case.get("vendors", ())),
        "data_classes": list(case.get("data_classes", ())),
        "budget_cents": case["budget_cents"],
        "lifetime_s": case.get("lifetime_s", 3600),
        "may_delegate": case.get("may_delegate", False),
    }
    if "approved_by" in case:
        context["approved_by"] = reference("Human", case["approved_by"])
    return Request(principal, "delegate", ("Agent", target[0].id), context, (*agents, *target))


def _agents(principal: Document) -> tuple[AgentFacts, ...]:
    if "agent" not in principal:
        return ()
    return (AgentFacts(principal["agent"], principal["human"], principal.get("depth", 1)),)


def _items(document: Document, kind: str) -> list[tuple[str, Document]]:
    return sorted((document.get(kind) or {}).items())


def _make(kind: Any, identifier: str, fields: Document) -> Any:
    sets = {name: frozenset(value) if isinstance(value, list) else value for name, value in (fields or {}).items()}
    try:
        return kind(id=identifier, **sets)
    except TypeError as error:
        what = f"{identifier!r} does not fit {kind.__name__}: {error}"
        raise PolicyError(what, code="policy.world", hint="see docs/reference/policy-vocabulary.md") from error
