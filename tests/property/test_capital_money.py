"""What prices pay, what the plan costs, and that nothing but its unit changes when a unit of measurement does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from capital_world import CLASSES, world

from isochrone.plan.capital import pricing
from isochrone.plan.capital.model import Options
from isochrone.plan.capital.plan import plan_capital
from isochrone.plan.capital.verify import check_plan

seeds = st.integers(0, 10_000)
few = settings(max_examples=3, deadline=None, derandomize=True)


def _bought_new(seed: int, **changes):
    """A world without limits and without a past: everything is built at its full cost."""
    data = world(places=3, sites=2, years=1, seed=seed)
    sites = tuple(replace(s, power_kw_max=float("inf"), **changes) for s in data.sites)
    return replace(data, sites=sites, assets=())


def _revenue(plan, per_unit) -> float:
    horizon = plan.data.horizon
    served = np.zeros_like(plan.prices.per_unit)
    np.add.at(served, plan.arcs.row, plan.serve)
    return float((served * per_unit * horizon.seconds_per_hour_block * horizon.discount()[None, :, None]).sum())


@few
@given(seeds)
def test_prices_and_uplift_together_pay_for_the_plan(seed):
    """Where nothing is scarce and nothing old stands, what buyers pay is what the plan costs: neither more nor less."""
    plan = plan_capital(_bought_new(seed), gap_rel_max=1e-6)
    assert pricing.parts(plan).scarcity == pytest.approx(0.0, abs=1e-13)
    uplift = pricing.parts(plan).fixed_charge[:, :, None]
    assert _revenue(plan, plan.prices.per_unit + uplift) == pytest.approx(plan.cost.paid, rel=1e-5)
    assert _revenue(plan, plan.prices.per_unit) < plan.cost.paid


@few
@given(seeds)
def test_without_fixed_charges_prices_alone_pay(seed):
    plan = plan_capital(_bought_new(seed, fixed_cost_per_year=0.0, reserve_units=0.0), Options(integer=False))
    assert _revenue(plan, plan.prices.per_unit) == pytest.approx(plan.cost.paid, rel=1e-6)


@few
@given(seeds, st.sampled_from([1e-3, 7.0, 1e6]))
def test_the_unit_of_work_changes_nothing_but_itself(seed, per):
    """Work counted in other units (thousands of tokens, say): the same units stand, every price times their size."""
    data = world(places=3, sites=2, years=1, seed=seed)
    other = replace(
        data,
        demand_per_s=data.demand_per_s / per,
        hardware=tuple(replace(h, throughput=tuple((s, u / per) for s, u in h.throughput)) for h in data.hardware),
        classes=tuple(replace(c, penalty_per_unit=c.penalty_per_unit * per, gb_per_unit=c.gb_per_unit * per)
                      for c in data.classes),
    )  # fmt: skip
    one, two = plan_capital(data, Options(integer=False)), plan_capital(other, Options(integer=False))
    assert two.objective == pytest.approx(one.objective, rel=1e-6)
    assert two.prices.per_unit.sum() == pytest.approx(per * one.prices.per_unit.sum(), rel=1e-4)


def _split(old_site_rtt_s: float, move_cost: float):
    """Hardware stands in a region from which the tight class can not be served, or can; a metro site is in reach."""
    data = world(places=1, sites=2, years=2, hours=1)
    sites = tuple(replace(s, fixed_cost_per_year=0.0, reserve_units=0.0, power_kw_max=float("inf")) for s in data.sites)
    hardware = tuple(replace(h, move_cost_per_unit=move_cost) for h in data.hardware[:1])
    demand = np.full((1, 1, 2, 1), 3000.0)
    assets = (replace(data.assets[0], units=30.0, age_years=1.0, life_years=6.0),)
    return replace(data, sites=sites, hardware=hardware, classes=CLASSES[:1], assets=assets, demand_per_s=demand,
                   rtt_s=np.array([[old_site_rtt_s, 0.005]]))  # fmt: skip


def test_hardware_is_moved_where_it_can_serve_when_moving_is_cheaper_than_new():
    plan = plan_capital(_split(0.025, 3000.0))
    assert check_plan(plan) == []
    assert plan.move.sum() == pytest.approx(plan.units[1, 1])
    assert plan.build.sum() == pytest.approx(0.0)
    dear = plan_capital(_split(0.025, 90_000.0))
    assert dear.move.sum() == pytest.approx(0.0)
    assert dear.build.sum() > 1.0


def test_misplaced_hardware_is_worth_more_where_it_can_serve():
    """The asset far away earns nothing where it stands; at the metro site it would earn what a new unit must."""
    from isochrone.plan.capital.stranded import schedule_answer, stranded_answer

    plan = plan_capital(_split(0.025, 60_000.0))
    rows = {r["life"]: r for r in stranded_answer(plan).as_dicts()}
    assert set(rows) == {3.0, 5.0, 6.0}
    for row in rows.values():
        assert row["value_in_use"] == 0.0
        assert row["write_down"] == pytest.approx(row["book_value"])
        assert row["gain_by_moving"] == max(0.0, row["value_at_best_site_less_move"])
    unit = sum((40e3 * 0.08 / (1 - 1.08**-5) / 1.08**0.5) / 1.08 ** (t + 0.5) for t in range(5))
    cheap = stranded_answer(replace(plan, data=replace(plan.data, hardware=tuple(
        replace(h, move_cost_per_unit=1000.0) for h in plan.data.hardware)))).as_dicts()  # fmt: skip
    assert cheap[2]["best_site"] == "s1"
    assert cheap[2]["value_at_best_site_less_move"] == pytest.approx(30 * (unit - 1000), rel=1e-6)
    schedule = [r for r in schedule_answer(plan).as_dicts() if r["life"] == 5.0]
    assert [r["write_down"] for r in schedule] == pytest.approx([30 * 40e3 * 0.8, 0.0])


def test_hardware_past_its_life_stands_no_more():
    from isochrone.plan.capital.where import where_answer

    data = _split(0.005, 3000.0)
    old = replace(data, assets=(replace(data.assets[0], age_years=4.5, life_years=5.0),))
    rows = [r for r in where_answer(plan_capital(old)).as_dicts() if r["site"] == "s0"]
    assert rows[0]["kept"] + rows[0]["retired"] + rows[0]["moved_out"] == pytest.approx(30)
    assert sum(r["kept"] for r in rows if r["year"] == 2027) == 0.0
