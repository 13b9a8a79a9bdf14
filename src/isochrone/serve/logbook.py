"""The logbook of a site: journal lines and the node's own records become entries of its log, exactly once.

One writer. What was read from the journal and what the node itself recorded go into the log in one durable step with
the journal's cursor, so a crash at any point loses nothing and doubles nothing. The index is derived: it is rebuilt
from the log when it is missing, damaged or ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isochrone.errors import IsochroneError, StorageError
from isochrone.record.canonical import Record, decode, encode
from isochrone.record.records import SiteIdentity, finding, from_journal
from isochrone.serve.journal import JournalTail
from isochrone.serve.logstore import FileLogStore
from isochrone.tlog.note import Signer
from isochrone.tlog.reader import LogReader
from isochrone.tlog.writer import LogWriter

__all__ = ["Index", "Logbook"]

_SEQUENCE_S = 0.05
_CHECKPOINT_S = 1.0


class Index:
    """Where records are, by execution id, grant id and kind; derived from the log, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        # A derived file: losing the last second of it to a power cut costs a short re-reading, so it is not synced.
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            db.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
                "CREATE TABLE IF NOT EXISTS record"
                " (entry INTEGER PRIMARY KEY, kind TEXT, id TEXT, role TEXT, at_us INTEGER);"
                "CREATE INDEX IF NOT EXISTS by_id ON record (id);"
                "CREATE INDEX IF NOT EXISTS by_kind ON record (kind, entry);"
            )
        except sqlite3.DatabaseError:
            db.close()
            self._path.unlink(missing_ok=True)
            return self._open()
        return db

    @property
    def size(self) -> int:
        """Entries indexed: the next entry's number."""
        return int(self._db.execute("SELECT COALESCE(MAX(entry) + 1, 0) FROM record").fetchone()[0])

    def add(self, first: int, records: list[Record]) -> None:
        """Index records that are the log's entries from `first` on."""
        rows = [(first + n, r["kind"], r.get("id"), r.get("role"), r.get("start_us", 0)) for n, r in enumerate(records)]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")

    def cut(self, size: int) -> None:
        """Forget entries the log does not hold."""
        self._db.execute("DELETE FROM record WHERE entry >= ?", (size,))

    def find(self, identifier: str, kinds: tuple[str, ...]) -> list[int]:
        """Entries of these kinds with this id, oldest first."""
        marks = ",".join("?" * len(kinds))
        query = f"SELECT entry FROM record WHERE id = ? AND kind IN ({marks}) ORDER BY entry"  # noqa: S608 - marks only
        return [row[0] for row in self._db.execute(query, (identifier, *kinds))]

    def last(self, kind: str, before: int) -> int | None:
        """The newest entry of a kind below `before`."""
        query = "SELECT MAX(entry) FROM record WHERE kind = ? AND entry < ?"
        found = self._db.execute(query, (kind, before)).fetchone()[0]
        return None if found is None else int(found)

    def close(self) -> None:
        self._db.close()


class Logbook:
    """The one writer of a site's log: `async with Logbook(...) as book: await book.record(...)`.

    Args:
        directory: holds ``log/`` and ``index.sqlite``.
        journal: the journal's live file.
        site_at: names the site that answers at an address (see `record.from_journal`).
        on_records: called with each batch that became durable; must not block.
    """

    def __init__(
        self,
        directory: Path,
        journal: Path,
        signer: Signer,
        here: SiteIdentity,
        site_at: Callable[[str], str | None],
        on_records: Callable[[list[Record]], None] = lambda records: None,
    ) -> None:
        self.here = here
        self.tail = JournalTail(journal)
        self.failure: IsochroneError | None = None
        self._signer, self._directory = signer, directory
        self._site_at, self._on_records = site_at, on_records
        self._store = FileLogStore(directory / "log")
        self._writer = LogWriter.open(self._store, signer, signer.name)
        self._index = Index(directory / "index.sqlite")
        self._queue: list[tuple[Record, asyncio.Future[int]]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._published_s = 0.0

    async def __aenter__(self) -> Logbook:
        await asyncio.to_thread(self._writer.publish, int(time.time()))
        await asyncio.to_thread(self._rebuild)
        self._task = asyncio.create_task(self._run(), name="logbook")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(IsochroneError):
            await asyncio.to_thread(self._sequence)
            await asyncio.to_thread(self._writer.publish, int(time.time()))
        self._index.close()
        self._store.close()

    @property
    def size(self) -> int:
        """Entries covered by the published checkpoint."""
        return self._writer.published_size

    @property
    def cursor(self) -> bytes:
        """How far the journal is durably sequenced."""
        return self._writer.cursor

    @property
    def index(self) -> Index:
        return self._index

    def reader(self) -> LogReader:
        """A reader of what is published, with a view of its own."""
        store = FileLogStore(self._directory / "log", writable=False)
        return LogReader(store, self._signer.verifier, self._signer.name)

    @property
    def public_directory(self) -> Path:
        """The static files that other parties read the log by."""
        return self._store.public_directory

    async def record(self, record: Record) -> int:
        """Append one record; returns its entry number once it is durable.

        Raises:
            StorageError: it is not durable, and the log has stopped.
        """
        if self.failure is not None:
            raise StorageError(f"the log has stopped: {self.failure}", code="log.stopped", hint=self.failure.hint)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((record, future))
        self._wake.set()
        return await future

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _SEQUENCE_S)
            self._wake.clear()
            try:
                await self._step()
            except IsochroneError as error:
                self._fail(error)
                return

    async def _step(self) -> None:
        waiting, self._queue = self._queue, []
        try:
            first, records = await asyncio.to_thread(self._sequence, [record for record, _ in waiting])
            if time.monotonic() - self._published_s >= _CHECKPOINT_S:
                await asyncio.to_thread(self._writer.publish, int(time.time()))
                self._published_s = time.monotonic()
        except IsochroneError as error:
            for _, future in waiting:
                future.set_exception(error)
            raise
        for number, (_, future) in enumerate(waiting):
            if not future.done():
                future.set_result(first + number)
        if records:
            self._on_records(records)

    def _fail(self, error: IsochroneError) -> None:
        self.failure = error
        for _, future in self._queue:
            future.set_exception(error)
        self._queue = []

    def _sequence(self, own: list[Record] | None = None) -> tuple[int, list[Record]]:
        """One durable step: the node's own records, then what the journal holds. Runs in a worker thread."""
        records = list(own or [])
        batch = self.tail.read(self._writer.cursor)
        records += [from_journal(line, self.here, self._site_at) for line in batch.entries]
        now_us = int(time.time() * 1e6)
        for found in batch.findings:
            where = f"segment {found.segment}, bytes {found.offset_start} to {found.offset_end}"
            records.append(finding(self.here, now_us, f"journal-{found.kind}", f"{where}: {found.detail}"))
        if not records and batch.cursor == self._writer.cursor:
            return self._writer.size, []
        indexes = self._writer.append([encode(record) for record in records], batch.cursor)
        self._index.add(indexes.start, records)
        return indexes.start, records

    def _rebuild(self) -> None:
        """Bring the index to the log's published size."""
        self._index.cut(self._writer.published_size)
        start = self._index.size
        if start >= self._writer.published_size:
            return
        reader = self.reader()
        reader.checkpoint()
        chunk: list[Record] = []
        for data in reader.entries(start):
            chunk.append(decode(data))
            if len(chunk) == 5000:
                self._index.add(start, chunk)
                start, chunk = start + len(chunk), []
        if chunk:
            self._index.add(start, chunk)


def proof_of(reader: LogReader, entry: int) -> dict[str, Any]:
    """An entry with what proves it, as it travels: the record's text and a C2SP tlog-proof."""
    verified = reader.verify_entry(entry)
    return {"entry": entry, "record": verified.entry.decode(), "proof": reader.prove(entry).encode().decode()}
