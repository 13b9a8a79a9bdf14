"""The examples printed in the C2SP specifications: signed-note, checkpoint, cosignature, tlog-proof, add-checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isochrone.errors import IntegrityError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import cosignature_time_s
from isochrone.tlog.note import Note, Verifier
from isochrone.tlog.proof import Proof
from isochrone.tlog.tiles import ENTRIES, Tile, edge_tiles
from isochrone.tlog.witness import AddCheckpointRequest

EXAMPLES = Path(__file__).parents[3] / "shared/vectors/c2sp-examples/examples.json"
printed = pytest.mark.skipif(not EXAMPLES.is_file(), reason="the C2SP examples are not beside the project")


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(EXAMPLES.read_text())
    return data


@printed
def test_the_signed_note_example_verifies(examples: dict[str, Any]) -> None:
    example = examples["signed_note"]
    verifier = Verifier.from_vkey(example["vkey"])
    data = example["note"].encode()
    note = Note.parse(data)
    assert note.text == b"This is an example message.\n"
    assert [s.name for s in note.verified([verifier])] == ["example.com/foo"]
    assert verifier.vkey == example["vkey"]
    assert note.encode() == data
    with pytest.raises(IntegrityError):
        Note.parse(data.replace(b"example message", b"exemplary message")).verified([verifier])


@printed
def test_the_checkpoint_example_parses_and_prints(examples: dict[str, Any]) -> None:
    data = examples["checkpoint_with_cosignature_example"]["text"].encode()
    note = Note.parse(data)
    checkpoint = Checkpoint.parse(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text == note.text
    assert note.encode() == data
    log, witness = note.signatures
    assert log.name == checkpoint.origin
    assert len(log.value) == 64
    assert (witness.name, cosignature_time_s(witness), len(witness.value)) == ("witness.example.com/w1", 1679315147, 72)


@printed
def test_the_proof_example_has_our_format(examples: dict[str, Any]) -> None:
    # The specification elides its signatures and its extra data is no valid base64: both are completed here.
    text = examples["tlog_proof_example"]["text"]
    with pytest.raises(IntegrityError):
        Proof.parse(text.encode())
    head = text.split("\n\n")[0].replace("YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ", "YWdl")
    signed = examples["checkpoint_with_cosignature_example"]["text"]
    proof = Proof.parse(f"{head}\n\n{signed}".encode())
    assert (proof.index, len(proof.hashes), proof.extra) == (73894, 5, b"age")
    assert proof.checkpoint == signed.encode()
    assert proof.encode() == f"{head}\n\n{signed}".encode()


@printed
def test_the_add_checkpoint_example_parses_and_prints(examples: dict[str, Any]) -> None:
    text = examples["witness_add_checkpoint_request_example"]["text"]
    body = (text if text.endswith("\n") else text + "\n").encode()
    request = AddCheckpointRequest.parse(body)
    assert (request.old_size, len(request.proof)) == (20852014, 4)
    assert len(Note.parse(request.checkpoint).signatures) == 2
    assert request.encode() == body


def test_the_path_and_edge_examples_of_tlog_tiles() -> None:
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(ENTRIES, 1234067, 8).path == "tile/entries/x001/x234/067.p/8"
    # "A tree of size 70,000": 273 full level-0 tiles and a partial one of 112, one full and one of 17, one of 1.
    assert list(edge_tiles(70_000)) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(edge_tiles(256)) == [Tile(1, 0, 1)]
    assert Tile.in_tree(0, 272, 70_000) == Tile(0, 272)
    assert Tile.in_tree(0, 274, 70_000) is None
