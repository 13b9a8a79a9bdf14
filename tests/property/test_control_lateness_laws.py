"""Laws of leaving late sites, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from test_forward_laws import FABRIC, NAMES, bounds, plans

from isochrone.control.lateness import (
    HOLD_S,
    HOLD_S_MAX,
    Event,
    Executed,
    Execution,
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
        kind = draw(st.sampled_from(("late", "late", "in time", "pass", "plan")))
        if kind == "pass":
            found.append((now, Passed()))
        elif kind == "plan":
            share = draw(st.sampled_from((0.0, 0.4, 1.0)))
            found.append((now, Planned({"c": 0.95}, {"c": {"a": share, "b": 1 - share}})))
        else:
            began_s = now - draw(st.sampled_from((0.0, 0.5, 50.0)))
            one = Execution("c", draw(st.sampled_from(sites)), began_s, kind == "late")
            found.append((now, Executed((one,) * draw(st.integers(1, 12)))))
    return found


@settings(max_examples=150, deadline=None)
@given(histories())
def test_a_site_is_left_seldom_and_less_often_each_time(history: list[tuple[float, Event]]) -> None:
    state, _ = step(Lateness(), Planned({"c": 0.95}, {"c": {"a": 1.0, "b": 0.0}}), 0.0)
    last: dict[str, tuple[float, float]] = {}
    for now, event in history:
        before = state
        state, effects = step(before, event, now)
        assert step(before, event, now) == (state, effects), "the same every time"
        for each in effects:
            if not isinstance(each, Left):
                continue
            assert HOLD_S <= each.hold_s <= HOLD_S_MAX
            if each.site in last:
                at_s, hold_s = last[each.site]
                # A plan that knew of it may have ended the hold.
                followed = any(isinstance(past, Planned) and at_s <= when <= now for when, past in history)
                assert followed or now - at_s >= hold_s
                assert each.hold_s in (HOLD_S, min(HOLD_S_MAX, 2 * hold_s))
                assert each.hold_s > HOLD_S or now - at_s >= 2 * HOLD_S_MAX
            last[each.site] = now, each.hold_s
        for standing in state.standing.values():
            assert 0 <= standing.part <= 1
            assert standing.part == 1 or standing.hold_s > 0


@given(plans(), bounds, st.sampled_from(NAMES))
def test_shares_are_those_of_the_loosest_deadline(
    plan: Plan, verdicts: dict[tuple[str, str], Verdict], site: str
) -> None:
    fib = fib_for(FABRIC, plan, site, verdicts)
    for contract, shares in shares_of(fib).items():
        last = max((e for e in fib.entries if e.contract == contract), key=lambda e: e.deadline_ms)
        assert shares.keys() == set(last.candidates)
        assert not shares or abs(sum(shares.values()) - 1) < 1e-9
