"""Do check, status, apply, explain and reach tell the truth about a fabric that really runs?"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from isochrone.serve.hub_client import HubClient
from support.fabric import until

FABRIC = """
name: pair
sites:
  near: {tier: edge, at: {lat: 47.66, lon: 9.18}, jurisdiction: DE, vendor: a, hardware: {cpu: {units: 4}}}
  far: {tier: region, at: {lat: 50.11, lon: 8.68}, jurisdiction: CH, vendor: b, hardware: {cpu: {units: 4}}}
workloads:
  echo:
    protocol: http
    model: {name: echo}
    runtime: {kind: external, at: {near: "127.0.0.1:PORT", far: "127.0.0.1:PORT"}}
    service: {cpu: {duration: {p50_ms: 2, p99_ms: 10}, concurrency: 8, rps_max: 100}}
contracts:
  steady:
    workload: echo
    in_time: {objective_ms: 5000}
    in_bounds: {jurisdictions: [EU]}
    demand_rps: {near: 1}
policies: [all.cedar]
emulate: {rtt_ms: {near/far: 8}}
"""
POLICY = '@id("all")\npermit (principal, action, resource);\n'


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Running:
    folder: Path
    pid: int

    def cli(self, *words: str, code: int = 0, home: str = ".isochrone") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "isochrone.cli.main", *words]
        env = os.environ | {"ISOCHRONE_HOME": home}
        done = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60, input="", check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.cli(*words, "--json", code=code).stdout)

    def hub(self, path: str) -> Any:
        return asyncio.run(HubClient(self.folder / ".isochrone" / "pair").ask("GET", path))

    def node(self, site: str) -> psutil.Process:
        children = psutil.Process(self.pid).children(recursive=True)
        return next(each for each in children if any(word.endswith(f"sites/{site}") for word in each.cmdline()))

    def write(self, text: str) -> None:
        (self.folder / "fabric.yaml").write_text(text)

    @property
    def text(self) -> str:
        return (self.folder / "fabric.yaml").read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("pair")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "fabric.yaml").write_text(FABRIC.replace("PORT", str(server.server_port)))
    (folder / "all.cedar").write_text(POLICY)
    with (folder / "up.log").open("w") as log:
        command = [sys.executable, "-m", "isochrone.cli.main", "up", "fabric.yaml"]
        up = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        until(lambda: up.poll() is not None or "is up" in (folder / "up.log").read_text(), "it is up", 90)
        assert up.poll() is None, (folder / "up.log").read_text()
        yield Running(folder, up.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            up.send_signal(signal.SIGTERM)
        up.wait(30)
        server.shutdown()


def test_status_shows_every_site_contract_and_revision(running: Running) -> None:
    found = running.json("status")
    assert sorted(found["up"]) == ["far", "near"]
    assert found["contracts"]["steady"]["served"]["far"] == {"near": 1.0}
    tables = running.cli("status").stdout
    assert "echo external" in tables
    assert "99 % duration 5000 ms" in tables
    assert all(site in tables for site in ("near", "far", "edge", "region", "47.66,9.18"))


@pytest.mark.parametrize("words", [("--json",), ()], ids=["lines", "tables"])
def test_status_is_watched_until_interrupted(running: Running, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "isochrone.cli.main", "status", "--watch", *words]
    shown, terminal = os.openpty()
    watch = subprocess.Popen(command, cwd=running.folder, stdout=terminal, stderr=terminal)
    os.close(terminal)
    try:
        mark, seen = (b'"fabric": "pair"' if words else b"fabric pair"), b""
        while seen.count(mark) < 2:
            seen += os.read(shown, 65536)
        watch.send_signal(signal.SIGINT)
        threading.Thread(target=drain, args=(shown,), daemon=True).start()
        assert watch.wait(20) == 0
    finally:
        watch.kill()
        watch.wait()


def drain(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 65536):
            pass


def test_status_counts_an_execution_that_was_answered_in_time(running: Running) -> None:
    running.cli("delegate", "agent:caller", "--contract", "steady")
    grant = running.cli("token", "--as", "agent:caller", "--contract", "steady", "--at", "near").stdout.strip()
    ingress = running.hub("/status")["sites"]["near"]["ingress"]
    headers = {"authorization": f"Bearer {grant}"}
    answer = httpx.post(f"http://{ingress}/v1/echo", content=b"hello", headers=headers, timeout=10)
    assert (answer.status_code, answer.content) == (200, b"hello"), answer.text

    until(lambda: running.hub("/status")["sites"]["near"]["attainment"].get("steady"), "it is counted")
    contract = running.json("status")["contracts"]["steady"]
    assert (contract["attained"], contract["budget_left"]) == (1.0, 1.0)
    assert contract["from"]["near"]["p50_ms"] > 0


def test_apply_shows_the_difference_and_changes_nothing_unasked(running: Running) -> None:
    before, text = running.hub("/status")["desired"], running.text
    running.write(text.replace("{near: 1}", "{near: 3}"))
    try:
        shown = running.cli("apply", "fabric.yaml", code=1)  # nobody is there to say yes
        assert "~ contracts.steady.demand_rps.near: 1.0 -> 3.0" in shown.stdout
        assert running.json("apply", "fabric.yaml", "--dry-run")["changes"]
        assert running.hub("/status")["desired"] == before
    finally:
        running.write(text)


def test_apply_reports_when_every_site_has_it_in_force(running: Running) -> None:
    before = running.hub("/status")["desired"]
    running.write(running.text.replace("objective_ms: 5000", "objective_ms: 4000"))
    done = running.json("apply", "fabric.yaml", "--yes")
    assert done["revision"] == before + 1
    assert sorted(done["in_force"]) == ["far", "near"]
    assert done["missing"] == {}
    sites = running.hub("/status")["sites"]
    assert {report["desired"] for report in sites.values()} == {before + 1}
    again = running.cli("apply", "fabric.yaml", "--yes").stdout
    assert f"nothing differs from revision {before + 1}" in again


def test_apply_names_the_site_that_has_it_not_in_force_in_time(running: Running) -> None:
    text = running.text
    node = running.node("near")
    node.suspend()
    try:
        running.write(text.replace("{near: 1}", "{near: 2}"))
        failed = running.json("apply", "fabric.yaml", "--yes", "--timeout", "4", code=1)
        assert list(failed["in_force"]) == ["far"]
        assert failed["missing"]["near"]["in_force"] == failed["revision"] - 1
        assert failed["missing"]["near"]["up"] is False
        shown = running.cli("apply", "fabric.yaml", "--yes", "--timeout", "0.1", code=1).stdout
        assert "near: not in force after 0.1 s; it is silent" in shown
        assert "silent" in running.cli("status").stdout
    finally:
        node.resume()
        running.write(text)
    assert running.json("apply", "fabric.yaml", "--yes")["missing"] == {}


def test_apply_refuses_a_site_that_is_not_enrolled_and_a_document_of_another_fabric(running: Running) -> None:
    text = running.text
    third = "  third: {tier: edge, at: {lat: 1, lon: 1}, jurisdiction: DE, vendor: c, hardware: {cpu: {units: 1}}}\n"
    try:
        running.write(text.replace("workloads:", third + "workloads:", 1))
        refused = running.cli("apply", "fabric.yaml", "--yes", code=1)
        assert "not enrolled: third" in refused.stderr
        assert "isochrone enrol" in refused.stderr
        running.write(text.replace("name: pair", "name: other"))
        assert "this is fabric pair" in running.cli("apply", "fabric.yaml", "--yes", code=1).stderr
    finally:
        running.write(text)


def test_explain_answers_from_what_the_hub_knows(running: Running) -> None:
    found = running.json("explain", "--contract", "steady", "--from", "far")
    assert [option["site"] for option in found["options"]] == ["near"]
    assert [(e["site"], e["kind"]) for e in found["exclusions"]] == [("far", "out_of_bounds")]
    people = running.cli("explain", "--contract", "steady", "--from", "far").stdout
    assert "jurisdiction CH is not in EU" in people


def test_reach_takes_measured_round_trips(running: Running) -> None:
    def distances() -> Any:
        return running.hub("/known")["rtt"]["measured"].get("near", {}).get("far", {}).get("sketch")

    until(distances, "the distance is measured")
    words = ("reach", "--from", "near", "--within", "40ms", "--workload", "echo")

    def measured() -> Any:
        far = next(site for site in running.json(*words)["sites"] if site["site"] == "far")
        return far if far["rtt_s"] > 0.0075 else None

    assert until(measured, "it is used")["rtt_s"] >= 0.0079  # 8 ms are emulated, and the machine adds some


def test_without_a_hub_the_commands_say_how_to_start_one(running: Running, tmp_path: Path) -> None:
    refused = running.cli("status", code=1, home=str(tmp_path))
    assert "no fabric's state is below" in refused.stderr
    gone = running.cli("status", "--state", str(tmp_path), code=1)
    assert "isochrone up fabric.yaml" in gone.stderr
