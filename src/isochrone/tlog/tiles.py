"""The layout of https://c2sp.org/tlog-tiles: where each hash and each entry of a tree lies.

A hash tile holds up to 256 consecutive hashes of one level; hash i of tile n at level l is
MTH(D[(256 n + i) 256^l : (256 n + i + 1) 256^l]). An entry bundle holds the 256 entries under one level-0 tile, each
with a big-endian 16-bit length before it. The rightmost tile of a level may be partial (1 to 255 wide).

The partial tiles of all levels together are the *edge* of the tree (see `edge`): they alone determine its root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isochrone.errors import InputError, IntegrityError
from isochrone.tlog.merkle import HASH_BYTES

__all__ = [
    "CHECKPOINT_PATH",
    "ENTRIES",
    "ENTRY_BYTES_MAX",
    "TILE_HEIGHT",
    "TILE_WIDTH",
    "Tile",
    "decode_bundle",
    "edge_tiles",
    "encode_bundle",
    "split_hashes",
]

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
ENTRY_BYTES_MAX = 65_535
LEVEL_MAX = 63
CHECKPOINT_PATH = "checkpoint"
ENTRIES = -1
"""The `Tile.level` of an entry bundle: the row of entries lies just below the level of their hashes."""

_TILE_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One tile or entry bundle: `level` (or ENTRIES), `index` in its level, `width` in hashes or entries (1..256)."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def is_full(self) -> bool:
        return self.width == TILE_WIDTH

    @property
    def end_index(self) -> int:
        """The index after the last entry under the full tile."""
        return (self.index + 1) << (TILE_HEIGHT * (max(self.level, 0) + 1))

    @property
    def full(self) -> Tile:
        """The full tile this one becomes."""
        return Tile(self.level, self.index)

    @property
    def path(self) -> str:
        """Resource path below the log's prefix, e.g. ``tile/0/x001/x234/067.p/8``."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        index, last = divmod(self.index, 1000)
        name = f"{last:03d}"
        while index:
            index, part = divmod(index, 1000)
            name = f"x{part:03d}/{name}"
        return f"tile/{level}/{name}" if self.is_full else f"tile/{level}/{name}.p/{self.width}"

    @staticmethod
    def parse(path: str) -> Tile | None:
        """The tile at `path`, or None when no tile has that path."""
        match = _TILE_PATH.fullmatch(path)
        if match is None:
            return None
        level, high, low, width = match.groups()
        tile = Tile(
            ENTRIES if level == "entries" else int(level),
            int(high.replace("/x", "").replace("x", "").replace("/", "") + low),
            int(width) if width else TILE_WIDTH,
        )
        canonical = tile.level <= LEVEL_MAX and (width is None or tile.width < TILE_WIDTH) and tile.path == path
        return tile if canonical else None

    @staticmethod
    def in_tree(level: int, index: int, size: int) -> Tile | None:
        """The widest tile at (`level`, `index`) in a tree of `size`, or None when it would be empty."""
        width = min(TILE_WIDTH, (size >> (TILE_HEIGHT * max(level, 0))) - index * TILE_WIDTH)
        return Tile(level, index, width) if width > 0 else None


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Entries as an entry bundle, each after its uint16 length.

    Raises:
        InputError: ``tlog.entry-size``, an entry is longer than 65,535 bytes.
    """
    parts: list[bytes] = []
    for entry in entries:
        length = len(entry)
        if length > ENTRY_BYTES_MAX:
            raise InputError(
                f"an entry of {length} bytes is over the limit of {ENTRY_BYTES_MAX}",
                code="tlog.entry-size",
                hint="Put a digest of the large part into the entry, not the part itself.",
            )
        parts += (length.to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle; whether they are the right ones, their hashes tell.

    Raises:
        IntegrityError: ``tlog.entries``, the bytes end inside an entry.
    """
    entries: list[bytes] = []
    offset, end = 0, len(data)
    while offset < end:
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        if start > end or offset > end:
            raise IntegrityError("an entry bundle ends inside an entry", code="tlog.entries")
        entries.append(data[start:offset])
    return entries


def split_hashes(data: bytes) -> list[bytes]:
    """The hashes of a tile's bytes, whose length is a multiple of 32."""
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


def edge_tiles(size: int) -> Iterator[Tile]:
    """The partial hash tiles of a tree of `size`, level 0 first; levels without one are left out."""
    level = 0
    while size:
        size, width = divmod(size, TILE_WIDTH)
        if width:
            yield Tile(level, size, width)
        level += 1
