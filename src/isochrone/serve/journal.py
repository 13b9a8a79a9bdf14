"""The journal: Envoy's access-log file read as a write-ahead log.

Envoy appends lines to ``journal.jsonl``; rotation renames it to ``journal-NNNNNN.jsonl`` and asks Envoy to reopen. A
*segment* is one such file, numbered from 1 in the order of writing; the live file has the next number. The cursor is
(segment number, byte offset, fingerprint of the segment's beginning), as bytes that sort in reading order. The reader
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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isochrone.errors import IntegrityError
from isochrone.serve.files import fsync_dir, storage_errors

__all__ = ["LINE_BYTES_MAX", "Batch", "Cursor", "Finding", "JournalTail"]

LINE_BYTES_MAX = 65_535
"""Longer lines are findings: a record has the same bound."""
_FINGERPRINT_BYTES = 256
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """Where reading goes on: before byte `offset` of segment `segment`, which begins as `fingerprint` says.

    `fingerprint` is the SHA-256 (first 8 bytes) of the segment's first `covered` bytes, at most 256: it tells a
    replaced file from one that has grown.
    """

    segment: int = 1
    offset: int = 0
    covered: int = 0
    fingerprint: bytes = b"\0" * 8

    def to_bytes(self) -> bytes:
        """26 bytes, big-endian, so that later cursors compare greater as bytes too."""
        return (
            self.segment.to_bytes(8, "big")
            + self.offset.to_bytes(8, "big")
            + self.covered.to_bytes(2, "big")
            + self.fingerprint
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Cursor:
        """Inverse of `to_bytes`; empty bytes are the beginning.

        Raises:
            IntegrityError: ``journal.cursor``: not 26 bytes.
        """
        if not data:
            return cls()
        if len(data) != 26:
            raise IntegrityError(f"a journal cursor has 26 bytes, not {len(data)}", code="journal.cursor")
        parts = (int.from_bytes(data[a:b], "big") for a, b in ((0, 8), (8, 16), (16, 18)))
        return cls(*parts, fingerprint=data[18:])


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
    """One read: complete lines (without newline, each a JSON object), findings, and the cursor behind both."""

    lines: list[bytes]
    findings: list[Finding]
    cursor: bytes

    @property
    def empty(self) -> bool:
        """Whether there was nothing new."""
        return not self.lines and not self.findings


class JournalTail:
    """Reads and rotates one journal; `path` is the live file, e.g. ``DIR/journal.jsonl``.

    It never writes into the journal, so any number of readers may exist; only one may `rotate`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = re.compile(re.escape(path.stem) + r"-(\d{6,})" + re.escape(path.suffix))

    def read(self, cursor: bytes = b"", lines_max: int = 10_000) -> Batch:
        """The next complete lines behind `cursor`, at most `lines_max`; a torn last line waits until it is complete.

        Raises:
            IntegrityError: the cursor is not one of ours.
            StorageError: a journal file exists and cannot be read.
        """
        at = Cursor.from_bytes(cursor)
        lines: list[bytes] = []
        findings: list[Finding] = []
        while len(lines) < lines_max:
            segments = self.segments()
            live = max(segments, default=0) + 1
            if at.segment > live:
                detail = f"the newest closed segment is {live - 1}: rotated files were removed or renamed"
                findings.append(Finding("missing", live, 0, 0, detail))
                at = Cursor(live)
            path = segments.get(at.segment, self.path if at.segment == live else None)
            if path is None:
                following = min(s for s in (*segments, live) if s > at.segment)
                findings.append(
                    Finding("missing", at.segment, at.offset, at.offset, "the file of this segment is gone")
                )
                at = Cursor(following)
                continue
            at = self._read_segment(path, at, lines, findings, lines_max)
            if at.segment == live or len(lines) >= lines_max or not self._at_end(path, at):
                # A rotation since the listing renamed what was read as live: the next read finds it by its number.
                break
            at = self._leave(path, at, findings)
        return Batch(lines, findings, at.to_bytes())

    def segments(self) -> dict[int, Path]:
        """The closed segments, by number."""
        with storage_errors("listing", self.path.parent):
            names = os.listdir(self.path.parent) if self.path.parent.is_dir() else []
        matches = {int(m.group(1)): self.path.parent / n for n in names if (m := self._name.fullmatch(n))}
        return dict(sorted(matches.items()))

    async def rotate(
        self, reopen: Callable[[], Awaitable[None]], *, bytes_max: int, sequenced: bytes = b"", force: bool = False
    ) -> list[Path]:
        """Close the live segment when it has reached `bytes_max` and delete closed segments that are wholly sequenced.

        Args:
            reopen: makes Envoy open its logs anew (`EnvoyProcess.reopen_logs`); until then Envoy goes on writing into
                the renamed file, which is why a closed segment is never deleted in the call that closed it.
            bytes_max: size at which to rotate.
            sequenced: durable cursor: only segments before its segment are deleted.
            force: rotate whatever the size (unless empty).

        Returns:
            The files deleted.

        Raises:
            StorageError: rename or delete failed; `PeerError` from `reopen` (then the rename stands, reading goes on,
                and the next call asks again).
        """
        deleted = await asyncio.to_thread(self._delete_before, Cursor.from_bytes(sequenced).segment)
        if await asyncio.to_thread(self._close_live, 1 if force else bytes_max) or not self.path.exists():
            await reopen()
        return deleted

    def _delete_before(self, segment: int) -> list[Path]:
        done = [path for number, path in self.segments().items() if number < segment]
        # The highest number stays: the live segment's own number follows from it.
        done = [path for path in done if path != self.segments()[max(self.segments())]]
        for path in done:
            with storage_errors("deleting", path):
                path.unlink(missing_ok=True)
        if done:
            fsync_dir(self.path.parent)
        return done

    def _close_live(self, bytes_max: int) -> bool:
        try:
            if self.path.stat().st_size < bytes_max:
                return False
        except FileNotFoundError:
            return False
        number = max(self.segments(), default=0) + 1
        closed = self.path.with_name(f"{self.path.stem}-{number:06d}{self.path.suffix}")
        with storage_errors("renaming", self.path):
            self.path.rename(closed)
        fsync_dir(self.path.parent)
        return True

    def _read_segment(
        self, path: Path, at: Cursor, lines: list[bytes], findings: list[Finding], lines_max: int
    ) -> Cursor:
        """Append what is complete in one segment behind `at`; returns the cursor behind it."""
        try:
            file = path.open("rb")
        except FileNotFoundError:  # Envoy has not opened it (again) yet, or it was renamed since the listing
            return at
        with storage_errors("reading", path), file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_FINGERPRINT_BYTES)
            at = _checked(at, head, size, findings)
            offset, start = at.offset, len(lines)
            file.seek(offset)
            rest = b""
            while len(lines) < lines_max and (chunk := file.read(_CHUNK_BYTES)):
                *complete, rest = (rest + chunk).split(b"\n")
                for line in complete:
                    if len(lines) >= lines_max:
                        break
                    problem = _problem(line)
                    if problem:
                        findings.append(Finding("malformed", at.segment, offset, offset + len(line) + 1, problem))
                    else:
                        lines.append(line)
                    offset += len(line) + 1
                if len(rest) > _CHUNK_BYTES:  # no newline in a whole chunk: not lines at all; do not hold it in memory
                    break
            if offset == at.offset and len(lines) == start:
                return at
            covered = min(offset, len(head))
            return Cursor(at.segment, offset, covered, _fingerprint(head[:covered]))

    def _at_end(self, path: Path, at: Cursor) -> bool:
        """Whether nothing complete is left in a closed segment."""
        with storage_errors("reading", path), path.open("rb") as file:
            file.seek(at.offset)
            return b"\n" not in file.read(_CHUNK_BYTES)

    def _leave(self, path: Path, at: Cursor, findings: list[Finding]) -> Cursor:
        """Step from a closed segment to the next; what is left in it can never become a line."""
        size = path.stat().st_size
        if size > at.offset:
            findings.append(Finding("torn", at.segment, at.offset, size, "the segment ends within a line"))
        return Cursor(at.segment + 1)


def _checked(at: Cursor, head: bytes, size: int, findings: list[Finding]) -> Cursor:
    """`at`, or the beginning of the segment with a finding when the file is not the one `at` was made in."""
    if head[: at.covered] != b"" and at.covered and len(head) >= at.covered:
        if _fingerprint(head[: at.covered]) != at.fingerprint:
            findings.append(Finding("replaced", at.segment, 0, at.offset, "the file's beginning is not what was read"))
            return Cursor(at.segment)
    if size < at.offset:
        detail = f"{at.offset} bytes were read, the file has {size}"
        findings.append(Finding("truncated", at.segment, size, at.offset, detail))
        return Cursor(at.segment)
    return at


def _fingerprint(head: bytes) -> bytes:
    return hashlib.sha256(head).digest()[:8]


def _problem(line: bytes) -> str:
    """Why a line is not a journal line; empty when it is."""
    if len(line) > LINE_BYTES_MAX:
        return f"{len(line)} bytes, more than {LINE_BYTES_MAX}"
    try:
        return "" if isinstance(json.loads(line), dict) else "not a JSON object"
    except ValueError as e:
        return f"not JSON: {e}"
