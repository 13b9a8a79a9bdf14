"""Laws of the capital model on generated worlds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from capital_world import CLASSES, world

from isochrone.plan.capital.model import Options
from isochrone.plan.capital.plan import plan_capital
from isochrone.plan.capital.verify import check_duality, check_plan

few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
seeds = st.integers(0, 10_000)


@few
@given(seeds, st.booleans())
def test_every_published_price_obeys_duality_and_the_plan_holds(seed, whole):
    data = world(places=4, sites=2, years=1, seed=seed)
    sold = tuple(replace(h, resale_share=0.1 * (seed % 8)) for h in data.hardware)
    plan = plan_capital(replace(data, hardware=sold), Options(integer=whole))
    assert check_plan(plan) == []
    duality = check_duality(plan.solution.rows)
    assert duality.holds(), duality


@few
@given(seeds)
def test_price_never_above_the_value_of_lost_demand(seed):
    data = world(places=4, sites=2, years=1, seed=seed)
    scarce = tuple(replace(s, power_kw_max=30.0) for s in data.sites)
    plan = plan_capital(replace(data, sites=scarce, assets=()), Options(integer=False))
    worth = np.array([data.classes[r.work_class].penalty_per_unit for r in plan.arcs.rows])[:, None, None]
    assert plan.prices is not None
    assert (plan.prices.per_unit <= worth * (1 + 1e-7)).all()
    shed = plan.shed > 1e-3
    assert (
        np.allclose(plan.prices.per_unit[shed], np.broadcast_to(worth, shed.shape)[shed], rtol=1e-6) or not shed.any()
    )


@few
@given(seeds)
def test_a_tighter_class_is_never_cheaper_at_the_same_place(seed):
    data = world(places=4, sites=2, years=1, seed=seed)
    same = tuple(replace(CLASSES[1], name=f"c{ms}", objective_s=ms / 1e3) for ms in (40, 70, 150))
    plan = plan_capital(replace(data, classes=same, assets=()), Options(integer=False))
    assert plan.prices is not None
    price = {(r.place, r.work_class): plan.prices.per_unit[i] for i, r in enumerate(plan.arcs.rows)}
    for (place, k), value in price.items():
        if (place, k + 1) in price:
            assert (price[place, k + 1] <= value * (1 + 1e-7) + 1e-15).all()


@few
@given(seeds)
def test_more_candidate_sites_never_cost_more(seed):
    data = world(places=4, sites=3, years=1, seed=seed)
    fewer = replace(data, sites=data.sites[:2], rtt_s=data.rtt_s[:, :2])
    # demand no site reaches leaves the model, so let both see the same: every class within reach of site 0
    wide = tuple(replace(c, objective_s=0.2) if c.objective_s else c for c in data.classes)
    one, two = (plan_capital(replace(d, classes=wide), Options(integer=True), gap_rel_max=1e-6) for d in (fewer, data))
    assert two.objective <= one.objective * (1 + 1e-5)


@few
@given(seeds, st.floats(0.2, 5.0))
def test_money_scales(seed, factor):
    """Every amount times a factor: the same plan, every price times it."""
    data = world(places=3, sites=2, years=1, seed=seed)
    other = replace(
        data,
        sites=tuple(
            replace(
                s,
                energy_price_per_kwh=tuple(p * factor for p in s.energy_price_per_kwh),
                egress_per_gb=s.egress_per_gb * factor,
                fixed_cost_per_year=s.fixed_cost_per_year * factor,
            )
            for s in data.sites
        ),
        hardware=tuple(
            replace(
                h,
                capex_per_unit=h.capex_per_unit * factor,
                opex_per_unit_year=h.opex_per_unit_year * factor,
                move_cost_per_unit=h.move_cost_per_unit * factor,
            )
            for h in data.hardware
        ),
        classes=tuple(replace(c, penalty_per_unit=c.penalty_per_unit * factor) for c in data.classes),
    )
    one, two = plan_capital(data, Options(integer=False)), plan_capital(other, Options(integer=False))
    assert two.objective == pytest.approx(factor * one.objective, rel=1e-6)
