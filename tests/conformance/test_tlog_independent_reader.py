"""A log of ours read by a small reader built from the C2SP specifications alone, which shares no code with ours."""

from __future__ import annotations

from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from isochrone.serve.logstore import FileLogStore
from isochrone.tlog.note import Signer
from isochrone.tlog.writer import LogWriter

ORIGIN = "independent.example/log"


class SpecReader:
    """https://c2sp.org/signed-note, tlog-checkpoint and tlog-tiles, nothing else."""

    def __init__(self, prefix: Path, vkey: str) -> None:
        self.prefix = prefix
        self.name, key_id, key = vkey.split("+", 2)
        material = b64decode(key)
        assert material[0] == 1
        assert sha256(self.name.encode() + b"\n" + material).digest()[:4].hex() == key_id
        self.key_id, self.public = bytes.fromhex(key_id), Ed25519PublicKey.from_public_bytes(material[1:])

    def checkpoint(self) -> tuple[str, int, bytes]:
        text, signatures = (self.prefix / "checkpoint").read_text().rsplit("\n\n", 1)
        text += "\n"
        for line in signatures.splitlines():
            dash, name, value = line.split(" ")
            blob = b64decode(value)
            if dash == "—" and name == self.name and blob[:4] == self.key_id:
                self.public.verify(blob[4:], text.encode())
                origin, size, root = text.splitlines()[:3]
                return origin, int(size), b64decode(root)
        raise AssertionError("the log has not signed")

    def resource(self, kind: str, index: int, width: int) -> bytes:
        digits = f"{index:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        parts = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        path = "/".join([*("x" + part for part in parts[:-1]), parts[-1]])
        partial = f".p/{width}" if width < 256 else ""
        return (self.prefix / "tile" / kind / f"{path}{partial}").read_bytes()

    def entries(self, size: int) -> list[bytes]:
        found: list[bytes] = []
        for index in range(-(-size // 256)):
            width = min(256, size - 256 * index)
            data, bundle = self.resource("entries", index, width), []
            while data:
                length = int.from_bytes(data[:2], "big")
                bundle.append(data[2 : 2 + length])
                data = data[2 + length :]
            assert len(bundle) == width
            found += bundle
        return found

    def tiles(self, level: int, size: int) -> list[bytes]:
        count = size // 256**level
        data = b"".join(self.resource(str(level), i, min(256, count - 256 * i)) for i in range(-(-count // 256)))
        assert len(data) == 32 * count
        return [data[i : i + 32] for i in range(0, len(data), 32)]


def mth(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << ((len(hashes) - 1).bit_length() - 1)
    return sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


@pytest.mark.parametrize("sizes", [(1,), (255,), (256,), (3, 254, 1), (256, 300, 1), (65_536,), (65_000, 5_000)])
def test_an_independent_reader_reads_our_log(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    signer = Signer(ORIGIN, b"I" * 32)
    store = FileLogStore(tmp_path / "log")
    writer = LogWriter.open(store, signer, ORIGIN)
    written: list[bytes] = []
    reader = SpecReader(store.public_directory, signer.vkey)
    for step, count in enumerate(sizes):
        batch = [b"entry %d" % i for i in range(len(written), len(written) + count)]
        writer.append(batch, b"")
        writer.publish(step)
        written += batch

        origin, size, root = reader.checkpoint()
        assert (origin, size) == (ORIGIN, len(written))
        assert reader.entries(size) == written
        leaves = [sha256(b"\x00" + entry).digest() for entry in written]
        assert mth(leaves) == root
        level, row = 0, leaves
        while row:
            assert reader.tiles(level, size) == row
            row = [mth(row[i : i + 256]) for i in range(0, len(row) - 255, 256)]
            level += 1
    store.close()


def test_the_independent_reader_is_not_fooled(tmp_path: Path) -> None:
    signer = Signer(ORIGIN, b"I" * 32)
    store = FileLogStore(tmp_path / "log")
    writer = LogWriter.open(store, signer, ORIGIN)
    writer.append([b"x"], b"")
    writer.publish(0)
    path = store.public_directory / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n1\n", b"\n2\n"))
    with pytest.raises(InvalidSignature):
        SpecReader(store.public_directory, signer.vkey).checkpoint()
    store.close()
