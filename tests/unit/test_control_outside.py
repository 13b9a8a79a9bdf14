"""Is a site believed that stands still or praises itself, and what can ingresses that lie do to another?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from test_control_measured import ALLOW, T, report, served

from isochrone.control.hub import Alarm, Desired, HubState, Reported, Tick, step
from isochrone.control.report import ANSWERED_MAX, Answered, SiteReport, answered, busiest
from isochrone.latency.sketch import Sketch
from isochrone.model.document import parse_fabric

SITES = {"slow": (47.66, 9.18), "a": (50.11, 8.68), "b": (52.52, 13.4), "c": (48.14, 11.58), "d": (48.86, 2.35)}
PLACES = "\n".join(
    f"  {name}: {{tier: metro, at: {{lat: {lat}, lon: {lon}}}, jurisdiction: DE, vendor: v,\n"
    f"      hardware: {{cpu: {{units: 4, price_per_unit_hour: 1}}}}}}"
    for name, (lat, lon) in SITES.items()
)
FABRIC = parse_fabric(
    f"""
name: five
sites:
{PLACES}
workloads:
  echo:
    protocol: http
    model: {{name: echo}}
    runtime: {{kind: external, at: {{slow: "127.0.0.1:1", a: "127.0.0.1:2"}}}}
    service: {{cpu: {{duration: {{p50_ms: 10, p99_ms: 40}}, concurrency: 8, rps_max: 200}}}}
contracts:
  anywhere:
    workload: echo
    in_time: {{quantile: 0.9, objective_ms: 200}}
    demand_rps: {{slow: 20, a: 5, b: 5, c: 5, d: 5}}
""",
    "fabric.yaml",
)
RTT_S = 0.02


def view(median_s: float, at_s: float, **changes: Any) -> dict[str, dict[str, Answered]]:
    """What an ingress reports of the workload at `slow`, the round trip in it."""
    times = (median_s + RTT_S, 1.3 * median_s + RTT_S)
    seen = Answered(100, 5.0, *times, *times, at_s)
    return {"slow": {"echo": replace(seen, **changes)}}


class Hub:
    """A hub that five sites report to once a second; all round trips were measured."""

    def __init__(self) -> None:
        self.state, self.now, self.alarms = HubState(), T, list[str]()
        self.take(Desired(1, FABRIC, ALLOW))

    def take(self, event: Any) -> None:
        self.state, effects = step(self.state, event, self.now)
        self.alarms += [effect.text for effect in effects if isinstance(effect, Alarm)]

    def second(self, own: dict[str, Any] | None = None, **told: dict[str, dict[str, Answered]]) -> None:
        """`own` is what the site says of itself; `told` what ingresses say of others."""
        rtt = {name: Sketch([RTT_S] * 100).to_json() for name in SITES}
        for name in told:
            others = {peer: sketch for peer, sketch in rtt.items() if peer != name}
            self.take(Reported(name, report(name, self.now, answered=told[name], rtt=others)))
        self.take(Reported("slow", report("slow", self.now, served=own or {})))
        self.now += 1.0
        self.take(Tick())

    @property
    def slowdown(self) -> float:
        assert self.state.service
        found = self.state.service.calibrated.get("slow", {}).get("echo")
        return found.slowdown if found else 1.0


@pytest.fixture
def hub() -> Hub:
    return Hub()


def test_a_site_that_stands_still_is_seen_through_by_those_who_use_it(hub: Hub) -> None:
    hub.second(served(0.01, hub.now))
    praise, since_s = served(0.01, hub.now), hub.now
    for _ in range(3):
        hub.second(praise, a=view(0.3, hub.now), b=view(0.3, hub.now))
    assert hub.slowdown > 10
    assert any("others see it slower" in alarm for alarm in hub.alarms)
    assert hub.now - since_s < 5


def test_praise_with_fresh_dates_is_not_believed_either_and_for_a_while_after(hub: Hub) -> None:
    for _ in range(3):
        hub.second(served(0.01, hub.now), a=view(0.3, hub.now), b=view(0.3, hub.now))
    assert hub.slowdown > 10
    for _ in range(20):
        hub.second(served(0.01, hub.now), a={}, b={})
    assert hub.slowdown > 10, "they turned away: what made them do so still holds"
    for _ in range(15):
        hub.second(served(0.01, hub.now), a={}, b={})
    assert hub.slowdown < 2


def test_a_site_that_says_nothing_at_all_is_known_by_others(hub: Hub) -> None:
    hub.second()
    for _ in range(3):
        hub.second(a=view(0.3, hub.now), b=view(0.3, hub.now))
    assert hub.slowdown > 10


def test_a_busy_spell_that_is_over_is_held_against_nobody(hub: Hub) -> None:
    hub.second(served(0.3, hub.now), a=view(0.3, hub.now), b=view(0.3, hub.now))
    hub.now += 4
    for _ in range(3):
        hub.second(served(0.01, hub.now), a=view(0.3, T), b=view(0.3, T))
    assert hub.slowdown < 2
    assert hub.alarms == []


def test_others_agreeing_leave_a_site_its_word(hub: Hub) -> None:
    for _ in range(3):
        hub.second(served(0.01, hub.now), a=view(0.012, hub.now), b=view(0.009, hub.now), c=view(0.011, hub.now))
    assert hub.slowdown == pytest.approx(1.1, abs=0.3)
    assert hub.alarms == []


def test_news_of_a_site_that_tells_none_comes_from_others_even_if_it_is_good(hub: Hub) -> None:
    hub.second(served(0.3, hub.now))
    assert hub.slowdown > 10
    stale = served(0.3, hub.now - 10)
    hub.second(stale, a=view(0.01, hub.now), b=view(0.01, hub.now))
    assert hub.slowdown < 2


@pytest.mark.parametrize("claim", [0.3, 60.0, 1e4])
@pytest.mark.parametrize("count", [100, 10**12])
def test_one_ingress_alone_overrules_nobody(hub: Hub, claim: float, count: int) -> None:
    for _ in range(5):
        hub.second(served(0.01, hub.now), a=view(claim, hub.now, count=count, rps=1e9))
    assert hub.slowdown < 2
    for _ in range(5):
        hub.second(served(0.01, hub.now), a=view(claim, hub.now, count=count), b=view(0.01, hub.now))
    assert hub.slowdown < 2, "of two the quicker one counts"


def test_a_minority_neither_starves_a_site_nor_shields_it(hub: Hub) -> None:
    liars = {"a": view(100.0, hub.now), "b": view(100.0, hub.now)}
    hub.second(served(0.01, hub.now), **liars, c=view(0.01, hub.now), d=view(0.01, hub.now))
    assert hub.slowdown < 2
    hub.second(served(0.01, hub.now), a=view(1e-5, hub.now), **{s: view(0.3, hub.now) for s in "bcd"})
    assert hub.slowdown == pytest.approx(25, rel=0.3)


def test_rates_that_nobody_asked_for_explain_no_slowness_away(hub: Hub) -> None:
    for _ in range(3):
        told = {s: view(0.3, hub.now, rps=1e6) for s in "ab"}
        hub.second(served(0.01, hub.now), **told)
    assert hub.slowdown > 10, "claimed executions beyond the ingress's demand would make it look busy, not slow"


def test_where_the_round_trip_was_never_measured_nobody_judges(hub: Hub) -> None:
    for name in "ab":
        hub.take(Reported(name, report(name, hub.now, answered=view(0.3, hub.now))))
    hub.take(Reported("slow", report("slow", hub.now, served=served(0.01, hub.now))))
    assert hub.slowdown < 2


def test_a_site_does_not_praise_or_slander_itself_from_outside(hub: Hub) -> None:
    hub.second(served(0.01, hub.now), a=view(0.3, hub.now))
    seen = view(0.3, hub.now)
    hub.take(Reported("slow", report("slow", hub.now, served=served(0.01, hub.now), answered=seen)))
    assert "slow" not in {site for site, _ in hub.state.measured.views["slow"]}


BAD: list[dict[str, Any]] = [
    {"count": 0}, {"rps": -1.0}, {"rps": math.inf}, {"duration_s_p50": 0.0}, {"duration_s_p50": 9.0},
    {"first_byte_s_p90": math.nan}, {"first_byte_s_p90": 1e9}, {"duration_s_p50": -1.0},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_views_that_cannot_be_are_an_alarm_and_change_nothing(hub: Hub, bad: dict[str, Any]) -> None:
    hub.second(served(0.01, hub.now), a=view(0.01, hub.now))
    before = hub.state.measured.views["a"]
    hub.second(served(0.01, hub.now), a=view(0.3, hub.now, **bad))
    assert any("cannot be" in alarm for alarm in hub.alarms)
    assert hub.state.measured.views["a"] == before


def test_a_report_that_speaks_of_too_much_is_refused(hub: Hub) -> None:
    seen = view(0.3, hub.now)["slow"]["echo"]
    hub.second(a={f"s{n}": {"echo": seen} for n in range(ANSWERED_MAX + 1)})
    assert any("where a report holds" in alarm for alarm in hub.alarms)
    assert "a" not in hub.state.measured.views


def test_what_the_fabric_does_not_know_is_nobodys(hub: Hub) -> None:
    seen = view(0.3, hub.now)["slow"]["echo"]
    hub.second(a={"ghost": {"echo": seen}, "slow": {"ghost": seen}})
    assert hub.state.measured.views["a"] == {}
    assert hub.alarms == []


def test_a_report_holds_the_busiest() -> None:
    seen = view(0.3, T)["slow"]["echo"]
    found = {(f"s{n}", "w"): replace(seen, rps=float(n)) for n in range(2 * ANSWERED_MAX)}
    kept = busiest(found)
    assert len(kept) == ANSWERED_MAX
    assert min(row["w"].rps for row in kept.values()) == ANSWERED_MAX
    assert answered(Sketch(), Sketch(), 0.0, T) is None


def test_it_travels() -> None:
    told = report("a", T, answered=view(0.3, T))
    assert SiteReport.from_json(told.to_json()) == told
