"""Laws of leaving late sites, whatever happens in whatever order."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from test_forward_laws import FABRIC, NAMES, bounds, plans

from isochrone.control.lateness import (
    HOLD_S,
    HOLD_S_MAX,
    Eased,
    Event,
    Executed,
    Execution,
    Followed,
    Lateness,
    Left,
    Passed,
    Planned,
    step,
)
from isochrone.forward.ease import eased, shares_of
from isochrone.forward.fib import WEIGHT_TOTAL, Entry, fib_for
from isochrone.plan.plan import Plan
from isochrone.plan.verdicts import Verdict

parts = st.dictionaries(
    st.sampled_from(("line", "other")), st.dictionaries(st.sampled_from(NAMES), st.sampled_from((0.0, 0.125, 0.5)))
)


def weights(entry: Entry) -> dict[str, int]:
    return {path.sites[0]: path.weight for path in entry.paths}


@settings(max_examples=150, deadline=None)
@given(plans(), bounds, st.sampled_from(NAMES), parts)
def test_nothing_is_sent_where_the_plan_or_the_bounds_allow_nothing(
    plan: Plan, verdicts: dict[tuple[str, str], Verdict], site: str, doubted: dict[str, dict[str, float]]
) -> None:
    planned = fib_for(FABRIC, plan, site, verdicts)
    found = eased(planned, doubted)
    assert (found.revision, found.limits) == (planned.revision, planned.limits)
    for before, after in zip(planned.entries, found.entries, strict=True):
        assert sorted(after.candidates) == sorted(before.candidates)
        assert (after.refusal, after.tries, after.hedge_ms) == (before.refusal, before.tries, before.hedge_ms)
        for path in after.paths:
            assert sorted(path.sites) == sorted(after.candidates)
        doubts = doubted.get(before.contract, {}).keys() & set(before.candidates)
        if not doubts or doubts == set(before.candidates):
            assert after == before
            continue
        assert sum(weights(after).values()) == WEIGHT_TOTAL
        assert set(after.candidates[-len(doubts) :]) == doubts, "they take over last"
        for name, weight in weights(after).items():
            if name in doubts:
                assert weight <= max(1, weights(before)[name]), "and get no more than planned"
            else:
                assert weight >= weights(before).get(name, 0) - len(NAMES)
        gone = {name for name in doubts if doubted[before.contract][name] == 0}
        assert not gone & weights(after).keys()


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[float, Event]]:
    """Events with rising times: executions late or not, plans, and pauses."""
    now, found = 0.0, list[tuple[float, Event]]()
    sites = ("a", "b")
    for _ in range(draw(st.integers(1, 60))):
        now += draw(st.sampled_from((0.01, 0.25, 1.0, 3.0, 30.0, 100.0)))
        kind = draw(st.sampled_from(("late", "late", "refused", "in time", "pass", "plan")))
        if kind == "pass":
            found.append((now, Passed()))
        elif kind == "plan":
            share = draw(st.sampled_from((0.0, 0.4, 1.0)))
            found.append((now, Planned({"c": 0.95}, {"c": {"a": share, "b": 1 - share}})))
        else:
            began_s = now - draw(st.sampled_from((0.0, 0.5, 50.0)))
            one = Execution("c", draw(st.sampled_from(sites)), began_s, kind == "late", kind == "refused")
            found.append((now, Executed((one,) * draw(st.integers(1, 12)))))
    return found


@settings(max_examples=200, deadline=None)
@given(histories())
def test_a_contract_is_moved_seldom_and_less_often_each_time(history: list[tuple[float, Event]]) -> None:
    state, _ = step(Lateness(), Planned({"c": 0.95}, {"c": {"a": 1.0, "b": 0.0}}), 0.0)
    last_s, hold_s = float("-inf"), 0.0
    for now, event in history:
        before = state
        state, effects = step(before, event, now)
        assert step(before, event, now) == (state, effects), "the same every time"
        assert all(len(sites) == 1 for sites in state.doubted.values()), "one site at a time"
        for each in effects:
            if isinstance(each, Left):
                forgotten = now - last_s >= 2 * HOLD_S_MAX
                assert each.hold_s == min(HOLD_S_MAX, 2 * hold_s) or (
                    each.hold_s == HOLD_S and (forgotten or not hold_s)
                )
                hold_s = each.hold_s
            elif isinstance(each, Followed) and each.crowded:
                hold_s = min(HOLD_S_MAX, 2 * hold_s)
            last_s = now
        if before.doubted and not state.doubted:
            assert any(isinstance(each, Followed | Eased) for each in effects)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_however_late_all_are_the_files_change_a_bounded_number_of_times(
    seen: list[tuple[str, bool]], pause_s: float
) -> None:
    state, now, changes = Lateness(Planned({"c": 0.9}, {"c": {"a": 0.5, "b": 0.5}})), 0.0, 0
    for site, late in seen:
        now += pause_s
        state, one = step(state, Passed(), now)
        state, two = step(state, Executed((Execution("c", site, now, late),)), now)
        changes += len(one) + len(two)
    # Each time it is left, at most four more changes follow; and holds double: 2 + 4 + ... + 64 s, then 64 s each.
    assert changes <= 5 * (1 + math.log2(1 + now / HOLD_S) + now / HOLD_S_MAX)


@given(plans(), bounds, st.sampled_from(NAMES))
def test_shares_are_those_of_the_loosest_deadline(
    plan: Plan, verdicts: dict[tuple[str, str], Verdict], site: str
) -> None:
    fib = fib_for(FABRIC, plan, site, verdicts)
    for contract, shares in shares_of(fib).items():
        last = max((e for e in fib.entries if e.contract == contract), key=lambda e: e.deadline_ms)
        assert shares.keys() == set(last.candidates)
        assert not shares or abs(sum(shares.values()) - 1) < 1e-9
