"""Do executions stay spread as a contract asks, do contracts keep apart, and does the plan say what that costs?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.model.document import DocumentError, parse_fabric
from isochrone.model.fabric import Fabric
from isochrone.plan.candidates import find_candidates
from isochrone.plan.coordinated import Coordinator
from isochrone.plan.explain import Explanation, explain
from isochrone.plan.plan import Plan
from isochrone.plan.planner import declared_demand, make_plan, open_sites
from isochrone.plan.routing import route_exactly
from isochrone.plan.verdicts import Verdict

SITES = {"a1": ("alpha", 0.1), "a2": ("alpha", 0.2), "b1": ("beta", 1.0), "c1": ("gamma", 3.0)}


def fabric_of(contracts: dict[str, dict[str, Any]], sites: tuple[str, ...] = tuple(SITES)) -> Fabric:
    return Fabric.model_validate(
        {
            "name": "test",
            "sites": {
                name: {
                    "tier": "metro", "jurisdiction": "DE", "vendor": SITES[name][0],
                    "at": {"lat": 50.0, "lon": 8.0 + n / 10},
                    "hardware": {"cpu": {"units": 4, "price_per_unit_hour": SITES[name][1]}},
                }
                for n, name in enumerate(sites)
            },
            "workloads": {
                "w": {
                    "protocol": "http", "model": {"name": "m"}, "replicas_max_per_site": 4,
                    "runtime": {"kind": "process", "command": ["x", "{port}"]},
                    "service": {"cpu": {"duration": {"p50_ms": 2, "p99_ms": 8}, "concurrency": 4, "rps_max": 100}},
                }
            },
            "contracts": {
                name: {
                    "workload": "w", "in_time": {"objective_ms": 50}, "demand_rps": {"a1": 20}, "penalty_per_1k": 100,
                    **terms,
                }
                for name, terms in contracts.items()
            },
        }
    )  # fmt: skip


def known(fabric: Fabric) -> dict[str, Any]:
    return {
        "rtt": RttTable.from_fabric(fabric),
        "service": ServiceTable.from_fabric(fabric),
        "bounds": {(contract, site): Verdict(True) for contract in fabric.contracts for site in fabric.sites},
        "up": set(fabric.sites),
    }


def plan_of(fabric: Fabric, **changes: Any) -> Plan:
    usual = {**known(fabric), "previous": None, "demand": declared_demand(fabric), "now": 0.0}
    plan = make_plan(fabric, **(usual | changes))
    assert isinstance(plan, Plan)
    return plan


def shares(plan: Plan, contract: str = "c", ingress: str = "a1") -> dict[str, float]:
    return {share.site: share.share for share in plan.routes[ingress][contract][-1].shares}


def explained(fabric: Fabric, plan: Plan, contract: str = "c") -> Explanation:
    return explain(fabric, **known(fabric), plan=plan, contract=contract, ingress="a1", now=0.0)


ROUTERS = {"exact": route_exactly, "coordinated": Coordinator(gap=0.0).solve}


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
@pytest.mark.parametrize("most", [0.3, 0.5, 0.75])
def test_no_vendor_gets_more_than_its_share(router: Any, most: float) -> None:
    fabric = fabric_of({"c": {"vendor_share_max": most}})
    plan = plan_of(fabric, router=router)
    got = shares(plan) if most >= 0.5 else {}
    assert (plan.shortfalls == ()) == (3 * most >= 1)
    for vendor in ("alpha", "beta", "gamma"):
        assert sum(share for site, share in got.items() if SITES[site][0] == vendor) <= most + 1e-4
    if most == 0.75:
        assert got["a1"] == pytest.approx(0.75, abs=1e-4), "as much as may be where it is cheapest"


def test_no_site_gets_more_than_its_share_over_all_ingresses() -> None:
    demand = {"a1": 30.0, "b1": 10.0}
    fabric = fabric_of({"c": {"site_share_max": 0.4, "demand_rps": demand}})
    plan = plan_of(fabric)
    total = {
        site: sum(shares(plan, ingress=at).get(site, 0.0) * rps for at, rps in demand.items()) / 40 for site in SITES
    }
    assert max(total.values()) <= 0.4 + 1e-4
    assert sum(total.values()) == pytest.approx(1.0)


def test_the_price_of_a_limit_is_what_a_little_more_would_save() -> None:
    def cost(most: float) -> float:
        return plan_of(fabric_of({"c": {"vendor_share_max": most}}), previous=None).objective

    plan = plan_of(fabric_of({"c": {"vendor_share_max": 0.6}}))
    price = plan.prices.limits["c"]["vendor alpha"]
    assert price > 0
    assert (cost(0.6) - cost(0.61)) / (0.01 * 20) == pytest.approx(price, rel=1e-3)


def test_what_cannot_be_spread_is_refused_and_says_so() -> None:
    fabric = fabric_of({"c": {"vendor_share_max": 0.5}}, sites=("a1", "a2"))
    plan = plan_of(fabric)
    rung = plan.routes["a1"]["c"][-1]
    assert rung.refusal is not None
    assert rung.refusal.title == "What may run at one place is taken"
    assert "at most 50% of c may run at vendor alpha" in rung.refusal.detail
    assert {short.kind for short in plan.shortfalls} == {"spread"}


def test_contracts_kept_apart_never_share_a_site_not_even_as_a_fallback() -> None:
    fabric = fabric_of({"c": {"apart_from": ["d"]}, "d": {}})
    plan = plan_of(fabric)
    used = {
        contract: {site for row in plan.routes.values() for rung in row[contract] if rung.shares
                   for site in (*(share.site for share in rung.shares), *rung.fallbacks)}
        for contract in ("c", "d")
    }  # fmt: skip
    assert used["c"]
    assert used["d"]
    assert not used["c"] & used["d"]
    assert plan.shortfalls == ()


def test_contracts_stay_apart_while_sites_change_hands_faster_than_fallbacks_are_told() -> None:
    fabric = fabric_of({"c": {"apart_from": ["d"]}, "d": {}})
    previous, owners = None, set()
    for n in range(16):
        gone = set() if n % 2 else {sorted(fabric.sites)[n // 2 % len(fabric.sites)]}
        want, other = (90, 1) if n % 4 < 2 else (1, 90)
        demand = {"c": {"a1": float(want)}, "d": {"a1": float(other)}}
        previous = plan_of(
            fabric, previous=previous, up=frozenset(fabric.sites) - gone, demand=demand, now=1.0 + n,
        )  # fmt: skip
        used = {
            name: {site for row in previous.routes.values() for rung in row[name] for site in rung.sites}
            for name in ("c", "d")
        }
        owners.add(frozenset(used["c"]))
        assert not used["c"] & used["d"], n
    assert len(owners) > 1, "nothing ever changed hands"


def test_keeping_apart_costs_as_little_as_it_can() -> None:
    """Brute force: whoever gets which of the sites, nothing is cheaper."""
    fabric = fabric_of({"c": {"apart_from": ["d"], "demand_rps": {"a1": 60}}, "d": {"demand_rps": {"a1": 10}}})
    everywhere = {(site, "w"): 1 for site in SITES}
    from isochrone.plan.arcs import routing_problem
    from isochrone.plan.candidates import find_candidates
    from isochrone.plan.spread import kept_apart

    found = known(fabric)
    candidates = find_candidates(fabric, found["rtt"], found["service"], found["bounds"], found["up"], 0.0)
    problem = routing_problem(fabric, candidates, everywhere, declared_demand(fabric))
    ours = route_exactly(kept_apart(fabric, problem)[0]).objective
    names = list(SITES)
    best = np.inf
    for mask in range(2 ** len(names)):
        kept = [
            arc
            for arc, (d, p) in enumerate(zip(problem.arc_demand, problem.arc_pool, strict=True))
            if (problem.demands[d][0] == "c") == bool(mask >> names.index(problem.pools[p][0]) & 1)
        ]
        best = min(best, route_exactly(problem.only(np.array(kept, dtype=np.int64))).objective)
    assert ours == pytest.approx(best, rel=1e-3)


def test_one_site_for_two_that_keep_apart_refuses_one_and_names_the_other() -> None:
    fabric = fabric_of({"c": {"apart_from": ["d"], "penalty_per_1k": 1}, "d": {}}, sites=("a1",))
    plan = plan_of(fabric)
    refusal = plan.routes["a1"]["c"][-1].refusal
    assert refusal is not None
    assert "a1 runs d, from which c is kept apart" in refusal.detail
    assert shares(plan, "d") == {"a1": 1.0}
    assert any("kept apart" in change for change in explained(fabric, plan).changes)


def test_explain_says_what_a_limit_costs_and_what_would_change_it() -> None:
    fabric = fabric_of({"c": {"vendor_share_max": 0.6}})
    plan = plan_of(fabric)
    found = explained(fabric, plan)
    assert any(change.startswith("a larger share for vendor alpha would save") for change in found.changes)
    chosen = {option.site: option for option in found.options if option.share}
    totals = [option.cost + option.price for option in chosen.values()]
    assert max(totals) == pytest.approx(min(totals), rel=1e-6), "with its price, each chosen site costs the same"


def test_a_plan_with_limits_stays_itself_while_nothing_changes() -> None:
    fabric = fabric_of({"c": {"vendor_share_max": 0.6, "apart_from": ["d"]}, "d": {"site_share_max": 0.7}})
    plan = plan_of(fabric)
    assert plan_of(fabric, previous=plan, now=1.0) is plan


@pytest.mark.parametrize(
    ("terms", "problem"),
    [("apart_from: [c]", "kept apart from itself"), ("apart_from: [ghost]", "no contract named"),
     ("vendor_share_max: 1.5", "less than 1"), ("site_share_max: 0", "greater than 0"), ("hedge: maybe", "boolean")],
)  # fmt: skip
def test_limits_that_make_no_sense_are_mistakes_of_the_document(terms: str, problem: str) -> None:
    text = f"""
name: one
sites: {{a: {{tier: edge, at: {{lat: 1, lon: 1}}, jurisdiction: DE, vendor: v, hardware: {{cpu: {{units: 1}}}}}}}}
workloads:
  w: {{protocol: http, model: {{name: m}}, runtime: {{kind: external, at: {{a: "127.0.0.1:1"}}}},
      service: {{cpu: {{duration: {{p50_ms: 1, p99_ms: 2}}, rps_max: 5}}}}}}
contracts:
  c: {{workload: w, in_time: {{objective_ms: 50}}, {terms}}}
"""
    with pytest.raises(DocumentError, match=problem):
        parse_fabric(text)


def test_a_hedge_leaves_the_second_site_its_time() -> None:
    fabric = fabric_of({"c": {"hedge": True}})
    plan = plan_of(fabric)
    rung = plan.routes["a1"]["c"][-1]
    assert rung.hedge_ms is not None
    assert len(plan.placements) >= 2, "a second site stands for it"
    options = {option.site: option.needed_ms for option in explained(fabric, plan).options}
    second = rung.fallbacks[0]
    assert rung.hedge_ms + options[second] <= 50
    assert rung.hedge_ms + options[second] > 50 - 50 / 20 - 1e-6
    assert explained(fabric, plan).hedge_ms == rung.hedge_ms
    assert plan_of(fabric_of({"c": {}})).routes["a1"]["c"][-1].hedge_ms is None
    alone = plan_of(fabric_of({"c": {"hedge": True}}, sites=("a1",)))
    assert alone.routes["a1"]["c"][-1].hedge_ms is None


def test_a_site_left_to_the_other_contract_is_no_longer_open_to_this_one() -> None:
    fabric = fabric_of({"c": {"apart_from": ["d"]}, "d": {}})
    plan, told = plan_of(fabric), known(fabric)
    candidates = find_candidates(fabric, told["rtt"], told["service"], told["bounds"], told["up"], 0.0)
    is_open = open_sites(candidates, plan)
    assert plan.apart["c"]
    assert is_open["c"] == set(fabric.sites) - plan.apart["c"].keys()
