"""One site's write path, driven for real, with one fault at one step; and the judgement of what it left behind.

The logbook is the node's own: a journal file, three retention classes, hence three logs, an index, a witness that
cosigns. What stands in is Envoy's hand on the journal: a file held open, written line by line, and left in the
middle of one when "Envoy" dies (`tests/faults/test_serve_journal_faults.py` kills a real one).
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from isochrone.errors import IsochroneError
from isochrone.record.canonical import decode
from isochrone.record.records import SiteIdentity, finding
from isochrone.serve.logbook import Logbook
from isochrone.serve.logstore import Disk, FileWitnessStore
from isochrone.serve.shard import Shard
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import Cosigner, note_verifier
from isochrone.tlog.fsck import fsck
from isochrone.tlog.note import Note, Signer
from isochrone.tlog.witness import AddCheckpointRequest, Witness

__all__ = [
    "BATCHES",
    "FAILED",
    "FAULTS",
    "LINES",
    "SIGNER",
    "WITNESS",
    "FaultyDisk",
    "drive",
    "judge",
    "open_book",
    "run",
]

HERE = SiteIdentity("konstanz", "edge", "seewerk", "DE")
SIGNER = Signer("faults.invalid/pair/konstanz", bytes(32))
WITNESS = Cosigner.ed25519("faults.invalid/witness/zurich", b"w" * 32)
CLASSES = {"short": "6-months", "long": "5-years"}
BATCHES = (30, 840, 30, 90)
LINES = sum(BATCHES)
FAILED = 3
"""Exit code of a child whose step failed as an operating error."""

FAULTS = ("kill node", "kill Envoy", "kill both", "ENOSPC", "EIO", "short write", "EIO, goes on")


Between = Callable[[Logbook, int], Awaitable[None]]


class Envoy:
    """The journal's writer: it holds the file open, and dies in the middle of a line."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._file = journal.open("ab", buffering=0)

    def write(self, first: int, count: int) -> None:
        self._file.write(b"".join(_line(number) for number in range(first, first + count)))

    async def reopen(self) -> None:
        self._file.close()
        self._file = self._journal.open("ab", buffering=0)

    def die(self) -> None:
        self._file.write(b'{"type": "DownstreamEnd", "id": "torn')


class FaultyDisk(Disk):
    """A real disk on which `fault` strikes when `point` is reached for the `nth` time; it counts all points reached."""

    def __init__(self, point: str = "", nth: int = 1, fault: str = "") -> None:
        self.point, self.nth, self.fault = point, nth, fault
        self.hits: Counter[str] = Counter()
        self.struck, self.goes_on = False, fault.endswith("goes on")
        self.envoy: Envoy | None = None
        self.succeed: Callable[[], None] = lambda: None
        self._is_short = False

    def reach(self, point: str) -> None:
        self.hits[point] += 1
        if point == self.point and self.hits[point] == self.nth and not self.struck:
            self.struck = True
            self._strike()

    def _strike(self) -> None:
        if self.fault in ("kill Envoy", "kill both") and self.envoy is not None:
            self.envoy.die()
        if self.fault in ("kill node", "kill both"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "kill Envoy":
            self.succeed()
        elif self.fault == "short write":
            self._is_short = True
        else:
            code = errno.ENOSPC if self.fault == "ENOSPC" else errno.EIO
            raise OSError(code, os.strerror(code))

    def write(self, descriptor: int, data: memoryview) -> int:
        if self._is_short:
            self._is_short = False
            super().write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(descriptor, data)


def _line(number: int) -> bytes:
    contract = ("short", "long", "other")[number % 3]
    claims = base64.urlsafe_b64encode(json.dumps({"ctr": contract}).encode()).decode().rstrip("=")
    entry = {"type": "DownstreamEnd", "role": "ingress", "upstream": "x", "id": f"r{number}", "claims": claims}
    return json.dumps(entry).encode() + b"\n"


def open_book(folder: Path, disk: Disk | None = None) -> Logbook:
    return Logbook(
        folder, folder / "journal.jsonl", SIGNER, HERE, lambda _: "konstanz", classes=lambda: CLASSES, disk=disk
    )


# --- one life of the node -------------------------------------------------------------------------------------------


def run(folder: Path, point: str = "", nth: int = 1, fault: str = "") -> None:
    """A child process: sequence the journal to its end, with the fault; the exit code says how it ended."""
    disk = FaultyDisk(point, nth, fault)
    try:
        asyncio.run(drive(folder, disk))
    except (IsochroneError, OSError, sqlite3.Error) as error:
        _note(folder, failed=getattr(error, "code", type(error).__name__))
        os._exit(FAILED)
    _note(folder, hits=dict(disk.hits))
    os._exit(0)


async def drive(folder: Path, disk: FaultyDisk, between: Between | None = None) -> None:
    """Open the logbook, and go on where the last life ended; `between` is awaited before each batch."""
    book = await _opened(folder, disk)
    await asyncio.to_thread(book.begin_life)  # as a node does before its Envoy starts
    deaths: list[threading.Thread] = []

    def succeed() -> None:
        """What the supervisor does about a dead Envoy, in a thread of its own."""
        deaths.append(threading.Thread(target=book.begin_life))
        deaths[-1].start()
        deaths[-1].join(0.05)

    disk.envoy, disk.succeed = Envoy(folder / "journal.jsonl"), succeed
    number, batches = written(folder), _rest(written(folder))
    for batch, count in enumerate([*batches, 0]):
        if between is not None:
            await between(book, batch)
        disk.envoy.write(number, count)
        number += count
        _note(folder, written=number)
        await _cycle(folder, book, disk, disk.envoy)
        for death in deaths:
            death.join()
            await disk.envoy.reopen()
        deaths.clear()
    book.close()


async def _opened(folder: Path, disk: FaultyDisk) -> Logbook:
    for _ in range(2):
        book = None
        try:
            book = open_book(folder, disk)
            await asyncio.to_thread(book._begin)
            return book
        except (IsochroneError, OSError, sqlite3.Error):
            if book is not None:
                book.close()
            if not disk.goes_on:
                raise
    raise AssertionError("one fault strikes once")


async def _cycle(folder: Path, book: Logbook, disk: FaultyDisk, envoy: Envoy) -> None:
    """What a node does with a batch: sequence and publish, be cosigned, rotate. Failures are met as the node does."""

    async def sequence() -> None:
        number = len(_notes(folder))
        _note(folder, tried=number)  # one that failed may still be recorded: its name is not used again
        waiting = book.submit(finding(HERE, 0, "own", f"own {number}"))
        waiting.add_done_callback(lambda done: done.exception())
        await book._recover_and_step(publish=True)
        await waiting
        _note(folder, own=number, published={name: each.writer.published_size for name, each in book.shards.items()})

    async def cosigned() -> None:
        for shard in book.shards.values():
            await cosign(folder, book, shard, disk)

    async def rotate() -> None:
        await book.tail.rotate(envoy.reopen, bytes_max=3_000, sequenced=book.cursor)

    for step in (sequence, cosigned, rotate):
        try:
            await step()
        except (IsochroneError, OSError, sqlite3.Error) as error:
            if not disk.goes_on:
                raise
            # As the logbook's own loop does: what reached the disk is read from there.
            book._fail(error)
            await book._recover_and_step(publish=True)
            await step()


async def cosign(folder: Path, book: Logbook, shard: Shard, disk: Disk | None = None) -> None:
    """Have a witness of this site's log cosign its newest checkpoint, and publish that."""
    store = FileWitnessStore(folder / "witness", disk=disk)
    origin = shard.signer.name
    witness = Witness(store, [WITNESS], {origin: [shard.signer.verifier]})
    held = store.load(origin)
    old = Checkpoint.parse(Note.parse(held).text).size if held else 0
    reader = shard.reader()
    size = reader.checkpoint().size
    proof = reader.consistency_proof(old, size) if old else []
    answer = witness.add_checkpoint(AddCheckpointRequest(old, tuple(proof), reader.signed_checkpoint).encode(), 1)
    if answer.status != 200:
        raise AssertionError(f"the witness refused: {answer.body!r}")
    await book.add_cosignatures(shard, size, answer.body, [note_verifier(WITNESS.vkey)])
    shard.keep_cosigned(shard.writer.publish(0))


# --- what was promised, and what is there ---------------------------------------------------------------------------


def _note(folder: Path, **said: Any) -> None:
    with (folder / "promises").open("a") as file:
        file.write(json.dumps(said) + "\n")


def _notes(folder: Path) -> list[dict[str, Any]]:
    path = folder / "promises"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def said(folder: Path, what: str) -> list[Any]:
    return [note[what] for note in _notes(folder) if what in note]


def written(folder: Path) -> int:
    """How many whole lines the journal was ever given."""
    known: int = max(said(folder, "written"), default=0)
    for path in folder.glob("journal*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            if line.endswith(b"}"):
                known = max(known, int(json.loads(line)["id"][1:]) + 1)
    return known


def _rest(number: int) -> list[int]:
    """The batches that are left when `number` lines are written."""
    rest, start = [], 0
    for count in BATCHES:
        if number < start + count:
            rest.append(start + count - max(number, start))
        start += count
    return rest


def judge(folder: Path) -> list[str]:
    """What is wrong with a site whose journal is sequenced to its end: empty when nothing is."""
    wrong: list[str] = []
    found: Counter[str] = Counter()
    promised: Counter[str] = Counter()
    for published in said(folder, "published"):
        promised |= Counter(published)
    book = open_book(folder)
    try:
        for name, shard in book.shards.items():
            errors = [f for f in fsck(shard.store, shard.signer.verifier, shard.signer.name) if f.severity == "error"]
            wrong += [f"fsck {name or 'main'}: {each.kind} {each.path}" for each in errors]
            if shard.writer.published_size < promised[name]:
                wrong.append(f"{name or 'main'} rolled back below {promised[name]}")
            reader = shard.reader()
            reader.checkpoint()
            records = [decode(data) for data in reader.entries()]
            ids = [str(record["id"]) for record in records if record.get("id")]
            if ids != sorted(ids, key=lambda each: int(each[1:])):
                wrong.append(f"{name or 'main'} out of order")
            found.update(ids)
            found.update(str(record["detail"]) for record in records if record.get("what") == "own")
            if book.index.size(name) != shard.writer.published_size:
                wrong.append(f"index of {name or 'main'} differs")
    finally:
        book.close()
    due = [f"r{number}" for number in range(LINES)]
    due += [f"own {number}" for number in said(folder, "own")]
    wrong += [f"lost {each}" for each in due if not found[each]][:3]
    wrong += [f"doubled {each}" for each, count in found.items() if count > 1][:3]
    wrong += [f"strange {each}" for each in found if each.startswith("torn")]
    return wrong
