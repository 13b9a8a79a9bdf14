"""The logbook of a site: journal lines and the node's own records become entries of its logs, exactly once.

One writer. What was read from the journal and what the node itself recorded go into the logs in one durable step with
the journal's cursor, so a crash at any point loses nothing and doubles nothing: shards come first, the main log last,
and its commit is the step's. A step that stopped in between is finished when the logs are opened again, as the shards'
bookmarks say. The index is derived: it is rebuilt from the logs when it is missing, damaged or ahead.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from isochrone.errors import InputError, IsochroneError, StorageError
from isochrone.record.canonical import Record, decode, encode
from isochrone.record.records import SiteIdentity, finding, from_journal
from isochrone.record.shards import MAIN, SHARDS, shard_of
from isochrone.serve.bookmark import Bookmark, Tally
from isochrone.serve.journal import Batch, JournalTail
from isochrone.serve.log_index import Index
from isochrone.serve.logstore import Disk
from isochrone.serve.shard import Shard, shard_directory
from isochrone.tlog.note import NoteVerifier, Signer
from isochrone.tlog.reader import LogReader

__all__ = ["Logbook"]

_SEQUENCE_S = 0.05
_CHECKPOINT_S = 1.0
_RECOVER_S = 1.0
_LINES_MAX = 10_000
_LIVES_KEPT = 8

Entry = tuple[bytes, Record]


class Logbook:
    """The one writer of a site's logs: `async with Logbook(...) as book: await book.record(...)`.

    Args:
        directory: holds ``log/``, ``log-<class>/``, ``cosigned/`` and ``index.sqlite``.
        journal: the journal's live file.
        signer: the key of the main log, and under other names of every shard.
        site_at: names the site that answers at an address (see `record.from_journal`).
        on_records: called with each batch that became durable; must not block.
        classes: contract to shard, as of now (see `record.shards.classes_of`).
        disk: told of each step (see `write_path`), and does the logs' file operations.

    Attributes:
        failure: why nothing can be recorded now, or None.
        published: set with every new checkpoint; cleared by the one who waits for it.
        sequenced_s: when the last durable step began; read_to_s: what was in the journal then is all sequenced.
        ended: what the last Envoys wrote that write no more, by their first segment.
    """

    def __init__(
        self,
        directory: Path,
        journal: Path,
        signer: Signer,
        here: SiteIdentity,
        site_at: Callable[[str], str | None],
        on_records: Callable[[list[Record]], None] = lambda records: None,
        classes: Callable[[], Mapping[str, str]] = dict,
        disk: Disk | None = None,
    ) -> None:
        self.here = here
        self._disk = disk or Disk()
        self.tail = JournalTail(journal, self._disk)
        self.failure: IsochroneError | None = None
        self.published = asyncio.Event()
        self.shards: dict[str, Shard] = {}
        self.index = Index(directory / "index.sqlite")
        self._signer, self._directory = signer, directory
        self._site_at, self._on_records, self._classes = site_at, on_records, classes
        self._lives: list[int] = []
        self._condemned: IsochroneError | None = None
        self._queue: list[tuple[bytes, Record, asyncio.Future[int]]] = []
        self._wake, self._writing = asyncio.Event(), asyncio.Lock()
        self._ending = False
        self._read_mark: tuple[int, ...] | None = None
        self._task: asyncio.Task[None] | None = None
        self._published_s = self.sequenced_s = self.read_to_s = 0.0
        self.ended: dict[int, Tally] = {}
        try:
            for name in SHARDS:
                if name == MAIN or shard_directory(directory, name).is_dir():
                    self._shard(name)
        except BaseException:
            self.close()
            raise

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
        self.close()

    def close(self) -> None:
        """Let go of all files; for a logbook whose loop has ended or never ran."""
        self.index.close()
        for shard in self.shards.values():
            shard.close()

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def main(self) -> Shard:
        return self.shards[MAIN]

    @property
    def size(self) -> int:
        """Entries covered by published checkpoints, over all logs."""
        return sum(shard.writer.published_size for shard in self.shards.values())

    @property
    def cursor(self) -> bytes:
        """How far the journal is durably sequenced."""
        return self.main.bookmark.journal

    @property
    def tally(self) -> Tally:
        """Journal lines sequenced of the Envoy that wrote the last one."""
        return self.main.bookmark.tally

    @property
    def life(self) -> int:
        """The first segment of the Envoy that writes now."""
        return self._lives[-1] if self._lives else self.tally.segment

    def reader(self, shard: str = MAIN) -> LogReader:
        """A reader of what is published, with a view of its own."""
        return self.shards[shard].reader()

    def since(self, kind: str, at_us: int) -> list[Record]:
        """The published records of a kind that began at or after a time, log by log."""
        found: list[Record] = []
        for name, shard in self.shards.items():
            reader = shard.reader()
            size = reader.checkpoint().size
            found += [decode(reader.entry(entry)) for entry in self.index.since(name, kind, at_us) if entry < size]
        return found

    def backlog_bytes(self) -> int:
        """Journal bytes that are not sequenced yet."""
        return self.tail.backlog_bytes(self.cursor)

    def begin_life(self) -> int:
        """Close the journal of the Envoy that has ended; the next one writes from the segment returned."""
        self.tail.close_live(self.main.bookmark.segment)
        self._lives.append(self.tail.next_segment(self.cursor))
        return self._lives[-1]

    async def record(self, record: Record) -> int:
        """Append one record to the main log; its entry number, once it is durable. Raises as `submit` does."""
        return await self.submit(record)

    def submit(self, record: Record) -> asyncio.Future[int]:
        """Append one record to the main log; all that wait at the same time become durable together, in one write.

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

    async def add_cosignatures(self, shard: Shard, size: int, lines: bytes, verifiers: Sequence[NoteVerifier]) -> None:
        """Publish witnesses' lines with the checkpoint of `size`, if that is still the newest."""
        async with self._writing:
            if self.failure is None and shard.writer.published_size == size:
                await asyncio.to_thread(shard.writer.add_cosignatures, lines, verifiers)

    async def prune(self, before_us: Mapping[str, int]) -> dict[str, int]:
        """Prune each named log of whole bundles of records that began before a time (us); what is left begins where."""
        async with self._writing:
            return await asyncio.to_thread(self._prune, before_us)

    def condemn(self, error: IsochroneError) -> None:
        """Record nothing any more: this log is not what its witnesses have seen, and every entry would be a fork."""
        self._condemned = error
        self._fail(error)

    # --- the loop -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            timer = asyncio.get_running_loop().call_later(_SEQUENCE_S, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            self._wake.clear()
            ending = self._ending
            try:
                if self._condemned is None:
                    async with self._writing:
                        await self._recover_and_step(publish=ending)
            except (IsochroneError, OSError, sqlite3.Error) as error:
                self._fail(error)
                if not ending:
                    await asyncio.sleep(_RECOVER_S)
            if ending:
                return

    async def _recover_and_step(self, *, publish: bool) -> None:
        if self.failure is not None:
            await asyncio.to_thread(self._open_again)
            self.failure = None
        await self._step(publish=publish)

    async def _step(self, *, publish: bool) -> None:
        waiting, self._queue, begun_s = self._queue, [], time.time()
        first, records, mark = 0, list[Record](), self.tail.mark()
        try:
            if waiting or mark is None or mark != self._read_mark:
                first, records = await asyncio.to_thread(self._sequence, [(each[0], each[1]) for each in waiting])
        except BaseException as error:
            for _, _, future in waiting:
                if not future.done():
                    future.set_exception(_stopped(error))
            raise
        self.sequenced_s = begun_s
        if len(records) < _LINES_MAX:
            self.read_to_s, self._read_mark = begun_s, mark
        else:
            self._wake.set()
        for number, (_, _, future) in enumerate(waiting):
            if not future.done():
                future.set_result(first + number)
        if records:
            self._on_records(records)
        if publish or time.monotonic() - self._published_s >= _CHECKPOINT_S:
            await asyncio.to_thread(self._publish)
            self._published_s = time.monotonic()
            self.published.set()

    def _fail(self, error: Exception) -> None:
        self.failure, self._read_mark = _stopped(self._condemned or error), None
        for _, _, future in self._queue:
            if not future.done():
                future.set_exception(self.failure)
        self._queue = []

    # --- files, in worker threads ---------------------------------------------------------------------------------

    def _shard(self, name: str) -> Shard:
        if name not in self.shards:
            self.shards[name] = Shard(self._directory, name, self._signer, self._disk)
        return self.shards[name]

    def _begin(self) -> None:
        self.index.mended(self._catch_up)

    def _catch_up(self) -> None:
        self._finish_step()
        self._publish()
        for shard in self.shards.values():
            self._rebuild(shard)

    def _open_again(self) -> None:
        """After a failure nobody knows what reached the disk: read it from there, as after a crash."""
        for shard in self.shards.values():
            shard.open()
        self._begin()

    def _publish(self) -> None:
        for shard in self.shards.values():
            self._disk.reach("log.publish")
            shard.writer.publish(int(time.time()))

    def _finish_step(self) -> None:
        """A step that stopped between two shards: what was not written is written, as the step had begun."""
        ahead = [shard for shard in self.shards.values() if shard.bookmark.journal > self.cursor]
        if not ahead:
            return
        step = ahead[0].bookmark
        batch = self.tail.read(self.cursor, until=step.journal)
        parts = self._parts(batch, step.classes, [])
        self._append({name: part for name, part in parts.items() if self._shard(name) not in ahead}, step)

    def _sequence(self, own: list[Entry]) -> tuple[int, list[Record]]:
        """One durable step: the node's own records, then what the journal holds."""
        before = self.main.bookmark
        batch = self.tail.read(before.journal, _LINES_MAX)
        classes = dict(self._classes())
        tally, ended = self._count(before.tally, batch)
        parts = self._parts(batch, classes, own)
        parts[MAIN] += [self._entry(record, record["start_us"]) for record in ended]
        if not any(parts.values()) and batch.cursor == before.journal:
            return self.main.writer.size, []
        first = self.main.writer.size
        self._append(parts, Bookmark(batch.cursor, tally, classes))
        return first, [record for part in parts.values() for _, record in part]

    def _append(self, parts: Mapping[str, list[Entry]], bookmark: Bookmark) -> None:
        """Append to each shard, the main log last; its commit is the step's."""
        for name in sorted(parts, reverse=True):
            shard = self._shard(name)
            self._disk.reach("log.append")
            indexes = shard.writer.append([data for data, _ in parts[name]], bookmark.encode())
            self._disk.reach("index.write")
            self.index.add(indexes.start, [record for _, record in parts[name]], name)
        self._disk.reach("batch.done")

    def _parts(self, batch: Batch, classes: Mapping[str, str], own: list[Entry]) -> dict[str, list[Entry]]:
        """What goes into which log: the node's own records and findings into the main one."""
        self._disk.reach("batch.encode")
        parts: dict[str, list[Entry]] = {MAIN: list(own)}
        now_us = int(time.time() * 1e6)
        for line in batch.entries:
            entry = self._entry(from_journal(line, self.here, self._site_at), now_us)
            parts.setdefault(shard_of(entry[1], classes), []).append(entry)
        for found in batch.findings:
            where = f"segment {found.segment}, bytes {found.offset_start} to {found.offset_end}"
            record = finding(self.here, now_us, f"journal-{found.kind}", f"{where}: {found.detail}")
            parts[MAIN].append(self._entry(record, now_us))
        return parts

    def _count(self, tally: Tally, batch: Batch) -> tuple[Tally, list[Record]]:
        """The tally behind this batch, and findings about an Envoy that has written its last line."""
        found: list[Record] = []
        position = 0
        for segment, count in batch.segments.items():
            life = max((first for first in self._lives if first <= segment), default=tally.segment)
            if count and life > tally.segment:
                found += self._unended(tally, segment)
                self.ended = {**dict(list(self.ended.items())[-_LIVES_KEPT:]), tally.segment: tally}
                tally = Tally(life)
            tally = tally.add(batch.entries[position : position + count]) if count else tally
            position += count
        return tally, found

    def _unended(self, tally: Tally, segment: int) -> Iterable[Record]:
        for role, counts in tally.counts.items():
            if counts.unended:
                detail = (
                    f"{role}: {counts.unended} of {counts.starts} requests began and have no end: the Envoy that wrote "
                    f"segments {tally.segment} to {segment - 1} was stopped before they ended"
                )
                yield finding(self.here, int(time.time() * 1e6), "executions-unended", detail)

    def _entry(self, record: Record, now_us: int) -> Entry:
        """What a client wrote into its request must never stop the log: what is no record is a finding."""
        try:
            return encode(record), record
        except InputError as error:
            what = ascii(f"{record['kind']} {record.get('id')}: {error}")
            made = finding(self.here, now_us, "journal-unfit", what[:500])
            return encode(made), made

    def _prune(self, before_us: Mapping[str, int]) -> dict[str, int]:
        left = {}
        for name, at_us in before_us.items():
            shard = self.shards.get(name)
            if shard is not None:
                first = self.index.first_since(name, at_us)
                entry = shard.writer.published_size if first is None else min(first, shard.writer.published_size)
                left[name] = shard.writer.prune(entry)
                self.index.keep(name, left[name], shard.writer.size)
        return left

    def _rebuild(self, shard: Shard) -> None:
        """Bring the index to the log's published size."""
        writer = shard.writer
        self.index.keep(shard.name, writer.minimum_index, writer.published_size)
        start = max(self.index.size(shard.name), writer.minimum_index)
        if start >= writer.published_size:
            return
        reader = shard.reader()
        reader.checkpoint()
        records = map(decode, reader.entries(start))
        while chunk := list(islice(records, 5000)):
            self.index.add(start, chunk, shard.name)
            start += len(chunk)


def _stopped(error: BaseException) -> IsochroneError:
    """The operating error that stands for what went wrong below."""
    if isinstance(error, IsochroneError):
        return error
    return StorageError(f"the log cannot be written: {error}", code="storage.io", hint="check the site's disk")
