"""Asking only the policies that can matter gives the verdict of asking all, with its reasons."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from test_policy_cases import SITE, WORLD, claims, policy_set

from isochrone.policy import PDP, AgentFacts, Allow, Deny, PolicySet, Request
from isochrone.policy.pdp import execution_context


@pytest.mark.parametrize("seed", range(8))
def test_a_slice_says_what_the_whole_set_says(seed: int) -> None:
    rng = random.Random(seed)
    seen = set()
    for _ in range(6):
        text, policies = policy_set(rng, opaque=bool(seed % 2))
        whole, sliced = PDP(policies, WORLD), PDP(policies, WORLD, slices_max=64)
        for _ in range(25):
            request = claims(rng).request(rng.randrange(24), rng.randrange(1, 8), True)
            if request is None:
                continue
            verdict = whole.verdict(request)
            seen.add(type(verdict))
            other = sliced.verdict(request)
            assert type(other) is type(verdict), (text, request)
            assert {str(r) for r in other.reasons} == {str(r) for r in verdict.reasons}, (text, request)
    assert Deny in seen
    assert Allow in seen or seed == 3  # that one generates no set that allows


ODD: list[dict[str, Any]] = [
    {"hour_utc": 99}, {"weekday": 0}, {"hour_utc": "12"}, {"contract": "c-de"}, {"contract": {"__entity": {}}},
]  # fmt: skip


@pytest.mark.parametrize("changed", ODD)
def test_what_the_compiler_does_not_reckon_with_is_asked_of_the_whole_set(changed: dict[str, Any]) -> None:
    text = """
    permit (principal, action, resource);
    @id("odd") forbid (principal, action == Action::"execute", resource) when { context.hour_utc > 23 };
    @id("day") forbid (principal, action == Action::"execute", resource) when { context.weekday < 1 };
    """
    policies = PolicySet.parse({"p.cedar": text})
    context = {**execution_context("c-de", "chat", "public", 12, 3), **changed}
    request = Request(("Agent", "bot"), "execute", ("Site", SITE), context, (AgentFacts("bot", "ada"),))
    whole, sliced = PDP(policies, WORLD).verdict(request), PDP(policies, WORLD, slices_max=8).verdict(request)
    assert sliced == whole
    assert isinstance(whole, Deny) or "contract" in changed


def test_an_agent_that_the_request_does_not_bring_errs_in_either() -> None:
    policies = PolicySet.parse(
        {"p.cedar": "permit (principal is Agent, action, resource) when { principal.depth == 1 };"}
    )
    context = execution_context("c-de", "chat", "public", 12, 3)
    request = Request(("Agent", "bot"), "execute", ("Site", SITE), context, ())
    for point in (PDP(policies, WORLD), PDP(policies, WORLD, slices_max=8)):
        assert not isinstance(point.verdict(request), Allow)
