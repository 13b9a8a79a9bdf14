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

from isochrone.errors import InputError, IsochroneError, StorageError
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
_RECOVER_S = 1.0


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
        try:
            self._db.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            # What is missing is found and added when the log is opened again.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def cut(self, size: int) -> None:
        """Forget entries the log does not hold."""
        self._db.execute("DELETE FROM record WHERE entry >= ?", (size,))

    def find(self, identifier: str, kinds: tuple[str, ...]) -> list[int]:
        """Entries of these kinds with this id, oldest first."""
        marks = ",".join("?" * len(kinds))
        query = f"SELECT entry FROM record WHERE id = ? AND kind IN ({marks}) ORDER BY entry"  # noqa: S608 - marks only
        return [row[0] for row in self._db.execute(query, (identifier, *kinds))]

    def since(self, kind: str, at_us: int) -> list[int]:
        """Entries of a kind that began at or after a time, oldest first."""
        query = "SELECT entry FROM record WHERE kind = ? AND at_us >= ? ORDER BY entry"
        return [row[0] for row in self._db.execute(query, (kind, at_us))]

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
        self._queue: list[tuple[bytes, Record, asyncio.Future[int]]] = []
        self._wake = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self._published_s = 0.0
        self.sequenced_s = 0.0

    async def __aenter__(self) -> Logbook:
        await asyncio.to_thread(self._begin)
        self._task = asyncio.create_task(self._run(), name="logbook")
        return self

    async def __aexit__(self, *_: object) -> None:
        # The task ends by itself: a thread of its cannot be cancelled, and two must never write.
        self._ending = True
        self._wake.set()
        if self._task:
            await asyncio.wait([self._task])
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

    def since(self, kind: str, at_us: int) -> list[Record]:
        """The published records of a kind that began at or after a time."""
        reader = self.reader()
        reader.checkpoint()
        return [decode(reader.entry(entry)) for entry in self._index.since(kind, at_us) if entry < self.size]

    @property
    def public_directory(self) -> Path:
        """The static files that other parties read the log by."""
        return self._store.public_directory

    async def record(self, record: Record) -> int:
        """Append one record; returns its entry number once it is durable. Raises as `submit` and its future do."""
        return await self.submit(record)

    def submit(self, record: Record) -> asyncio.Future[int]:
        """Append one record; all that wait at the same time become durable together, in one write.

        Returns:
            The entry number, once it is durable; StorageError if it may not be.

        Raises:
            InputError: it is no record (see `canonical.encode`).
            StorageError: the log has stopped until it can be written again.
        """
        data = encode(record)
        if self.failure is not None or self._ending:
            reason = self.failure or "the node is stopping"
            raise StorageError(f"the log has stopped: {reason}", code="log.stopped", hint="see the site's alarms")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((data, record, future))
        self._wake.set()
        return future

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _SEQUENCE_S)
            self._wake.clear()
            ending = self._ending
            try:
                if self.failure is not None:
                    await asyncio.to_thread(self._open_again)
                    self.failure = None
                await self._step(publish=ending)
            except (IsochroneError, OSError, sqlite3.Error) as error:
                self._fail(error)
                if not ending:
                    await asyncio.sleep(_RECOVER_S)
            if ending:
                return

    async def _step(self, *, publish: bool) -> None:
        waiting, self._queue, begun_s = self._queue, [], time.time()
        own = [(data, record) for data, record, _ in waiting]
        try:
            first, records = await asyncio.to_thread(self._sequence, own)
        except BaseException as error:
            for _, _, future in waiting:
                if not future.done():
                    future.set_exception(_stopped(error))
            raise
        self.sequenced_s = begun_s
        for number, (_, _, future) in enumerate(waiting):
            if not future.done():
                future.set_result(first + number)
        if records:
            self._on_records(records)
        if publish or time.monotonic() - self._published_s >= _CHECKPOINT_S:
            await asyncio.to_thread(self._writer.publish, int(time.time()))
            self._published_s = time.monotonic()

    def _fail(self, error: Exception) -> None:
        self.failure = _stopped(error)
        for _, _, future in self._queue:
            if not future.done():
                future.set_exception(self.failure)
        self._queue = []

    def _begin(self) -> None:
        self._writer.publish(int(time.time()))
        self._rebuild()

    def _open_again(self) -> None:
        """After a failure nobody knows what reached the disk: read it from there, as after a crash."""
        self._writer = LogWriter.open(self._store, self._signer, self._signer.name)
        self._begin()

    def _sequence(self, own: list[tuple[bytes, Record]]) -> tuple[int, list[Record]]:
        """One durable step: the node's own records, then what the journal holds. Runs in a worker thread."""
        entries = list(own)
        batch = self.tail.read(self._writer.cursor)
        now_us = int(time.time() * 1e6)
        for line in batch.entries:
            entries.append(self._entry(from_journal(line, self.here, self._site_at), now_us))
        for found in batch.findings:
            where = f"segment {found.segment}, bytes {found.offset_start} to {found.offset_end}"
            record = finding(self.here, now_us, f"journal-{found.kind}", f"{where}: {found.detail}")
            entries.append(self._entry(record, now_us))
        if not entries and batch.cursor == self._writer.cursor:
            return self._writer.size, []
        indexes = self._writer.append([data for data, _ in entries], batch.cursor)
        records = [record for _, record in entries]
        self._index.add(indexes.start, records)
        return indexes.start, records

    def _entry(self, record: Record, now_us: int) -> tuple[bytes, Record]:
        """What a client wrote into its request must never stop the log: what is no record is a finding."""
        try:
            return encode(record), record
        except InputError as error:
            what = ascii(f"{record['kind']} {record.get('id')}: {error}")
            made = finding(self.here, now_us, "journal-unfit", what[:500])
            return encode(made), made

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


def _stopped(error: BaseException) -> IsochroneError:
    """The operating error that stands for what went wrong below."""
    if isinstance(error, IsochroneError):
        return error
    return StorageError(f"the log cannot be written: {error}", code="storage.io", hint="check the site's disk")


def proof_of(reader: LogReader, entry: int) -> dict[str, Any]:
    """An entry with what proves it, as it travels: the record's text and a C2SP tlog-proof."""
    verified = reader.verify_entry(entry)
    return {"entry": entry, "record": verified.entry.decode(), "proof": reader.prove(entry).encode().decode()}
