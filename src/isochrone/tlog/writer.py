"""The sequencer: entries become a tree, durably, and the tree becomes a signed checkpoint.

`append` writes the tiles and bundles that the new entries fill, then replaces the state; that one atomic replacement
is the commit. `publish` writes the partial tiles of the committed tree, then replaces the checkpoint. A crash between
any two steps leaves either the old state or the new one, and files that no state covers are written over by the next
append. So an application that continues after `cursor` neither loses nor doubles an entry.

A writer that met a storage error cannot know what reached the disk: it refuses to go on, and is opened again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from isochrone.errors import InputError, IntegrityError, StorageError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.edge import Edge
from isochrone.tlog.merkle import leaf_hashes
from isochrone.tlog.note import Note, NoteSigner, NoteVerifier, parse_signature_lines
from isochrone.tlog.state import SequencerState
from isochrone.tlog.store import LogStore
from isochrone.tlog.tiles import (
    CHECKPOINT_PATH,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    edge_tiles,
    encode_bundle,
)
from isochrone.tlog.tree import TileTree

__all__ = ["CURSOR_BYTES_MAX", "LogWriter"]

CURSOR_BYTES_MAX = 65_535
FLUSH_TILES = 64
"""Tiles are handed to the store in pieces of about this many, so that a batch of any length needs little memory."""


class LogWriter:
    """The one writer of a log. Use `open`.

    Entries are durable when `append` returns, and visible to readers after the next `publish`.
    """

    def __init__(
        self, store: LogStore, signers: tuple[NoteSigner, ...], state: SequencerState, published: bytes | None
    ) -> None:
        self._store = store
        self._signers = signers
        self._state, self._edge = state, Edge(state.size, state.edge)
        self._published = published
        self._published_size = Checkpoint.parse(Note.parse(published).text).size if published else 0
        self._failed = False

    @classmethod
    def open(
        cls,
        store: LogStore,
        signer: NoteSigner,
        origin: str,
        *,
        cosigners: Sequence[NoteSigner] = (),
        known: Sequence[Checkpoint] = (),
    ) -> LogWriter:
        """Open a log, or begin one in an empty store, and check it against every checkpoint it must extend.

        Args:
            signer: the log's key; its signature on the stored checkpoint must verify.
            cosigners: further keys of the log that sign each checkpoint, e.g. ML-DSA-44.
            known: checkpoints of this log known from elsewhere, verified by the caller (from a witness, a peer).

        Raises:
            IntegrityError: ``tlog.state`` (damaged, or missing beside a checkpoint), ``tlog.rollback`` (the state is
                behind a checkpoint), ``tlog.fork`` (it does not extend one), ``tlog.signature``, ``tlog.origin``.
            StorageError: the store failed.
        """
        published = store.read(CHECKPOINT_PATH)
        heads = list(known)
        if published is not None:
            heads.append(Checkpoint.parse_and_verify(published, signer.verifier, origin=origin))
        data = store.read_state()
        if data is None and any(head.size for head in heads):
            raise IntegrityError(
                f"the log {origin} has a checkpoint but no sequencer state",
                code="tlog.state",
                hint="Restore the whole directory; a log begun anew under this origin would be a fork.",
            )
        state = SequencerState(origin) if data is None else SequencerState.decode(data)
        if state.origin != origin:
            raise IntegrityError(f"the stored log is {state.origin!r}, not {origin!r}", code="tlog.origin")
        for head in heads:
            _check_extends(store, state, head)
        # What was read may sit in a cache whose flush failed; nothing is built on it before it is durable.
        store.write_state(state.encode())
        return cls(store, (signer, *cosigners), state, published)

    @property
    def origin(self) -> str:
        return self._state.origin

    @property
    def size(self) -> int:
        """Entries appended durably, published or not."""
        return self._state.size

    @property
    def root(self) -> bytes:
        return self._state.root

    @property
    def cursor(self) -> bytes:
        """The cursor given with the last durable append; empty in a new log."""
        return self._state.cursor

    @property
    def published_size(self) -> int:
        """Entries covered by the published checkpoint."""
        return self._published_size

    def append(self, entries: Sequence[bytes], cursor: bytes) -> range:
        """Append entries and move the cursor, in one durable step; returns the indexes of the entries.

        No entries is allowed: then only the cursor moves.

        Raises:
            InputError: ``tlog.entry-size``, ``tlog.cursor-size``; nothing was changed.
            StorageError: from the store, or ``tlog.writer-failed`` after an earlier failure. Whether this append
                happened is known after opening the log again, from `cursor`.
        """
        if len(cursor) > CURSOR_BYTES_MAX:
            raise InputError(f"a cursor of {len(cursor)} bytes is over {CURSOR_BYTES_MAX}", code="tlog.cursor-size")
        with self._guard():
            edge = self._edge.copy()
            state = self._grow(edge, entries, cursor)
            self._store.write_state(state.encode())
            first, self._state, self._edge = self._state.size, state, edge
        return range(first, state.size)

    def publish(self, now_s: int) -> bytes:
        """Sign the tree as appended so far and make it the log's checkpoint; returns the signed note.

        If the tree has not grown since the last checkpoint, that one is returned as it stands (with cosignatures).

        Raises:
            StorageError: from the store, or ``tlog.writer-failed``. No reader has seen the checkpoint that failed
                unless it is in the store.
        """
        state = self._state
        if self._published is not None and self._published_size == state.size and not self._failed:
            return self._published
        with self._guard():
            old = set(edge_tiles(self._published_size))
            self._store.write_tiles([(tile.path, data) for tile, data in state.partials() if tile not in old])
            signed = Checkpoint(state.origin, state.size, state.root).sign(*self._signers, now_s=now_s)
            self._store.write_checkpoint(signed)
            self._remove_partials(self._published_size, state.size)
            self._published, self._published_size = signed, state.size
        return signed

    def add_cosignatures(self, lines: bytes, verifiers: Sequence[NoteVerifier]) -> bytes:
        """Add witnesses' signature lines to the published checkpoint; returns the signed note.

        Lines by keys outside `verifiers` are ignored. Cosignatures of an older checkpoint do not verify on this one.

        Raises:
            IntegrityError: ``tlog.note``, ``tlog.signature``; nothing was changed.
            StorageError: as `publish`.
        """
        if self._published is None:
            raise InputError("the log has no checkpoint to cosign yet", code="tlog.no-checkpoint")
        note = Note.parse(self._published)
        good = Note(note.text, parse_signature_lines(lines)).verified(verifiers)
        signed = note.merged(good).encode()
        if signed != self._published:
            with self._guard():
                self._store.write_checkpoint(signed)
                self._published = signed
        return signed

    @property
    def minimum_index(self) -> int:
        """The first entry that was not pruned."""
        return self._state.minimum_index

    def prune(self, minimum_index: int) -> int:
        """Remove the entries before `minimum_index`, rounded down to a full bundle, and all tiles only they need.

        The tree, its root and every proof of a later entry stay as they are (tlog-tiles, "Pruning"). After a crash,
        prune again. Earlier calls are never undone: a smaller index changes nothing.

        Returns:
            the minimum index now in force.

        Raises:
            InputError: ``tlog.size``, entries that no checkpoint covers yet cannot be pruned.
            StorageError: as `append`.
        """
        if not 0 <= minimum_index <= self._published_size:
            raise InputError(
                f"cannot prune {minimum_index} entries of {self._published_size} published", code="tlog.size"
            )
        state = replace(self._state, minimum_index=max(self.minimum_index, minimum_index - minimum_index % TILE_WIDTH))
        with self._guard():
            self._store.write_state(state.encode())
            self._state = state
            for path in self._store.paths():
                tile = Tile.parse(path)
                if tile is not None and tile.end_index <= state.minimum_index:
                    self._store.remove(path)
        return state.minimum_index

    def consistency_proof(self, size: int) -> list[bytes]:
        """From an earlier `size` of this log to the published size, for a witness's add-checkpoint."""
        if not 0 <= size <= self._published_size:
            raise InputError(
                f"the published log has {self._published_size} entries, not {size}",
                code="tlog.size",
                hint="A witness that has seen more than this log holds has seen another history of it.",
            )
        tree = TileTree(_WithEdge(self._store, self._state), self._state.size, self._state.root)
        return tree.consistency_proof(size, self._published_size)

    def _grow(self, edge: Edge, entries: Sequence[bytes], cursor: bytes) -> SequencerState:
        """Grow `edge` by `entries`, and write every tile they fill; returns the state to commit."""
        tail, position = self._state.tail, 0
        full: list[tuple[str, bytes]] = []
        while position < len(entries):
            chunk = entries[position : position + TILE_WIDTH - edge.size % TILE_WIDTH]
            position += len(chunk)
            tail += encode_bundle(chunk)
            full += [(tile.path, b"".join(hashes)) for tile, hashes in edge.extend(leaf_hashes(chunk))]
            if edge.size % TILE_WIDTH == 0:
                full.append((Tile(ENTRIES, edge.size // TILE_WIDTH - 1).path, tail))
                tail = b""
            if len(full) >= FLUSH_TILES:
                self._store.write_tiles(full)
                full = []
        if full:
            self._store.write_tiles(full)
        return replace(self._state, size=edge.size, root=edge.root, cursor=cursor, edge=edge.hashes(), tail=tail)

    def _remove_partials(self, old_size: int, new_size: int) -> None:
        """Remove the partial tiles of the old checkpoint that are full in the new one."""
        tiles = list(edge_tiles(old_size))
        if old_size % TILE_WIDTH:
            tiles.append(Tile(ENTRIES, old_size // TILE_WIDTH))
        for tile in tiles:
            now = Tile.in_tree(tile.level, tile.index, new_size)
            if now is not None and now.is_full:
                self._store.remove_partials(now.path)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        if self._failed:
            raise StorageError(
                f"the writer of {self.origin} failed earlier and does not know what is durable",
                code="tlog.writer-failed",
                hint="Mend the cause (space, disk), then open the log again and continue after its cursor.",
            )
        try:
            yield
        except InputError:
            raise
        except BaseException:
            self._failed = True
            raise


class _WithEdge:
    """A store seen with the partial tiles of a state that is not published yet."""

    def __init__(self, store: LogStore, state: SequencerState) -> None:
        self._store = store
        self._partials = {tile.path: data for tile, data in state.partials()}

    def read(self, path: str) -> bytes | None:
        return self._partials.get(path) or self._store.read(path)


def _check_extends(store: LogStore, state: SequencerState, head: Checkpoint) -> None:
    """Raise unless the tree of `state` has the tree of `head` as its prefix."""
    if head.origin != state.origin:
        raise IntegrityError(f"{head.origin!r} is not the log {state.origin!r}", code="tlog.origin")
    if head.size > state.size:
        raise IntegrityError(
            f"the log {state.origin} has {state.size} entries, but a checkpoint says {head.size}: it was rolled back",
            code="tlog.rollback",
            hint="Restore the newest copy of the directory; entries the checkpoint covers must not be lost.",
        )
    tree = TileTree(_WithEdge(store, state), state.size, state.root)
    if head.size and tree.root_at(head.size) != head.root:
        raise IntegrityError(
            f"the log {state.origin} does not extend its checkpoint of size {head.size}: it was forked",
            code="tlog.fork",
            hint="Keep the directory as evidence and restore the copy that the checkpoint belongs to.",
        )
