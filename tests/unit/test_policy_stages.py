"""Policies at the stages before execution: delegation and placement."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_control_node import ALLOW, ONLY_DE, PLAN, state_of
from test_policy_authorization import FABRIC, PERMIT, WORLD

from isochrone.authority.delegation import VerifiedChain
from isochrone.authority.scope import Money, Scope
from isochrone.control.delegating import delegate_refusals
from isochrone.control.node import refused_placements, wanted_replicas
from isochrone.policy import PDP, PolicySet
from isochrone.policy.bounds import world_of

APPROVAL = (Path(__file__).parents[2] / "examples" / "policies" / "human-approval.cedar").read_text()


def refusals(policies: str, hops: int = 1, **scope: object) -> list[str]:
    members = {"sites": None, "jurisdictions": None, **scope}
    made: Scope = WORLD.scope(**members)
    chain = WORLD.verify(WORLD.chain(hops, made))
    assert isinstance(chain, VerifiedChain)
    return delegate_refusals(PDP(PolicySet.parse({"p.cedar": policies}), world_of(FABRIC)), FABRIC, chain.hops)


def cost(euros: float) -> dict[str, object]:
    return {"cost_max": Money("EUR", round(euros * 1e6))}


def test_where_policies_do_not_speak_of_delegation_scopes_alone_narrow() -> None:
    assert refusals('permit (principal, action == Action::"execute", resource);') == []
    assert refusals(PERMIT, hops=3) == []


def test_a_delegation_beyond_the_budget_needs_an_approval() -> None:
    assert refusals(APPROVAL, **cost(500)) == []
    assert refusals(APPROVAL, **cost(500.001)) != []
    assert refusals(APPROVAL) != []  # a budget without limit is beyond any


def test_each_hop_is_judged_by_who_gives_it() -> None:
    assert refusals(APPROVAL, hops=2, **cost(50)) == []
    found = refusals(APPROVAL, hops=2, **cost(60))
    assert len(found) == 1
    assert "agent:a1" in found[0]
    assert "sub-delegation-small" in found[0]


@pytest.mark.parametrize(
    ("condition", "denied"),
    [
        ('context.jurisdictions.contains(Jurisdiction::"DE")', True),  # not restricted: all that the fabric has
        ('context.vendors.contains("elsewhere")', False),
        ("context.lifetime_s > 86400", False),
        ("context.may_delegate", True),
        ('context.data_classes.contains("health")', True),
        ('context.workloads.contains(Workload::"chat")', True),
    ],
)
def test_a_forbid_counts_without_any_permit(condition: str, denied: bool) -> None:
    policy = f'@id("no") forbid (principal, action == Action::"delegate", resource) when {{ {condition} }};'
    assert bool(refusals(policy)) == denied


def test_an_error_in_a_policy_of_delegation_denies() -> None:
    policy = 'forbid (principal, action == Action::"delegate", resource)'
    policy += " when { context.budget_cents * 9223372036854775807 > 0 };"
    assert refusals(policy)


def test_a_placement_out_of_bounds_is_named_with_its_reasons() -> None:
    denied = state_of(policies=ONLY_DE)
    assert wanted_replicas(denied) == {}
    assert refused_placements(denied) == {"voice": ("de",)}
    assert refused_placements(state_of(policies=ALLOW)) == {}
    assert refused_placements(replace(denied, plan=None)) == {}
    ghost = replace(PLAN, placements={"zurich": {"ghost": 3}})
    assert refused_placements(replace(denied, plan=ghost)) == {}
