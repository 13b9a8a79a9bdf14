"""Tiles of a published tree, each one authenticated before any of its hashes is used.

The edge (the partial tiles) of a tree determines its root, so the edge is checked first. A full tile hashes to one
entry of the tile above it, so every other tile is checked against its parent, up to the edge. No hash from a store is
ever used on trust, and whatever is computed from them therefore leads to the root.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from isochrone.errors import IntegrityError, StorageError
from isochrone.tlog.edge import Edge, Rows, grow_rows
from isochrone.tlog.merkle import HASH_BYTES, consistency_proof, inclusion_proof, node_hash
from isochrone.tlog.store import LogReadStore
from isochrone.tlog.tiles import TILE_HEIGHT, TILE_WIDTH, Tile, edge_tiles, split_hashes

__all__ = ["Cache", "TileTree", "read_tile"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
TILES_CACHED = 64


class Cache(Generic[K, V]):
    """The `limit` most recently used values of a function."""

    def __init__(self, compute: Callable[[K], V], limit: int) -> None:
        self._compute, self._limit = compute, limit
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V:
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = self._compute(key)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)
        return value


def read_tile(store: LogReadStore, tile: Tile) -> bytes:
    """The bytes of a tile or bundle; a partial one may have been replaced by the full one, of which it is the start.

    Raises:
        StorageError: ``tlog.tile-missing``.
    """
    data = store.read(tile.path)
    if data is None and not tile.is_full:
        data = store.read(tile.full.path)
    if data is None:
        raise StorageError(
            f"the log has no {tile.path}",
            code="tlog.tile-missing",
            hint="Restore it from a replica, unless it was pruned.",
        )
    return data


class TileTree:
    """The tree of `size` entries with `root`, over the tiles in `store`.

    Raises:
        IntegrityError: ``tlog.tile``, here or from any method, when the store's tiles are not those of this tree.
        StorageError: ``tlog.tile-missing``, here or from any method.
    """

    def __init__(self, store: LogReadStore, size: int, root: bytes) -> None:
        self.size, self.root = size, root
        self._store = store
        levels: list[list[bytes]] = [[] for _ in range(max(1, (size.bit_length() + 7) // 8))]
        for tile in edge_tiles(size):
            levels[tile.level] = self._hashes(tile)
        self._edge = Edge(size, levels)
        if self._edge.root != root:
            raise IntegrityError(
                f"the partial tiles of size {size} do not hash to its root",
                code="tlog.tile",
                hint="Run fsck to see which file was altered.",
            )
        self._rows: Cache[tuple[int, int], Rows] = Cache(self._load, TILES_CACHED)

    def tile_root(self, level: int, index: int) -> bytes:
        """The hash over the full tile `index` of `level`, authenticated."""
        return self.node(TILE_HEIGHT * (level + 1), index)

    def tile_hashes(self, level: int, index: int) -> list[bytes]:
        """The hashes of a tile as wide as this tree has it, authenticated."""
        return self._rows.get((level, index))[0]

    def node(self, height: int, index: int) -> bytes:
        """The root of the perfect subtree over entries [index 2^height, (index + 1) 2^height)."""
        level, row = divmod(height, TILE_HEIGHT)
        tile, position = divmod(index, TILE_WIDTH >> row)
        return self._rows.get((level, tile))[row][position]

    def range_hash(self, start: int, stop: int) -> bytes:
        """MTH(D[start:stop]) for a range as RFC 6962 splits trees: perfect subtrees, folded from the right."""
        root: bytes | None = None
        while stop > start:
            lowest = (stop - start) & (start - stop)  # the smallest perfect subtree lies at the right end
            left = self.node(lowest.bit_length() - 1, (stop - lowest) // lowest)
            root = left if root is None else node_hash(left, root)
            stop -= lowest
        if root is None:
            raise ValueError("an empty range has no hash")
        return root

    def root_at(self, size: int) -> bytes:
        """The root this log had at `size`, which is 1 to this tree's size."""
        return self.range_hash(0, size)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        return inclusion_proof(index, size, self.range_hash)

    def consistency_proof(self, size1: int, size2: int, *, explicit: bool = False) -> list[bytes]:
        return consistency_proof(size1, size2, self.range_hash, explicit=explicit)

    def _hashes(self, tile: Tile) -> list[bytes]:
        data = read_tile(self._store, tile)
        width = tile.width if len(data) == tile.width * HASH_BYTES else TILE_WIDTH
        if len(data) != width * HASH_BYTES:
            raise _bad_tile(tile)
        return split_hashes(data[: tile.width * HASH_BYTES])

    def _load(self, key: tuple[int, int]) -> Rows:
        """All rows of hashes of a tile, from its own (0) up to its root (8, if it is full)."""
        level, index = key
        tile = Tile.in_tree(level, index, self.size)
        if tile is None:
            raise ValueError(f"a tree of {self.size} has no tile {index} at level {level}")
        if not tile.is_full:
            return self._edge.rows[level]
        rows: Rows = [[] for _ in range(TILE_HEIGHT + 1)]
        grow_rows(rows, self._hashes(tile))
        if rows[TILE_HEIGHT][0] != self.tile_root(level, index):
            raise _bad_tile(tile)
        return rows


def _bad_tile(tile: Tile) -> IntegrityError:
    return IntegrityError(
        f"{tile.path} was altered: it does not hash to the tile above it",
        code="tlog.tile",
        hint="Run fsck; restore the file from a replica.",
    )
