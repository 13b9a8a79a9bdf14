"""A fault at every named step from a journal line to a cosigned checkpoint, a bit in every file, a clock set anew."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isochrone.errors import StorageError
from isochrone.record.records import SiteIdentity
from isochrone.serve.completeness import Balance, Completeness
from isochrone.serve.logbook import Logbook
from isochrone.serve.logstore import Disk
from isochrone.serve.write_path import POINTS
from isochrone.tlog.note import Signer

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)
def test_the_matrix_small(tmp_path: Path) -> None:
    """Every point is hit by at least one kind of fault; all of them by `python -m benchmarks.fault_matrix` itself."""
    memory = Path("/dev/shm")  # a disk that syncs at once, where there is one: what is synced is not the question here
    place = memory if os.access(memory, os.W_OK) else tmp_path
    options = ["--times", "1", "--every", "5", "--bits", "4", "--directory", str(place)]
    command = [sys.executable, "-m", "benchmarks.fault_matrix", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line and line.split()[0] in POINTS
    }
    assert set(rows) == set(POINTS)
    assert all("ok" in row and set(row) <= {"ok", ".", "-"} for row in rows.values()), done.stdout
    assert "UNSEEN" not in re.sub(
        r"UNSEEN.*\((another address|recorded as it reads|a query may miss).*", "", done.stdout
    )
    assert done.stdout.count("clock-step") == 3


class FullOnce(Disk):
    """No room for the first state of one log, once."""

    def __init__(self, log: str) -> None:
        self.log, self.refused = log, 0

    def rename(self, source: Path, target: Path) -> None:
        if target.name == "state" and self.log in target.parts and not self.refused:
            self.refused += 1
            raise OSError(28, "No space left on device")
        super().rename(source, target)


@pytest.mark.parametrize("log", ["log", "log-6-months"])
def test_a_log_that_could_not_be_begun_is_begun_by_the_next_attempt(tmp_path: Path, log: str) -> None:
    """Its lock must not outlast the failure: nothing would be recorded here until the node's next start."""
    (tmp_path / "log-6-months").mkdir()
    disk = FullOnce(log)

    def book() -> Logbook:
        here = SiteIdentity("konstanz", "edge", "seewerk", "DE")
        signer = Signer("isochrone.invalid/pair/konstanz", bytes(32))
        return Logbook(tmp_path, tmp_path / "journal.jsonl", signer, here, lambda _: None, disk=disk)

    with pytest.raises(StorageError) as caught:
        book()
    assert caught.value.code == "storage.full"
    book().close()
    assert disk.refused == 1


def test_an_index_damaged_inside_is_made_again_and_holds_up_no_start(tmp_path: Path) -> None:
    """Its first page says that it is one of ours; the pages with the rows are not what was written."""
    here = SiteIdentity("konstanz", "edge", "seewerk", "DE")
    signer = Signer("isochrone.invalid/pair/konstanz", bytes(32))

    def book() -> Logbook:
        return Logbook(tmp_path, tmp_path / "journal.jsonl", signer, here, lambda _: None)

    lines = "".join(f'{{"type": "DownstreamEnd", "role": "ingress", "id": "r{number}"}}\n' for number in range(300))
    (tmp_path / "journal.jsonl").write_text(lines)
    first = book()
    first._begin()
    first._sequence([])
    first._publish()
    first.close()
    path = tmp_path / "index.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    again = book()
    again._begin()
    assert again.index.size() == 300
    assert [each.entry for each in again.index.find("r299", ("outcome", "refusal"))] == [299]
    again.close()


def test_counts_are_compared_on_at_once_when_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts under the old time would else be waited for until it comes again: nothing missing would show till then."""
    recorded: list[dict[str, Any]] = []

    async def record(made: dict[str, Any]) -> int:
        recorded.append(made)
        return 0

    book: Any = SimpleNamespace(here=SiteIdentity("konstanz", "edge", "seewerk", "DE"), record=record)
    envoy: Any = SimpleNamespace(child=None)
    watching = Completeness(envoy, book, lambda alarm: None, lambda: (0, None))
    real_s = time.time

    async def main() -> None:
        await watching._watch_clock()
        watching._balance = Balance(1, real_s())
        watching._balance.samples.append((real_s(), {"ingress": 5}))
        watching._stated_s = real_s()
        monkeypatch.setattr(time, "time", lambda: real_s() - 3600.0)
        await watching._watch_clock()

    asyncio.run(main())
    assert [each["what"] for each in recorded] == ["clock-step"]
    assert watching._balance is not None
    assert not watching._balance.samples
    assert watching._stated_s == 0.0
