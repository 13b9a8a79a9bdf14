"""Does the market beside the plan count: what hardware is sold for, what it is rented for, what power pays?"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from capital_world import world

from isochrone.plan.capital import procurement, stranded, where
from isochrone.plan.capital.costs import resale_value
from isochrone.plan.capital.inputs import findings
from isochrone.plan.capital.model import Options
from isochrone.plan.capital.plan import plan_capital
from isochrone.plan.capital.verify import check_duality, check_plan


def _resold(share: float):
    data = world(places=3, sites=2)
    return replace(data, hardware=tuple(replace(h, resale_share=share) for h in data.hardware))


def test_resale_value_falls_in_a_straight_line():
    data = _resold(0.5)
    old = data.assets[0]  # 2 of 5 years old, 40,000 when new
    assert resale_value(data, old) == pytest.approx(0.5 * 40e3 * 0.6)
    assert resale_value(data, old, 3.0) == 0.0
    assert resale_value(data, old, 9.0) == 0.0


def test_hardware_that_earns_less_than_it_fetches_is_sold():
    """Demand is a hundredth: nothing is worth keeping for it except what serves it; a buyer makes the rest leave."""
    small = replace(_resold(0.0), demand_per_s=_resold(0.0).demand_per_s / 100)
    free = replace(small, hardware=tuple(replace(h, opex_per_unit_year=0.0, idle_power_share=0.0)
                                         for h in small.hardware))  # fmt: skip
    dear = replace(free, hardware=tuple(replace(h, resale_share=0.9) for h in free.hardware))
    plan = plan_capital(dear)
    assert check_plan(plan) == []
    assert check_duality(plan.solution.rows).holds()
    assert plan.keep[:, 0].sum() < 0.5 * sum(a.units for a in dear.assets)
    holding = {r["part"]: r["present_value"] for r in where.cost_answer(plan).as_dicts()}["holding"]
    kept = float((plan.keep * plan.program.costs.hold).sum())
    moved = float((plan.move.sum(axis=1).cumsum(axis=1) * plan.program.costs.hold).sum())
    assert holding == pytest.approx(kept + moved)


def test_what_an_asset_fetches_is_not_stranded():
    none, half = (stranded.stranded_answer(plan_capital(_resold(s), Options(integer=False))) for s in (0.0, 0.5))
    for one, two in zip(none.as_dicts(), half.as_dicts(), strict=True):
        assert one["resale_value"] == 0.0
        assert two["resale_value"] > 0.0
        assert two["write_down"] <= max(0.0, two["book_value"] - two["resale_value"]) + 1e-6


def test_renting_costs_what_the_site_asks():
    data = world(places=3, sites=2, years=1)
    cheap = plan_capital(data, Options(integer=False))
    dear = replace(cheap, data=replace(data, sites=tuple(replace(s, rental_factor=2.0) for s in data.sites)))
    none = replace(cheap, data=replace(data, sites=tuple(replace(s, rental_factor=0.0) for s in data.sites)))
    rent = [procurement.rental_cost(p, 0, 0.1, 5e4, 4e4, wait_share_max=0.05) for p in (cheap, dear, none)]
    assert rent[0] is not None
    assert rent[1] == pytest.approx(2 * rent[0])
    assert rent[2] is None
    cheaper = procurement.procurement_answer(none, (0,)).column("cheaper")
    assert set(cheaper) <= {"guarantee", "nothing in reach"}


def test_from_the_break_even_on_renting_is_no_dearer():
    plan = plan_capital(world(places=3, sites=2, years=1), Options(integer=False))
    for row in procurement.procurement_answer(plan, (0, 1, 2)).as_dicts():
        if row["rent_from_demand"] is not None:
            assert row["guarantee_price"] is not None
            place = [p.name for p in plan.data.places].index(row["place"])
            mean = row["rent_from_demand"] * 1.01
            demand = plan.data.demand_per_s[place][[0, 1], 0].sum(axis=0)
            cost = procurement.rental_cost(plan, place, row["objective"] / 1e3, mean * demand.max() / demand.mean(),
                                           mean, wait_share_max=0.05)  # fmt: skip
            assert cost * 1e6 <= row["guarantee_price"] * 1.02


def test_batch_goes_to_the_hours_and_places_where_power_pays():
    data = world(places=2, sites=2, years=1, hours=2)
    sites = tuple(replace(s, energy_price_per_kwh=prices, fixed_cost_per_year=0.0, reserve_units=0.0,
                          power_kw_max=float("inf"), jurisdiction="X", egress_per_gb=0.0)
                  for s, prices in zip(data.sites, ((0.2, 0.2), (-0.3, 0.2)), strict=True))  # fmt: skip
    batch = replace(data, sites=sites, classes=data.classes[2:], demand_per_s=data.demand_per_s[:, 2:], assets=(),
                    hardware=tuple(replace(h, capex_per_unit=1.0, opex_per_unit_year=0.0)
                                   for h in data.hardware))  # fmt: skip
    plan = plan_capital(batch, Options(integer=False))
    assert check_plan(plan) == []
    by_site_and_hour = np.zeros((2, 2))
    np.add.at(by_site_and_hour, plan.arcs.site, plan.serve.sum(axis=1))
    assert by_site_and_hour[1, 0] == pytest.approx(by_site_and_hour.sum())
    assert plan.cost.energy < 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: replace(d, hardware=(replace(d.hardware[0], resale_share=1.2), *d.hardware[1:])), "resale_share"),
        (lambda d: replace(d, hardware=(replace(d.hardware[0], rental_per_unit_hour=-1.0), *d.hardware[1:])), "rental"),
        (lambda d: replace(d, sites=(replace(d.sites[0], rental_factor=-1.0), *d.sites[1:])), "rental_factor"),
    ],
)
def test_impossible_markets_are_named(change, said):
    assert any(said in line for line in findings(change(world())))
