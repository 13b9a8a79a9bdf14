"""Does a site learn demand and service times from its own records, and from nothing else?"""

from __future__ import annotations

import time
from typing import Any

import pytest

from isochrone.latency.recent import RecentSketch
from isochrone.latency.sketch import Sketch
from isochrone.plan.plan import Plan
from isochrone.serve.prober import Prober
from isochrone.serve.telemetry import Telemetry
from support import documents
from support.documents import contract, fabric, site, workload

FABRIC = fabric(
    {"here": site(), "there": site("zurich")},
    {"w": workload(1, 5)},
    {"a": contract("w", 20), "b": contract("w", 20)},
)
T = 1_700_000_000.0


def plan(**changes: Any) -> Plan:
    return documents.plan(**{"placements": {"here": {"w": 2}}, "hardware": {"here": {"w": "cpu"}}} | changes)


def record(
    second: float = 0.0, kind: str = "outcome", contract: Any = "a", role: str = "ingress", at: str | None = "here",
    **result: Any,
) -> dict[str, Any]:  # fmt: skip
    usual = {"status": 200, "duration_us": 30_000, "upstream_us": 20_000, "upstream_first_byte_us": 10_000}
    return {
        "kind": kind, "role": role, "start_us": int((T + second) * 1e6), "what": {"contract": contract},
        "via": {"executing_site": at}, "result": usual | result,
    }  # fmt: skip


def learned(*records: dict[str, Any]) -> Telemetry:
    telemetry = Telemetry("here", T)
    telemetry.add(FABRIC, records)
    return telemetry


def test_demand_is_counted_where_it_entered_and_by_contract() -> None:
    seen = learned(*[record(n / 10) for n in range(100)], record(contract="b"), record(role="peer"))
    found = seen.arrivals(FABRIC, T + 10)
    assert (found["a"].count, found["b"].count) == (100, 1)
    assert found["a"].window_s == pytest.approx(10.0, abs=0.5)
    assert learned().arrivals(FABRIC, T + 10)["a"].count == 0


@pytest.mark.parametrize(
    ("status", "wanted"), [(200, 1), (422, 1), (503, 1), (504, 1), (401, 0), (403, 0), (404, 0), (400, 0), (0, 1)]
)
def test_only_what_could_have_been_served_is_demand(status: int, wanted: int) -> None:
    assert learned(record(kind="refusal", at=None, status=status)).arrivals(FABRIC, T + 1)["a"].count == wanted


def test_service_is_learned_of_executions_here_wherever_they_entered() -> None:
    telemetry = learned(*[record(n / 10, role=role) for n in range(50) for role in ("ingress", "peer")])
    telemetry.add(FABRIC, [record(at="there", upstream_us=900_000)])
    found = telemetry.served(plan(), T + 5.1)["w"]
    assert (found.hardware, found.replicas) == ("cpu", 2)
    assert found.rps == pytest.approx(20.0, rel=0.3)
    assert Sketch.from_json(found.duration).quantile(0.5) == pytest.approx(0.020, rel=0.02)
    assert Sketch.from_json(found.first_byte).quantile(1.0) == pytest.approx(0.010, rel=0.02)
    assert found.at_s == pytest.approx(T + 4.93, abs=0.01)


@pytest.mark.parametrize(
    "bad",
    [{"upstream_us": None}, {"upstream_first_byte_us": None}, {"status": 500}, {"status": 0}, {"upstream_us": "x"},
     {"upstream_us": -5}, {"upstream_us": 1e300}, {"upstream_us": float("nan")}],
)  # fmt: skip
def test_what_broke_off_says_nothing_of_service(bad: dict[str, Any]) -> None:
    assert learned(record(**bad)).served(plan(), T + 1) == {}


def test_what_was_given_up_counts_when_it_took_longer_than_most() -> None:
    quick = [record(n / 10) for n in range(30)]
    given_up = {"status": 0, "upstream_us": None, "upstream_first_byte_us": None}
    slow = [record(3 + n / 10, duration_us=500_000, **given_up) for n in range(5)]
    soon = [record(3 + n / 10, duration_us=5_000, **given_up) for n in range(5)]

    def longest(*records: dict[str, Any]) -> float:
        return Sketch.from_json(learned(*records).served(plan(), T + 4)["w"].duration).quantile(1.0) or 0.0

    assert longest(*quick, *slow) == pytest.approx(0.5, rel=0.02)
    assert longest(*quick, *soon) == pytest.approx(0.02, rel=0.02), "the client may have had enough"


def test_a_workload_that_the_plan_does_not_run_here_is_not_reported() -> None:
    seen = learned(record())
    assert seen.served(plan(), T + 1)
    assert seen.served(plan(placements={}), T + 1) == {}
    assert seen.served(plan(hardware={}), T + 1) == {}


def test_requests_of_nobody_and_of_before_are_no_telemetry() -> None:
    seen = learned(record(contract=None), record(contract="ghost"), record(-60.0), record(kind="admission"))
    assert seen.arrivals(FABRIC, T + 1)["a"].count == 0
    assert seen.served(plan(), T + 1) == {}


def test_what_other_sites_answered_is_told_of_them_as_seen_here() -> None:
    seen = learned(
        *[record(n / 10, at="there", upstream_us=50_000) for n in range(50)], record(at="there", role="peer")
    )
    seen.add(FABRIC, [record(at="there", status=429), record(at="ghost"), record(at=None, kind="refusal", status=503)])
    told = seen.answered(T + 5.1)
    assert set(told) == {"there"}
    found = told["there"]["w"]
    assert (found.count, found.rps) == (50, pytest.approx(10.0, rel=0.3))
    assert found.duration_s_p50 == pytest.approx(0.050, rel=0.02)
    assert found.first_byte_s_p90 == pytest.approx(0.010, rel=0.02)
    assert seen.answered(T + 60) == {}, "what is not used any more is not told of"


def test_what_the_proxy_adds_is_measured_of_requests_that_were_answered_at_the_first_try() -> None:
    good = {"attempts": 1, "first_byte_us": 10_400, "upstream_first_byte_us": 10_000}
    bad = [
        good | {"attempts": 2, "first_byte_us": 90_000},  # the first try's time is no proxy's work
        good | {"status": 503, "first_byte_us": 90_000},
        good | {"first_byte_us": None}, good | {"upstream_first_byte_us": None}, good | {"first_byte_us": float("nan")},
        good | {"first_byte_us": -5},
    ]  # fmt: skip
    away = [record(n / 50, role="peer", **(good | {"first_byte_us": 90_000})) for n in range(50)]
    refused = [record(kind="refusal", at=None, **(good | {"first_byte_us": 90_000}))]
    assert learned(*away, *refused, *(record(**each) for each in bad)).hop(T + 1) == {}
    found = Sketch.from_json(learned(*[record(n / 50, **good) for n in range(50)], *away).hop(T + 1))
    assert found.count == 50
    assert found.quantile(0.5) == pytest.approx(0.0004, rel=0.02)


def test_executions_elsewhere_measure_the_way_there() -> None:
    good = {"attempts": 1, "first_byte_us": 30_000, "upstream_first_byte_us": 22_000, "model_first_byte_us": 10_000}
    bad = [
        good | {"attempts": 2}, good | {"status": 503}, good | {"model_first_byte_us": None},
        good | {"model_first_byte_us": 22_001}, good | {"model_first_byte_us": -1},
        good | {"upstream_first_byte_us": None},
    ]  # fmt: skip
    assert learned(*(record(at="there", **each) for each in bad)).rtt(T + 1) == {}
    assert learned(record(**good), record(at="nowhere", **good)).rtt(T + 1) == {}
    found = learned(*[record(n / 50, at="there", **good) for n in range(50)]).rtt(T + 1)
    assert set(found) == {"there"}
    assert found["there"].quantile(0.99) == pytest.approx(0.012, rel=0.02)


def test_probes_and_executions_are_merged() -> None:
    prober = Prober("here", None, lambda *_: None)  # type: ignore[arg-type]
    seen = {"there": Sketch([0.012] * 30)}
    assert Sketch.from_json(prober.sketches(seen)["there"]).count == 30
    window = prober._sketches["there"] = RecentSketch(bucket_s=2.0, buckets_n=45)
    for _ in range(20):
        window.add(0.010, time.monotonic())
    both = Sketch.from_json(prober.sketches(seen)["there"])
    assert both.count == 50
    assert (both.quantile(0.1), both.quantile(0.9)) == (pytest.approx(0.010, rel=0.02), pytest.approx(0.012, rel=0.02))
