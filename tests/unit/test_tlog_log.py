"""The sequencer and the reader over one store: what is durable, what is visible, and what is refused."""

from __future__ import annotations

import pytest

from isochrone.errors import InputError, IntegrityError, IsochroneError, StorageError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import Cosigner
from isochrone.tlog.fsck import fsck
from isochrone.tlog.merkle import leaf_hash, leaf_hashes, root_from_leaves, verify_consistency, verify_inclusion
from isochrone.tlog.note import Note, Signer
from isochrone.tlog.reader import LogReader
from isochrone.tlog.state import SequencerState
from isochrone.tlog.store import MemoryStore
from isochrone.tlog.writer import LogWriter

ORIGIN = "site-a.example/log"
SIGNER = Signer(ORIGIN, b"A" * 32)


def batch(start: int, stop: int) -> list[bytes]:
    return [b"entry %d" % i for i in range(start, stop)]


def open_writer(store: MemoryStore) -> LogWriter:
    return LogWriter.open(store, SIGNER, ORIGIN)


def open_reader(store: MemoryStore) -> LogReader:
    return LogReader(store, SIGNER.verifier, ORIGIN)


def filled(size: int, *, published: bool = True) -> MemoryStore:
    store = MemoryStore()
    writer = open_writer(store)
    writer.append(batch(0, size), b"cursor %d" % size)
    if published:
        writer.publish(1)
    return store


def code_of(caught: pytest.ExceptionInfo[IsochroneError]) -> str:
    return caught.value.code


def test_append_gives_indexes_and_moves_the_cursor() -> None:
    writer = open_writer(MemoryStore())
    assert (writer.size, writer.cursor) == (0, b"")
    assert writer.append(batch(0, 3), b"c1") == range(3)
    assert writer.append(batch(3, 600), b"c2") == range(3, 600)
    assert writer.append([], b"c3") == range(600, 600)
    assert (writer.size, writer.cursor) == (600, b"c3")
    assert writer.root == root_from_leaves(leaf_hashes(batch(0, 600)))


def test_entries_are_visible_only_after_publish() -> None:
    store = filled(300)
    writer, reader = open_writer(store), open_reader(store)
    reader.checkpoint()
    writer.append(batch(300, 600), b"")
    with pytest.raises(InputError):
        reader.entry(300)
    signed = writer.publish(2)
    assert reader.entry(300) == b"entry 300"
    assert reader.signed_checkpoint == signed
    assert writer.published_size == writer.size == 600


def test_publish_without_growth_changes_nothing() -> None:
    store = filled(10)
    writer = open_writer(store)
    before = dict(store.files)
    assert writer.publish(99) == before["checkpoint"]
    assert store.files == before


def test_an_empty_log_can_be_published_and_read() -> None:
    store = filled(0)
    assert open_reader(store).checkpoint() == Checkpoint(ORIGIN, 0, root_from_leaves([]))
    assert list(open_reader(store).entries()) == []
    assert fsck(store, SIGNER.verifier, ORIGIN) == []
    open_writer(store).append([b"x"], b"")


def test_partial_tiles_go_when_the_full_ones_are_published() -> None:
    store = MemoryStore()
    writer = open_writer(store)
    for size in range(10, 600, 10):
        writer.append(batch(size - 10, size), b"")
        writer.publish(size)
    assert [path for path in store.files if ".p/" in path and "/002" not in path and "tile/1" not in path] == []
    assert fsck(store, SIGNER.verifier, ORIGIN) == []


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 700])
def test_every_entry_and_proof_verifies(size: int) -> None:
    store = filled(size)
    reader = open_reader(store)
    checkpoint = reader.checkpoint()
    entries = batch(0, size)
    assert list(reader.entries()) == entries
    assert list(reader.entries(size // 3, size // 2)) == entries[size // 3 : size // 2]
    for index in {0, size // 2, size - 1, min(size - 1, 255), min(size - 1, 256)}:
        verified = reader.verify_entry(index)
        assert (verified.entry, verified.checkpoint) == (entries[index], checkpoint)
        for older in {index + 1, size}:
            proof = reader.inclusion_proof(index, older)
            verify_inclusion(
                leaf_hash(entries[index]), index, older, proof, root_from_leaves(leaf_hashes(entries[:older]))
            )
    for older in {0, 1, size // 2, size}:
        root = root_from_leaves(leaf_hashes(entries[:older]))
        verify_consistency(older, size, root, checkpoint.root, reader.consistency_proof(older, size))


def test_a_tree_of_three_levels() -> None:
    size = 66_000
    store = filled(size)
    reader = open_reader(store)
    root = reader.checkpoint().root
    assert root == root_from_leaves(leaf_hashes(batch(0, size)))
    for index in (0, 65_535, 65_536, size - 1):
        assert reader.verify_entry(index).entry == b"entry %d" % index
    assert fsck(store, SIGNER.verifier, ORIGIN) == []
    writer = open_writer(store)
    assert writer.consistency_proof(300) == reader.consistency_proof(300, size)


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: r.entry(300),
        lambda r: r.entry(-1),
        lambda r: list(r.entries(2, 1)),
        lambda r: list(r.entries(0, 301)),
        lambda r: r.inclusion_proof(300, 300),
        lambda r: r.inclusion_proof(0, 301),
        lambda r: r.consistency_proof(5, 301),
        lambda r: r.consistency_proof(5, 4),
        lambda r: r.fork_proof(Checkpoint(ORIGIN, 400, bytes(32))),
    ],
)
def test_a_reader_says_what_is_not_there(ask: object) -> None:
    with pytest.raises(InputError):
        ask(open_reader(filled(300)))  # type: ignore[operator]


def test_a_log_without_checkpoint_cannot_be_read() -> None:
    with pytest.raises(StorageError) as caught:
        open_reader(filled(3, published=False)).checkpoint()
    assert code_of(caught) == "tlog.no-checkpoint"


def test_reopening_continues_where_it_was() -> None:
    store = MemoryStore()
    for step in range(40):
        writer = open_writer(store)
        assert (writer.size, writer.cursor) == (step * 17, b"%d" % step if step else b"")
        writer.append(batch(step * 17, step * 17 + 17), b"%d" % (step + 1))
        if step % 3 == 0:
            writer.publish(step)
    writer.publish(99)
    assert list(open_reader(store).entries()) == batch(0, 680)
    assert [f for f in fsck(store, SIGNER.verifier, ORIGIN) if f.severity == "error"] == []


def test_what_is_too_large_is_refused_and_nothing_changes() -> None:
    store = filled(3)
    writer = open_writer(store)
    state = store.state
    with pytest.raises(InputError):
        writer.append([b"good", b"x" * 65_536], b"")
    with pytest.raises(InputError):
        writer.append([], b"x" * 65_536)
    assert store.state == state
    assert writer.append([b"x" * 65_535], b"") == range(3, 4)


def test_a_state_behind_the_checkpoint_is_a_rollback() -> None:
    store = filled(300)
    old = filled(200)
    store.state = old.state
    with pytest.raises(IntegrityError) as caught:
        open_writer(store)
    assert code_of(caught) == "tlog.rollback"
    assert any(f.code == "rollback" for f in fsck(store, SIGNER.verifier, ORIGIN))


def test_a_checkpoint_without_state_is_not_a_new_log() -> None:
    store = filled(300)
    store.state = None
    with pytest.raises(IntegrityError) as caught:
        open_writer(store)
    assert code_of(caught) == "tlog.state"


def test_a_state_of_another_history_is_a_fork() -> None:
    store, other = filled(300), MemoryStore()
    open_writer(other).append([b"other %d" % i for i in range(400)], b"")
    other.files["checkpoint"] = store.files["checkpoint"]
    with pytest.raises(IntegrityError) as caught:
        open_writer(other)
    assert code_of(caught) == "tlog.fork"


def test_checkpoints_known_from_elsewhere_are_held_against_the_log() -> None:
    store = filled(300)
    new = Checkpoint.parse(Note.parse(store.files["checkpoint"]).text)
    wiped = MemoryStore()
    for bad_store in (wiped, filled(200)):
        with pytest.raises(IntegrityError):
            LogWriter.open(bad_store, SIGNER, ORIGIN, known=[new])
    with pytest.raises(IntegrityError) as caught:
        LogWriter.open(store, SIGNER, ORIGIN, known=[Checkpoint("other.example", 3, bytes(32))])
    assert code_of(caught) == "tlog.origin"
    assert LogWriter.open(store, SIGNER, ORIGIN, known=[new]).size == 300


def test_another_origin_or_key_does_not_open_the_log() -> None:
    with pytest.raises(IntegrityError) as caught:
        LogWriter.open(filled(3), SIGNER, "site-b.example/log")
    assert code_of(caught) == "tlog.origin"
    with pytest.raises(IntegrityError) as caught:
        LogWriter.open(filled(3, published=False), SIGNER, "site-b.example/log")
    assert code_of(caught) == "tlog.origin"
    with pytest.raises(IntegrityError) as caught:
        LogWriter.open(filled(3), Signer(ORIGIN, b"B" * 32), ORIGIN)
    assert code_of(caught) == "tlog.signature"


def test_a_reader_never_goes_back_or_sideways() -> None:
    store, older = filled(300), filled(200)
    reader = open_reader(store)
    reader.checkpoint()
    store.files["checkpoint"] = older.files["checkpoint"]
    with pytest.raises(IntegrityError) as caught:
        reader.checkpoint()
    assert code_of(caught) == "tlog.rollback"
    other = MemoryStore()
    writer = open_writer(other)
    writer.append([b"other %d" % i for i in range(400)], b"")
    writer.publish(1)
    store.files.update(other.files)
    with pytest.raises(IntegrityError) as caught:
        reader.checkpoint()
    assert code_of(caught) == "tlog.fork"


def test_an_iteration_survives_the_log_growing_under_it() -> None:
    store = filled(300)
    writer, reader = open_writer(store), open_reader(store)
    iterator = reader.entries()
    seen = [next(iterator)]
    writer.append(batch(300, 900), b"")
    writer.publish(2)
    reader.checkpoint()
    assert seen + list(iterator) == batch(0, 300)


def test_cosignatures_join_the_published_checkpoint() -> None:
    store = filled(3)
    writer = open_writer(store)
    witness, stranger = Cosigner.ed25519("w.example", b"W" * 32), Cosigner.ed25519("s.example", b"S" * 32)
    text = Note.parse(store.files["checkpoint"]).text
    lines = witness.sign(text, 7).encode() + stranger.sign(text, 7).encode()
    signed = writer.add_cosignatures(lines, [witness.verifier])
    assert [s.name for s in Note.parse(signed).signatures] == [ORIGIN, "w.example"]
    assert store.files["checkpoint"] == signed == writer.publish(8)
    with pytest.raises(IntegrityError):
        writer.add_cosignatures(witness.sign(Checkpoint(ORIGIN, 2, bytes(32)).text, 7).encode(), [witness.verifier])
    with pytest.raises(IntegrityError):
        writer.add_cosignatures(stranger.sign(text, 7).encode(), [witness.verifier])
    assert store.files["checkpoint"] == signed
    with pytest.raises(InputError):
        open_writer(MemoryStore()).add_cosignatures(lines, [witness.verifier])


def test_a_log_may_sign_with_an_mldsa_key_too() -> None:
    store = MemoryStore()
    second = Cosigner.mldsa44(ORIGIN, b"Q" * 32)
    writer = LogWriter.open(store, SIGNER, ORIGIN, cosigners=[second])
    writer.append(batch(0, 5), b"")
    signed = writer.publish(1_700_000_000)
    for verifier in (SIGNER.verifier, second.verifier):
        assert Checkpoint.parse_and_verify(signed, verifier, origin=ORIGIN).size == 5


def test_a_consistency_proof_for_more_than_was_published() -> None:
    with pytest.raises(InputError):
        open_writer(filled(3)).consistency_proof(4)


def test_a_writer_that_failed_refuses_to_go_on() -> None:
    class Full(MemoryStore):
        def write_state(self, data: bytes) -> None:
            if self.state is not None and b"boom" in data:
                raise StorageError("full", code="storage.full")
            super().write_state(data)

    store = Full()
    writer = open_writer(store)
    writer.append(batch(0, 2), b"")
    with pytest.raises(StorageError):
        writer.append([b"boom"], b"")
    for call in (lambda: writer.append([b"x"], b""), lambda: writer.publish(1)):
        with pytest.raises(StorageError) as caught:
            call()
        assert code_of(caught) == "tlog.writer-failed"
    again = open_writer(store)
    assert again.size == 2
    again.append([b"x"], b"")


@pytest.mark.parametrize(
    ("size", "minimum"), [(700, 600), (700, 512), (700, 700), (512, 512), (70_000, 65_536), (70_000, 66_000)]
)
def test_a_pruned_log_still_proves_what_it_keeps(size: int, minimum: int) -> None:
    store = filled(size)
    before = open_reader(store)
    root, proof = before.checkpoint().root, before.inclusion_proof(size - 1, size)
    writer = open_writer(store)
    kept = minimum - minimum % 256
    assert writer.prune(minimum) == writer.minimum_index == kept
    assert writer.prune(0) == kept
    assert "tile/entries/000" not in store.files
    assert fsck(store, SIGNER.verifier, ORIGIN) == []

    reader = open_reader(store)
    assert reader.checkpoint().root == root
    assert list(reader.entries(kept)) == batch(kept, size)
    if kept < size:
        assert reader.inclusion_proof(size - 1, size) == proof
    assert len(reader.consistency_proof(kept, size)) >= (kept != size)
    with pytest.raises(StorageError):
        reader.entry(0)
    again = open_writer(store)
    again.append(batch(size, size + 600), b"")
    again.publish(2)
    assert list(open_reader(store).entries(kept)) == batch(kept, size + 600)
    assert fsck(store, SIGNER.verifier, ORIGIN) == []


def test_fsck_sees_damage_to_what_a_pruned_log_keeps() -> None:
    store = filled(70_000)
    open_writer(store).prune(66_000)
    for path, data in list(store.files.items()):
        store.files[path] = bytes([data[0] ^ 1]) + data[1:]
        assert any(f.severity == "error" for f in fsck(store, SIGNER.verifier, ORIGIN)), path
        store.files[path] = data
    del store.files["tile/1/001.p/17"]
    assert {f.code for f in fsck(store, SIGNER.verifier, ORIGIN) if f.severity == "error"} == {"missing"}


def test_what_is_not_published_cannot_be_pruned() -> None:
    store = filled(300)
    writer = open_writer(store)
    writer.append(batch(300, 900), b"")
    for index in (-1, 301, 900):
        with pytest.raises(InputError):
            writer.prune(index)
    assert writer.prune(255) == 0


def test_every_flipped_bit_of_the_state_is_seen() -> None:
    state = filled(260).state
    assert state is not None
    assert SequencerState.decode(state).size == 260
    for position in range(len(state)):
        damaged = bytearray(state)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(IntegrityError):
            SequencerState.decode(bytes(damaged))
    for cut in (0, 10, 40, len(state) - 1):
        with pytest.raises(IntegrityError):
            SequencerState.decode(state[:cut])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"tlog-state/v1", b"tlog-state/v2"),
        (b"\n260\n", b"\n261\n"),
        (b"\n260\n", b"\n4\n"),
        (b"\n260\n", b"\n4611686018427387908\n"),
        (b"\n260\n", b"\nx\n"),
        (b"entry 259", b"entry 999"),
        (b"=\n0\n", b"=\n512\n"),
        (b"=\n0\n", b"=\n5\n"),
    ],
)
def test_a_state_that_contradicts_itself_is_refused_whatever_its_checksum(old: bytes, new: bytes) -> None:
    from hashlib import sha256

    state = filled(260).state
    assert state is not None
    body = state[:-32].replace(old, new)
    assert body != state[:-32]
    with pytest.raises(IntegrityError):
        SequencerState.decode(body + sha256(body).digest())
