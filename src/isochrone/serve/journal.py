"""The journal: Envoy's access-log file read as a write-ahead log.

Envoy appends lines to ``journal.jsonl``; rotation renames it to ``journal-NNNNNN.jsonl`` and asks Envoy to reopen. A
*segment* is one such file, numbered from 1 in the order of writing; the live file has the next number. The cursor is
(segment, generation, byte offset, fingerprint of its beginning), as bytes that sort in reading order. The reader
keeps nothing else: whoever stores the cursor together with what was read from it gets each line exactly once.

What cannot be explained by appending and rotating (a file cut short, replaced, missing, a line that is not JSON) is
returned as a `Finding`, and reading goes on behind it: a damaged journal must be seen, and must not stop the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from isochrone.errors import IntegrityError
from isochrone.serve.files import fsync_dir, storage_errors
from isochrone.serve.logstore import Disk

__all__ = ["LINE_BYTES_MAX", "Batch", "Cursor", "Finding", "JournalTail"]

LINE_BYTES_MAX = 65_535
"""Longer lines are findings: a record has the same bound."""
_FINGERPRINT_BYTES = 256
_CHUNK_BYTES = 1 << 20
_CURSOR = struct.Struct(">QHQH8s")


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """Where reading goes on: before byte `offset` of segment `segment`, which begins as `fingerprint` says.

    `generation` counts how often the segment was found cut short or replaced: it keeps cursors rising when the offset
    has to fall. `fingerprint` is the SHA-256 (first 8 bytes) of the segment's first `covered` bytes, at most 256: it
    tells a replaced file from one that has grown.
    """

    segment: int = 1
    generation: int = 0
    offset: int = 0
    covered: int = 0
    fingerprint: bytes = b"\0" * 8

    def to_bytes(self) -> bytes:
        """28 bytes, big-endian, so that a later cursor compares greater as bytes too."""
        return _CURSOR.pack(self.segment, self.generation, self.offset, self.covered, self.fingerprint)

    @classmethod
    def from_bytes(cls, data: bytes) -> Cursor:
        """Inverse of `to_bytes`; empty bytes are the beginning.

        Raises:
            IntegrityError: ``journal.cursor``: neither empty nor 28 bytes.
        """
        if not data:
            return cls()
        if len(data) != _CURSOR.size:
            raise IntegrityError(f"a journal cursor has {_CURSOR.size} bytes, not {len(data)}", code="journal.cursor")
        return cls(*_CURSOR.unpack(data))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the journal that must be recorded: what, and the bytes of which segment it concerns."""

    kind: Literal["malformed", "truncated", "replaced", "missing", "torn"]
    segment: int
    offset_start: int
    offset_end: int
    detail: str


@dataclass(frozen=True, slots=True)
class Batch:
    """One read: complete lines (without newline), each one's JSON object, findings, and the cursor behind them all.

    `segments` says which segment the entries are from: number to how many, in order.
    """

    lines: list[bytes]
    entries: list[dict[str, Any]]
    findings: list[Finding]
    cursor: bytes
    segments: dict[int, int]

    @property
    def empty(self) -> bool:
        """Whether there was nothing new."""
        return not self.lines and not self.findings


class JournalTail:
    """Reads and rotates one journal; `path` is the live file, e.g. ``DIR/journal.jsonl``.

    It never writes into the journal, so any number of readers may exist; only one may `rotate`.

    Args:
        disk: told of each step of the write path.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path = path
        self._disk = disk or Disk()
        # A rotation and the start of another Envoy close the live file from two threads: each finds its own number.
        self._closing = threading.Lock()
        self._name = re.compile(re.escape(path.stem) + r"-(\d{6,})" + re.escape(path.suffix))

    def read(self, cursor: bytes = b"", lines_max: int = 10_000, until: bytes = b"") -> Batch:
        """The next complete lines behind `cursor`, at most `lines_max`; a torn last line waits until it is complete.

        With `until`, the cursor that an earlier read gave, exactly the lines of that read come again.

        Blocking file reading: call it through `asyncio.to_thread` when the batch may be large.

        Raises:
            IntegrityError: the cursor is not one of ours.
            StorageError: a journal file exists and cannot be read.
        """
        with storage_errors("reading", self.path):
            self._disk.reach("journal.read")
        at, stop = Cursor.from_bytes(cursor), Cursor.from_bytes(until) if until else None
        batch = Batch([], [], [], b"", {})
        while stop is None or (at.segment, at.offset) < (stop.segment, stop.offset):
            closed = self.segments()
            newest = max(closed, default=0)
            if at.segment <= newest and at.segment not in closed:
                at = self._skip_missing(at, closed, batch.findings)
                continue
            # Envoy closes a file before it opens the next: once that one exists, this one can no longer grow. Asked
            # before reading, or lines written between the last read and the question would be lost.
            final = at.segment < newest or (at.segment == newest and self.path.exists())
            file = self._open(at.segment, closed)
            if file is None:
                break
            bytes_max = stop.offset if stop is not None and stop.segment == at.segment else None
            before = len(batch.entries)
            with file, storage_errors("reading", self.path):
                at, exhausted = _read_segment(file, at, batch, lines_max, bytes_max)
                size = os.fstat(file.fileno()).st_size
            batch.segments[at.segment] = len(batch.entries) - before
            if not (final and exhausted) or bytes_max is not None:
                break
            if size > at.offset:
                detail = "the segment ends within a line: what wrote it was killed, or the disk was full"
                batch.findings.append(Finding("torn", at.segment, at.offset, size, detail))
            at = Cursor(at.segment + 1)
        return replace(batch, cursor=at.to_bytes())

    def mark(self) -> tuple[int, ...] | None:
        """What is another whenever something was written or renamed since; None when that cannot be told. Where it is
        the same as before a read that took everything, there is nothing to read."""
        try:
            found = self.path.stat()
        except OSError:
            return None  # between a rename and Envoy's next file, lines still go into the renamed one
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def backlog_bytes(self, cursor: bytes) -> int:
        """Bytes written behind `cursor` and not read yet, over all segments."""
        at = Cursor.from_bytes(cursor)
        sizes = {number: _size(path) for number, path in self.segments().items() if number >= at.segment}
        return max(0, sum(sizes.values()) + _size(self.path) - at.offset)

    def next_segment(self, cursor: bytes) -> int:
        """The number that the live file has: the one after all closed ones, and not before `cursor`'s."""
        return max(max(self.segments(), default=0) + 1, Cursor.from_bytes(cursor).segment)

    def segments(self) -> dict[int, Path]:
        """The closed segments, by number."""
        with storage_errors("listing", self.path.parent):
            names = os.listdir(self.path.parent) if self.path.parent.is_dir() else []
        matches = {int(m.group(1)): self.path.parent / n for n in names if (m := self._name.fullmatch(n))}
        return dict(sorted(matches.items()))

    async def rotate(
        self, reopen: Callable[[], Awaitable[None]], *, bytes_max: int, sequenced: bytes = b""
    ) -> list[Path]:
        """Close the live segment when it has reached `bytes_max`; delete closed segments that are wholly sequenced.

        Args:
            reopen: makes Envoy open its logs anew (`EnvoyProcess.reopen_logs`); until then Envoy goes on writing into
                the renamed file, so the newest closed segment is never deleted.
            bytes_max: size at which to rotate.
            sequenced: the durable cursor of the reader; only segments before its segment are deleted.

        Returns:
            The files deleted.

        Raises:
            StorageError: rename or delete failed.
            PeerError: from `reopen`. The rename stands, reading goes on, and the next call asks Envoy again.
        """
        segment = Cursor.from_bytes(sequenced).segment
        deleted = await asyncio.to_thread(self._delete_before, segment)
        await asyncio.to_thread(self.close_live, segment, bytes_max)
        if self.segments() and not self.path.exists():
            await reopen()
        return deleted

    def close_live(self, segment_min: int = 1, bytes_min: int = 1) -> bool:
        """Rename the live file to a closed segment if it has `bytes_min` bytes; False when there was nothing to close.

        Call it before Envoy starts: a line that the last Envoy left torn then ends its segment, instead of spoiling
        the first line of the new one. `segment_min` is the reader's segment, so that numbers never fall.
        """
        with self._closing, storage_errors("renaming", self.path):
            try:
                if self.path.stat().st_size < bytes_min:
                    return False
            except FileNotFoundError:
                return False
            number = self.next_segment(Cursor(segment_min).to_bytes())
            self._disk.reach("journal.rename")
            self.path.rename(self.path.with_name(f"{self.path.stem}-{number:06d}{self.path.suffix}"))
            self._disk.reach("journal.sync-directory")
            fsync_dir(self.path.parent)
        return True

    def _delete_before(self, segment: int) -> list[Path]:
        closed = self.segments()
        done = [path for number, path in closed.items() if number < min(segment, max(closed))]
        for path in done:
            with storage_errors("deleting", path):
                self._disk.reach("journal.delete")
                path.unlink(missing_ok=True)
        if done:
            fsync_dir(self.path.parent)
        return done

    def _open(self, segment: int, closed: dict[int, Path]) -> BinaryIO | None:
        """The segment's file; None when it is the live one and does not exist, or was rotated while we looked."""
        with storage_errors("opening", self.path):
            try:
                file = closed.get(segment, self.path).open("rb")
            except FileNotFoundError:
                return None
        if segment not in closed and segment in self.segments():
            file.close()
            return None
        return file

    @staticmethod
    def _skip_missing(at: Cursor, closed: dict[int, Path], findings: list[Finding]) -> Cursor:
        following = min(number for number in closed if number > at.segment)
        detail = f"segments {at.segment} to {following - 1} are gone; reading goes on at {following}"
        findings.append(Finding("missing", at.segment, at.offset, at.offset, detail))
        return Cursor(following)


def _read_segment(
    file: BinaryIO, at: Cursor, batch: Batch, lines_max: int, bytes_max: int | None
) -> tuple[Cursor, bool]:
    """Move complete lines behind `at`, and before byte `bytes_max`, into `batch`; the cursor behind them, and whether
    nothing complete is left."""
    head = file.read(_FINGERPRINT_BYTES)
    at = _checked(at, head, os.fstat(file.fileno()).st_size, batch.findings)
    offset, rest, exhausted = at.offset, b"", False
    file.seek(offset)
    while len(batch.lines) < lines_max:
        chunk = file.read(_CHUNK_BYTES if bytes_max is None else min(_CHUNK_BYTES, max(0, bytes_max - file.tell())))
        if not chunk:
            exhausted = True
            break
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete[: lines_max - len(batch.lines)]:
            end = offset + len(line) + 1
            entry = _parse(line)
            if isinstance(entry, dict):
                batch.lines.append(line)
                batch.entries.append(entry)
            else:
                batch.findings.append(Finding("malformed", at.segment, offset, end, entry))
            offset = end
    covered = min(offset, len(head))
    return Cursor(at.segment, at.generation, offset, covered, _fingerprint(head[:covered])), exhausted


def _checked(at: Cursor, head: bytes, size: int, findings: list[Finding]) -> Cursor:
    """`at`, or where to go on, with a finding, when the file is not the one in which `at` was made, grown."""
    if _fingerprint(head[: at.covered]) != at.fingerprint and at.covered:
        detail = f"the file's beginning is not what was read; it now has {size} bytes"
        findings.append(Finding("replaced", at.segment, 0, at.offset, detail))
        return Cursor(at.segment, at.generation + 1)
    if size < at.offset:
        detail = f"{at.offset} bytes were read, the file now has {size}"
        findings.append(Finding("truncated", at.segment, size, at.offset, detail))
        return Cursor(at.segment, at.generation + 1, size, at.covered, at.fingerprint)
    return at


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _fingerprint(head: bytes) -> bytes:
    return hashlib.sha256(head).digest()[:8]


def _parse(line: bytes) -> dict[str, Any] | str:
    """The line's JSON object, or why it is none."""
    if len(line) > LINE_BYTES_MAX:
        return f"{len(line)} bytes, more than {LINE_BYTES_MAX}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as e:
        return f"not JSON: {e}"
    return value if isinstance(value, dict) else "not a JSON object"
