"""The one writer of a site's log under hostile journal lines, failing disks, and stops at any moment."""

from __future__ import annotations

import asyncio
import collections
import json
from pathlib import Path
from typing import Any

import pytest

from isochrone.errors import InputError, StorageError
from isochrone.record.canonical import Record, decode
from isochrone.record.records import SiteIdentity, finding
from isochrone.serve.logbook import Logbook
from isochrone.tlog.note import Signer

HERE = SiteIdentity("konstanz", "edge", "seewerk", "DE")
SIGNER = Signer("isochrone.invalid/pair/konstanz", bytes(32))


def book(folder: Path, **options: Any) -> Logbook:
    return Logbook(folder, folder / "journal.jsonl", SIGNER, HERE, lambda _: "konstanz", **options)


def write(folder: Path, *lines: dict[str, Any]) -> None:
    with (folder / "journal.jsonl").open("a") as journal:
        for line in lines:
            journal.write(json.dumps({"type": "DownstreamEnd", "upstream": "x"} | line) + "\n")


def records(folder: Path) -> list[Record]:
    log = book(folder)
    try:
        reader = log.reader()
        reader.checkpoint()
        return [decode(data) for data in reader.entries(0)]
    finally:
        log.close()


async def sequenced(log: Logbook, size: int) -> None:
    for _ in range(1000):
        if log.size >= size:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{log.size} of {size} records after 20 s: {log.failure}")


@pytest.mark.parametrize(
    "hostile",
    [{"path": "\ud800"}, {"path": "\x01" * 10_850}, {"status": 2**60}, {"duration_us": float("nan")}],
    ids=["surrogate", "too long", "too large", "not a number"],
)
def test_a_line_that_fits_no_record_is_a_finding_and_the_next_ones_are_recorded(
    tmp_path: Path, hostile: dict[str, Any]
) -> None:
    async def main() -> None:
        async with book(tmp_path) as log:
            write(tmp_path, {"id": "before"}, {"id": "hostile"} | hostile, {"id": "after"})
            await sequenced(log, 3)
            assert log.failure is None

    asyncio.run(main())
    found = records(tmp_path)
    assert [record["kind"] for record in found] == ["outcome", "finding", "outcome"]
    assert (found[0]["id"], found[2]["id"]) == ("before", "after")
    assert "hostile" in found[1]["detail"]
    assert found[1]["what"].startswith("journal-")


def test_a_record_of_the_nodes_own_that_fits_none_is_its_callers_error_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with book(tmp_path) as log:
            with pytest.raises(InputError):
                await log.record(finding(HERE, 1, "x", "y") | {"more": "z" * 70_000})
            assert await log.record(finding(HERE, 1, "x", "y")) == 0

    asyncio.run(main())


def test_a_log_that_cannot_be_written_says_no_and_goes_on_when_it_can_again(tmp_path: Path) -> None:
    """The disk refuses at the commit, as it does when it is full."""

    async def main() -> None:
        async with book(tmp_path) as log:
            await log.record(finding(HERE, 1, "first", ""))
            usual = log.main.store.write_state

            def refuses(data: bytes) -> None:
                raise StorageError("no space left", code="storage.full")

            log.main.store.write_state = refuses  # type: ignore[method-assign]
            with pytest.raises(StorageError):
                await log.record(finding(HERE, 1, "lost", ""))
            assert log.failure is not None
            write(tmp_path, {"id": "meanwhile"})
            with pytest.raises(StorageError) as caught:
                await log.record(finding(HERE, 1, "refused", ""))
            assert caught.value.code == "log.stopped"
            log.main.store.write_state = usual  # type: ignore[method-assign]
            await sequenced(log, 2)
            assert log.failure is None
            await log.record(finding(HERE, 1, "last", ""))

    asyncio.run(main())
    found = records(tmp_path)
    assert [record.get("what") if record["kind"] == "finding" else record["id"] for record in found] == [
        "first", "meanwhile", "last",
    ]  # fmt: skip


def test_an_index_that_fails_loses_nothing_and_is_made_again(tmp_path: Path) -> None:
    import sqlite3

    async def main() -> None:
        async with book(tmp_path) as log:
            usual = log.index.add
            failures = iter([sqlite3.OperationalError("database or disk is full")])

            def fails_once(first: int, batch: list[Record], log: str = "") -> None:
                for failure in failures:
                    raise failure
                usual(first, batch, log)

            log.index.add = fails_once  # type: ignore[method-assign]
            write(tmp_path, {"id": "one"})
            await sequenced(log, 1)
            write(tmp_path, {"id": "two"})
            await sequenced(log, 2)
            assert [log.index.find(name, ("outcome",)) for name in ("one", "two")] == [[("", 0)], [("", 1)]]

    asyncio.run(main())
    assert [record["id"] for record in records(tmp_path)] == ["one", "two"]


@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.06])
def test_stopping_under_load_doubles_and_loses_nothing(tmp_path: Path, pause_s: float) -> None:
    lines = [{"id": f"r{n}"} for n in range(600)]

    async def main() -> None:
        for part in range(3):
            async with book(tmp_path):
                write(tmp_path, *lines[200 * part : 200 * (part + 1)])
                await asyncio.sleep(pause_s)

    asyncio.run(main())

    async def rest() -> None:
        async with book(tmp_path) as log:
            await sequenced(log, 600)

    asyncio.run(rest())
    counts = collections.Counter(record["id"] for record in records(tmp_path))
    assert counts == {f"r{n}": 1 for n in range(600)}


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    async def once() -> None:
        async with book(tmp_path) as log:
            await sequenced(log, 1)
            assert log.index.find("one", ("outcome",)) == [("", 0)]

    write(tmp_path, {"id": "one"})
    asyncio.run(once())
    for left in tmp_path.glob("index.sqlite*"):
        left.unlink()
    (tmp_path / "index.sqlite").write_bytes(b"not a database" * 100)
    asyncio.run(once())
