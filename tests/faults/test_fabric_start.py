"""What `isochrone up` says when it cannot start: ports in use, engines missing, a site that cannot listen."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fabric import SITES, RunningFabric, free_ports, until

KONSTANZ, FRANKFURT = SITES


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[RunningFabric]:
    made = RunningFabric.make(tmp_path)
    try:
        yield made
        assert until(lambda: not made.processes(), "nothing is left of a start that failed", 5.0)
    finally:
        made.close()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as other:
        yield other.getsockname()[1]


def up(fabric: RunningFabric) -> str:
    """What a start that must fail says."""
    done = fabric.run("up", str(fabric.path), "--state", str(fabric.state), timeout_s=100)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    assert "hint: " in done.stderr
    return done.stderr


@pytest.mark.parametrize("part", ["bus", "hub"])
def test_a_port_in_use_is_named(stopped: RunningFabric, taken: int, part: str) -> None:
    stopped.state.mkdir()
    (stopped.state / "ports.json").write_text(json.dumps({part: taken}))
    said = up(stopped)
    assert str(taken) in said
    assert "in use" in said


def test_a_site_whose_port_is_taken_says_so_and_serves_once_it_is_free(stopped: RunningFabric) -> None:
    port, *others = free_ports(3)
    home = stopped.state / "sites" / KONSTANZ
    home.mkdir(parents=True)
    ports = dict(zip(("ingress", "peer", "node_api"), (port, *others), strict=True))
    (home / "ports.json").write_text(json.dumps({name: f"127.0.0.1:{at}" for name, at in ports.items()}))
    with socket.create_server(("127.0.0.1", port)):
        stopped.process = stopped.spawn("up", str(stopped.path), "--state", str(stopped.state))

        def told() -> bool:
            alarms = stopped.status()["sites"][KONSTANZ]["alarms"]
            return any(str(port) in alarm and "in use" in alarm for alarm in alarms)

        until(told, f"the alarm names port {port}")
        assert stopped.process.poll() is None
    stopped.wait_up()
    assert stopped.stop() == 0


@pytest.mark.parametrize("engine", ["envoy", "nats-server"])
def test_a_missing_engine_is_named_with_what_to_install(stopped: RunningFabric, engine: str) -> None:
    """Wheel and PATH are hidden: an environment whose packages are all there but the engines."""
    site = stopped.directory / "hidden"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import pathlib\n"
        "usual = pathlib.Path.is_file\n"
        f"pathlib.Path.is_file = lambda self, **k: self.name != {engine!r} and usual(self, **k)\n"
    )
    kept = [part for part in os.environ["PATH"].split(":") if not (Path(part) / engine).exists()]
    stopped.env = {"PYTHONPATH": str(site), "PATH": ":".join(kept)}
    said = up(stopped)
    assert f"no `{engine}` executable" in said
    assert "pip install" in said


def test_a_wrong_document_starts_nothing(stopped: RunningFabric) -> None:
    stopped.path.write_text(stopped.text().replace("workload: echo", "workload: missing"))
    done = stopped.run("up", str(stopped.path), "--state", str(stopped.state))
    assert done.returncode == 1
    assert "missing" in done.stderr
    assert not stopped.state.exists()


def test_the_state_of_another_fabric_is_left_alone(stopped: RunningFabric) -> None:
    enrolled = stopped.run("enrol", str(stopped.path), "--state", str(stopped.state))
    assert enrolled.returncode == 0, enrolled.stderr
    stopped.path.write_text(stopped.text().replace("name: pair", "name: other"))
    before = (stopped.state / "hub" / "fabric").read_bytes()
    assert "holds the state of fabric 'pair', not 'other'" in up(stopped)
    assert (stopped.state / "hub" / "fabric").read_bytes() == before


IMPATIENT = """
import asyncio, sys
from pathlib import Path
from isochrone.serve.process import run_until_signal
from isochrone.serve.up import Embedded

fabric = Embedded(Path(sys.argv[1]), Path(sys.argv[2]), say=lambda line: print(line, flush=True), models_timeout_s=4)
asyncio.run(run_until_signal(fabric.run()))
"""
BROKEN = """
  exits:
    protocol: http
    model: {name: exits}
    runtime: {kind: process, command: [sh, -c, "echo no weights for {port} >&2; exit 3"]}
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 4}, concurrency: 8, rps_max: 200}}
"""
TERMS = """
  needs-exits:
    workload: exits
    in_time: {quantile: 0.9, objective_ms: 500}
    in_bounds: {sites: [konstanz]}
    demand_rps: {konstanz: 1}
    penalty_per_1k: 20
"""


def test_a_model_server_that_never_answers_does_not_keep_the_fabric_down(stopped: RunningFabric) -> None:
    stopped.path.write_text(stopped.text(BROKEN, TERMS))
    script = stopped.directory / "impatient.py"
    script.write_text(IMPATIENT)
    stopped.process = stopped.spawn(str(stopped.path), str(stopped.state), program=[sys.executable, str(script)])
    until(lambda: "fabric pair is up" in stopped.output, "it comes up all the same")
    assert f"up without it: {KONSTANZ}: exits is not ready yet" in stopped.output
    assert "no weights for" in stopped.output
    assert stopped.call(KONSTANZ).status_code == 200
    assert stopped.stop() == 0
