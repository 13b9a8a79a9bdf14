"""The node's verdict on what Envoy asks: which step refuses what, and what is assumed of what is not known?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from isochrone.authority.delegation import VerifiedChain
from isochrone.authority.grant import Grant
from isochrone.authority.jose import PrivateKey
from isochrone.authority.revocation import Kind, Revocation, RevocationState, sign_entry
from isochrone.authority.testing import World
from isochrone.control.authorization import Asked, Judge
from isochrone.control.node import Listening, NodeState, adopt
from isochrone.forward.view import Files
from isochrone.forward.xds import Address
from isochrone.policy import PDP, Allow, PolicySet
from isochrone.policy.bounds import world_of
from isochrone.policy.verdict import Deny, Verdict
from support.documents import contract, fabric, site, workload

HEALTH = {"data_class": "health"}
FABRIC = fabric(
    {
        "vie": site(jurisdiction="AT", vendor="acme-metal", hardware={"gpu": {"units": 4}}),
        "ber": site(tier="metro", vendor="other", hardware={"gpu": {"units": 4}}),
    },
    {"chat": workload(hardware="gpu")},
    {
        "ward-chat": contract("chat", 100, in_bounds=HEALTH, on_record={"evidence": "synchronous"}),
        "plain": contract("chat", 100, in_bounds=HEALTH),
    },
    name="acme",
)
PERMIT = '@id("may") permit (principal, action, resource);'
WORLD = World()
HERE = Asked("e-1", "ingress", here=True, method="POST", path="/v1/x", ingress="vie")
FEED = PrivateKey.generate("OKP")


def state_of(policies: str = PERMIT, site: str = "vie", **changes: Any) -> NodeState:
    empty = NodeState(site, Files("", "", "", ""), Listening(*[Address("127.0.0.1", 1)] * 3))
    state = adopt(empty, 1, FABRIC, PolicySet.parse({"p.cedar": policies}))
    usual = {"registry": WORLD.registry, "revocations": RevocationState("acme", FEED.public)}
    return replace(state, **(usual | changes))


CHAIN = WORLD.chain(2)


def verified(chain: list[str] = CHAIN) -> VerifiedChain:
    found = WORLD.verify(chain)
    assert isinstance(found, VerifiedChain)
    return found


def grant(**claims: Any) -> Grant:
    made = WORLD.grant(verified())
    assert isinstance(made, Grant)
    return Grant(made.token, {**made.claims, **claims})


def ask(
    state: NodeState | None = None, chain: list[str] | None = CHAIN, asked: Asked = HERE, now_s: float = WORLD.now_s,
    measured: dict[str, int] | None = None, **claims: Any,
) -> Verdict:  # fmt: skip
    state = state or state_of()
    assert state.policies is not None
    point = PDP(state.policies, world_of(FABRIC))
    return Judge(WORLD.groups).verdict(state, point, grant(**claims), chain, asked, now_s, measured)


def codes(verdict: Verdict) -> set[str]:
    assert isinstance(verdict, Deny)
    return {reason.policy or reason.code for reason in verdict.reasons}


def test_a_chain_that_is_behind_its_grant_is_allowed() -> None:
    assert isinstance(ask(), Allow)


@pytest.mark.parametrize(
    "claims",
    [
        {"chd": "x" * 43}, {"sub": "human:ben"}, {"act": {"sub": "agent:else"}}, {"dep": 1}, {"h2": "x" * 12},
        {"k0": "x" * 12},
    ],
)  # fmt: skip
def test_a_grant_that_says_something_else_than_its_chain_is_refused(claims: dict[str, Any]) -> None:
    assert codes(ask(**claims)) == {"chain"}


def test_without_the_chain_nothing_is_allowed() -> None:
    assert codes(ask(chain=None)) == {"chain"}
    assert codes(ask(state_of(registry=None))) == {"unknown"}
    assert codes(ask(state_of(revocations=None))) == {"unknown"}


def test_a_contract_that_does_not_ask_for_the_chain_needs_none() -> None:
    assert isinstance(ask(chain=None, ctr="plain"), Allow)
    assert codes(ask(ctr="ghost")) == {"unknown"}


def test_a_chain_of_strangers_or_one_that_has_expired_is_refused() -> None:
    other = World(fabric="elsewhere").chain(1)
    assert any(code.startswith("chain-") for code in codes(ask(chain=other)))
    assert any(code.startswith("chain-") for code in codes(ask(now_s=WORLD.now_s + 7200)))


@pytest.mark.parametrize("kind", ["human", "agent", "hop", "contract"])
def test_what_was_revoked_since_the_grant_is_refused(kind: Kind) -> None:
    chain = verified()
    wanted = {"human": chain.human, "agent": chain.last.agent, "hop": chain.last.id, "contract": "ward-chat"}[kind]
    before = RevocationState("acme", FEED.public)
    revocation = Revocation(1, int(WORLD.now_s), kind, wanted, "lost", "k" * 43, "r" * 43)
    entry = sign_entry(revocation, before, FEED)
    after = before.apply([entry])
    assert isinstance(after, RevocationState), after
    assert isinstance(ask(state_of(revocations=after)), Deny)


def test_a_site_that_the_chain_does_not_name_is_refused_even_if_the_grant_names_it() -> None:
    narrow = WORLD.chain(1, WORLD.scope(sites=frozenset({"ber"})))
    made = WORLD.grant(verified(narrow), candidates=[WORLD.execution(site="ber", jurisdiction="DE")])
    assert isinstance(made, Grant)
    state = state_of()
    assert state.policies is not None
    forged = Grant(made.token, {**made.claims, "sites": "*"})
    point = PDP(state.policies, world_of(FABRIC))
    verdict = Judge(WORLD.groups).verdict(state, point, forged, narrow, HERE, WORLD.now_s)
    assert codes(verdict) == {"scope-outside"}
    # Handed over, it is not this site that executes: the other one judges where it is.
    there = replace(HERE, here=False)
    assert isinstance(Judge(WORLD.groups).verdict(state, point, forged, narrow, there, WORLD.now_s), Allow)


MEASURED = PERMIT + '@id("far") forbid (principal, action == Action::"execute", resource)'
MEASURED += " when { context has measured && context.measured.rtt_us > 5000 };"
NEAR_ONLY = '@id("near") permit (principal, action == Action::"execute", resource)'
NEAR_ONLY += " when { context has measured && context.measured.utilisation_percent < 90 };"
FAILOVER = PERMIT + '@id("no-failover") forbid (principal, action == Action::"execute", resource)'
FAILOVER += " when { context has failover && context.failover };"
INGRESS = PERMIT + '@id("not-from-ber") forbid (principal, action == Action::"execute", resource)'
INGRESS += ' when { context has ingress && context.ingress == Site::"ber" };'


def test_cedar_is_asked_in_full() -> None:
    far, near = ({"rtt_us": rtt, "utilisation_percent": 10} for rtt in (9000, 100))
    assert codes(ask(state_of(MEASURED), measured=far)) == {"far"}
    assert isinstance(ask(state_of(MEASURED), measured=near), Allow)
    assert isinstance(ask(state_of(NEAR_ONLY), measured=near), Allow)
    assert codes(ask(state_of(NEAR_ONLY), measured=None)) == {"no-permit"}
    assert codes(ask(state_of(INGRESS), asked=replace(HERE, ingress="ber"))) == {"not-from-ber"}
    assert isinstance(ask(state_of(INGRESS)), Allow)


def test_a_failover_is_known_where_it_is_told_and_else_both_must_be_allowed() -> None:
    peer = replace(HERE, role="peer", ingress="ber")
    state = state_of(FAILOVER)
    assert isinstance(ask(state, asked=replace(peer, meant="vie")), Allow)
    assert codes(ask(state, asked=replace(peer, meant="ber"))) == {"no-failover"}
    assert codes(ask(state, asked=replace(peer, meant=None))) == {"no-failover"}
