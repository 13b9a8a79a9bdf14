"""Whatever the order of appends (in pieces), rotations, late writes and reads: every line once, in order."""

import itertools
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.serve.journal import JournalTail

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 40)),
        st.tuples(st.just("rename"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("read"), st.integers(1, 4)),
        st.tuples(st.just("delete"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_every_line_comes_once_and_in_order(actions: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tail = JournalTail(Path(folder) / "journal.jsonl")
        stream = b"".join(json.dumps({"n": n}).encode() + b"\n" for n in range(200))
        position, seen, cursor = 0, [], b""
        writer = tail.path.open("ab", buffering=0)
        for action, amount in actions:
            if action == "write":
                writer.write(stream[position : position + amount])
                position += amount
            elif action == "rename" and writer.name == str(tail.path) and tail.path.stat().st_size:
                # Envoy reopens between lines; a rename may come at any byte.
                tail.close_live()
                writer = _Renamed(writer)
            elif action == "reopen" and isinstance(writer, _Renamed):
                rest = (
                    stream.find(b"\n", position) + 1
                    if position and stream[position - 1 : position] != b"\n"
                    else position
                )
                writer.write(stream[position:rest])
                position = max(position, rest)
                writer = tail.path.open("ab", buffering=0)
            elif action == "read":
                batch = tail.read(cursor, lines_max=amount)
                assert batch.findings == []
                assert batch.cursor >= cursor or not cursor
                seen += [e["n"] for e in batch.entries]
                cursor = batch.cursor
            elif action == "delete":
                tail._delete_before(int.from_bytes(cursor[:8], "big") if cursor else 1)
        for _ in itertools.repeat(None):
            batch = tail.read(cursor)
            if batch.empty:
                break
            seen += [e["n"] for e in batch.entries]
            cursor = batch.cursor
        assert seen == list(range(stream[:position].count(b"\n")))


class _Renamed:
    """A file that Envoy still writes to though it was renamed."""

    name = ""

    def __init__(self, file) -> None:
        self.write = file.write
