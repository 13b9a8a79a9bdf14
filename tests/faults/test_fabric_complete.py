"""Nothing is missing unseen: the journal against Envoy's counters, and each end of a handover against the other."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from support.fabric import SITES, RunningFabric, running_fabric, until

KONSTANZ, FRANKFURT = SITES
AWAY = """
  away:
    workload: echo
    in_time: {quantile: 0.9, objective_ms: 500}
    in_bounds: {sites: [frankfurt]}
    on_record: {retention: 6-months}
    demand_rps: {konstanz: 5}
    price_per_1k: 1
    penalty_per_1k: 20
"""


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("c"), contracts=AWAY) as running:
        yield running


def findings(fabric: RunningFabric, site: str) -> list[dict[str, Any]]:
    return [record for record in fabric.entries(site) if record["kind"] == "finding"]


def told(fabric: RunningFabric, site: str, what: str) -> dict[str, Any]:
    found = until(lambda: [f for f in findings(fabric, site) if f["what"] == what], f"{what} at {site}")
    assert found
    return found[-1]


def settled(fabric: RunningFabric, site: str) -> None:
    """Wait until everything the site's journal holds is a record."""
    journal = fabric.state / "sites" / site / "journal.jsonl"
    last = json.loads(journal.read_text().splitlines()[-1])["id"]
    fabric.wait_recorded(f"{site}/{last}")


def garbage(fabric: RunningFabric, site: str) -> None:
    """What Envoy counts as requests and no client would send."""
    host, port = fabric.base(site).removeprefix("http://").split(":")
    for text in (b"NONSENSE\r\n\r\n", b"GET /x HTTP/1.1\r\nhost: x\r\nbad_name: 1\r\n\r\n", b"GET * HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=5) as raw, contextlib.suppress(OSError):
            raw.sendall(text)
            raw.recv(4096)


def test_under_load_and_nonsense_nothing_is_found(fabric: RunningFabric) -> None:
    def load(site: str, contract: str) -> None:
        for _ in range(25):
            fabric.call(site, contract)

    fabric.token(KONSTANZ), fabric.token(FRANKFURT), fabric.token(KONSTANZ, "away")
    jobs = [(KONSTANZ, "anywhere"), (FRANKFURT, "anywhere"), (KONSTANZ, "away")]
    threads = [threading.Thread(target=load, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    garbage(fabric, KONSTANZ)
    for thread in threads:
        thread.join(60)

    def compared() -> bool:
        path = fabric.state / "sites" / KONSTANZ / "handovers.json"
        return path.exists() and json.loads(path.read_bytes()).get("frankfurt 6-months", 0) >= 25

    until(compared, "the handovers are compared")
    for site in SITES:
        assert findings(fabric, site) == []


def test_records_of_a_class_of_their_own_are_in_a_log_of_their_own_and_trace(fabric: RunningFabric) -> None:
    execution = fabric.call(KONSTANZ, "away").headers["x-isochrone-execution"]
    found = fabric.wait_recorded(execution)["records"]
    logs = {json.loads(each["record"])["kind"]: each["log"] for each in found}
    assert (logs["admission"], logs["outcome"]) == ("", "6-months")
    traced = fabric.run("trace", execution, "--state", str(fabric.state), "--json")
    assert traced.returncode == 0, traced.stdout
    assert "6-months" in fabric.report(FRANKFURT)["logs"]


def test_lines_cut_out_of_a_journal_are_found_at_both_ends(fabric: RunningFabric) -> None:
    """The journal is rewritten in place while the node does not look."""
    settled(fabric, FRANKFURT)
    journal = fabric.state / "sites" / FRANKFURT / "journal.jsonl"
    node = fabric.node(FRANKFURT)
    token = fabric.token(KONSTANZ, "away")
    node.suspend()
    try:
        before = journal.stat().st_size
        for _ in range(4):
            assert fabric.call(KONSTANZ, "away", token).status_code == 200
        until(lambda: journal.read_bytes()[before:].count(b'"DownstreamEnd"') >= 4, "the journal has them")
        with journal.open("r+b") as file:
            file.truncate(before)
    finally:
        node.resume()
    gap = told(fabric, FRANKFURT, "journal-incomplete")
    assert "4 requests ended and have no line" in gap["detail"]
    unmatched = told(fabric, KONSTANZ, "handover-unmatched")
    assert "frankfurt has no record of 4 executions" in unmatched["detail"]


def test_a_proxy_killed_within_requests_leaves_them_unended(fabric: RunningFabric) -> None:
    """They began, nobody knows how they ended, and that is on record."""
    token = fabric.token(KONSTANZ)
    host, port = fabric.base(KONSTANZ).removeprefix("http://").split(":")
    body = b'{"x": 1}'
    head = (
        f"POST /infer HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {len(body) + 9}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(head.encode() + body)  # its end never comes
        journal = fabric.state / "sites" / KONSTANZ / "journal.jsonl"
        until(lambda: b"DownstreamStart" in journal.read_bytes().splitlines()[-1], "it has begun")
        fabric.envoy(KONSTANZ).kill()
    fabric.wait_up()
    fabric.call(KONSTANZ)
    assert "1 of " in told(fabric, KONSTANZ, "executions-unended")["detail"]
