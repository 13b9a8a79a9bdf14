"""Do AuthZEN requests get the verdict that the decision point gives, and nonsense a denial or an error?"""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.errors import InputError
from isochrone.policy import PDP, ContractFacts, PolicySet, SiteFacts, WorkloadFacts, World
from isochrone.policy.authzen import EVALUATIONS_MAX, Clock, configuration, evaluate, evaluate_all

WORLD = World(
    sites=tuple(
        SiteFacts(name, "edge", "v", "v", place, frozenset({"cpu"})) for name, place in (("bonn", "DE"), ("bern", "CH"))
    ),
    contracts=(ContractFacts("talk", "tenant", None),),
    workloads=(WorkloadFacts("chat", "inference", "lab"),),
)
TEXT = """
@id("in-germany") permit (principal, action == Action::"execute", resource)
when { resource.jurisdiction == Jurisdiction::"DE" && principal.depth < 3 };
@id("by-day") forbid (principal, action == Action::"execute", resource) when { context.hour_utc > 20 };
"""
POINT = PDP(PolicySet.parse({"p.cedar": TEXT}), WORLD)
NOON, NIGHT = Clock(12, 3), Clock(22, 3)


def body(site: str = "bonn", **changes: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "agent", "id": "bot", "properties": {"human": "ada", "depth": 1}},
        "action": {"name": "execute"},
        "resource": {"type": "site", "id": site},
        "context": {"contract": "talk", "workload": "chat", "data_class": "public"},
    } | changes


def test_the_decision_is_the_decision_points() -> None:
    allowed = evaluate(POINT, body(), NOON)
    assert allowed["decision"] is True
    assert allowed["context"]["reasons"][0]["policy"] == "in-germany"
    assert allowed["context"]["policy"] == POINT.policies.digest
    assert evaluate(POINT, body("bern"), NOON)["decision"] is False
    deep = {"type": "agent", "id": "bot", "properties": {"human": "ada", "depth": 4}}
    assert evaluate(POINT, body(subject=deep), NOON)["decision"] is False


def test_the_time_is_now_unless_the_request_says() -> None:
    assert evaluate(POINT, body(), NIGHT)["context"]["reasons"][0]["policy"] == "by-day"
    said = body(context=body()["context"] | {"hour_utc": 12, "weekday": 1})
    assert evaluate(POINT, said, NIGHT)["decision"] is True


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": {"type": "user", "id": "x"}},
        {"subject": {"type": "agent", "id": "x"}},
        {"subject": {"type": "agent", "id": "x", "properties": {"human": "ada", "depth": "1"}}},
        {"action": {"name": "levitate"}},
        {"resource": {"type": "site", "id": "atlantis"}},
        {"resource": {"type": "planet", "id": "mars"}},
        {"context": {}},
        {"context": {"contract": "walk", "workload": "chat", "data_class": "public"}},
        {"context": {"contract": 3, "workload": [], "data_class": None}},
        {"context": {"contract": "talk", "workload": "chat", "data_class": "a,b"}},
    ],
)
def test_outside_the_vocabulary_is_denied_with_a_reason(changes: dict[str, Any]) -> None:
    answer = evaluate(POINT, body(**changes), NOON)
    assert answer["decision"] is False
    assert answer["context"]["reasons"]


@pytest.mark.parametrize(
    "wrong", [None, [], "x", {}, {"subject": "bot"}, body(subject={"type": "agent"}), body(action={}), body(context=3)]
)
def test_what_is_no_request_is_an_error(wrong: Any) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(POINT, wrong, NOON)
    assert caught.value.code == "authzen.form"


def test_evaluations_take_defaults_and_stop_where_told() -> None:
    sites = [{"resource": {"type": "site", "id": name}} for name in ("bern", "bonn", "bern")]

    def decisions(**more: Any) -> list[bool]:
        answer = evaluate_all(POINT, body() | {"evaluations": sites} | more, NOON)
        return [each["decision"] for each in answer["evaluations"]]

    assert decisions() == [False, True, False]
    assert decisions(options={"evaluations_semantic": "deny_on_first_deny"}) == [False]
    assert decisions(options={"evaluations_semantic": "permit_on_first_permit"}) == [False, True]
    assert evaluate_all(POINT, body(), NOON)["decision"] is True
    for wrong in (
        {"options": {"evaluations_semantic": "maybe"}},
        {"evaluations": [{}] * (EVALUATIONS_MAX + 1)},
        {"evaluations": {}},
    ):
        with pytest.raises(InputError):
            evaluate_all(POINT, body() | {"evaluations": sites} | wrong, NOON)


def test_metadata_names_both_endpoints() -> None:
    found = configuration("isochrone:f", "http://127.0.0.1:1")
    assert found["access_evaluation_endpoint"] == "http://127.0.0.1:1/access/v1/evaluation"
