"""The whole log against a plain list, and every parser against arbitrary bytes."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import InputError, IntegrityError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.fsck import fsck
from isochrone.tlog.merkle import leaf_hashes, root_from_leaves
from isochrone.tlog.note import Note, Signer
from isochrone.tlog.proof import Proof
from isochrone.tlog.quorum import TrustPolicy
from isochrone.tlog.reader import LogReader
from isochrone.tlog.state import SequencerState
from isochrone.tlog.store import MemoryStore
from isochrone.tlog.tiles import decode_bundle
from isochrone.tlog.witness import AddCheckpointRequest, Witness
from isochrone.tlog.writer import LogWriter

ORIGIN = "property.example/log"
SIGNER = Signer(ORIGIN, b"P" * 32)

appends = st.tuples(st.just("append"), st.integers(0, 400), st.binary(max_size=9))
steps = st.lists(st.one_of(appends, st.just(("publish",)), st.just(("reopen",)), st.just(("read",))), max_size=14)


@settings(deadline=None, max_examples=60)
@given(steps)
def test_a_log_behaves_as_a_list(steps: list[tuple[object, ...]]) -> None:
    store, model, published, cursor = MemoryStore(), list[bytes](), 0, b""
    writer = LogWriter.open(store, SIGNER, ORIGIN)
    reader = LogReader(store, SIGNER.verifier, ORIGIN)
    for number, step in enumerate([*steps, ("append", 1, b"end"), ("publish",), ("read",)]):
        if step[0] == "append":
            _, count, cursor = step
            new = [b"%d/%d" % (number, i) for i in range(count)]
            assert writer.append(new, cursor) == range(len(model), len(model) + count)
            model += new
        elif step[0] == "publish":
            writer.publish(number)
            published = len(model)
        elif step[0] == "reopen":
            writer = LogWriter.open(store, SIGNER, ORIGIN)
        elif published:
            assert reader.checkpoint() == Checkpoint(
                ORIGIN, published, root_from_leaves(leaf_hashes(model[:published]))
            )
            assert list(reader.entries()) == model[:published]
            assert reader.verify_entry(published // 2).entry == model[published // 2]
        assert (writer.size, writer.cursor) == (len(model), cursor)
    assert fsck(store, SIGNER.verifier, ORIGIN) == []


PARSERS: list[tuple[Callable[[bytes], object], type[Exception]]] = [
    (Note.parse, IntegrityError),
    (Checkpoint.parse, IntegrityError),
    (Proof.parse, IntegrityError),
    (AddCheckpointRequest.parse, IntegrityError),
    (decode_bundle, IntegrityError),
    (lambda data: SequencerState.decode(data + sha256(data).digest()), IntegrityError),
    (lambda data: TrustPolicy.parse(data.decode(errors="replace")), InputError),
]
GOOD = Checkpoint(ORIGIN, 3, bytes(32)).sign(SIGNER)
SEEDS = [
    GOOD,
    Checkpoint(ORIGIN, 3, bytes(32)).text,
    Proof(3, (bytes(32),), GOOD, b"extra").encode(),
    AddCheckpointRequest(3, (bytes(32),), GOOD).encode(),
    SequencerState(ORIGIN, cursor=b"cursor").encode()[:-32],
    f"log {SIGNER.vkey}\ngroup g any x\nquorum none\n".encode(),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good document with a piece cut out and arbitrary bytes put in its place."""
    data = draw(st.sampled_from(SEEDS))
    start = draw(st.integers(0, len(data)))
    return data[:start] + draw(st.binary(max_size=12)) + data[draw(st.integers(start, len(data))) :]


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), damaged()))
def test_parsers_accept_or_refuse_with_a_typed_error(data: bytes) -> None:
    for parse, error in PARSERS:
        try:
            parse(data)
        except error as raised:
            assert getattr(raised, "code", "").startswith("tlog.")  # noqa: PT017


@given(st.one_of(st.binary(max_size=200), damaged()))
def test_a_witness_answers_anything(data: bytes) -> None:
    response = Witness(MemoryStore(), [], {ORIGIN: [SIGNER.verifier]}).add_checkpoint(data, 1)
    assert response.status in (200, 400, 403, 404, 409, 422)


@given(damaged())
def test_a_damaged_note_never_verifies_as_something_else(data: bytes) -> None:
    try:
        checkpoint = Checkpoint.parse_and_verify(data, SIGNER.verifier)
    except IntegrityError:
        return
    assert checkpoint == Checkpoint(ORIGIN, 3, bytes(32))


def test_the_parsers_accept_the_good_documents() -> None:
    for parse, seed in zip(
        (Note.parse, Checkpoint.parse, Proof.parse, AddCheckpointRequest.parse), SEEDS, strict=False
    ):
        parse(seed)  # type: ignore[operator]
    with pytest.raises(IntegrityError):
        Note.parse(SEEDS[1])
