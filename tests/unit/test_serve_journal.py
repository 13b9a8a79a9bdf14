"""Does the journal reader return every complete line once, and report everything else?"""

import asyncio
import json
from pathlib import Path

import pytest

from isochrone.errors import IntegrityError, PeerError
from isochrone.serve.journal import LINE_BYTES_MAX, Cursor, JournalTail


def line(n: int, pad: int = 0) -> bytes:
    return json.dumps({"id": n, "pad": "x" * pad}).encode()


def append(path: Path, *lines: bytes) -> None:
    with path.open("ab") as f:
        f.write(b"".join(each + b"\n" for each in lines))


@pytest.fixture
def tail(tmp_path: Path) -> JournalTail:
    return JournalTail(tmp_path / "journal.jsonl")


def test_nothing_yet_is_an_empty_batch(tail: JournalTail) -> None:
    batch = tail.read()
    assert batch.empty
    assert tail.read(batch.cursor).empty


def test_lines_come_once_and_a_torn_last_line_waits(tail: JournalTail) -> None:
    append(tail.path, line(1), line(2))
    with tail.path.open("ab") as f:
        f.write(b'{"id": 3, "p')
    first = tail.read()
    assert first.lines == [line(1), line(2)]
    assert [e["id"] for e in first.entries] == [1, 2]
    assert tail.read(first.cursor).empty
    with tail.path.open("ab") as f:
        f.write(b'ad": ""}\n')
    assert tail.read(first.cursor).lines == [line(3)]


def test_lines_max_bounds_a_batch(tail: JournalTail) -> None:
    append(tail.path, *map(line, range(10)))
    cursor, seen = b"", []
    while not (batch := tail.read(cursor, lines_max=3)).empty:
        assert len(batch.lines) <= 3
        assert batch.cursor > cursor
        seen += batch.lines
        cursor = batch.cursor
    assert seen == [line(n) for n in range(10)]


def test_a_closed_segment_may_still_grow_until_the_next_one_exists(tail: JournalTail) -> None:
    append(tail.path, line(1))
    cursor = tail.read().cursor
    assert tail.close_live()
    closed = tail.path.with_name("journal-000001.jsonl")
    append(closed, line(2))  # Envoy has not reopened yet and writes into the renamed file
    batch = tail.read(cursor)
    assert batch.lines == [line(2)]
    append(closed, line(3))
    append(tail.path, line(4))
    batch = tail.read(batch.cursor)
    assert batch.lines == [line(3), line(4)]
    assert batch.findings == []
    assert Cursor.from_bytes(batch.cursor).segment == 2


def test_the_mark_is_another_whenever_there_may_be_something_to_read(tail: JournalTail) -> None:
    assert tail.mark() is None, "no file yet: lines may still go into one that was renamed"
    append(tail.path, line(1))
    marks = [tail.mark()]
    assert tail.mark() == marks[0]
    append(tail.path, line(2))
    marks.append(tail.mark())
    assert tail.close_live()
    assert tail.mark() is None
    append(tail.path, line(1), line(2))
    marks.append(tail.mark())
    assert None not in marks
    assert len(set(marks)) == 3, "a new file of the same size is another one"


def test_the_tail_of_a_dead_writer_is_a_finding_not_a_line(tail: JournalTail) -> None:
    append(tail.path, line(1))
    with tail.path.open("ab") as f:
        f.write(b'{"id": 2')
    tail.close_live()
    append(tail.path, line(3))
    batch = tail.read()
    assert batch.lines == [line(1), line(3)]
    torn = batch.findings[0]
    assert (torn.kind, torn.segment, torn.offset_end - torn.offset_start) == ("torn", 1, len(b'{"id": 2'))


def test_malformed_lines_are_findings_with_their_place(tail: JournalTail) -> None:
    bad = [b"not json", b"[1]", b"", b"\xff\xfe", line(9, pad=LINE_BYTES_MAX), b"[" * 60_000]
    append(tail.path, line(1), *bad, line(2))
    batch = tail.read()
    assert batch.lines == [line(1), line(2)]
    assert [f.kind for f in batch.findings] == ["malformed"] * len(bad)
    raw = tail.path.read_bytes()
    assert [raw[f.offset_start : f.offset_end] for f in batch.findings] == [b + b"\n" for b in bad]


def test_a_file_cut_short_is_found_and_what_follows_is_read(tail: JournalTail) -> None:
    append(tail.path, line(1, 300), line(2))
    before = tail.read().cursor
    with tail.path.open("r+b") as f:
        f.truncate(len(line(1, 300)) + 1)
    batch = tail.read(before)
    assert [f.kind for f in batch.findings] == ["truncated"]
    assert batch.lines == []
    assert batch.cursor > before
    append(tail.path, line(3))
    assert tail.read(batch.cursor).lines == [line(3)]


def test_a_replaced_file_is_found_and_read_from_its_start(tail: JournalTail) -> None:
    append(tail.path, line(1), line(2))
    before = tail.read().cursor
    tail.path.write_bytes(line(7) + b"\n" + line(8) + b"\n" + line(9) + b"\n")
    batch = tail.read(before)
    assert [f.kind for f in batch.findings] == ["replaced"]
    assert batch.lines == [line(7), line(8), line(9)]
    assert batch.cursor > before


def test_a_segment_removed_unread_is_found(tail: JournalTail) -> None:
    append(tail.path, line(1))
    cursor = tail.read().cursor
    append(tail.path, line(2))
    for n in (3, 4):
        tail.close_live()
        append(tail.path, line(n))
    tail.path.with_name("journal-000001.jsonl").unlink()
    batch = tail.read(cursor)
    assert [(f.kind, f.segment) for f in batch.findings] == [("missing", 1)]
    assert batch.lines == [line(3), line(4)]


def test_a_bad_cursor_is_refused(tail: JournalTail) -> None:
    with pytest.raises(IntegrityError) as caught:
        tail.read(b"abc")
    assert caught.value.code == "journal.cursor"


def test_cursors_sort_as_bytes() -> None:
    cursors = [Cursor(1, 0, 5), Cursor(1, 0, 500), Cursor(1, 1, 0), Cursor(2, 0, 0), Cursor(300, 0, 0)]
    encoded = [c.to_bytes() for c in cursors]
    assert encoded == sorted(encoded)
    assert [Cursor.from_bytes(b) for b in encoded] == cursors


async def _rotations(tail: JournalTail) -> tuple[list[bytes], list[int]]:
    async def reopen() -> None:
        tail.path.touch()

    seen: list[bytes] = []
    cursor, kept = b"", []
    for n in range(5):
        append(tail.path, line(n))
        if n != 2:  # rotating without having read keeps what is unread
            batch = tail.read(cursor)
            seen += batch.lines
            cursor = batch.cursor
        await tail.rotate(reopen, bytes_max=1, sequenced=cursor)
        kept.append(len(tail.segments()))
    return seen + tail.read(cursor).lines, kept


def test_rotation_deletes_only_what_is_wholly_sequenced(tail: JournalTail) -> None:
    seen, kept = asyncio.run(_rotations(tail))
    assert seen == [line(n) for n in range(5)]
    assert max(kept) <= 3
    assert kept[-1] < 5


def test_a_reopen_that_failed_is_asked_again(tail: JournalTail) -> None:
    asked = []

    async def reopen() -> None:
        asked.append(len(asked))
        if len(asked) == 1:
            raise PeerError("restarting")
        tail.path.touch()

    append(tail.path, line(1))
    with pytest.raises(PeerError):
        asyncio.run(tail.rotate(reopen, bytes_max=1))
    asyncio.run(tail.rotate(reopen, bytes_max=10_000))
    assert len(asked) == 2
    assert tail.read().lines == [line(1)]
