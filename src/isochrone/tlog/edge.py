"""The right edge of a tree: the hashes of each level's partial tile, which is all that is needed to grow it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isochrone.tlog.merkle import EMPTY_ROOT, node_hash, root_from_leaves
from isochrone.tlog.tiles import TILE_HEIGHT, TILE_WIDTH, Tile

__all__ = ["Edge"]


class Edge:
    """A growing tree of `size` entries; `levels[l]` holds the (size / 256^l) mod 256 hashes of level l's partial tile.

    Raises:
        ValueError: the levels are not as wide as a tree of this size has them.
    """

    def __init__(self, size: int = 0, levels: Sequence[Sequence[bytes]] = ()) -> None:
        self.size = size
        self.levels = [list(level) for level in levels] or [[]]
        rest = size
        for level in self.levels:
            rest, width = divmod(rest, TILE_WIDTH)
            if len(level) != width:
                raise ValueError(f"a tree of {size} does not have {len(level)} hashes at its edge where {width} belong")
        if rest:
            raise ValueError(f"a tree of {size} has more than {len(self.levels)} levels of tiles")

    def extend(self, hashes: Sequence[bytes]) -> Iterator[tuple[Tile, list[bytes]]]:
        """Append leaf hashes, at most to the end of the current bundle; yields each tile they fill, lowest first.

        The edge is right again when the iterator is exhausted.
        """
        self.size += len(hashes)
        level, added = 0, list(hashes)
        while True:
            self.levels[level] += added
            if len(self.levels[level]) > TILE_WIDTH:
                raise ValueError("the hashes go beyond the end of the bundle")
            if len(self.levels[level]) < TILE_WIDTH:
                return
            full, self.levels[level] = self.levels[level], []
            yield Tile(level, (self.size >> (TILE_HEIGHT * (level + 1))) - 1), full
            level, added = level + 1, [root_from_leaves(full)]
            if level == len(self.levels):
                self.levels.append([])

    @property
    def root(self) -> bytes:
        """The root of the tree.

        The tree is a row of perfect subtrees, one for each set bit of its size, folded from the smallest (right) to
        the largest (left): RFC 6962 section 2.1 with the recursion unrolled.
        """
        root: bytes | None = None
        for hashes in self.levels:
            stop = len(hashes)
            while stop:
                start = stop & (stop - 1)  # without its lowest bit: hashes[start:stop] is the smallest perfect subtree
                left = root_from_leaves(hashes[start:stop])
                root = left if root is None else node_hash(left, root)
                stop = start
        return EMPTY_ROOT if root is None else root

    def frozen(self) -> tuple[tuple[bytes, ...], ...]:
        """The levels, unchangeable."""
        return tuple(tuple(level) for level in self.levels)
