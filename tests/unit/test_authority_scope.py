"""The vocabulary of what can be delegated: what each member means, and what is not of it."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.authority.scope import AUTHORIZATION_TYPE, Execution, Groups, Money, Scope
from isochrone.authority.testing import NOW_S, World
from isochrone.errors import AuthorityError

WORLD = World()
NONE = Groups()


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("workload", "trade"),
        ("contract", "other"),
        ("site", "nyc"),
        ("jurisdiction", "CH"),
        ("jurisdiction", "EEA"),
        ("data_class", "finance"),
    ],
)
def test_each_fact_outside_is_refused_by_name(fact: str, value: str) -> None:
    assert WORLD.scope().refusals(WORLD.execution(), WORLD.groups) == []
    (reason,) = WORLD.scope().refusals(WORLD.execution(**{fact: value}), WORLD.groups)
    assert reason.code == "scope-outside"
    assert value in reason.text


def test_unknown_is_not_allowed() -> None:
    reasons = WORLD.scope().refusals(Execution(), WORLD.groups)
    assert {reason.code for reason in reasons} == {"scope-unknown"}
    assert len(reasons) == 5
    assert Scope().refusals(Execution(), WORLD.groups) == []


def test_the_window_is_half_open() -> None:
    scope = WORLD.scope(not_before_s=int(NOW_S), not_after_s=int(NOW_S) + 10)
    seen = [not scope.refusals(WORLD.execution(at_s=NOW_S + d), WORLD.groups) for d in (-0.1, 0.0, 9.9, 10.0)]
    assert seen == [False, True, True, False]
    assert scope.refusals(WORLD.execution(at_s=None), WORLD.groups)[0].code == "scope-unknown"


def test_groups_expand_through_groups_and_cycles() -> None:
    groups = Groups({"EEA": frozenset({"EU", "NO"}), "EU": frozenset({"DE"}), "X": frozenset("Y"), "Y": frozenset("X")})
    assert groups.expand(frozenset({"EEA"})) == {"EEA", "EU", "NO", "DE"}
    assert groups.expand(frozenset({"X"})) == {"X", "Y"}
    assert groups.expand(frozenset({"US"})) == {"US"}


def test_the_list_of_a_groups_members_is_not_the_group() -> None:
    """The group may gain a member tomorrow; who was given the list was not given that one."""
    listed = Scope(jurisdictions=frozenset({"AT", "DE", "FR"}))
    grouped = Scope(jurisdictions=frozenset({"EU"}))
    assert listed.is_narrower_or_equal(grouped, WORLD.groups)
    assert not grouped.is_narrower_or_equal(listed, WORLD.groups)


def test_leaving_out_what_the_parent_restricts_is_a_widening() -> None:
    parent = WORLD.scope(rate_rps_max=1.0, cost_max=Money("EUR", 5), not_before_s=1, not_after_s=2)
    for name, value in parent.details.items():
        if name not in ("type", "may_delegate"):
            (reason,) = parent.narrowed(**{name: None}).widenings(parent, WORLD.groups)
            assert name in reason.text, value
    assert len(Scope().widenings(parent, WORLD.groups)) == 10


def test_other_currencies_do_not_compare() -> None:
    euros, dollars = Scope(cost_max=Money("EUR", 5)), Scope(cost_max=Money("USD", 1))
    assert not dollars.is_narrower_or_equal(euros, NONE)
    assert Scope(cost_max=Money("EUR", 5)).is_narrower_or_equal(euros, NONE)


@pytest.mark.parametrize(
    "members",
    [
        {"workloads": []},
        {"workloads": ["a|b"]},
        {"workloads": ["*"]},
        {"workloads": [""]},
        {"workloads": ["a" * 129]},
        {"workloads": [7]},
        {"workloads": "chat"},
        {"workloads": None},
        {"sites": [f"s{n}" for n in range(257)]},
        {"rate_rps_max": -1},
        {"rate_rps_max": "1"},
        {"rate_rps_max": True},
        {"rate_rps_max": float("inf")},
        {"rate_rps_max": float("nan")},
        {"tokens_max": 1.5},
        {"tokens_max": 2**53},
        {"tokens_max": None},
        {"cost_max": 5},
        {"cost_max": {"currency": "euro", "micros": 1}},
        {"cost_max": {"currency": "EUR", "micros": 0.5}},
        {"cost_max": {"currency": "EUR", "micros": -1}},
        {"cost_max": {"currency": 1, "micros": 1}},
        {"cost_max": {"currency": "EUR"}},
        {"may_delegate": 1},
        {"may_delegate": None},
        {"actions": ["execute"]},
        {"type": "payment"},
    ],
    ids=str,
)
def test_what_is_not_of_the_vocabulary(members: dict[str, Any]) -> None:
    with pytest.raises(AuthorityError) as error:
        Scope.from_details({"type": AUTHORIZATION_TYPE} | members)
    assert error.value.code in ("authority.scope", "authority.name")


@pytest.mark.parametrize("junk", [None, [], "x", {}])
def test_no_object_at_all(junk: object) -> None:
    with pytest.raises(AuthorityError):
        Scope.from_details(junk)
