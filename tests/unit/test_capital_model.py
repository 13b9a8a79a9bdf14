"""Does the capital model say what it should on small worlds whose answer can be worked out?"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from capital_world import CLASSES, HARDWARE, world

from isochrone.errors import InputError, PlanError
from isochrone.plan.capital import price_answers, pricing, procurement, stranded, studies, where
from isochrone.plan.capital.alternatives import by_tier_answer
from isochrone.plan.capital.costs import annuity_factor
from isochrone.plan.capital.engine import Engine
from isochrone.plan.capital.frontier import frontier_answer
from isochrone.plan.capital.headroom import erlang_c, headroom, units_needed
from isochrone.plan.capital.inputs import Asset, Scenario, Site, Terms, WorkClass, findings
from isochrone.plan.capital.model import Options, build
from isochrone.plan.capital.plan import plan_capital, read_plan
from isochrone.plan.capital.verify import check_duality, check_plan


@pytest.fixture(scope="module")
def plan():
    return plan_capital(world())


def test_the_plan_is_checked_without_the_solver(plan):
    assert check_plan(plan) == []
    assert check_duality(plan.solution.rows).holds()
    assert plan.objective == pytest.approx(plan.cost.total, rel=1e-7)
    assert plan.bound <= plan.objective * (1 + 1e-9)


def test_the_checks_see_a_forged_plan(plan):
    late = replace(plan, data=replace(plan.data, rtt_s=plan.data.rtt_s + 1.0))
    assert any("late" in line for line in check_plan(late))
    assert any(
        "served and shed" in line for line in check_plan(replace(plan, shed_by_scenario=plan.shed_by_scenario + 5.0))
    )
    assert any("recomputed cost" in line for line in check_plan(replace(plan, build=plan.build + 1.0)))
    assert any("head-room" in line for line in check_plan(replace(plan, units=plan.units * 0.1)))
    rows = plan.solution.rows
    assert not check_duality(replace(rows, dual=rows.dual * 1.01)).holds()
    assert not check_duality(replace(rows, value=rows.value * 1.01)).holds()


def test_one_place_one_site_by_hand():
    """Price = energy + rent / throughput, and the rent of a new unit is its annuity, opex and idle power."""
    base = world(places=1, sites=1, years=1, hours=1)
    site = replace(
        base.sites[0],
        energy_price_per_kwh=(0.10,),
        fixed_cost_per_year=0.0,
        reserve_units=0.0,
        utilisation_max=0.8,
        power_usage_effectiveness=1.5,
        jurisdiction=base.places[0].jurisdiction,
    )
    demand = np.full((1, 1, 1, 1), 1000.0)
    data = replace(
        base,
        sites=(site,),
        hardware=HARDWARE[:1],
        classes=(CLASSES[1],),
        assets=(),
        demand_per_s=demand,
        rtt_s=np.array([[0.010]]),
    )
    plan = plan_capital(data)
    assert plan.units[0, 0] == pytest.approx(1000 / 2000 / 0.8)
    energy = 0.10 * 1.5 * 1.3 * 0.7 / 3600 / 2000
    year_cost = 40e3 * annuity_factor(0.08, 5) + 2000 + 0.10 * 1.5 * 1.3 * 0.3 * 8760
    rent = year_cost / 0.8 / 8760 / 3600 / 2000
    assert plan.prices is not None
    assert plan.prices.per_unit[0, 0, 0] == pytest.approx(energy + rent, rel=1e-6)
    split = pricing.parts(plan)
    assert split.energy[0, 0] == pytest.approx(energy)
    assert split.compute[0, 0] == pytest.approx(rent, rel=1e-6)
    assert split.scarcity[0, 0] == pytest.approx(0, abs=1e-15)


def test_distance_costs_throughput():
    """The time that distance eats is time the hardware lacks: a far site does less with the same unit."""
    data = world(places=1, sites=2)
    data = replace(data, rtt_s=np.array([[0.060, 0.005]]), assets=())
    plan = plan_capital(data, Options(integer=False))
    rate = {
        (int(s), int(k)): r
        for s, h, k, r in zip(
            plan.arcs.site,
            plan.arcs.hardware,
            [r.work_class for r in np.array(plan.arcs.rows, dtype=object)[plan.arcs.row]],
            plan.arcs.throughput_per_s,
            strict=True,
        )
        if h == 0
    }
    assert rate[0, 1] == 800.0
    assert rate[1, 1] == 2000.0
    assert (0, 0) not in rate


def test_power_limit_makes_scarcity_and_shedding():
    data = world(places=2, sites=1)
    site = replace(data.sites[0], power_kw_max=50.0)
    plan = plan_capital(
        replace(
            data,
            sites=(site,),
            assets=(),
            classes=(CLASSES[1],),
            demand_per_s=data.demand_per_s[:, 1:2] * 50,
            rtt_s=np.full((2, 1), 0.01),
        )
    )
    assert check_plan(plan) == []
    assert plan.shed.sum() > 0
    assert plan.prices is not None
    assert plan.prices.per_unit.max() == pytest.approx(5e-6)
    assert pricing.parts(plan).scarcity.max() > 0
    assert plan.prices.power.max() > 0


def test_same_jurisdiction_only():
    data = world()
    bound = tuple(replace(c, in_bounds=Terms(jurisdictions=("same",))) for c in data.classes)
    plan = plan_capital(replace(data, classes=bound), Options(integer=False))
    assert check_plan(plan) == []
    used = plan.serve.sum(axis=(1, 2)) > 1e-9
    for a in np.flatnonzero(used):
        assert data.sites[plan.arcs.site[a]].jurisdiction == plan.arcs.rows[plan.arcs.row[a]].jurisdiction


def test_a_class_no_site_can_meet_is_on_premises_with_the_reason():
    data = world()
    plan = plan_capital(replace(data, rtt_s=data.rtt_s + 0.025), Options(integer=False))
    assert {o.work_class for o in plan.on_premises} >= {"act"}
    reason = next(o.reason for o in plan.on_premises if o.work_class == "act")
    assert "on premises only" in reason
    assert "30.0 ms is asked" in reason
    nowhere = replace(
        data,
        classes=(replace(CLASSES[1], in_bounds=Terms(jurisdictions=("Mars",))),),
        demand_per_s=data.demand_per_s[:, :1],
    )
    assert (
        "no candidate site is in bounds: jurisdiction"
        in plan_capital(nowhere, Options(integer=False)).on_premises[0].reason
    )


def test_negative_power_prices_are_served_not_exploited():
    data = world()
    sites = tuple(replace(s, energy_price_per_kwh=(-0.5,)) for s in data.sites)
    plan = plan_capital(replace(data, sites=sites), Options(integer=False))
    assert check_plan(plan) == []
    assert plan.cost.energy < 0


def test_a_time_limit_yields_no_price():
    data = world(places=30, sites=12, years=2, hours=3)
    with pytest.raises(PlanError) as caught:  # stopped with nothing, or with a plan that has no prices
        price_answers.prices_answer(plan_capital(data, time_limit_s=0.05, gap_rel_max=0.0))
    assert caught.value.code in ("capital.status", "capital.no-prices")


def test_impossible_coverage_is_a_status_not_a_plan():
    data = world()
    tiny = tuple(replace(s, power_kw_max=1.0) for s in data.sites)
    with pytest.raises(PlanError, match="nfeasible") as caught:
        plan_capital(replace(data, sites=tiny, assets=(), coverage_min=1.0), Options(integer=False))
    assert caught.value.code == "capital.infeasible"


def test_the_frontier_ends_where_limits_do():
    """Sites without power for all: the study says how far coverage can go instead of failing."""
    data = world(places=2, sites=2, years=1)
    dark = replace(data, sites=tuple(replace(s, power_kw_max=1.0) for s in data.sites), assets=())
    answer = frontier_answer(dark)
    assert answer.rows == ()
    assert "do not allow 90 % at any price" in answer.sentence


def test_a_change_of_demand_restarts_and_agrees_with_a_fresh_solve():
    data = world()
    data = replace(data, sites=tuple(replace(s, reserve_units=0.0, fixed_cost_per_year=0.0) for s in data.sites))
    program = build(data, Options(integer=False))
    engine = Engine(program)
    engine.solve()
    flexible = np.array([data.classes[r.work_class].objective_s is None for r in program.arcs.rows])
    changed = program.arcs.demand_per_s.copy()
    changed[~flexible] *= 0.8
    engine.change_demand(changed[~flexible][None])
    again = engine.solve()
    demand = data.demand_per_s.copy()
    demand[:, :2] *= 0.8
    fresh = plan_capital(replace(data, demand_per_s=demand), Options(integer=False))
    assert again.objective * program.scale.money == pytest.approx(fresh.objective, rel=1e-7)
    with pytest.raises(ValueError, match="balances"):
        engine.change_demand(np.zeros(3))


def test_rent_is_the_same_read_from_capacity_or_from_prices(plan):
    """Where a pool is open and in use, the dual of `standing` and what the prices pay agree."""
    free = tuple(
        replace(s, reserve_units=0.0, fixed_cost_per_year=0.0, power_kw_max=float("inf")) for s in plan.data.sites
    )
    relaxed = plan_capital(replace(plan.data, sites=free), Options(integer=False))
    earned = pricing.earnings(relaxed)
    busy = relaxed.units.min(axis=1) > 1e-6
    assert busy.any()
    assert relaxed.prices is not None
    assert np.allclose(earned[busy], relaxed.prices.unit_value[busy], rtol=1e-5, atol=1.0)


def test_stranded_capital_by_hand():
    asset = Asset("a", "s0", "big", 10, 1, 100.0, 5)
    assert stranded.book_value(asset, 5) == pytest.approx(800.0)
    assert stranded.book_value(asset, 3, years_later=2) == 0.0
    assert stranded.value_in_use(np.array([100.0, -5.0]), 0.0, 1.0, 3.0) == pytest.approx(100.0)
    assert stranded.value_in_use(np.array([100.0]), 0.10, 1.0, 1.0) == pytest.approx(100 / 1.1**0.5)


def test_cheap_hardware_strands_what_stands(plan):
    """Halving the price of new hardware cannot raise what old hardware of the same kind earns."""
    cheap = replace(
        plan.data, hardware=tuple(replace(h, capex_per_unit=h.capex_per_unit / 2) for h in plan.data.hardware)
    )
    assert (
        stranded.stranded_share(plan_capital(cheap, Options(integer=False)))
        >= stranded.stranded_share(plan_capital(plan.data, Options(integer=False))) - 1e-9
    )


def test_answers_are_whole(plan):
    for answer in (
        where.where_answer(plan),
        where.attainment_answer(plan),
        where.cost_answer(plan),
        where.on_premises_answer(plan),
        price_answers.prices_answer(plan),
        price_answers.premium_answer(plan),
        stranded.stranded_answer(plan),
        stranded.schedule_answer(plan),
        procurement.procurement_answer(plan, (0, 1)),
    ):
        assert answer.sentence.endswith((".", ")."))
        assert all(len(row) == len(answer.columns) for row in answer.rows)
    total = sum(r["present_value"] for r in where.cost_answer(plan).as_dicts())
    assert total == pytest.approx(plan.cost.total)
    rows = price_answers.prices_answer(plan).as_dicts()
    assert {r["year"] for r in rows} == set(plan.data.horizon.years)
    for row in rows:
        assert min(row[k] for k in ("compute", "network", "scarcity", "uplift")) >= -1e-9
        assert row["price_with_uplift"] == pytest.approx(row["price"] + row["uplift"])
        assert row["price"] == pytest.approx(
            row["compute"] + row["energy"] + row["network"] + row["scarcity"], rel=1e-6
        )


def test_units_are_conserved_from_input_to_answer(plan):
    """Assets kept, moved and retired add up to what stood; what stands is what was kept, moved in and built."""
    rows = where.where_answer(plan).as_dicts()
    first = [r for r in rows if r["year"] == plan.data.horizon.years[0]]
    stood = sum(a.units for a in plan.data.assets)
    assert sum(r["kept"] + r["moved_out"] + r["retired"] for r in first) == pytest.approx(stood)
    assert sum(r["moved_in"] for r in rows) == pytest.approx(sum(r["moved_out"] for r in rows))
    for r in first:
        assert r["units"] == pytest.approx(r["built"] + r["kept"] + r["moved_in"], abs=1e-6)


def test_quotes_agree_with_the_prices_of_the_same_class(plan):
    prices = {(r["place"], r["work_class"]): r for r in price_answers.prices_answer(plan).as_dicts()}
    for p, place in enumerate(plan.data.places):
        row = next(i for i, r in enumerate(plan.arcs.rows) if (r.place, r.work_class) == (p, 1))
        quoted = pricing.quote(plan, p, 0.100)
        assert quoted is not None
        assert quoted.price == pytest.approx(float(plan.prices.per_unit[row, 0].mean()), rel=1e-6), place
        assert quoted.uplift >= 0
        assert (place.name, "talk") in prices
    assert pricing.quote(plan, 0, 0.001) is None


def test_frontier_compare_and_regret():
    data = world(places=3, sites=2, years=1)
    costs = frontier_answer(data).column("cost")
    assert costs == sorted(costs)
    compared = {r["measure"]: r for r in studies.compare_answer(data).as_dicts()}
    assert compared["cost with lost demand"]["aligned"] <= compared["cost with lost demand"]["central"] * (1 + 1e-9)
    uncertain = replace(data, scenarios=(Scenario("low", 0.5, 0.5), Scenario("high", 0.5, 1.8)))
    answer = studies.regret_answer(uncertain)
    assert answer.sentence.endswith(".")
    regret = answer.as_dicts()
    assert min(r["regret_expected_plan"] for r in regret) >= -1.0
    assert max(r["regret_regret_plan"] for r in regret) <= max(r["regret_expected_plan"] for r in regret) + 1.0


def test_near_optimal_alternatives_bracket_the_best():
    for row in by_tier_answer(world(places=3, sites=2, years=1)).as_dicts():
        assert row["least"] <= row["best"] + 1e-6
        assert row["best"] <= row["most"] + 1e-6


def test_headroom_is_safe_at_every_size():
    for typical in (2.0, 20.0, 300.0):
        reserve, use = headroom(typical, 0.05)
        for load in (0.5, 1.0, 3.0, 10.0, 50.0, 200.0, 800.0):
            units = reserve + load / use
            assert units >= units_needed(load, 0.05) - 1e-9
            assert erlang_c(int(np.ceil(units)), load) <= 0.06
    assert headroom(2.0, 0.05)[1] < headroom(200.0, 0.05)[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda d: replace(d, places=(replace(d.places[0], lat_deg=float("nan")), *d.places[1:])),
            "no usable coordinates",
        ),
        (lambda d: replace(d, places=(replace(d.places[0], population_n=-1.0), *d.places[1:])), "population -1"),
        (lambda d: replace(d, hardware=(replace(HARDWARE[0], throughput=()),)), "no throughput"),
        (
            lambda d: replace(d, classes=(WorkClass("mad", 0.001, 1e-6), *d.classes[1:])),
            "no hardware has a throughput at 1 ms",
        ),
        (lambda d: replace(d, assets=(replace(d.assets[0], age_years=7.0),)), "written off"),
        (lambda d: replace(d, assets=(replace(d.assets[0], site="nowhere"),)), "not a site"),
        (lambda d: replace(d, scenarios=(Scenario("half", 0.5),)), "sum to 0.5"),
        (
            lambda d: replace(d, sites=(replace(d.sites[0], energy_price_per_kwh=(float("nan"),)), *d.sites[1:])),
            "price is missing",
        ),
        (lambda d: replace(d, demand_per_s=-d.demand_per_s), "below zero"),
        (lambda d: replace(d, sites=(*d.sites, Site("s0", "metro", 0.0, 0.0))), "listed 2 times"),
    ],
)
def test_bad_input_is_named(change, said):
    changed = change(world())
    assert any(said in line for line in findings(changed)), findings(changed)
    with pytest.raises(InputError, match=r"(?s).*"):
        plan_capital(changed)


def test_every_mistake_is_named_at_once():
    data = world()
    bad = replace(data, coverage_min=2.0, assets=(replace(data.assets[0], site="x", hardware="y", units=-1),))
    assert len(findings(bad)) == 4


def test_read_plan_needs_a_proof():
    program = build(world(places=3, sites=2), Options(integer=False))
    solution = Engine(program).solve()
    assert read_plan(program, replace(solution, proven=False)).prices is None
    assert read_plan(program, replace(solution, duals=None)).prices is None
