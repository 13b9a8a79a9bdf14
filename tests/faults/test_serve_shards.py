"""Records shared out over several logs: one step over all of them, stopped at any moment; and logs that are pruned."""

from __future__ import annotations

import asyncio
import base64
import collections
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isochrone.errors import IntegrityError, StorageError
from isochrone.record.canonical import decode
from isochrone.record.records import SiteIdentity, finding
from isochrone.serve.logbook import Logbook
from isochrone.tlog.fsck import fsck
from isochrone.tlog.note import Signer

HERE = SiteIdentity("konstanz", "edge", "seewerk", "DE")
SIGNER = Signer("isochrone.invalid/pair/konstanz", bytes(32))
CLASSES = {"short": "6-months", "long": "5-years"}


def book(folder: Path, classes: Callable[[], dict[str, str]] = lambda: CLASSES) -> Logbook:
    return Logbook(folder, folder / "journal.jsonl", SIGNER, HERE, lambda _: "konstanz", classes=classes)


def line(number: int, contract: str) -> dict[str, Any]:
    claims = base64.urlsafe_b64encode(json.dumps({"ctr": contract}).encode()).decode().rstrip("=")
    return {"type": "DownstreamEnd", "role": "ingress", "upstream": "x", "id": f"r{number}", "claims": claims}


def write(folder: Path, count: int, first: int = 0) -> None:
    contracts = ("short", "long", "other")
    with (folder / "journal.jsonl").open("a") as journal:
        for number in range(first, first + count):
            journal.write(json.dumps(line(number, contracts[number % 3])) + "\n")


def ids(folder: Path) -> dict[str, list[str]]:
    """What each log holds, by shard; every log is whole."""
    log = book(folder)
    try:
        asyncio.run(begin(log))
        found = {}
        for name, shard in log.shards.items():
            assert [
                f for f in fsck(shard.store, shard.signer.verifier, shard.signer.name) if f.severity == "error"
            ] == []
            reader = shard.reader()
            reader.checkpoint()
            found[name] = [decode(data).get("id") or "" for data in reader.entries(shard.writer.minimum_index)]
        return found
    finally:
        log.close()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 20 s")


async def begin(log: Logbook) -> None:
    await asyncio.to_thread(log._begin)


class Stop(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("stopped_at", ["5-years", "6-months", ""])
def test_a_step_stopped_between_two_logs_is_finished_as_it_was_begun(tmp_path: Path, stopped_at: str) -> None:
    """Meanwhile the document has given the contracts other classes: what was begun must not follow it."""
    write(tmp_path, 3)
    log = book(tmp_path)
    log._begin()
    log._sequence([])  # all three logs are there
    write(tmp_path, 90, first=3)

    def stops(entries: object, cursor: object) -> range:
        raise Stop

    log.shards[stopped_at].writer.append = stops  # type: ignore[method-assign, assignment]
    with pytest.raises(Stop):
        log._sequence([])
    log.close()

    later = book(tmp_path, lambda: {"other": "6-months", "short": "5-years"})
    later._begin()
    later._sequence([])
    later.close()
    counts = collections.Counter(name for held in ids(tmp_path).values() for name in held)
    assert counts == {f"r{number}": 1 for number in range(93)}


def test_logs_forget_from_their_beginning_only_and_stay_whole(tmp_path: Path) -> None:
    write(tmp_path, 3000)
    now_us = int(time.time() * 1e6)

    async def main() -> None:
        async with book(tmp_path) as log:
            await until(lambda: log.size >= 3000)
            await log.record(finding(HERE, now_us, "now", ""))
            left = await log.prune({"6-months": now_us, "5-years": 0, "1-year": now_us})
            assert left == {"6-months": 768, "5-years": 0}
            assert log.index.find("r0", ("outcome",)) == []
            assert log.index.find("r2997", ("outcome",)) == [("6-months", 999)]

    asyncio.run(main())
    held = ids(tmp_path)
    assert (len(held["6-months"]), len(held["5-years"])) == (1000 - 768, 1000)
    for left in tmp_path.glob("index.sqlite*"):
        left.unlink()
    log = book(tmp_path)
    log._begin()
    assert log.index.find("r2997", ("outcome",)) == [("6-months", 999)]  # made again from what is left
    log.close()


def test_a_log_behind_what_was_cosigned_is_not_opened(tmp_path: Path) -> None:
    write(tmp_path, 3)
    log = book(tmp_path)
    log._begin()
    log._sequence([])
    log._publish()
    log.close()
    shutil.copytree(tmp_path / "log", tmp_path / "old")
    write(tmp_path, 6, first=3)
    log = book(tmp_path)
    log._begin()
    log._sequence([])
    log._publish()
    log.main.keep_cosigned(log.main.writer.publish(0))
    log.close()
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "old").rename(tmp_path / "log")
    with pytest.raises(IntegrityError) as caught:
        book(tmp_path)
    assert caught.value.code == "tlog.rollback"


def test_a_failing_disk_of_one_log_stops_all_and_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with book(tmp_path) as log:
            write(tmp_path, 9)
            await until(lambda: log.size >= 9)
            store = log.shards["6-months"].store
            usual = store.write_state

            def refuses(data: bytes) -> None:
                raise StorageError("no space left", code="storage.full")

            store.write_state = refuses  # type: ignore[method-assign]
            write(tmp_path, 9, first=9)
            await until(lambda: log.failure is not None)
            store.write_state = usual  # type: ignore[method-assign]
            await until(lambda: log.size >= 18)

    asyncio.run(main())
    counts = collections.Counter(name for held in ids(tmp_path).values() for name in held)
    assert counts == {f"r{number}": 1 for number in range(18)}
