"""The decision point: verdicts with reasons, and a Deny for everything that is wrong with a request."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from isochrone.errors import PolicyError
from isochrone.policy import (
    PDP,
    AgentFacts,
    Allow,
    ContractFacts,
    Deny,
    PolicySet,
    Request,
    SiteFacts,
    WorkloadFacts,
    World,
    allowed_sites,
    compile_for_site,
)
from isochrone.policy.compile import compile_anywhere, compile_sites
from isochrone.policy.pdp import execution_context

EXECUTE = 'principal, action == Action::"execute", resource'
WORLD = World(
    sites=(SiteFacts("de", "edge", "v", "o", "DE"), SiteFacts("us", "region", "v", "o", "US")),
    contracts=(ContractFacts("c", "t", "EU"), ContractFacts("free", "t")),
    workloads=(WorkloadFacts("w"),),
)
HOME = f'@id("home") forbid({EXECUTE}) when {{ context.contract has home && !(resource in context.contract.home) }};'


def request(**changes: Any) -> Request:
    fields = {"contract": "c", "workload": "w", "data_class": "public", "hour_utc": 12, "weekday": 3, **changes}
    return Request(("Agent", "a"), "execute", ("Site", "de"), execution_context(**fields), (AgentFacts("a", "ada"),))


def pdp(text: str) -> PDP:
    return PDP(PolicySet.parse({"t": text}), WORLD)


def test_allow_names_the_permit_and_deny_the_forbid() -> None:
    both = pdp(f'@id("p") permit({EXECUTE}); @id("f") forbid({EXECUTE}) when {{ context.data_class == "x" }};')
    assert [reason.policy for reason in both.verdict(request()).reasons] == ["p"]
    denied = both.verdict(request(data_class="x"))
    assert isinstance(denied, Deny)
    assert [(reason.code, reason.policy) for reason in denied.reasons] == [("forbid", "f")]


def test_nothing_permits() -> None:
    assert pdp("").verdict(request()).reasons[0].code == "no-permit"


@pytest.mark.parametrize(
    "condition",
    [
        "principal.depth + 9223372036854775807 > 0",
        'context.workload.kind == "batch"',
        "context.contract.id == context.contract.id",
    ],
)
def test_an_erring_forbid_denies_although_cedar_would_skip_it(condition: str) -> None:
    text = f"permit({EXECUTE}); forbid({EXECUTE}) when {{ {condition} && false }};"
    denied = pdp(text).verdict(request(contract="ghost", workload="ghost"))
    assert isinstance(denied, Deny)
    assert {reason.code for reason in denied.reasons} == {"error"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_class", ""),
        ("data_class", "a,b"),
        ("data_class", "a\nb"),
        ("data_class", " a"),
        ("data_class", "x" * 257),
        ("data_class", 7),
        ("data_class", ["public"]),
        ("contract", "c\0"),
        ("workload", "w,w"),
    ],
)
def test_malformed_facts_deny(field: str, value: Any) -> None:
    assert pdp(f"permit({EXECUTE});").verdict(request(**{field: value})).reasons[0].code == "malformed"


@pytest.mark.parametrize("depth", [0, 9, -1, 2**53 + 1, True, 1.0, "1"])
def test_a_depth_outside_the_vocabulary_denies(depth: Any) -> None:
    asked = dataclasses.replace(request(), agents=(AgentFacts("a", "ada", depth),))
    assert pdp(f"permit({EXECUTE});").verdict(asked).reasons[0].code == "malformed"


@pytest.mark.parametrize(
    "changes",
    [{"agents": ()}, {"resource": ("Site", "ghost")}, {"action": "fly"}, {"context": {"hour_utc": {"__entity": 3}}}],
)
def test_requests_that_make_no_sense_deny(changes: dict[str, Any]) -> None:
    text = f'permit({EXECUTE}) when {{ principal.depth > 0 && resource.tier == "edge" && context.hour_utc < 24 }};'
    assert isinstance(pdp(text).verdict(dataclasses.replace(request(), **changes)), Deny)


def test_a_site_claiming_another_jurisdiction_is_judged_by_its_enrolment() -> None:
    # The world is built from enrolment; an entity for the same site in the request cannot be added beside it.
    site_as_agent = dataclasses.replace(request(), resource=("Site", "us"))
    denied = pdp(f"permit({EXECUTE});" + HOME).verdict(site_as_agent)
    assert [reason.policy for reason in denied.reasons] == ["home"]


def test_allowed_sites_says_which_policy_excludes_a_site() -> None:
    policies = PolicySet.parse({"t": f"permit({EXECUTE}) when {{ context.hour_utc < 6 }};" + HOME})
    verdicts = allowed_sites(policies, WORLD.contracts[0], WORLD)
    assert isinstance(verdicts["de"], Allow)
    assert [reason.policy for reason in verdicts["us"].reasons] == ["home"]
    assert all(allowed_sites(policies, WORLD.contracts[1], WORLD).values())
    with pytest.raises(PolicyError, match="ghost"):
        allowed_sites(policies, WORLD.contracts[0], WORLD, sites=["ghost"])


def test_compiled_rules_are_allow_only_and_say_why() -> None:
    text = (
        f'permit({EXECUTE}); @id("m") forbid({EXECUTE}) when {{ context has measured && context.measured.rtt_us > 9 }};'
    )
    compiled = compile_for_site(PolicySet.parse({"t": text}), "de", WORLD)
    assert compiled.rules == {"action": "ALLOW", "policies": {}}
    assert compiled.prefilter["policies"]
    assert {need.policy for need in compiled.needs_ext_authz} == {"m"}
    assert [explanation.way for explanation in compiled.explain()] == ["always", "ext_authz"]


def test_more_nesting_than_a_proxy_loads_goes_to_the_external_authorizer() -> None:
    nested = 'context.data_class == "x"'
    for level in range(40):
        fact = f'principal.id == "a{level}"'
        nested = f"({fact} && {nested})" if level % 2 else f"({fact} || {nested})"
    compiled = compile_for_site(PolicySet.parse({"t": f"permit({EXECUTE}) when {{ {nested} }};"}), "de", WORLD)
    assert [need.why for need in compiled.needs_ext_authz][:1] == ["nests more conditions than a proxy loads"]
    assert compiled.rules["policies"] == {}


def test_equivalences_that_double_at_each_level_are_stopped() -> None:
    nested = 'principal.id == "a"'
    for level in range(30):
        nested = f'(({nested}) == (context.data_class like "*{level}"))'
    compiled = compile_for_site(PolicySet.parse({"t": f"permit({EXECUTE}) when {{ {nested} }};"}), "de", WORLD)
    assert compiled.needs_ext_authz


def test_an_ingress_allows_what_some_site_would() -> None:
    policies = PolicySet.parse({"t": 'permit(principal, action == Action::"execute", resource in Jurisdiction::"US");'})
    by_site = compile_sites(policies, WORLD)
    assert not by_site["de"].rules["policies"]
    assert by_site["us"].rules["policies"]
    assert compile_anywhere(policies, WORLD).rules["policies"]


def test_unknown_site_and_bad_world() -> None:
    with pytest.raises(PolicyError, match="ghost"):
        compile_for_site(PolicySet.parse({}), "ghost", WORLD)
    with pytest.raises(PolicyError, match="two sites"):
        World(sites=(WORLD.sites[0], WORLD.sites[0]))
    with pytest.raises(PolicyError, match="comma"):
        World(workloads=(WorkloadFacts("a,b"),))
