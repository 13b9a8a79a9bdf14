"""Sites witness each other's logs: cosignatures on every checkpoint, gaps that show, a fork that is caught and proven.

Real sites; the forger has what a site's operator has: its directory, log key and certificate.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from isochrone.serve.enrolment import log_origin
from isochrone.serve.home import SiteHome
from isochrone.serve.logstore import FileLogStore
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import note_verifier
from isochrone.tlog.note import Note
from isochrone.tlog.reader import LogReader
from isochrone.tlog.witness import AddCheckpointRequest
from isochrone.tlog.writer import LogWriter
from support.fabric import SITES, RunningFabric, running_fabric, until

KONSTANZ, FRANKFURT = SITES
ORIGIN = log_origin("pair", KONSTANZ)


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("w")) as running:
        yield running


def home(fabric: RunningFabric, site: str = KONSTANZ) -> SiteHome:
    return SiteHome(fabric.state / "sites" / site)


def cosigned(fabric: RunningFabric, size_min: int = 1) -> dict[str, Any]:
    """Konstanz's main log, once it has so many entries and none of them waits for a quorum."""

    def ask() -> dict[str, Any] | None:
        log = fabric.report(KONSTANZ)["logs"]["main"]
        return log if log["cosigned_size"] >= log["size"] >= size_min else None

    found = until(ask, "the log is cosigned")
    assert found is not None
    return found


def findings(fabric: RunningFabric, site: str, what: str) -> list[dict[str, Any]]:
    return [r for r in fabric.entries(site) if r["kind"] == "finding" and r["what"] == what]


def test_checkpoints_are_cosigned_by_the_other_site_and_published_so(fabric: RunningFabric) -> None:
    fabric.call(KONSTANZ)
    log = cosigned(fabric)
    assert (log["quorum"], log["by"]) == (1, [FRANKFURT])
    witness = note_verifier(home(fabric, FRANKFURT).cosigner("pair", FRANKFURT).vkey)

    def published() -> bool:
        note = Note.parse(httpx.get(f"{fabric.base(KONSTANZ)}/.isochrone/log/checkpoint").content)
        return bool(note.valid([witness]))

    until(published, "the published checkpoint carries the cosignature")


def test_a_trace_shows_who_cosigned(fabric: RunningFabric) -> None:
    execution = fabric.call(KONSTANZ).headers["x-isochrone-execution"]
    traced = fabric.run("trace", execution, "--state", str(fabric.state), "--json")
    steps = {step["title"]: step for step in json.loads(traced.stdout)["steps"]}
    step = steps["the other sites have seen the same log"]
    assert step["held"], step
    assert "1 of 1 witnesses are asked for" in step["detail"]
    assert traced.returncode == 0


def test_witness_endpoints_are_not_there_for_clients(fabric: RunningFabric) -> None:
    for path in ("witness/checkpoints", "witness/add-checkpoint", "log/checkpoint"):
        assert httpx.get(f"{fabric.base(KONSTANZ)}/.isochrone/peer/{path}").status_code == 404


def test_without_its_witness_a_site_goes_on_and_is_cosigned_later(fabric: RunningFabric) -> None:
    cosigned(fabric)
    fabric.node(FRANKFURT).suspend()
    try:
        for _ in range(3):
            assert fabric.call(KONSTANZ, "lakeside").status_code == 200

        def gap() -> dict[str, Any] | None:
            log = fabric.report(KONSTANZ)["logs"]["main"]
            return log if log["size"] > log["cosigned_size"] and log["waiting_since_s"] else None

        log = until(gap, "the gap shows")
        assert log is not None
        assert log["waiting_since_s"] <= time.time()
    finally:
        fabric.node(FRANKFURT).resume()
    assert cosigned(fabric)["size"] >= log["size"]


def ask_witness(fabric: RunningFabric, request: AddCheckpointRequest) -> httpx.Response:
    """What the witness at Frankfurt answers to whoever has Konstanz's certificate."""
    report = fabric.report(FRANKFURT)
    with httpx.Client(verify=home(fabric).tls.client(names=False), timeout=5.0) as client:
        url = f"https://{report['peer']}/.isochrone/peer/witness/add-checkpoint"
        return client.post(url, content=request.encode())


def forged(fabric: RunningFabric, copy: Path, extra: int) -> None:
    """A second history of Konstanz's log: its directory as it was, grown by other entries under its own key."""
    signer = home(fabric).log_signer("pair", KONSTANZ)
    store = FileLogStore(copy)
    writer = LogWriter.open(store, signer, ORIGIN)
    writer.append([b"what never happened %d" % n for n in range(extra)], writer.cursor)
    writer.publish(int(time.time()))
    store.close()


def test_a_fork_made_on_purpose_is_caught_recorded_and_proven(fabric: RunningFabric, tmp_path: Path) -> None:
    then = cosigned(fabric)["size"]
    shutil.copytree(home(fabric).root / "log", tmp_path / "log")  # as it was
    for _ in range(4):
        fabric.call(KONSTANZ)
    true = cosigned(fabric, then + 4)
    forged(fabric, tmp_path / "log", extra=true["size"] + 5)
    signer = home(fabric).log_signer("pair", KONSTANZ)
    reader = LogReader(FileLogStore(tmp_path / "log", writable=False), signer.verifier, ORIGIN)
    size = reader.checkpoint().size
    assert size > true["size"]

    def refused() -> httpx.Response | None:
        held = fabric.report(KONSTANZ)["logs"]["main"]["cosigned_size"]
        proof = tuple(reader.consistency_proof(held, size))
        answer = ask_witness(fabric, AddCheckpointRequest(held, proof, reader.signed_checkpoint))
        return answer if answer.status_code == 422 else None

    assert until(refused, "the witness refuses the second history") is not None
    # The forger does not show its files, so this alone proves nothing to others; the witness says that much.
    until(lambda: findings(fabric, FRANKFURT, "log-disputed"), "the dispute is on the witness's record")
    assert any("one history" in alarm for alarm in fabric.report(FRANKFURT)["alarms"])


def test_two_trees_of_one_size_are_a_proof_at_once(fabric: RunningFabric, tmp_path: Path) -> None:
    cosigned(fabric)
    signer = home(fabric).log_signer("pair", KONSTANZ)

    def convicted() -> list[Path]:
        held = Checkpoint.parse(Note.parse((home(fabric).root / "cosigned" / "main").read_bytes()).text)
        other = Checkpoint(ORIGIN, held.size, b"\x55" * 32).sign(signer)
        ask_witness(fabric, AddCheckpointRequest(held.size, (), other))
        return list((home(fabric, FRANKFURT).root / "forks").glob("*.json"))

    files = until(convicted, "the witness keeps evidence")
    assert files
    until(lambda: findings(fabric, FRANKFURT, "log-forked"), "the fork is on the witness's record")
    assert any("FORKED" in alarm for alarm in fabric.report(FRANKFURT)["alarms"])
    shown = fabric.run("fork", str(files[0]), "--vkey", signer.vkey)
    assert (shown.returncode, "PROVEN" in shown.stdout) == (0, True)
    other_key = home(fabric, FRANKFURT).log_signer("pair", FRANKFURT).vkey
    assert fabric.run("fork", str(files[0]), "--vkey", other_key).returncode == 1


def test_a_site_put_back_to_an_older_copy_records_nothing_more(fabric: RunningFabric, tmp_path: Path) -> None:
    """Its operator restores a backup of the whole directory: the witness shows what the site itself has forgotten."""
    root = home(fabric).root
    then = cosigned(fabric)["size"]
    kept = ("log", "cosigned")
    for name in kept:
        shutil.copytree(root / name, tmp_path / name)
    for _ in range(12):
        fabric.call(KONSTANZ)
    # The restarted node records a few things of its own: the witness must have seen more than that.
    cosigned(fabric, then + 24)
    fabric.stop()
    for name in kept:
        shutil.rmtree(root / name)
        shutil.copytree(tmp_path / name, root / name)
    # With its journal the log would only grow again to what it was: the same lines give the same tree.
    for left in (*root.glob("index.sqlite*"), *root.glob("journal*")):
        left.unlink()
    fabric.process = fabric.spawn("up", str(fabric.path), "--state", str(fabric.state))

    def alarmed() -> bool:
        return any("older copy" in alarm for alarm in fabric.report(KONSTANZ)["alarms"])

    until(alarmed, "the site says that it was put back", 90)

    def refuses() -> bool:
        answer = fabric.call(KONSTANZ, token=fabric.token(FRANKFURT))
        return answer.headers.get("x-isochrone-refused") == "unrecorded"

    until(refuses, "nothing is executed there")
