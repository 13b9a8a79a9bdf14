"""The laws that authority rests on, on generated scopes, chains and ledgers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.authority.chain import ChainCache
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.scope import Execution, Groups, Money, Scope
from isochrone.authority.testing import World

NAMES = ("a", "b", "c")
AREAS = ("EU", "EEA", "AT", "DE", "NO", "CH")
GROUPS = Groups({"EU": frozenset({"AT", "DE"}), "EEA": frozenset({"EU", "NO"})})


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def subsets(of: tuple[str, ...]) -> st.SearchStrategy[Any]:
    return optional(st.frozensets(st.sampled_from(of), min_size=1))


def scopes() -> st.SearchStrategy[Scope]:
    return st.builds(
        Scope,
        workloads=subsets(NAMES),
        contracts=subsets(NAMES),
        sites=subsets(NAMES),
        jurisdictions=subsets(AREAS),
        vendors=subsets(NAMES),
        hardware_classes=subsets(NAMES),
        data_classes=subsets(NAMES),
        rate_rps_max=optional(st.sampled_from([0.5, 1, 2.0])),
        tokens_max=optional(st.integers(0, 3)),
        cost_max=optional(st.builds(Money, st.sampled_from(["USD", "EUR"]), st.integers(0, 3))),
        not_before_s=optional(st.integers(0, 3)),
        not_after_s=optional(st.integers(0, 3)),
        may_delegate=st.booleans(),
    )


# Built once: building strategies costs more than drawing from them.
SCOPES = scopes()
MEMBERS = st.sets(st.sampled_from(list(Scope.__dataclass_fields__)), max_size=4)


@st.composite
def narrowings(draw: st.DrawFn, parent: Scope) -> Scope:
    """A child that is often narrower, and often just not: a few members change, most sets of them to a part."""
    other, members = draw(SCOPES), dict[str, Any]()
    for name in draw(MEMBERS):
        value, whole = getattr(other, name), getattr(parent, name)
        if isinstance(whole, frozenset) and draw(st.integers(0, 3)):
            value = draw(st.frozensets(st.sampled_from(sorted(whole)), min_size=1))
        members[name] = value
    return parent.narrowed(**members)


FACTS = {
    "workload": "workloads",
    "contract": "contracts",
    "site": "sites",
    "jurisdiction": "jurisdictions",
    "vendor": "vendors",
    "hardware_class": "hardware_classes",
    "data_class": "data_classes",
}


@st.composite
def executions(draw: st.DrawFn, scope: Scope) -> Execution:
    """An execution that the scope often allows: one drawn from everywhere would almost never tell two scopes apart."""
    facts: dict[str, Any] = {}
    for fact, member in FACTS.items():
        allowed = getattr(scope, member)
        everything = AREAS if fact == "jurisdiction" else NAMES
        inside = sorted(GROUPS.expand(allowed)) if allowed else everything
        facts[fact] = draw(st.sampled_from(everything) if draw(st.integers(0, 9)) == 0 else st.sampled_from(inside))
    return Execution(**facts, at_s=draw(st.sampled_from([0.0, 1.5, 2.0, 3.0])))


@given(SCOPES)
@settings(deadline=None)
def test_the_order_is_reflexive(scope: Scope) -> None:
    assert scope.is_narrower_or_equal(scope, GROUPS)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_order_is_transitive(data: st.DataObject) -> None:
    top = data.draw(SCOPES)
    middle = data.draw(narrowings(top))
    low = data.draw(narrowings(middle))
    if middle.is_narrower_or_equal(top, GROUPS) and low.is_narrower_or_equal(middle, GROUPS):
        assert low.is_narrower_or_equal(top, GROUPS)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_an_accepted_child_allows_a_subset(data: st.DataObject) -> None:
    parent = data.draw(SCOPES)
    child = data.draw(narrowings(parent))
    if child.is_narrower_or_equal(parent, GROUPS):
        for _ in range(4):
            execution = data.draw(executions(child))
            if not child.refusals(execution, GROUPS):
                assert not parent.refusals(execution, GROUPS)


def alone(member: str, values: Any) -> Scope:
    return Scope(**{member: values})


@pytest.mark.parametrize(("fact", "member"), FACTS.items())
def test_each_set_by_itself_and_exhaustively(fact: str, member: str) -> None:
    """Generated scopes mix members and rarely isolate one; here every pair of small sets is tried, for each."""
    universe = AREAS if fact == "jurisdiction" else NAMES
    subsets = [frozenset(c) for size in (1, 2, 3) for c in itertools.combinations(universe, size)]
    scopes = [Scope(), *(alone(member, subset) for subset in subsets)]
    executions = [Execution(), *(Execution(**{fact: value}) for value in universe)]
    allowed = [{e for e in executions if not scope.refusals(e, GROUPS)} for scope in scopes]
    verdicts = set()
    for (child, mine), (parent, theirs) in itertools.product(zip(scopes, allowed, strict=True), repeat=2):
        is_narrower = child.is_narrower_or_equal(parent, GROUPS)
        assert is_narrower == (mine <= theirs)
        verdicts.add(is_narrower)
    assert verdicts == {True, False}


def test_windows_exhaustively() -> None:
    edges = (None, 0, 1, 2)
    windows = [Scope(not_before_s=begin, not_after_s=end) for begin in edges for end in edges]
    executions = [Execution(at_s=at_s) for at_s in (None, -1.0, 0.0, 0.5, 1.0, 2.0)]
    for child, parent in itertools.product(windows, repeat=2):
        if child.is_narrower_or_equal(parent, GROUPS):
            for execution in executions:
                assert child.refusals(execution, GROUPS) or not parent.refusals(execution, GROUPS)


@given(SCOPES, SCOPES)
@settings(deadline=None)
def test_two_scopes_narrower_than_each_other_allow_the_same(one: Scope, other: Scope) -> None:
    """Antisymmetric up to areas that expand alike."""
    if one.is_narrower_or_equal(other, GROUPS) and other.is_narrower_or_equal(one, GROUPS):
        areas = {None if s.jurisdictions is None else GROUPS.expand(s.jurisdictions) for s in (one, other)}
        assert len(areas) == 1
        assert one.narrowed(jurisdictions=None) == other.narrowed(jurisdictions=None)


@given(SCOPES)
@settings(deadline=None)
def test_the_wire_form_loses_nothing(scope: Scope) -> None:
    assert Scope.from_details(scope.details) == scope


@given(SCOPES)
@settings(deadline=None)
def test_more_groups_never_take_away(scope: Scope) -> None:
    """A group that gains members widens parent and child alike: an accepted child stays accepted."""
    bigger = Groups({"EU": frozenset({"AT", "DE", "FR"}), "EEA": frozenset({"EU", "NO"})})
    assert scope.is_narrower_or_equal(scope, bigger)
    if scope.jurisdictions is not None:
        assert GROUPS.expand(scope.jurisdictions) <= bigger.expand(scope.jurisdictions)


WORLD = World(kty="OKP")
CHAIN = WORLD.chain(3)


@given(st.integers(0, 2), st.data())
@settings(max_examples=200, deadline=None)
def test_one_changed_character_anywhere_refuses_the_chain(hop: int, data: st.DataObject) -> None:
    text = CHAIN[hop]
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_.=~ é").filter(lambda c: c != text[at]))
    bad = [*CHAIN]
    bad[hop] = text[:at] + other + text[at + 1 :]
    assert isinstance(WORLD.verify(bad), ChainRejected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_cache_changes_no_verdict(order: list[int], entries_max: int) -> None:
    cache = ChainCache(entries_max=entries_max)
    chain = [*CHAIN, WORLD.root(human="ben")]
    for length in range(1, len(order) + 1):
        hops = [chain[at] for at in order[:length]]
        cold, warm = WORLD.verify(hops), WORLD.verify(hops, cache=cache)
        assert type(cold) is type(warm)
        if isinstance(cold, VerifiedChain) and isinstance(warm, VerifiedChain):
            assert cold.digest == warm.digest
