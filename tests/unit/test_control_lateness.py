"""Does an ingress leave a site that is late now, soon and seldom by mistake, and come back by itself?"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from test_control_node import FABRIC, PLAN, plan_for, state_of

from isochrone.control.lateness import (
    ALARM,
    HOLD_S,
    HOLD_S_MAX,
    LATE_SHARE,
    STEPS,
    UNTRIED_S,
    Eased,
    Executed,
    Execution,
    Followed,
    Lateness,
    Left,
    Passed,
    Planned,
    planned_here,
    step,
)
from isochrone.control.node import site_view
from isochrone.model.fabric import Fabric

PLANNED = Planned({"line": 0.95}, {"line": {"zurich": 1.0, "frankfurt": 0.0}})
NEW = Lateness(PLANNED)


def executed(count: int, *, began_s: float, site: str = "zurich", contract: str = "line", **members: bool) -> Executed:
    return Executed((Execution(contract, site, began_s, **members),) * count)


def left(now: float = 100.0) -> Lateness:
    state, effects = step(NEW, executed(4, late=True, began_s=now), now)
    assert effects == [Left("line", "zurich", HOLD_S)]
    return state


@pytest.mark.parametrize(("quantile", "few"), [(0.5, 25), (0.9, 5), (0.95, 4), (0.99, 3), (1.0, 2)])
def test_a_site_that_is_always_late_is_left_after_a_few_executions(quantile: float, few: int) -> None:
    state = Lateness(replace(PLANNED, quantile={"line": quantile}))
    before, effects = step(state, executed(few - 1, late=True, began_s=1.0), 1.0)
    assert not effects
    after, effects = step(before, executed(1, late=True, began_s=1.0), 1.0)
    assert effects == [Left("line", "zurich", HOLD_S)]
    assert after.doubted == {"line": {"zurich": 0.0}}


def mean_run(quantile: float, late_share: float, grid: float = 0.02) -> float:
    """Executions until the alarm, in the mean, by the Markov chain of the CUSUM on a grid (D. Brook and D. A. Evans,
    "An approach to the probability distribution of CUSUM run length", Biometrika 59 (1972))."""
    up, down = math.log(LATE_SHARE / (1 - quantile)), math.log(quantile / (1 - LATE_SHARE))
    states = math.ceil(ALARM / grid)
    chain = np.eye(states)
    for at in range(states):
        above, below = round(at + up / grid), max(0, round(at - down / grid))
        if above < states:
            chain[at, above] -= late_share
        chain[at, below] -= 1 - late_share
    return float(np.linalg.solve(chain, np.ones(states))[0])


@pytest.mark.parametrize("quantile", [0.9, 0.95, 0.99])
def test_false_alarms_are_as_rare_as_is_said(quantile: float) -> None:
    at_the_limit, half, tenth = (mean_run(quantile, part * (1 - quantile)) for part in (1.0, 0.5, 0.1))
    assert at_the_limit > 60_000 > math.exp(ALARM) > 22_000
    assert half > 1e6
    assert tenth > 1e8
    assert mean_run(quantile, 0.9) < 7, "and what is nearly always late is left soon"


def test_the_chain_that_tells_the_rate_is_the_test_itself() -> None:
    rng = np.random.default_rng(5)
    runs = []
    for _ in range(300):
        state, count = NEW, 0
        while not state.doubted:
            count += 1
            state, _ = step(state, executed(1, late=bool(rng.random() < 0.5), began_s=1.0), 1.0)
        runs.append(count)
    assert np.mean(runs) == pytest.approx(mean_run(0.95, 0.5), rel=0.25)


def test_what_is_late_as_often_as_is_promised_stays() -> None:
    state, late = NEW, Execution("line", "zurich", 1.0, late=True)
    for _ in range(1000):
        state, effects = step(state, Executed((late, *(replace(late, late=False),) * 19)), 1.0)
        assert not effects
    assert state.evidence == {}, "and nothing is remembered of it"


def test_what_nobody_planned_is_not_judged() -> None:
    strange = [{"contract": "other"}, {"site": "ashburn"}]
    for changed in strange:
        state, effects = step(NEW, executed(50, late=True, began_s=1.0, **changed), 1.0)
        assert (state, effects) == (NEW, [])


def test_what_was_sent_before_a_change_says_nothing_after_it() -> None:
    state, _ = step(left(), Passed(), 100.0 + HOLD_S)
    assert state.doubted == {"line": {"zurich": STEPS[0]}}
    again, effects = step(state, executed(50, late=True, began_s=101.0), 103.0)
    assert (again, effects) == (state, [])


def test_it_is_tried_with_a_little_and_eased_back_in() -> None:
    state, now = left(), 100.0 + HOLD_S
    parts = []
    for _ in STEPS:
        state, effects = step(state, Passed(), now)
        parts += [each.part for each in effects if isinstance(each, Eased)]
        now += 1.0
        state, effects = step(state, executed(4, late=False, began_s=now), now)
        parts += [each.part for each in effects if isinstance(each, Eased)]
    assert tuple(parts) == STEPS
    assert not state.doubted


def test_each_time_it_is_late_still_it_is_left_for_longer() -> None:
    state, now, holds = left(), 100.0, [HOLD_S]
    while holds[-1] < HOLD_S_MAX:
        now += holds[-1]
        early, effects = step(state, Passed(), now - 0.01)
        assert (early, effects) == (state, [])
        state, _ = step(state, Passed(), now)
        state, effects = step(state, executed(2, late=True, began_s=now), now)
        assert isinstance(effects[0], Left)
        holds.append(effects[0].hold_s)
    assert holds == [2, 4, 8, 16, 32, 64]
    state, _ = step(state, Passed(), now + HOLD_S_MAX)
    _, effects = step(state, executed(2, late=True, began_s=now + HOLD_S_MAX), now + HOLD_S_MAX)
    assert effects == [Left("line", "zurich", HOLD_S_MAX)]


def test_a_step_that_nobody_decides_is_taken_in_the_end_and_the_hold_forgotten() -> None:
    state, now = left(), 100.0 + HOLD_S
    state, _ = step(state, Passed(), now)
    for part in STEPS[1:]:
        now += UNTRIED_S
        state, effects = step(state, Passed(), now)
        assert effects == [Eased("line", "zurich", part)]
    assert state.doubts["line"].hold_s == HOLD_S
    state, effects = step(state, Passed(), now + 2 * HOLD_S_MAX)
    assert (state.doubts, effects) == ({}, [])


@pytest.mark.parametrize(
    ("share", "follows"), [(1.0, False), (0.6, False), (0.5, True), (0.0, True), (None, True)], ids=str
)
def test_a_plan_that_knows_of_it_is_followed_and_another_one_is_not(share: float | None, follows: bool) -> None:
    shares = {"frankfurt": 1.0} if share is None else {"zurich": share, "frankfurt": 1 - share}
    state, effects = step(left(), Planned({"line": 0.95}, {"line": shares}), 101.0)
    assert effects == ([Followed("line", "zurich")] if follows else [])
    assert bool(state.doubted) is not follows


def test_what_the_plan_gives_back_too_soon_is_left_for_longer() -> None:
    told, _ = step(left(), replace(PLANNED, shares={"line": {"zurich": 0.0, "frankfurt": 1.0}}), 101.0)
    back, _ = step(told, PLANNED, 110.0)
    _, effects = step(back, executed(4, late=True, began_s=111.0), 112.0)
    assert effects == [Left("line", "zurich", 2 * HOLD_S)]


def test_a_contract_that_is_gone_is_forgotten() -> None:
    state, effects = step(left(), Planned({}, {}), 101.0)
    assert (state.doubted, effects) == ({}, [Followed("line", "zurich")])


@pytest.mark.parametrize("how", ["late", "refused"])
def test_when_those_that_take_over_are_late_or_full_all_goes_by_the_plan_again(how: str) -> None:
    few, effects = step(left(), executed(3, began_s=101.0, site="frankfurt", **{how: True}), 101.0)
    assert not effects
    assert few.doubted
    state, effects = step(few, executed(1, began_s=101.0, site="frankfurt", **{how: True}), 101.0)
    assert effects == [Followed("line", "zurich", crowded=True)]
    assert not state.doubted
    # For a hold nothing is left, however late it is; then it may be, for longer.
    same, effects = step(state, executed(50, late=True, began_s=102.0), 102.0)
    assert (same.doubted, effects) == ({}, [])
    _, effects = step(same, executed(4, late=True, began_s=101.0 + 2 * HOLD_S), 101.0 + 2 * HOLD_S)
    assert effects == [Left("line", "zurich", 4 * HOLD_S)]


def test_a_clock_that_is_set_back_makes_no_pause_longer() -> None:
    state, effects = step(left(5000.0), Passed(), 100.0)
    assert not effects
    _, effects = step(state, Passed(), 100.0 + HOLD_S)
    assert effects == [Eased("line", "zurich", STEPS[0])]


def test_a_site_that_is_full_is_not_late() -> None:
    state, effects = step(NEW, executed(50, refused=True, began_s=1.0), 1.0)
    assert (state, effects) == (NEW, [])
    tried, _ = step(left(), Passed(), 100.0 + HOLD_S)
    assert step(tried, executed(50, refused=True, began_s=103.0), 103.0) == (tried, [])


def test_a_site_that_is_the_only_one_is_not_left() -> None:
    alone = Lateness(Planned({"line": 0.95}, {"line": {"zurich": 1.0}}))
    state, effects = step(alone, executed(50, late=True, began_s=1.0), 1.0)
    assert (state.doubted, effects) == ({}, [])


def test_contracts_are_judged_apart() -> None:
    both = Planned({**PLANNED.quantile, "other": 0.95}, {**PLANNED.shares, "other": {"zurich": 0.5, "konstanz": 0.5}})
    state, _ = step(left(), both, 100.0)
    state, effects = step(state, executed(4, late=True, began_s=101.0, contract="other", site="konstanz"), 101.0)
    assert effects == [Left("other", "konstanz", HOLD_S)]
    assert state.doubted == {"line": {"zurich": 0.0}, "other": {"konstanz": 0.0}}


def with_share_limit() -> Fabric:
    limited = FABRIC.contracts["line"].model_copy(update={"site_share_max": 0.9})
    return FABRIC.model_copy(update={"contracts": {**FABRIC.contracts, "line": limited}})


def test_the_plan_says_what_is_judged_and_limited_shares_are_left_to_it() -> None:
    planned = planned_here(state_of())
    assert planned.quantile["line"] == FABRIC.contracts["line"].in_time.quantile
    assert sum(planned.shares["line"].values()) == pytest.approx(1.0)
    assert planned.shares["line"].keys() == {"konstanz", "zurich"}
    assert "line" not in planned_here(state_of(fabric=with_share_limit())).quantile
    assert planned_here(state_of(plan=None)) == Planned({}, {})


def test_a_node_forwards_by_its_doubts_without_its_hub_and_says_the_same_plan() -> None:
    state = state_of("konstanz", plan=plan_for(FABRIC))
    before = site_view(state)
    assert before is not None
    (first,) = {entry.paths[0].sites[0] for entry in before.fib.entries if entry.contract == "line"}
    state = replace(state, stale_since_s=1.0, doubted={"line": {first: 0.0}})
    after = site_view(state)
    assert after is not None
    for entry in after.fib.entries:
        if entry.contract == "line" and len(entry.candidates) > 1:
            assert entry.paths[0].sites[0] != first
            assert entry.candidates[-1] == first
    assert after.fib.revision == PLAN.revision
    doubting_all = site_view(replace(state, doubted={"line": {"konstanz": 0.0, "zurich": 0.0}}))
    assert doubting_all is not None
    assert doubting_all.fib == before.fib
