"""Does what a running fabric exports prove itself elsewhere, and does every change to it show?"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.known_groups import known_groups
from isochrone.record.audit import Audit, verify_export
from isochrone.record.export import MANIFEST, PEOPLE, REVOCATIONS, SUMS, TRUST
from isochrone.serve.audit_folder import FolderOnDisk
from isochrone.serve.people import registry_from
from support.fabric import SITES, RunningFabric, running_fabric, until

KONSTANZ, FRANKFURT = SITES


@dataclass
class Exported:
    """What one fabric exported, and the anchor that was printed."""

    fabric: RunningFabric
    executions: list[str]
    whole: Path
    anchor: str

    def run(self, *arguments: str, succeeds: bool = True) -> str:
        ended = self.fabric.run(*arguments)
        assert (ended.returncode == 0) is succeeds, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    with running_fabric(tmp_path_factory.mktemp("audit")) as fabric:
        calls = [fabric.call(site, contract) for site, contract in ((KONSTANZ, "lakeside"), (FRANKFURT, "anywhere"))]
        # From Frankfurt a contract that may only run at Konstanz is handed over.
        calls.append(fabric.call(FRANKFURT, "lakeside"))
        fabric.delegate("agent:other")
        fabric.run("revoke", "agent", "agent:other", "--reason", "a test", "--state", str(fabric.state))
        calls.append(fabric.call(KONSTANZ, "lakeside"))
        executions = [call.headers["x-isochrone-execution"] for call in calls]
        for execution in executions:
            fabric.wait_recorded(execution)
        made = Exported(fabric, executions, fabric.directory / "whole", "")
        made.anchor = _anchor(made.run("audit", "export", "--all", str(made.whole), "--state", str(fabric.state)))
        yield made


def _anchor(printed: str) -> str:
    return next(line.split()[-1] for line in printed.splitlines() if line.startswith("trust anchor"))


def audited(folder: Path, anchor: str, earlier: Path | None = None) -> Audit:
    return verify_export(
        FolderOnDisk(folder), anchor, known_groups(), lambda f, p, d: registry_from(f, p, anchor=d),
        FolderOnDisk(earlier) if earlier else None,
    )  # fmt: skip


def broken(found: Audit) -> list[str]:
    return [f"{step.title}: {step.detail}" for step in found.steps if not step.held]


def test_the_whole_folder_verifies_and_says_what_was_checked(exported: Exported) -> None:
    found = audited(exported.whole, exported.anchor)
    assert broken(found) == []
    assert found.kinds["outcome"] >= 4
    assert found.kinds["exchange"] >= 2
    assert [step.number for step in found.steps] == list(range(1, len(found.steps) + 1))
    assert any("1 revocations" in step.detail for step in found.steps)
    sums = subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=exported.whole, check=False, capture_output=True)
    assert sums.returncode == 0


def test_it_verifies_in_an_empty_directory_without_a_network(exported: Exported, tmp_path: Path) -> None:
    """In a network namespace of its own where that is allowed; any attempt to connect fails the test elsewhere too."""
    shutil.copytree(exported.whole, tmp_path / "case")
    isolated = ["unshare", "-n", "true"]
    can_isolate = shutil.which("unshare") and subprocess.run(isolated, check=False, capture_output=True).returncode == 0
    nowhere = (
        "import sys, socket\n"
        "def refuse(*_): raise AssertionError('it tried to connect')\n"
        "socket.socket.connect = refuse\n"
        "from isochrone.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", nowhere, "audit", "verify", "case", "--anchor", exported.anchor, "--json"]
    ended = subprocess.run(
        ["unshare", "-n", *command] if can_isolate else command,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["held"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_every_flipped_byte_is_found_and_its_file_named(exported: Exported, tmp_path: Path) -> None:
    paths = list(FolderOnDisk(exported.whole).paths())
    assert {TRUST, PEOPLE, REVOCATIONS, MANIFEST, SUMS} < set(paths)
    assert sum(path.startswith("logs/") for path in paths) >= 6
    for path in paths:
        data = (exported.whole / path).read_bytes()
        for at in sorted({0, len(data) // 3, len(data) - 1}):
            copy = tmp_path / "copy"
            shutil.copytree(exported.whole, copy)
            (copy / path).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            wrong = broken(audited(copy, exported.anchor))
            assert wrong, (path, at)
            assert any(path in each for each in wrong), (path, at, wrong)
            shutil.rmtree(copy)


def test_a_forger_who_also_writes_the_digests_anew_is_found_by_the_proofs(exported: Exported, tmp_path: Path) -> None:
    """Every byte position class of every file that carries evidence, with SHA256SUMS made to fit."""
    for path in FolderOnDisk(exported.whole).paths():
        if path in (SUMS, MANIFEST):
            continue
        data = (exported.whole / path).read_bytes()
        copy = tmp_path / "copy"
        shutil.copytree(exported.whole, copy)
        # A character that means something: JSON may have blanks changed without saying anything else.
        at = next(n for n in range(len(data) // 2, len(data)) if path.startswith("logs/") or chr(data[n]).isalnum())
        (copy / path).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        _seal(copy)
        found = audited(copy, exported.anchor)
        wrong = [each for each in broken(found) if not each.startswith("every file is as it was")]
        assert wrong, path
        assert not any(each.startswith("every file is as it was") for each in broken(found)), path
        shutil.rmtree(copy)


def _seal(folder: Path) -> None:
    (folder / SUMS).unlink()
    FolderOnDisk(folder).seal()


def _remove_entries(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["logs"][0]["ranges"] = manifest["logs"][0]["judged"] = []
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _drop_revocation(folder: Path) -> None:
    (folder / REVOCATIONS).write_bytes(b"")


def _drop_act(folder: Path) -> None:
    people = json.loads((folder / PEOPLE).read_text())
    (folder / PEOPLE).write_text(json.dumps(people | {"acts": people["acts"][1:]}))


def _add_file(folder: Path) -> None:
    (folder / "logs" / KONSTANZ / "main" / "tile" / "extra").write_bytes(b"x")


def _drop_cosignature(folder: Path) -> None:
    path = folder / "logs" / KONSTANZ / "main" / "checkpoint"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b"/witness " not in line))


def _drop_log(folder: Path) -> None:
    shutil.rmtree(folder / "logs" / KONSTANZ)


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (_remove_entries, "is not needed for anything"),
        (_drop_revocation, "revocations were in force"),
        (_drop_act, PEOPLE),
        (_add_file, "extra is not needed"),
        (_drop_cosignature, "does not meet the quorum"),
        (_drop_log, "there is no checkpoint"),
    ],
)
def test_what_is_left_out_or_added_is_named(
    exported: Exported, tmp_path: Path, forge: Callable[[Path], None], named: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported.whole, copy)
    forge(copy)
    _seal(copy)
    assert any(named in each for each in broken(audited(copy, exported.anchor))), broken(audited(copy, exported.anchor))


def test_other_keys_are_refused_whatever_the_folder_says(exported: Exported) -> None:
    found = audited(exported.whole, "sha256:" + "0" * 64)
    assert not found.held
    assert "expected sha256:000" in found.steps[0].detail
    told = exported.run("audit", "verify", str(exported.whole), succeeds=False)
    assert "--anchor" in told


def test_one_execution_and_a_site_are_exported_with_all_they_rest_on(exported: Exported, tmp_path: Path) -> None:
    handed_over, state = exported.executions[2], str(exported.fabric.state)
    one = tmp_path / "one"
    anchor = _anchor(exported.run("audit", "export", "--execution", handed_over, str(one), "--state", state))
    assert anchor == exported.anchor
    found = audited(one, anchor)
    assert broken(found) == []
    assert found.kinds["outcome"] == 2  # at both ends
    site = tmp_path / "site"
    exported.run("audit", "export", "--site", KONSTANZ, str(site), "--from", "2020-01-01", "--state", state)
    assert broken(audited(site, anchor)) == []
    later = exported.run(
        "audit", "export", "--all", str(tmp_path / "none"), "--from", "2100-01-01", "--state", state, succeeds=False
    )
    assert "nothing is recorded" in later
    exported.run("audit", "export", "--all", str(site), "--state", state, succeeds=False)  # not empty
    exported.run("audit", "export", "--site", "nowhere", str(tmp_path / "x"), "--state", state, succeeds=False)


def test_a_later_folder_goes_on_from_an_earlier_one_and_a_fork_shows(exported: Exported, tmp_path: Path) -> None:
    exported.fabric.wait_recorded(exported.fabric.call(KONSTANZ).headers["x-isochrone-execution"])
    later = tmp_path / "later"
    exported.run("audit", "export", "--all", str(later), "--state", str(exported.fabric.state))
    found = audited(later, exported.anchor, exported.whole)
    assert broken(found) == []
    assert sum("goes on from" in step.title for step in found.steps) == 2
    back = broken(audited(exported.whole, exported.anchor, later))
    assert any("it went back" in each for each in back)


# --- queries --------------------------------------------------------------------------------------------------------


def _query(exported: Exported, *arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(exported.run("audit", "query", "--json", *arguments)))


def test_queries_give_the_same_from_an_index_without_one_and_in_a_folder(exported: Exported) -> None:
    state = ("--state", str(exported.fabric.state))
    ids = {execution.partition("/")[2] for execution in exported.executions}
    asked = ("--kind", "outcome", "--human", "human:operator", "--contract", "lakeside", "--verdict", "allow")
    here = [row for row in _query(exported, *asked, *state) if row["id"] in ids]
    assert {row["id"] for row in here} == ids - {exported.executions[1].partition("/")[2]}
    assert all(row["executing_site"] == KONSTANZ and row["agent"] == "agent:caller" for row in here)
    there = [row for row in _query(exported, *asked, "--in", str(exported.whole)) if row["id"] in ids]
    assert there == here
    assert _query(exported, *asked, "--to", "2020-01-01", *state) == []
    assert _query(exported, "--human", "' OR 1 --", *state) == []
    table = exported.run("audit", "query", *asked, "--limit", "1", *state)
    assert "more are not shown" in table
    for site in SITES:
        for left in (exported.fabric.state / "sites" / site).glob("index.sqlite*"):
            left.rename(left.with_name(f"away-{left.name}"))
    try:
        assert [row for row in _query(exported, *asked, *state) if row["id"] in ids] == here
    finally:
        for site in SITES:
            for away in (exported.fabric.state / "sites" / site).glob("away-*"):
                away.rename(away.with_name(away.name.removeprefix("away-")))


def test_analysts_get_parquet_with_documented_columns(exported: Exported, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the hub extra has pyarrow")
    file = tmp_path / "records.parquet"
    exported.run("audit", "query", "--in", str(exported.whole), "--parquet", str(file))
    table = pq.read_table(file)
    rows = _query(exported, "--in", str(exported.whole))
    assert table.to_pylist() == rows
    assert all(field.metadata[b"about"] for field in table.schema)


# --- receipts -------------------------------------------------------------------------------------------------------


def test_a_client_gets_its_receipt_by_the_executions_id(exported: Exported, tmp_path: Path) -> None:
    fabric = exported.fabric
    source = fabric.source(KONSTANZ, "lakeside")
    execution = fabric.call(KONSTANZ, "lakeside", source.token()).headers["x-isochrone-execution"]
    begun_s = time.monotonic()
    receipt = source.receipt(execution, timeout_s=20)
    print(f"receipt after {time.monotonic() - begun_s:.2f} s")
    vkey = fabric.status()["vkeys"][KONSTANZ]
    assert receipt.verify(vkey)["id"] == execution.partition("/")[2]
    state = ("--state", str(fabric.state))
    kept, cose = tmp_path / "receipt.json", tmp_path / "receipt.cose"
    exported.run("audit", "receipt", execution, "--save", str(kept), "--cose", str(cose), *state)
    assert cose.read_bytes()[:1] == b"\xd2"  # tag 18
    trust = str(exported.whole / TRUST)
    assert "COSE receipt held" in exported.run("audit", "receipt", "--from", str(kept), "--trust", trust)
    kept.write_text(kept.read_text().replace("human:operator", "human:somebody"))
    exported.run("audit", "receipt", "--from", str(kept), "--trust", trust, succeeds=False)


def test_a_trace_says_that_nothing_of_it_was_revoked(exported: Exported) -> None:
    state = str(exported.fabric.state)

    def traced() -> dict[str, Any]:
        return dict(json.loads(exported.fabric.run("trace", exported.executions[3], "--state", state, "--json").stdout))

    found = until(lambda: (found := traced())["held"] and found, "the trace holds")
    step = next(each for each in found["steps"] if each["title"] == "nothing of it was revoked")
    assert "revocation 1" in step["detail"]


def test_digests_in_the_folder_are_sha256(exported: Exported) -> None:
    for line in (exported.whole / SUMS).read_text().splitlines():
        digest, _, path = line.partition("  ")
        assert hashlib.sha256((exported.whole / path).read_bytes()).hexdigest() == digest
