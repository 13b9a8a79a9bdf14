"""Does an ingress without any site in time go on while most executions still make it, and refuse when they do not?"""

from __future__ import annotations

import pytest

from isochrone.latency.calibration import Calibration
from isochrone.latency.estimate import SAMPLES_MIN, RttTable, ServiceTable
from isochrone.latency.sketch import Sketch
from isochrone.model.workload import ServiceTime
from isochrone.plan.plan import Plan, Rung
from isochrone.plan.planner import declared_demand, make_plan
from isochrone.policy.bounds import bounds_of
from isochrone.policy.policies import PolicySet
from support.documents import contract, external, fabric, site, workload

ECHO = {"p50_ms": 4, "p99_ms": 12, "concurrency": 4}
FABRIC = fabric(
    {"near": site(), "far": site("ashburn", tier="region", jurisdiction="US")},
    {"echo": workload(runtime=external("near", "far"), **ECHO)},
    {
        "tight": contract("echo", 20, demand_rps={"near": 5}, penalty_per_1k=20),
        "reflex": contract("echo", 8, demand_rps={"near": 5}, penalty_per_1k=20),
    },
)
PAIR = fabric(
    {"first": site(), "second": site("zurich")},
    {"echo": workload(runtime=external("first", "second"), **ECHO)},
    {
        "tight": contract("echo", 20, demand_rps={"first": 5}),
        "loose": contract("echo", 500, in_bounds={"sites": ["second"]}, demand_rps={"second": 5}),
    },
)
ALL = PolicySet.parse({"a": "permit (principal, action, resource);"})


def rung(contract: str, slowdown: float) -> Rung:
    """The contract's own rung at the near site, whose service was measured to take so many times what is declared."""
    times = ServiceTime(p50_ms=4 * slowdown, p99_ms=12 * slowdown)
    seen = Calibration("cpu", times, times, slowdown, 0.05, 3, 500, 0.0)
    service = ServiceTable.from_fabric(FABRIC).with_calibration("near", "echo", seen)
    rtt, bounds = RttTable.from_fabric(FABRIC), bounds_of(FABRIC, ALL)
    plan = make_plan(FABRIC, rtt, service, bounds, frozenset(FABRIC.sites), None, declared_demand(FABRIC), 0.0)
    assert isinstance(plan, Plan)
    return plan.routes["near"][contract][-1]


@pytest.mark.parametrize("slowdown", [1.0, 2.0, 3.0])
def test_it_serves_while_more_than_half_make_it(slowdown: float) -> None:
    assert [share.site for share in rung("tight", slowdown).shares] == ["near"]


@pytest.mark.parametrize("slowdown", [7.0, 20.0])
def test_it_refuses_when_most_would_be_late(slowdown: float) -> None:
    assert rung("tight", slowdown).shares == ()


def test_a_strained_site_is_the_last_fallback_of_one_in_time() -> None:
    """From afar the near site stays the only one in time; the strained one is there should it die."""
    slow = ServiceTime(p50_ms=12, p99_ms=36)
    seen = Calibration("cpu", slow, slow, 3.0, 0.05, 3, 500, 0.0)
    service = ServiceTable.from_fabric(PAIR).with_calibration("second", "echo", seen)
    rtt, finding = RttTable.from_fabric(PAIR).with_measured("first", "second", Sketch([0.002] * SAMPLES_MIN), 0.0)
    assert finding is None
    bounds = bounds_of(PAIR, ALL)
    plan = make_plan(PAIR, rtt, service, bounds, frozenset(PAIR.sites), None, declared_demand(PAIR), 0.0)
    assert isinstance(plan, Plan)
    own = plan.routes["first"]["tight"][-1]
    assert ([share.site for share in own.shares], own.fallbacks) == (["first"], ("second",))
    assert 1 <= plan.limits["second"]["tight"] <= 4, "what nobody plans for has a limit all the same"
    assert all("second" not in each.fallbacks for each in plan.routes["first"]["tight"][:-1]), (
        "tighter ones keep theirs"
    )


def test_what_was_never_declared_fast_enough_stays_refused() -> None:
    """8 ms, and 12 are declared at the quantile: a promise nobody made is not kept by luck."""
    found = rung("reflex", 1.0)
    assert found.shares == ()
    assert found.refusal is not None
