"""Do the checks that use no solver see every way in which a plan or a price can be wrong?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from capital_world import world
from highspy import HighsModelStatus

from isochrone.errors import PlanError
from isochrone.plan.capital.engine import Engine
from isochrone.plan.capital.inputs import Scenario
from isochrone.plan.capital.model import Options, build
from isochrone.plan.capital.openings import Search
from isochrone.plan.capital.plan import plan_capital, read_plan
from isochrone.plan.capital.price_answers import prices_answer
from isochrone.plan.capital.verify import check_plan


@pytest.fixture(scope="module")
def plan():
    return plan_capital(world(places=4, sites=2))


def _with(plan, **prices):
    return replace(plan, prices=replace(plan.prices, **prices))


def _limited(plan, units):
    hardware = tuple(replace(h, build_units_max=units) for h in plan.data.hardware)
    return replace(plan, data=replace(plan.data, hardware=hardware))


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda p: replace(p, units=p.units + 1.0), "were built, kept or moved in"),
        (lambda p: replace(p, open=p.open * 0), "where nothing is open"),
        (lambda p: replace(p, site_open=p.site_open * 0), "fixed cost is not paid"),
        (lambda p: _limited(replace(p, build=p.build + 1.0), 0.5), "than can be bought"),
        (lambda p: replace(p, keep=p.keep * np.linspace(0.5, 1.0, p.keep.shape[1])), "comes back"),
        (lambda p: replace(p, keep=p.keep * 9), "more is kept and moved than stands"),
        (lambda p: replace(p, shed_by_scenario=p.shed_by_scenario + 10.0,
                           data=replace(p.data, coverage_min=1.0)), "coverage asks for 1"),
        (lambda p: _with(p, per_unit=p.prices.per_unit * 1e3), "above the value of lost demand"),
        (lambda p: _with(p, per_unit=p.prices.per_unit * 1.01), "above what serving costs at a site in reach"),
        (lambda p: _with(p, per_unit=p.prices.per_unit * 0.99), "below what serving costs at a site that serves"),
        (lambda p: _with(p, rent=p.prices.rent * 0.9), "above what serving costs"),
        (lambda p: _with(p, rent=p.prices.rent - 1.0), "below zero"),
    ],
)  # fmt: skip
def test_a_forged_plan_is_seen(plan, forge, said):
    assert check_plan(plan) == []
    assert any(said in line for line in check_plan(forge(plan))), check_plan(forge(plan))


def test_a_price_below_the_value_of_what_is_lost_is_seen():
    data = world(places=2, sites=1, years=1)
    dark = plan_capital(replace(data, assets=(), sites=(replace(data.sites[0], power_kw_max=30.0),)))
    assert check_plan(dark) == []
    assert (dark.shed > 1.0).any()
    assert any("demand that is lost" in line for line in check_plan(_with(dark, per_unit=dark.prices.per_unit * 0.9)))


def test_prices_hold_over_scenarios_too():
    future = (Scenario("low", 0.3, 0.5), Scenario("high", 0.7, 1.5, (("act", 2.0),)))
    plan = plan_capital(replace(world(places=3, sites=2, years=1), scenarios=future), Options(integer=False))
    assert check_plan(plan) == []


class _Lying:
    """A solver that ends as it is told."""

    def __init__(self, inner, status) -> None:
        self._inner, self.getModelStatus = inner, lambda: status

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.mark.parametrize("status", ["kUnknown", "kIterationLimit", "kUnbounded", "kSolveError"])
def test_whatever_is_no_proven_optimum_is_no_plan(status):
    engine = Engine(build(world(places=2, sites=1, years=1), Options(integer=False)))
    engine._priced._highs = _Lying(engine._priced._highs, getattr(HighsModelStatus, status))
    with pytest.raises(PlanError, match="no plan and no price"):
        engine.solve()


def test_a_plan_stopped_by_the_clock_has_a_bound_and_no_price(monkeypatch):
    """An integer program stopped with a feasible plan in hand: shown with its gap, without prices."""
    program = build(world(places=2, sites=2, years=1))
    engine = Engine(program)
    monkeypatch.setattr(Search, "closed", property(lambda _: False))  # so that it branches
    monkeypatch.setattr("isochrone.plan.capital.engine.optimal", lambda _: False)
    monkeypatch.setattr("isochrone.plan.capital.engine.feasible", lambda _: True)
    stopped = engine.solve()
    assert stopped.duals is None
    plan = read_plan(program, stopped)
    assert plan.bound <= plan.objective
    assert plan.prices is None
    assert check_plan(plan) == []
    with pytest.raises(PlanError, match="no prices"):
        prices_answer(plan)
