"""What a sequencer must remember between two appends, as one piece of bytes that is replaced atomically.

It holds the application's cursor, the edge of the tree and the entries that do not yet fill a bundle, so that one
atomic write commits an append: either the entries, the tree and the cursor all moved, or none did.

    tlog-state/v1
    <origin>
    <size>
    <root, base64>
    <minimum index>
    <cursor, base64>
    <empty line>
    <hashes of the partial tile of each level, level 0 first>
    <the partial entry bundle>
    <SHA-256 of all bytes before it>
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256

from isochrone.errors import IntegrityError
from isochrone.tlog.checkpoint import parse_decimal
from isochrone.tlog.edge import Edge
from isochrone.tlog.merkle import EMPTY_ROOT, HASH_BYTES, leaf_hashes
from isochrone.tlog.note import decode_base64
from isochrone.tlog.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, edge_tiles, split_hashes

__all__ = ["SequencerState"]

_MAGIC = b"tlog-state/v1"


@dataclass(frozen=True, slots=True)
class SequencerState:
    """A tree as its sequencer knows it.

    Attributes:
        size, root: the tree's.
        cursor: opaque bytes of the application, e.g. how far its write-ahead file is sequenced.
        edge: for each level the hashes of its partial tile (empty where it has none), 32 bytes each.
        tail: the entry bundle of the last `size` mod 256 entries, encoded.
        minimum_index: entries before this one, a multiple of 256, were pruned.
    """

    origin: str
    size: int = 0
    root: bytes = EMPTY_ROOT
    cursor: bytes = b""
    edge: tuple[tuple[bytes, ...], ...] = ((),)
    tail: bytes = b""
    minimum_index: int = 0

    def partials(self) -> list[tuple[Tile, bytes]]:
        """The partial tiles and the partial bundle of this tree, which its readers need beside the full ones."""
        tiles = [(tile, b"".join(self.edge[tile.level])) for tile in edge_tiles(self.size)]
        width = self.size % TILE_WIDTH
        return [(Tile(ENTRIES, self.size // TILE_WIDTH, width), self.tail), *tiles] if width else tiles

    def encode(self) -> bytes:
        numbers = (b"%d" % self.size, b64encode(self.root), b"%d" % self.minimum_index, b64encode(self.cursor))
        fields = (_MAGIC, self.origin.encode(), *numbers, b"")
        hashes = (value for level in self.edge for value in level)
        data = b"".join((*(field + b"\n" for field in fields), *hashes, self.tail))
        return data + sha256(data).digest()

    @staticmethod
    def decode(data: bytes) -> SequencerState:
        """Read back what `encode` wrote, and check that it agrees with itself in every part.

        Raises:
            IntegrityError: ``tlog.state``.
        """
        body, digest = data[:-HASH_BYTES], data[-HASH_BYTES:]
        if sha256(body).digest() != digest:
            raise _bad_state("its checksum is wrong")
        fields = body.split(b"\n", 7)
        if len(fields) != 8 or fields[0] != _MAGIC or fields[6]:
            raise _bad_state("it is not in this format")
        size, root = parse_decimal(fields[2]), decode_base64(fields[3])
        minimum, cursor = parse_decimal(fields[4]), decode_base64(fields[5])
        if size is None or root is None or minimum is None or cursor is None:
            raise _bad_state("a field of its header is malformed")
        if minimum > size or minimum % TILE_WIDTH:
            raise _bad_state(f"its minimum index {minimum} is not the start of a bundle it has")
        edge: list[tuple[bytes, ...]] = [()] * max(1, (size.bit_length() + 7) // 8)
        offset = 0
        for tile in edge_tiles(size):
            start, offset = offset, offset + tile.width * HASH_BYTES
            edge[tile.level] = tuple(split_hashes(fields[7][start:offset]))
        if offset > len(fields[7]):
            raise _bad_state("it ends inside its edge")
        state = SequencerState(
            fields[1].decode(errors="replace"), size, root, cursor, tuple(edge), fields[7][offset:], minimum
        )
        state._check()
        return state

    def _check(self) -> None:
        if tuple(leaf_hashes(decode_bundle(self.tail))) != (self.edge[0]):
            raise _bad_state("its entries do not hash to its edge")
        if Edge(self.size, self.edge).root != self.root:
            raise _bad_state("its edge does not hash to its root")


def _bad_state(problem: str) -> IntegrityError:
    return IntegrityError(
        f"the sequencer's state is damaged: {problem}",
        code="tlog.state",
        hint="Restore the log's directory from a replica that is at least as far as the last witnessed checkpoint.",
    )
