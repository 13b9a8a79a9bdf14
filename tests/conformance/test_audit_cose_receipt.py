"""Are COSE receipts those of RFC 9942? Read here by a reader built from the RFCs alone, byte by byte."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from hashlib import sha256
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from isochrone.errors import IntegrityError
from isochrone.tlog.cose import CoseReceipt
from isochrone.tlog.note import Signer
from isochrone.tlog.reader import LogReader
from isochrone.tlog.store import MemoryStore
from isochrone.tlog.writer import LogWriter

SIGNER = Signer("isochrone.invalid/pair/konstanz", b"k" * 32)
ENTRIES = [f"entry {n}".encode() for n in range(300)]


@pytest.fixture(scope="module")
def reader() -> LogReader:
    store = MemoryStore()
    writer = LogWriter.open(store, SIGNER, SIGNER.name)
    writer.append(ENTRIES, b"")
    writer.publish(0)
    reader = LogReader(store, SIGNER.verifier, SIGNER.name)
    reader.checkpoint()
    return reader


def receipt(reader: LogReader, index: int) -> CoseReceipt:
    verified = reader.verify_entry(index)
    return CoseReceipt.sign(SIGNER, verified.entry, index, verified.checkpoint.size, verified.proof)


@pytest.mark.parametrize("index", [0, 1, 255, 256, 299])
def test_a_reader_of_the_rfcs_alone_verifies_it(reader: LogReader, index: int) -> None:
    """RFC 9942: apply the proof to the entry (RFC 9162 section 2.1.3.2), then verify the COSE_Sign1 over the root."""
    tag = cbor2.loads(receipt(reader, index).encode())
    assert tag.tag == 18
    protected, unprotected, payload, signature = tag.value
    header = cbor2.loads(protected)
    assert (header[1], header[395], payload) == (-19, 1, None)
    (proof,) = unprotected[396][-1]
    size, leaf, path = cbor2.loads(proof)
    node, last, root = leaf, size - 1, sha256(b"\0" + ENTRIES[index]).digest()
    for sibling in path:
        if node % 2 or node == last:
            root = sha256(b"\1" + sibling + root).digest()
            while node % 2 == 0 and node:
                node, last = node // 2, last // 2
        else:
            root = sha256(b"\1" + root + sibling).digest()
        node, last = node // 2, last // 2
    assert last == 0
    signed = b"\x84" + b"\x6aSignature1" + _bytes(protected) + b"\x40" + _bytes(root)
    Ed25519PublicKey.from_public_bytes(_public()).verify(signature, signed)


def _bytes(value: bytes) -> bytes:
    """A CBOR byte string (RFC 8949 section 3.1)."""
    return (bytes([0x40 + len(value)]) if len(value) < 24 else bytes([0x58, len(value)])) + value


def _public() -> bytes:
    return b64decode(SIGNER.vkey.split("+", 2)[2])[1:]


def test_it_verifies_and_nothing_altered_does(reader: LogReader) -> None:
    made = receipt(reader, 77)
    data = made.encode()
    assert CoseReceipt.parse(data) == made
    assert made.verify(ENTRIES[77], SIGNER.verifier) == reader.checkpoint().root
    for at in range(len(data)):
        for bit in (1, 0x80):
            altered = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            try:
                read = CoseReceipt.parse(altered)
                read.verify(ENTRIES[77], SIGNER.verifier)
            except IntegrityError:
                continue
            # RFC 9942 signs the root alone: a size that calls for the same path says nothing else.
            assert replace(read, size=made.size) == made
    with pytest.raises(IntegrityError, match="not signed"):
        made.verify(ENTRIES[78], SIGNER.verifier)
    with pytest.raises(IntegrityError, match="not signed"):
        made.verify(ENTRIES[77], Signer(SIGNER.name, b"x" * 32).verifier)
    with pytest.raises(IntegrityError, match="is of"):
        made.verify(ENTRIES[77], Signer("other", b"k" * 32).verifier)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        cbor2.dumps(1),
        cbor2.dumps(cbor2.CBORTag(18, [])),
        cbor2.dumps(cbor2.CBORTag(17, [b"", {}, None, b""])),
        cbor2.dumps(cbor2.CBORTag(18, [b"", {}, None, b""])),
        cbor2.dumps(cbor2.CBORTag(18, [b"\xa0", {396: {-1: []}}, None, b""])),
        b"\x9f" * 10_000,
        b"x" * 20_000,
    ],
)
def test_bytes_of_any_form_are_a_typed_error(value: Any) -> None:
    with pytest.raises(IntegrityError):
        CoseReceipt.parse(value)
