"""Does a running fabric plan by what it measures, leave slow sites, drain without a loss, and say why?"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.fabric import PATH, SITES, RunningFabric, running_fabric, until


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(Path(tmp_path_factory.mktemp("measured"))) as running:
        yield running


class Load:
    """Requests that enter at one site, without a pause, until stopped: what became of them, in order."""

    def __init__(
        self, fabric: RunningFabric, ingress: str = "konstanz", threads: int = 4, pause_s: float = 0.02
    ) -> None:
        self._url, self._fabric, self._ingress = f"{fabric.base(ingress)}{PATH}", fabric, ingress
        self._pause_s, self._over = pause_s, threading.Event()
        self.answers: list[str] = []
        self._source = fabric.source(ingress)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        with httpx.Client(timeout=20.0) as client:
            while not self._over.is_set():
                try:
                    token = {"authorization": f"Bearer {self._source.token()}"}
                    answer = client.post(self._url, json={"x": 1}, headers=token)
                    self.answers.append(answer.json()["answer"] if answer.status_code == 200 else answer.text)
                except httpx.HTTPError as error:
                    self.answers.append(repr(error))
                time.sleep(self._pause_s)

    def last(self, count: int = 20) -> Counter[str]:
        """What the newest answers were, once there are so many more."""
        end = len(self.answers) + count
        until(lambda: len(self.answers) >= end, f"{count} more answers; so far {Counter(self.answers)}")
        return Counter(self.answers[-count:])


def learned(fabric: RunningFabric, site: str) -> dict[str, Any]:
    found: dict[str, Any] = fabric.ask_hub("GET", "/known")["service"]["calibrated"].get(site, {}).get("echo", {})
    return found


def test_demand_and_service_times_are_measured_where_they_arise(fabric: RunningFabric) -> None:
    with Load(fabric) as load:
        (busiest, _), *_ = load.last(60).most_common(1)
        seen = until(lambda: learned(fabric, busiest), f"service times at {busiest}")
        # Records are read as they are sequenced: the last requests are counted a moment after their answers.
        until(lambda: fabric.report("konstanz")["arrivals"]["anywhere"]["count"] >= 60, "60 requests counted")
        report = fabric.report("konstanz")
    assert seen["samples"] >= 20
    assert 0 < seen["error"] < 1
    assert report["arrivals"]["lakeside"]["count"] == 0
    assert fabric.report("frankfurt")["arrivals"]["anywhere"]["count"] <= 2


def priced(fabric: RunningFabric, konstanz: float, frankfurt: float) -> None:
    """Apply the fabric with these prices."""
    text = fabric.text()
    for price in (konstanz, frankfurt):
        text = text.replace("price_per_unit_hour: 0.05", f"price_per_unit_hour: {price:.3f}", 1)
    applied = fabric.apply(text, {"bounds.cedar": (fabric.directory / "bounds.cedar").read_text()})
    assert applied["status_code"] == 200, applied


def test_a_slow_peer_is_left_and_taken_back_while_the_hub_is_away(fabric: RunningFabric) -> None:
    hub, peer = fabric.hub(), "frankfurt"
    priced(fabric, konstanz=0.5, frankfurt=0.01)
    with Load(fabric) as load:
        until(lambda: load.last(20) == {peer: 20}, "the cheaper site has it all")
        hub.suspend()
        try:
            fabric.models[peer].delay_s = 1.5
            until(lambda: load.last(20) == {"konstanz": 20}, f"{peer} is left")
            report = until(lambda: (r := fabric.report("konstanz"))["doubted"] and r, "it says so")
            assert report["doubted"]["anywhere"][peer] < 1
            assert any(f"{peer} is late for anywhere" in alarm for alarm in report["alarms"])
            fabric.models[peer].delay_s = 0.0
            until(lambda: not fabric.report("konstanz")["doubted"], f"{peer} is taken back")
            until(lambda: load.last(20) == {peer: 20}, "and has it all again")
            assert fabric.report("konstanz")["plan"] == report["plan"], "all by the plan that was there"
        finally:
            fabric.models[peer].delay_s = 0.0
            hub.resume()
    assert set(load.answers) <= set(SITES), "nothing was lost or refused"
    until(lambda: fabric.report("konstanz")["stale_since_s"] is None, "the hub is heard again")
    priced(fabric, konstanz=0.05, frankfurt=0.05)


def test_a_site_that_drains_loses_no_request_and_comes_back(fabric: RunningFabric) -> None:
    for model in fabric.models.values():
        model.delay_s = 0.1
    with Load(fabric, threads=6) as load:
        (busiest, _), *_ = load.last(20).most_common(1)
        other = next(site for site in SITES if site != busiest)
        done = fabric.run("drain", busiest, "--state", str(fabric.state))
        assert done.returncode == 0, done.stdout + done.stderr
        served = fabric.models[busiest].served
        assert f"{busiest} is drained" in done.stdout
        assert load.last(30) == {other: 30}
        assert fabric.models[busiest].served == served
        assert "drained" in fabric.run("status", "--state", str(fabric.state)).stdout
        back = fabric.run("drain", busiest, "--undo", "--state", str(fabric.state))
        assert back.returncode == 0, back.stdout + back.stderr
        done = fabric.run("drain", other, "--state", str(fabric.state))
        assert done.returncode == 0, done.stdout + done.stderr
        assert load.last(30) == {busiest: 30}, "it came back"
    assert set(load.answers) <= set(SITES), "nothing was lost or refused"
    assert fabric.run("drain", other, "--undo", "--state", str(fabric.state)).returncode == 0
    for model in fabric.models.values():
        model.delay_s = 0.0


def test_a_drain_outlives_the_hub(fabric: RunningFabric) -> None:
    assert fabric.run("drain", "frankfurt", "--state", str(fabric.state)).returncode == 0
    fabric.hub().kill()
    until(lambda: fabric.status()["drained"] == ["frankfurt"], "the hub is back and knows")
    assert fabric.run("drain", "frankfurt", "--undo", "--state", str(fabric.state)).returncode == 0
    wrong = fabric.run("drain", "atlantis", "--state", str(fabric.state))
    assert wrong.returncode == 1
    assert "there is no site 'atlantis'" in wrong.stderr


def test_a_slow_site_is_left_and_eased_back_in_and_explain_says_why(fabric: RunningFabric) -> None:
    with Load(fabric, threads=6) as load:
        (busiest, _), *_ = load.last(20).most_common(1)
        other = next(site for site in SITES if site != busiest)
        fabric.models[busiest].delay_s = 0.7
        until(lambda: load.last(30) == {other: 30}, f"everything goes to {other}", every_s=0.2)
        # The ingress left at once; the hub learns of it from the few executions with which the site is tried.
        until(lambda: "times what is declared" in explained(fabric), "the hub knows", every_s=0.5)
        fabric.models[busiest].delay_s = 0.0
        fabric.models[other].delay_s = 0.7
        until(lambda: load.last(30)[busiest] > 0, f"{busiest} is tried again", timeout_s=90.0, every_s=0.2)
    assert set(load.answers) <= set(SITES)


def explained(fabric: RunningFabric) -> str:
    said = fabric.run("explain", "--contract", "anywhere", "--from", "konstanz", "--state", str(fabric.state))
    assert said.returncode == 0, said.stderr
    return " ".join(said.stdout.split())
