"""Input that is wrong, hostile or enormous: each is refused, or denies."""

from __future__ import annotations

import re
from typing import Any

import pytest

from isochrone.model.countries import COUNTRIES
from isochrone.model.jurisdictions import jurisdiction_groups
from isochrone.policy import (
    PDP,
    AgentFacts,
    Allow,
    ContractFacts,
    Deny,
    PolicySet,
    PolicyTextError,
    Request,
    SiteFacts,
    WorkloadFacts,
    World,
    compile_for_site,
)
from isochrone.policy.bounds import check_policies
from isochrone.policy.native import PROGRAM_MAX
from isochrone.policy.pdp import execution_context
from support import documents

WORLD = World(
    sites=(SiteFacts("s", "edge", "v", "o", "DE"),),
    contracts=(ContractFacts("c", "t", "DE"), ContractFacts("homeless", "t")),
    workloads=(WorkloadFacts("w"),),
)
HEAD = 'permit (principal, action == Action::"execute", resource)'


def verdict(policy: str, contract: str = "c", data_class: str = "health", **optional: Any) -> Allow | Deny:
    context = execution_context(contract, "w", data_class, 12, 3) | optional
    request = Request(("Agent", "bot"), "execute", ("Site", "s"), context, (AgentFacts("bot", "ada"),))
    return PDP(PolicySet.parse({"p.cedar": policy}), WORLD).verdict(request)


def patterns(value: Any) -> list[str]:
    """Every regular expression in a rule."""
    if isinstance(value, list):
        return [found for each in value for found in patterns(each)]
    if not isinstance(value, dict):
        return []
    own = [value["regex"]] if isinstance(value.get("regex"), str) else []
    return own + [found for each in value.values() for found in patterns(each)]


# --- policies that err ----------------------------------------------------------------------------------------------


def test_an_error_denies_and_says_so_even_beside_a_permit() -> None:
    erring = '@id("errs") forbid (principal, action == Action::"execute", resource)'
    erring += " when { context.measured.rtt_us + 9223372036854775807 > 0 };"
    with pytest.raises(PolicyTextError):  # an optional fact that is not tested for does not ship
        PolicySet.parse({"p.cedar": HEAD + ";" + erring})
    erring = erring.replace("{ context.measured", "{ context has measured && context.measured")
    measured = {"measured": {"rtt_us": 5, "utilisation_percent": 1}}
    assert isinstance(verdict(HEAD + ";" + erring), Allow)
    denied = verdict(HEAD + ";" + erring, **measured)
    assert isinstance(denied, Deny)
    assert [reason.code for reason in denied.reasons] == ["error"]
    assert "errs" in str(denied.reasons[0])


@pytest.mark.parametrize("name", ["context.nothing", "principal.nothing", "resource.nothing", 'Thing::"x".id'])
def test_a_name_outside_the_vocabulary_does_not_ship(name: str) -> None:
    with pytest.raises(PolicyTextError):
        PolicySet.parse({"p.cedar": f'{HEAD} when {{ {name} == "x" }};'})


# --- enormous -------------------------------------------------------------------------------------------


def test_a_huge_set_compiles_to_expressions_that_envoy_loads() -> None:
    values = [f"class-{n:05d}-{'x' * (n % 90)}" for n in range(3000)]
    listed = ", ".join(f'"{value}"' for value in values)
    policies = PolicySet.parse({"p.cedar": f"{HEAD} when {{ [{listed}].contains(context.data_class) }};"})
    compiled = compile_for_site(policies, "s", WORLD)
    found = [regex for regex in patterns(compiled.rules) if "class-" in regex]
    assert len(found) > 10
    assert max(map(len, found)) <= PROGRAM_MAX
    for value in (*values[::97], values[-1]):
        assert any(re.fullmatch(regex, value) for regex in found), value
    assert not any(re.fullmatch(regex, "class-99999-") for regex in found)


def test_deep_nesting_is_refused_as_text_or_left_to_the_node() -> None:
    with pytest.raises(PolicyTextError):
        PolicySet.parse({"p.cedar": f"{HEAD} when {{ {'(' * 500}true{')' * 500} }};"})
    with pytest.raises(PolicyTextError):
        PolicySet.parse({"p.cedar": f"{HEAD} when {{ {' && '.join(['true'] * 2000)} }};"})


# --- look-alikes, Unicode, numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["h.*", "h[a-z]+", "(health)", "^health$", "health|public", "\\\\d+", "he?lth"])
def test_a_like_pattern_is_no_regular_expression(pattern: str) -> None:
    policy = f'{HEAD} when {{ context.data_class like "{pattern}" }};'
    assert isinstance(verdict(policy), Deny)
    for regex in patterns(compile_for_site(PolicySet.parse({"p.cedar": policy}), "s", WORLD).rules):
        if "ealth" in regex or regex.startswith("h"):
            assert not re.fullmatch(regex, "health")


@pytest.mark.parametrize("said", ["Health", "HEALTH", "hеalth", "heal\u200bth", "ｈealth", "health\u0301"])
def test_case_and_unicode_games_name_another_class(said: str) -> None:
    assert isinstance(verdict(f'{HEAD} when {{ context.data_class == "health" }};', data_class=said), Deny)


@pytest.mark.parametrize("said", ["", "a,b", " health", "health ", "he\x00lth", "x" * 300, "eyJhIjoxfQ"])
def test_what_no_proxy_could_carry_is_malformed_whatever_policies_say(said: str) -> None:
    denied = verdict(HEAD + ";", data_class=said)
    assert isinstance(denied, Deny)
    assert denied.reasons[0].code == "malformed"


@pytest.mark.parametrize("said", [2**53, 7, True, None, ["health"], {"health": 1}, 1.5])
def test_a_claim_of_another_type_denies(said: Any) -> None:
    request = Request(
        ("Agent", "bot"), "execute", ("Site", "s"),
        {**execution_context("c", "w", "health", 12, 3), "data_class": said}, (AgentFacts("bot", "ada"),),
    )  # fmt: skip
    policy = f'{HEAD} when {{ context.data_class == "health" }};'
    assert isinstance(PDP(PolicySet.parse({"p.cedar": policy}), WORLD).verdict(request), Deny)


@pytest.mark.parametrize("depth", [0, 9, -1, 2**53 + 1, True, "1", 1.0, None])
def test_a_depth_that_no_chain_has_is_malformed(depth: Any) -> None:
    request = Request(
        ("Agent", "bot"), "execute", ("Site", "s"), execution_context("c", "w", "health", 12, 3),
        (AgentFacts("bot", "ada", depth),),
    )  # fmt: skip
    assert isinstance(PDP(PolicySet.parse({"p.cedar": HEAD + ";"}), WORLD).verdict(request), Deny)


@pytest.mark.parametrize("hour", [24, -1, 2**62])
def test_an_hour_beyond_the_clock_is_no_permit(hour: int) -> None:
    policy = f"{HEAD} when {{ context.hour_utc >= 8 && context.hour_utc < 18 }};"
    request = Request(
        ("Agent", "bot"), "execute", ("Site", "s"), execution_context("c", "w", "health", hour, 3),
        (AgentFacts("bot", "ada"),),
    )  # fmt: skip
    for slices_max in (0, 8):
        point = PDP(PolicySet.parse({"p.cedar": policy}), WORLD, slices_max=slices_max)
        assert isinstance(point.verdict(request), Deny)


# --- places -------------------------------------------------------------------------------------------


def mistakes(site: str = "DE", home: str = "EU", area: str = "DE") -> list[tuple[Any, ...]]:
    promise = documents.contract("w", 100, home=home, in_bounds={"jurisdictions": [area]})
    fabric = documents.fabric({"a": documents.site(jurisdiction=site)}, {"w": documents.workload()}, {"c": promise})
    return [mistake.path for mistake in check_policies(fabric, PolicySet(()))]


@pytest.mark.parametrize("said", ["XX", "UK", "EN", "ZZ", "XK", "QQ"])
def test_two_letters_are_not_a_country(said: str) -> None:
    assert mistakes(site=said) == [("sites", "a", "jurisdiction")]
    assert mistakes(home=said) == [("contracts", "c", "home")]
    assert mistakes(area=said) == [("contracts", "c", "in_bounds", "jurisdictions", 0)]


def test_a_site_is_in_a_country_and_a_contract_may_name_a_group() -> None:
    assert mistakes() == []
    assert mistakes(area="EEA") == []
    assert mistakes(site="EU") == [("sites", "a", "jurisdiction")]


def test_groups_are_made_of_countries() -> None:
    assert len(COUNTRIES) == 249
    for group in jurisdiction_groups():
        assert group.members <= COUNTRIES, group.id
