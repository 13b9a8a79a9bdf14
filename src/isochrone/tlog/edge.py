"""The right edge of a tree: the hashes of each level's partial tile, which is all that is needed to grow it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from isochrone.tlog.merkle import EMPTY_ROOT, node_hash, parent_row
from isochrone.tlog.tiles import TILE_HEIGHT, TILE_WIDTH, Tile

__all__ = ["Edge", "Rows", "grow_rows"]

Rows = list[list[bytes]]
"""The hashes of a tile (row 0) and all complete nodes above them; row 8 is the root of a full tile."""


def grow_rows(rows: Rows, hashes: Sequence[bytes]) -> None:
    """Append `hashes` to row 0 and the nodes they complete to the rows above."""
    rows[0] += hashes
    for below, above in pairwise(rows):
        above += parent_row(below[2 * len(above) :])


def _no_rows() -> Rows:
    return [[] for _ in range(TILE_HEIGHT + 1)]


class Edge:
    """A growing tree of `size` entries; `rows[l]` are those of level l's partial tile, (size / 256^l) mod 256 wide.

    Args:
        levels: the hashes of the partial tile of each level.

    Raises:
        ValueError: the levels are not as wide as a tree of this size has them.
    """

    def __init__(self, size: int = 0, levels: Sequence[Sequence[bytes]] = ()) -> None:
        self.size = size
        self.rows: list[Rows] = []
        rest = size
        for level in levels or ((),):
            rest, width = divmod(rest, TILE_WIDTH)
            if len(level) != width:
                raise ValueError(f"a tree of {size} does not have {len(level)} hashes at its edge where {width} belong")
            rows = _no_rows()
            grow_rows(rows, level)
            self.rows.append(rows)
        if rest:
            raise ValueError(f"a tree of {size} has more than {len(self.rows)} levels of tiles")

    def copy(self) -> Edge:
        twin = Edge()
        twin.size, twin.rows = self.size, [[list(row) for row in rows] for rows in self.rows]
        return twin

    def extend(self, hashes: Sequence[bytes]) -> Iterator[tuple[Tile, list[bytes]]]:
        """Append leaf hashes, at most to the end of the current bundle; yields each tile they fill, lowest first.

        The edge is right again when the iterator is exhausted.
        """
        if len(hashes) > TILE_WIDTH - self.size % TILE_WIDTH:
            raise ValueError("the hashes go beyond the end of the bundle")
        self.size += len(hashes)
        level = 0
        while True:
            rows = self.rows[level]
            grow_rows(rows, hashes)
            if len(rows[0]) < TILE_WIDTH:
                return
            self.rows[level] = _no_rows()
            yield Tile(level, (self.size >> (TILE_HEIGHT * (level + 1))) - 1), rows[0]
            level, hashes = level + 1, rows[TILE_HEIGHT]
            if level == len(self.rows):
                self.rows.append(_no_rows())

    @property
    def root(self) -> bytes:
        """The root of the tree.

        The tree is a row of perfect subtrees, one for each set bit of its size, folded from the smallest (right) to
        the largest (left): RFC 6962 section 2.1 with the recursion unrolled.
        """
        root: bytes | None = None
        for rows in self.rows:
            width = len(rows[0])
            for height in range(TILE_HEIGHT):
                if width >> height & 1:
                    left = rows[height][(width >> height) - 1]
                    root = left if root is None else node_hash(left, root)
        return EMPTY_ROOT if root is None else root

    def hashes(self) -> tuple[tuple[bytes, ...], ...]:
        """The hashes of the partial tile of each level."""
        return tuple(tuple(rows[0]) for rows in self.rows)
