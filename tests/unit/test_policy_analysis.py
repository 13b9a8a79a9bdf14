"""Analyses answer exactly, with a counter-example that the decision point confirms."""

from __future__ import annotations

import pytest

from isochrone.errors import PolicyError
from isochrone.policy import (
    PDP,
    AgentFacts,
    ContractFacts,
    PolicySet,
    Request,
    SiteFacts,
    WorkloadFacts,
    World,
)
from isochrone.policy.analysis import Example, compare, dead_policies, faults, reach
from isochrone.policy.pdp import execution_context

EXECUTE = 'principal, action == Action::"execute", resource'
WORLD = World(
    sites=(SiteFacts("de", "edge", "v", "o", "DE"), SiteFacts("us", "region", "w", "o", "US")),
    contracts=(ContractFacts("c", "t", "DE"), ContractFacts("d", "t")),
    workloads=(WorkloadFacts("w"), WorkloadFacts("train", "training")),
)


def parse(text: str) -> PolicySet:
    return PolicySet.parse({"t": text})


def confirmed(policies: PolicySet, example: Example | None) -> bool:
    """Whether full Cedar allows the example; facts it leaves open do not matter."""
    assert example is not None
    facts = {"context.contract": "d", "context.workload": "w", "context.data_class": "z", **dict(example.facts)}
    agent = AgentFacts(
        facts.get("principal", "a"), facts.get("principal.human", "h"), int(facts.get("principal.depth", 1))
    )
    context = execution_context(
        facts["context.contract"],
        facts["context.workload"],
        facts["context.data_class"],
        int(facts.get("context.hour_utc", 0)),
        int(facts.get("context.weekday", 1)),
    )
    request = Request(("Agent", agent.id), "execute", ("Site", example.site), context, (agent,))
    return bool(PDP(policies, WORLD).verdict(request))


def test_reach_finds_a_hole_and_proves_its_absence() -> None:
    hole = parse(
        f'permit({EXECUTE}) when {{ context.data_class like "h*" }}; forbid({EXECUTE}) when '
        '{ resource in Jurisdiction::"US" && context.data_class like "he*" && principal.id like "bot*" };'
    )
    example = reach(hole, WORLD, jurisdiction="US", data_class="health")
    assert confirmed(hole, example)
    assert not dict(example.facts if example else ())["principal"].startswith("bot")
    closed = parse(f'permit({EXECUTE}) unless {{ resource in Jurisdiction::"US" && context.data_class like "h*" }};')
    assert reach(closed, WORLD, jurisdiction="US", data_class="health") is None
    assert reach(closed, WORLD, jurisdiction="EEA", data_class="health") is not None


def test_compare_shows_what_a_revision_changes() -> None:
    old = parse(f"permit({EXECUTE}) when {{ principal.depth <= 3 }};")
    new = parse(
        f"permit({EXECUTE}) when {{ principal.depth <= 2 }}; permit({EXECUTE}) when {{ context.hour_utc == 4 }};"
    )
    change = compare(old, new, WORLD)
    assert confirmed(new, change.newly_allowed)
    assert not confirmed(old, change.newly_allowed)
    assert confirmed(old, change.newly_denied)
    assert not confirmed(new, change.newly_denied)
    stricter = compare(old, parse(f"permit({EXECUTE}) when {{ principal.depth * 2 < 6 }};"), WORLD)
    assert stricter.stricter
    assert stricter.newly_denied is not None
    same = compare(old, parse(f"permit({EXECUTE}) unless {{ principal.depth > 3 }};"), WORLD)
    assert same.stricter
    assert same.newly_denied is None


def test_dead_policies_and_why() -> None:
    text = (
        f'@id("live") permit({EXECUTE}) when {{ context.contract == Contract::"c" }};'
        f'@id("never") permit({EXECUTE}) when {{ resource.tier == "metro" }};'
        f'@id("shadowed") permit({EXECUTE}) when {{ context.data_class == "x" && context.contract == Contract::"d" }};'
        f'@id("idle") forbid({EXECUTE}) when {{ context.contract == Contract::"d" }};'
        '@id("other") permit(principal, action == Action::"place", resource);'
    )
    assert [(d.policy, d.why) for d in dead_policies(parse(text), WORLD)] == [
        ("never", "never-applies"),
        ("shadowed", "always-forbidden"),
    ]
    without = text.replace('@id("shadowed") permit', '@id("shadowed") forbid')
    assert ("idle", "forbids-nothing") in [(d.policy, d.why) for d in dead_policies(parse(without), WORLD)]


def test_faults_name_the_policy_and_the_request() -> None:
    policies = parse(
        f'@id("big") permit({EXECUTE}) when {{ principal.depth * 2000000000000000000 > 0 }};'
        f'@id("fine") permit({EXECUTE}) when {{ principal.depth * 2 > 0 }};'
    )
    (fault,) = faults(policies, WORLD)
    assert fault.policy == "big"
    assert int(dict(fault.example.facts)["principal.depth"]) >= 5


def test_conditions_no_fact_carries_are_named_as_assumed() -> None:
    policies = parse(f"permit({EXECUTE}) when {{ context has failover && context.failover }};")
    example = reach(policies, WORLD, jurisdiction="US", data_class="x")
    assert example is not None
    assert ("context has failover", True) in example.assumed


def test_patterns_too_complex_to_decide_are_an_error_not_a_guess() -> None:
    pattern = "*" + "*".join("abcdefghijklmnopqrstuvwxyz")
    many = " && ".join(f'context.data_class like "{pattern[i:]}{pattern[:i]}*"' for i in range(0, 40, 2))
    with pytest.raises(PolicyError, match="patterns"):
        compare(parse(""), parse(f"permit({EXECUTE}) when {{ {many} }};"), WORLD)
