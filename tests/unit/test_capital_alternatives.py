"""Frontier and alternatives: whole plans, each with what is proven; and what each site matters, against brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from capital_world import world

from isochrone.errors import PlanError
from isochrone.plan.capital import studies
from isochrone.plan.capital.alternatives import by_site_answer, by_tier_answer
from isochrone.plan.capital.engine import Engine
from isochrone.plan.capital.frontier import frontier_answer
from isochrone.plan.capital.model import Options, build
from isochrone.plan.capital.plan import plan_capital

FEW = (0.9, 0.99, 1.0)


@pytest.fixture(scope="module")
def data():
    """Three sites of which one is dear, one kind of hardware; every place reaches every site."""
    base = world(places=4, sites=3, years=1, hours=1, seed=3, stretch=5e-6)
    sites = (*base.sites[:2], replace(base.sites[2], fixed_cost_per_year=3e6))
    return replace(base, sites=sites, hardware=base.hardware[:1], assets=())


@pytest.fixture(scope="module")
def plan(data):
    return plan_capital(data, gap_rel_max=1e-6)


def _by_force(data) -> dict[tuple[float, ...], float]:
    """Least cost of every choice of openings, each by a linear program of its own."""
    found = {}
    engine = Engine(build(data))
    search = engine.search(0.0, 60.0)
    for choice in itertools.product((0.0, 1.0), repeat=len(data.sites)):
        fixed = np.array(choice)
        search.begin_again(fixed, fixed)
        search.cost(fixed)
        found[choice] = search.value * engine.program.scale.money
    return found


def test_what_each_site_matters_agrees_with_trying_every_choice(data, plan):
    cost = _by_force(data)
    assert min(cost.values()) == pytest.approx(plan.objective, rel=1e-5)
    stands = tuple(plan.open.round())
    for s, row in enumerate(by_site_answer(plan).as_dicts()):
        assert row["otherwise"] == ("kept out" if stands[s] else "built on")
        best = min(value for choice, value in cost.items() if choice[s] != stands[s])
        more = 100 * (best / plan.objective - 1)
        assert row["cost_more_least"] <= more + 1e-3
        assert row["cost_more_found"] >= more - 1e-3
        assert row["verdict"] == ("within 1 %" if more <= 1 else "within 5 %" if more <= 5 else "above 5 %")


def test_a_site_without_which_there_is_no_plan_is_named(data):
    """All demand must be served, and one site's reach holds all of one class."""
    alone = data.rtt_s.copy()
    alone[:, 1:] += 0.9
    needed = plan_capital(replace(data, rtt_s=alone, coverage_min=1.0))
    answer = by_site_answer(needed)
    verdicts = {r["site"]: (r["verdict"], r["cost_more_found"]) for r in answer.as_dicts()}
    assert verdicts["s0"] == ("no plan", None)
    assert "1 only for more (s0)" in answer.sentence


def test_by_site_stopped_by_the_clock_says_it_is_open(plan):
    answer = by_site_answer(plan, time_limit_s=0.0)
    assert set(answer.column("verdict")) == {"open"}
    assert set(answer.column("cost_more_found")) == {None}


def test_progress_names_each_site(plan):
    told: list[str] = []
    by_site_answer(plan, progress=told.append)
    assert [line.split(" ")[0] for line in told] == [s.name for s in plan.data.sites]


def _whole(data, options, like=None):
    return plan_capital(data, options, like=like, gap_rel_max=0.01)


def test_each_point_of_the_frontier_is_a_whole_plan_between_its_bound_and_what_was_found(data):
    rows = frontier_answer(data, _whole, FEW).as_dicts()
    bounds = frontier_answer(data, coverages=FEW).as_dicts()
    assert [r["coverage"] for r in rows] == [100 * c for c in FEW]
    for row, relaxation in zip(rows, bounds, strict=True):
        assert row["cost_least"] <= row["cost"] * (1 + 1e-9)
        assert row["gap"] <= 1.0 + 1e-6
        assert relaxation["cost"] <= row["cost"] * (1 + 1e-6)  # no relaxation is dearer than a whole plan
    for less, more in itertools.pairwise(rows):
        assert less["cost"] <= more["cost"] * (1 + 1e-6)
        assert less["cost_least"] <= more["cost_least"] * (1 + 1e-9)


def test_a_point_stopped_by_the_clock_has_a_bound_and_no_cost(data):
    def stopped(asked, options, like=None):
        if asked.coverage_min == 1.0:
            raise PlanError("the solver ended with 'Time limit reached'", code="capital.status")
        return _whole(asked, options, like)

    last = frontier_answer(data, stopped, FEW).as_dicts()[-1]
    assert (last["cost"], last["gap"], last["units"]) == (None, None, None)
    assert last["cost_least"] > 0

    def broken(asked, options, like=None):
        raise PlanError("no", code="capital.other")

    with pytest.raises(PlanError, match="no"):
        frontier_answer(data, broken, FEW)


def test_no_whole_plan_lies_outside_the_tiers_range(data, plan):
    """Whole plans of at most 5 % more, found by forbidding each site, lie inside the range of the relaxation."""
    rows = {r["tier"]: r for r in by_tier_answer(data, plan).as_dicts() if r["cost_above_best"] == 5}
    for s in range(len(data.sites)):
        kept = tuple(i for i in range(len(data.sites)) if i != s)
        other = plan_capital(data, Options(sites=kept), gap_rel_max=1e-6)
        if other.objective <= 1.05 * plan.objective:
            for tier, row in rows.items():
                mine = [i for i, site in enumerate(data.sites) if site.tier == tier]
                units = float(other.units[mine].sum())
                assert row["least"] - 1e-4 <= units <= row["most"] + 1e-4


def test_studies_take_the_plan_at_hand_as_one_to_try(data, plan):
    tried = []

    def solve(asked, options, like=None):
        tried.append(like)
        return studies.relaxed(asked, options, like)

    frontier_answer(data, solve, FEW)
    assert tried[0] is None
    assert all(t is not None for t in tried[1:])
