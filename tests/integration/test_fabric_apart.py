"""The roles started apart, as on several machines: enrolment, a hub with its own bus, nodes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fabric import SITES, RunningFabric, alive, free_ports, until

KONSTANZ, FRANKFURT = SITES


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[RunningFabric]:
    made = RunningFabric.make(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_hub_and_nodes_started_apart_are_one_fabric(apart: RunningFabric) -> None:
    bus, sites, api = free_ports(3)
    where = ["--bus", f"127.0.0.1:{bus}", "--hub", f"127.0.0.1:{sites}"]
    enrolled = apart.run("enrol", str(apart.path), "--state", str(apart.state), *where)
    assert enrolled.returncode == 0, enrolled.stderr
    commands = {words[-1]: words[1:-1] for words in map(str.split, enrolled.stdout.splitlines())}
    assert set(commands) == set(SITES)
    hub = apart.spawn("hub", str(apart.path), "--state", str(apart.state), "--api", f"127.0.0.1:{api}")
    until(apart.status, f"the hub answers\n{apart.output}")

    # A site's directory is all that its node needs, and is made where it stays, as on another machine.
    moved = apart.directory / "edge-box"
    for site, home in ((KONSTANZ, moved), (FRANKFURT, apart.state / "sites" / FRANKFURT)):
        joined = apart.run(*commands[site], str(home))
        assert joined.returncode == 0, joined.stderr
        assert f"{site} has joined pair" in joined.stdout
    node = apart.spawn("node", "--home", str(moved))
    other = apart.spawn("node", "--site", FRANKFURT, "--state", str(apart.state))
    until(lambda: len(apart.status()["sites"]) == 2, f"both sites report\n{apart.output}")
    (apart.state / "sites" / KONSTANZ).symlink_to(moved)
    apart.wait_up()

    shown = apart.run("status", "--json", "--state", str(apart.state))
    assert shown.returncode == 0, shown.stderr
    assert set(json.loads(shown.stdout)["sites"]) == set(SITES)
    delegated = apart.run("delegate", "agent:other", "--contract", "lakeside", "--state", str(apart.state))
    assert delegated.returncode == 0, delegated.stderr
    token = apart.run(
        "token", "--as", "agent:other", "--contract", "lakeside", "--at", KONSTANZ, "--state", str(apart.state)
    )
    assert token.returncode == 0, token.stderr
    answer = apart.call(FRANKFURT, token=token.stdout.strip())
    assert answer.json() == {"answer": KONSTANZ}
    traced = apart.run("trace", answer.headers["x-isochrone-execution"], "--state", str(apart.state))
    assert traced.returncode == 0, traced.stdout + traced.stderr

    # The hub takes its bus along and finds everything as it was.
    plan = apart.status()["plan"]
    hub.send_signal(signal.SIGTERM)
    assert hub.wait(20) == 0
    assert apart.call(FRANKFURT).status_code == 200
    hub = apart.spawn("hub", "--state", str(apart.state), "--api", f"127.0.0.1:{api}")
    until(lambda: set(apart.status()["up"]) == set(SITES), "the sites found the hub again")
    assert apart.status()["plan"] >= plan

    processes = apart.processes()
    for process in (node, other, hub):
        process.send_signal(signal.SIGTERM)
    assert [process.wait(20) for process in (node, other, hub)] == [0, 0, 0]
    assert alive(processes, 5.0) == []


def test_a_hub_needs_enrolled_sites_and_says_so(apart: RunningFabric) -> None:
    nobody = apart.run("hub", str(apart.path), "--state", str(apart.state))
    assert (nobody.returncode, "Traceback" in nobody.stderr) == (1, False)
    assert "isochrone enrol" in nobody.stderr


def test_a_node_needs_an_enrolled_directory_and_says_so(apart: RunningFabric) -> None:
    (apart.directory / "empty").mkdir()
    nobody = apart.run("node", "--home", str(apart.directory / "empty"))
    assert nobody.returncode == 1
    assert "not the directory of an enrolled site" in nobody.stderr


def test_enrolment_names_a_site_that_does_not_exist(apart: RunningFabric) -> None:
    wrong = apart.run("enrol", str(apart.path), "--site", "atlantis", "--state", str(apart.state))
    assert wrong.returncode == 1
    assert "atlantis" in wrong.stderr
    assert f"sites: {FRANKFURT}, {KONSTANZ}" in wrong.stderr
