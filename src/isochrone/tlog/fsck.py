"""Check a whole log: rebuild every tile from the entries and compare all that is stored with what must be there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from isochrone.errors import IntegrityError, StorageError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.edge import Edge
from isochrone.tlog.merkle import HASH_BYTES, leaf_hashes
from isochrone.tlog.note import NoteVerifier
from isochrone.tlog.state import SequencerState
from isochrone.tlog.store import LogStore
from isochrone.tlog.tiles import (
    CHECKPOINT_PATH,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    decode_bundle,
    edge_tiles,
    encode_bundle,
    split_hashes,
)
from isochrone.tlog.tree import read_tile

__all__ = ["Finding", "fsck"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (`error`) or merely left over (`note`) in a log's store.

    Codes: ``checkpoint``, ``state``, ``rollback``, ``stray``, ``missing``, ``altered``, ``root`` are errors;
    ``uncommitted`` (a file of an append that never committed) and ``leftover`` (one that may be removed) are notes.
    """

    severity: Literal["error", "note"]
    code: str
    path: str
    message: str


def fsck(store: LogStore, verifier: NoteVerifier, origin: str) -> list[Finding]:
    """Findings for the log in `store`, none for a perfect one; reads every file.

    Nobody may write to the log meanwhile: give a copy, or hold the writer's lock.

    Raises:
        StorageError: the store failed.
    """
    return list(_Check(store, verifier, origin).run())


class _Check:
    def __init__(self, store: LogStore, verifier: NoteVerifier, origin: str) -> None:
        self.store, self.verifier, self.origin = store, verifier, origin
        self.partials: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.checkpoint: Checkpoint | None = None
        self.state: SequencerState | None = None
        self.minimum_index = 0

    def run(self) -> Iterator[Finding]:
        yield from self._heads()
        published = self.checkpoint.size if self.checkpoint else 0
        committed = self.state.size if self.state else published
        if committed < published or (published and self.state is None):
            message = f"the checkpoint has {published} entries, the sequencer's state {committed if self.state else 0}"
            yield Finding("error", "rollback", "state", message)
        committed = max(committed, published)
        yield from self._names(committed)
        yield from self._rebuild(committed, published)

    def _heads(self) -> Iterator[Finding]:
        """Read checkpoint and state; one that is damaged is reported and then treated as absent."""
        try:
            signed = self.store.read(CHECKPOINT_PATH)
            if signed is not None:
                self.checkpoint = Checkpoint.parse_and_verify(signed, self.verifier, origin=self.origin)
        except IntegrityError as error:
            yield Finding("error", "checkpoint", CHECKPOINT_PATH, str(error))
        try:
            data = self.store.read_state()
            state = None if data is None else SequencerState.decode(data)
            if state is not None and state.origin != self.origin:
                raise IntegrityError(f"the state is of the log {state.origin!r}")
            self.state = state
            self.minimum_index = state.minimum_index if state else 0
        except IntegrityError as error:
            yield Finding("error", "state", "state", str(error))

    def _names(self, committed: int) -> Iterator[Finding]:
        """Judge each path by its name alone, and remember which partial tiles exist."""
        for path in self.store.paths():
            tile = Tile.parse(path)
            if tile is None:
                if path != CHECKPOINT_PATH:
                    yield Finding("error", "stray", path, "no file of a log has this name")
                continue
            widest = Tile.in_tree(tile.level, tile.index, committed)
            if tile.end_index <= self.minimum_index:
                yield Finding("note", "leftover", path, f"below the minimum index {self.minimum_index}; prune again")
            elif widest is None or widest.width < tile.width:
                yield Finding("note", "uncommitted", path, f"beyond the {committed} entries that are committed")
            elif not tile.is_full:
                self.partials[tile.level, tile.index].append(tile.width)

    def _rebuild(self, committed: int, published: int) -> Iterator[Finding]:
        """Hash all entries into a new tree and compare every tile and root on the way."""
        edge = Edge()
        if self.minimum_index:
            try:
                edge = self._pruned_edge(published)
            except (StorageError, ValueError) as error:
                yield Finding("error", "missing", "tile", f"the tree before the minimum index is lost: {error}")
                return
        if published == edge.size:
            yield from self._compare_root(edge)
        while edge.size < committed:
            first = edge.size
            bundle = Tile.in_tree(ENTRIES, first // TILE_WIDTH, committed)
            assert bundle is not None
            data = self._entries(bundle)
            entries = _decode(data)
            if data is None or entries is None or len(entries) != bundle.width:
                what = ("missing", "is missing") if data is None else ("altered", f"is not {bundle.width} entries")
                yield Finding("error", what[0], bundle.path, f"the bundle {what[1]}; later tiles cannot be checked")
                return
            yield from self._compare(bundle, data, published)
            hashes = leaf_hashes(entries)
            split = published - first if first < published <= first + bundle.width else 0
            for piece in (hashes[:split], hashes[split:]):
                for tile, full in edge.extend(piece):
                    yield from self._compare(tile, b"".join(full), published)
                if edge.size == published and piece:
                    yield from self._compare_root(edge)
        for tile in edge_tiles(committed):
            yield from self._compare(tile, b"".join(edge.rows[tile.level][0]), published)
        if self.state is not None and self.state.size == committed and self.state.root != edge.root:
            yield Finding("error", "root", "state", f"the entries do not hash to the state's root of size {committed}")

    def _pruned_edge(self, published: int) -> Edge:
        """The edge at the minimum index, from tiles above what was pruned; the roots compared later vouch for it."""
        levels: list[list[bytes]] = []
        for level in range((self.minimum_index.bit_length() + 7) // 8):
            index, width = divmod(self.minimum_index >> (8 * level), TILE_WIDTH)
            tile = Tile.in_tree(level, index, published) if width else None
            data = read_tile(self.store, tile) if tile else b""
            levels.append(split_hashes(data[: width * HASH_BYTES]))
        return Edge(self.minimum_index, levels)

    def _entries(self, bundle: Tile) -> bytes | None:
        """The bytes of a bundle; those of the last, partial one are in the state, or published if that is lost."""
        if not bundle.is_full and self.state is not None:
            return self.state.tail
        return self.store.read(bundle.path)

    def _compare(self, tile: Tile, expected: bytes, published: int) -> Iterator[Finding]:
        """Compare all that is stored of a tile or bundle, full and partial, with its rebuilt bytes."""
        if tile.is_full:
            yield from self._compare_file(tile, expected)
        now = Tile.in_tree(tile.level, tile.index, published)
        widths = set(self.partials.pop((tile.level, tile.index), ()))
        if now is not None and not now.is_full:
            widths.add(now.width)
        for width in sorted(widths):
            part = replace(tile, width=width)
            if tile.level == ENTRIES:
                yield from self._compare_file(part, encode_bundle(decode_bundle(expected)[:width]))
            else:
                yield from self._compare_file(part, expected[: width * HASH_BYTES])
            if now is not None and now.is_full:
                yield Finding("note", "leftover", part.path, "the full tile is published; this partial one may go")

    def _compare_file(self, tile: Tile, expected: bytes) -> Iterator[Finding]:
        stored = self.store.read(tile.path)
        if stored is None:
            yield Finding("error", "missing", tile.path, "the file is missing")
        elif stored != expected:
            yield Finding("error", "altered", tile.path, "this file and the log's entries disagree")

    def _compare_root(self, edge: Edge) -> Iterator[Finding]:
        if self.checkpoint is not None and self.checkpoint.root != edge.root:
            yield Finding(
                "error", "root", CHECKPOINT_PATH, f"the entries do not hash to the checkpoint's root of {edge.size}"
            )


def _decode(data: bytes | None) -> list[bytes] | None:
    try:
        return None if data is None else decode_bundle(data)
    except IntegrityError:
        return None
