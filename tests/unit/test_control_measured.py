"""Is a plan made with what was measured: the demand that is there, sites as fast as they are, and no lies?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from isochrone.control.hub import Alarm, Desired, HubState, Publish, Reported, Tick, step
from isochrone.control.report import Arrivals, Served
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric as Noun
from isochrone.policy.policies import PolicySet
from support.documents import contract, external, report, site, workload
from support.documents import fabric as fabric_of


def declared(p50_ms: float = 10, rps: float = 20) -> Noun:
    """Two sites near each other, one of them ten times as dear."""
    prices = {"konstanz": 0.1, "frankfurt": 1.0}
    sites = {
        name: site(name, hardware={"cpu": {"units": 4, "price_per_unit_hour": price}}) for name, price in prices.items()
    }
    echo = workload(p50_ms, 40, runtime=external(*sites), concurrency=8, rps_max=200)
    anywhere = contract("echo", 200, demand_rps={"konstanz": rps}, penalty_per_1k=20)
    return fabric_of(sites, {"echo": echo}, {"anywhere": anywhere})


ALLOW = PolicySet.parse({"a.cedar": '@id("a") permit (principal, action, resource);'})
FABRIC = declared()
T = 1000.0


def served(median_s: float, at_s: float, rps: float = 10.0, count: int = 100, **changes: Any) -> dict[str, Served]:
    sketch = Sketch([median_s * (1 + n / count) for n in range(count)]).to_json()
    usual = {"hardware": "cpu", "replicas": 1, "rps": rps, "duration": sketch, "first_byte": sketch, "at_s": at_s}
    return {"echo": Served(**(usual | changes))}


class Fabric:
    """A hub that both sites report to once a second."""

    def __init__(self) -> None:
        self.state, self.now, self.alarms = HubState(), T, list[str]()
        self.take(Desired(1, FABRIC, ALLOW))
        self.second()

    def take(self, event: Any) -> None:
        self.state, effects = step(self.state, event, self.now)
        self.alarms += [effect.text for effect in effects if isinstance(effect, Alarm)]
        self.published = [effect.plan for effect in effects if isinstance(effect, Publish)]

    def second(self, **changes: Any) -> None:
        """Konstanz reports with changes, Frankfurt without; then the hub's clock ticks."""
        self.take(Reported("frankfurt", report("frankfurt", self.now)))
        self.take(Reported("konstanz", report("konstanz", self.now, **changes)))
        self.now += 1.1
        self.take(Tick())

    @property
    def demand(self) -> float | None:
        return self.state.measured.demand.get("anywhere", {}).get("konstanz")

    @property
    def shares(self) -> dict[str, float]:
        assert self.state.plan
        return {share.site: share.share for share in self.state.plan.routes["konstanz"]["anywhere"][-1].shares}

    @property
    def slowdown(self) -> float:
        assert self.state.service
        return self.state.service.calibrated["konstanz"]["echo"].slowdown


@pytest.fixture
def fabric(monkeypatch: pytest.MonkeyPatch) -> Fabric:
    """Plans may follow every second here, so that a report and its plan belong together."""
    monkeypatch.setattr("isochrone.control.hub.REPLAN_S", 1.0)
    return Fabric()


def test_measured_demand_takes_the_place_of_declared(fabric: Fabric) -> None:
    assert fabric.demand is None
    fabric.second(arrivals={"anywhere": Arrivals(0, 0.0)})
    assert fabric.demand == pytest.approx(20.0, rel=0.3), "nobody has watched yet"
    fabric.second(arrivals={"anywhere": Arrivals(6000, 60.0)})
    assert fabric.demand == pytest.approx(100.0, rel=0.05)
    fabric.second(arrivals={"anywhere": Arrivals(0, 60.0)})
    assert fabric.demand is not None
    assert fabric.demand < 1.0


def test_demand_that_outgrows_a_site_is_shared(fabric: Fabric) -> None:
    assert fabric.shares == {"konstanz": 1.0}
    fabric.second(arrivals={"anywhere": Arrivals(9000, 30.0)})
    assert set(fabric.shares) == {"konstanz", "frankfurt"}


def test_rates_within_their_error_move_no_plan(fabric: Fabric) -> None:
    fabric.second(arrivals={"anywhere": Arrivals(1200, 60.0)})
    held = fabric.demand
    for count in (1180, 1230, 1210, 1250):
        fabric.second(arrivals={"anywhere": Arrivals(count, 60.0)})
        assert fabric.demand == held
        assert fabric.published == []


def test_a_site_that_is_down_leaves_its_demand_as_declared(fabric: Fabric) -> None:
    from isochrone.control.measured import demand_to_plan

    fabric.second(arrivals={"anywhere": Arrivals(6000, 60.0)})
    measured = fabric.state.measured
    assert demand_to_plan(FABRIC, measured, frozenset(["konstanz"]))["anywhere"]["konstanz"] > 90
    assert demand_to_plan(FABRIC, measured, frozenset(["frankfurt"]))["anywhere"] == {"konstanz": 20.0}


def test_a_slow_site_loses_its_traffic_and_gets_it_back(fabric: Fabric) -> None:
    fabric.second(served=served(0.010, fabric.now))
    assert fabric.shares == {"konstanz": 1.0}
    fabric.second(served=served(0.5, fabric.now, rps=2.0))
    assert fabric.slowdown > 10
    assert fabric.shares == {"frankfurt": 1.0}
    quiet_s = 0
    while fabric.shares != {"konstanz": 1.0} and quiet_s < 200:
        fabric.second()
        quiet_s += 1
    assert 5 < quiet_s < 100, "eased back in after a while without measurements"


def test_a_busy_site_is_not_taken_for_a_slow_one(fabric: Fabric) -> None:
    fabric.second(served=served(0.02, fabric.now, rps=600.0))
    assert fabric.slowdown < 1.3


def test_unchanged_service_times_publish_nothing(fabric: Fabric) -> None:
    fabric.second(served=served(0.010, fabric.now))
    for median_s in (0.0101, 0.0099, 0.0103):
        fabric.second(served=served(median_s, fabric.now))
        assert fabric.published == []


LIES = [
    {"arrivals": {"anywhere": Arrivals(10**9, 10.0)}},
    {"arrivals": {"anywhere": Arrivals(-5, 10.0)}},
    {"arrivals": {"anywhere": Arrivals(5, -1.0)}},
    {"arrivals": {"anywhere": Arrivals(5, 1e9)}},
    {"served": served(1e-6, T)},
    {"served": served(0.01, T, hardware="gpu")},
    {"served": served(0.01, T, replicas=0)},
    {"served": served(0.01, T, replicas=10**6)},
    {"served": served(0.01, T, rps=1e12)},
    {"served": served(0.01, T, rps=-1.0)},
    {"served": served(0.01, T, duration={"bins": {"x": 1}})},
    {"served": served(0.01, T, first_byte={})},
]


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_is_an_alarm_and_changes_nothing(fabric: Fabric, lie: dict[str, Any]) -> None:
    before = fabric.state.plan
    fabric.second(**lie)
    assert any("konstanz" in alarm for alarm in fabric.alarms)
    assert fabric.state.plan is before
    assert fabric.state.service
    assert not fabric.state.service.calibrated
    assert fabric.demand is None


def test_nobody_speaks_of_what_the_fabric_does_not_know(fabric: Fabric) -> None:
    fabric.second(arrivals={"ghost": Arrivals(5, 1.0)}, served={"ghost": served(0.01, T)["echo"]})
    fabric.take(Reported("atlantis", report("atlantis", 1.0, arrivals={"anywhere": Arrivals(9000, 1.0)})))
    assert fabric.alarms == []
    assert fabric.demand is None


def test_a_changed_declaration_forgets_what_was_learned_under_the_old_one(fabric: Fabric) -> None:
    fabric.second(served=served(0.030, fabric.now))
    assert fabric.slowdown > 1
    state = fabric.state
    fabric.take(Desired(2, declared(p50_ms=11), ALLOW))
    assert fabric.state.service
    assert not fabric.state.service.calibrated.get("konstanz")
    assert not fabric.state.service.pooled
    fabric.state = replace(state)
    fabric.take(Desired(2, declared(rps=30), ALLOW))
    assert fabric.slowdown > 1, "the service is declared as before"


@pytest.mark.parametrize(
    ("changes", "waits_s"),
    [
        ({}, 3),
        ({"served": served(0.007, T)}, 3),
        ({"served": served(0.030, T)}, 1),
        ({"served": served(0.003, T)}, 1),
        ({"arrivals": {"anywhere": Arrivals(200, 10.0)}}, 3),
        ({"arrivals": {"anywhere": Arrivals(900, 10.0)}}, 1),
        ({"rtt": {"frankfurt": Sketch([0.2] * 50).to_json()}}, 1),
    ],
)
def test_a_leap_is_planned_for_soon_and_the_rest_in_its_turn(changes: dict[str, Any], waits_s: int) -> None:
    usual = {"rtt": {"frankfurt": Sketch([0.006] * 50).to_json()}}
    fabric = Fabric()
    made_s = fabric.state.planned_s
    while fabric.state.planned_s == made_s:  # the usual is known, and a plan has just been made
        fabric.take(Reported("konstanz", report("konstanz", fabric.now, **usual)))
        fabric.take(Reported("frankfurt", report("frankfurt", fabric.now)))
        fabric.now += 0.5
        fabric.take(Tick())
    begun_s = fabric.state.planned_s
    fabric.take(Reported("konstanz", report("konstanz", fabric.now, **(usual | changes))))
    while fabric.state.planned_s == begun_s:
        fabric.now += 0.1
        fabric.take(Reported("frankfurt", report("frankfurt", fabric.now)))
        fabric.take(Tick())
    assert fabric.state.planned_s - begun_s == pytest.approx(waits_s, abs=0.65)
