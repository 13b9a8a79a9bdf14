"""Taking a part out of a log: some of its entries, with exactly the tiles that authenticate them, as files of a log.

What is read to authenticate entries is the same at both ends: who extracts keeps what was read, and who verifies reads
the same files again, so a file that nobody read does not belong there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from isochrone.tlog.merkle import HASH_BYTES
from isochrone.tlog.reader import verified_bundle
from isochrone.tlog.store import LogReadStore
from isochrone.tlog.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Tile,
    decode_bundle,
    encode_bundle,
)
from isochrone.tlog.tree import TileTree

__all__ = ["Range", "Watched", "first_index", "merged", "read_ranges"]

Range = tuple[int, int]
"""Entries [start, stop)."""


class Watched:
    """A view of a store that tells what was read (`paths`, `keep`), with partial tiles as narrow as they are asked for.

    A log replaces its partial tiles as it grows; what is kept of one is what belongs to the tree that was asked about.
    """

    def __init__(self, store: LogReadStore, keep: Callable[[str, bytes], None] = lambda path, data: None) -> None:
        self._store, self._keep = store, keep
        self.paths: set[str] = set()

    def read(self, path: str) -> bytes | None:
        data = self._store.read(path)
        tile = Tile.parse(path)
        if data is None and tile is not None and not tile.is_full:
            data = _narrowed(self._store.read(tile.full.path), tile)
        if data is not None and path not in self.paths:
            self.paths.add(path)
            self._keep(path, data)
        return data


def read_ranges(store: LogReadStore, tree: TileTree, ranges: Iterable[Range]) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each entry in `ranges`, authenticated; reads their level-0 tiles as well, so that whoever
    holds the files can prove every entry.

    Raises:
        IntegrityError: ``tlog.tile`` or ``tlog.entries``, the files are not those of the tree.
        StorageError: ``tlog.tile-missing``.
    """
    for start, stop in ranges:
        for index in range(start // TILE_WIDTH, -(-stop // TILE_WIDTH)):
            entries = verified_bundle(store, tree, index)
            tree.tile_hashes(0, index)
            first = index * TILE_WIDTH
            for number in range(max(start, first), min(stop, first + len(entries))):
                yield number, entries[number - first]


def merged(entries: Iterable[int]) -> list[Range]:
    """The fewest ranges that hold these entries and no others."""
    found: list[Range] = []
    for entry in sorted(set(entries)):
        if found and found[-1][1] == entry:
            found[-1] = (found[-1][0], entry + 1)
        else:
            found.append((entry, entry + 1))
    return found


def first_index(store: LogReadStore, size: int) -> int:
    """The first entry that a log of `size` still has; those before it were pruned, whole bundles from the beginning."""
    low, high = 0, -(-size // TILE_WIDTH)
    while low < high:
        middle = (low + high) // 2
        tile = Tile.in_tree(ENTRIES, middle, size)
        assert tile is not None
        has_it = store.read(tile.path) is not None or store.read(tile.full.path) is not None
        low, high = (low, middle) if has_it else (middle + 1, high)
    return min(low * TILE_WIDTH, size)


def _narrowed(data: bytes | None, tile: Tile) -> bytes | None:
    if data is None:
        return None
    if tile.level == ENTRIES:
        return encode_bundle(decode_bundle(data)[: tile.width])
    return data[: tile.width * HASH_BYTES]
