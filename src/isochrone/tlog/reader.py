"""Reading a log: every entry and proof is authenticated against a checkpoint signed by the log's key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isochrone.errors import InputError, IntegrityError, StorageError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.merkle import leaf_hash, leaf_hashes, root_from_leaves, verify_inclusion
from isochrone.tlog.note import NoteVerifier
from isochrone.tlog.proof import Proof
from isochrone.tlog.store import LogReadStore
from isochrone.tlog.tiles import CHECKPOINT_PATH, ENTRIES, TILE_WIDTH, Tile, decode_bundle
from isochrone.tlog.tree import Cache, TileTree, read_tile

__all__ = ["LogReader", "VerifiedEntry"]

BUNDLES_CACHED = 4


@dataclass(frozen=True, slots=True)
class VerifiedEntry:
    """One entry with what proves it: `proof` leads from its leaf hash to the root of `checkpoint`."""

    index: int
    entry: bytes
    proof: tuple[bytes, ...]
    checkpoint: Checkpoint


class LogReader:
    """A view of one log, which only ever moves forward: a checkpoint that goes back or forks raises.

    Methods raise IntegrityError when the store's data is not what the log's key signed, StorageError when something is
    missing, and InputError (``tlog.index``, ``tlog.size``) when asked for what the checkpoint does not cover.
    """

    def __init__(self, store: LogReadStore, verifier: NoteVerifier, origin: str) -> None:
        self._store, self._verifier, self._origin = store, verifier, origin
        self._tree: TileTree | None = None
        self._signed = b""
        self._bundles: Cache[tuple[TileTree, int], list[bytes]] = Cache(
            lambda key: verified_bundle(store, *key), BUNDLES_CACHED
        )

    def checkpoint(self) -> Checkpoint:
        """The log's newest checkpoint, read and verified now; what the other methods answer from.

        Raises:
            IntegrityError: ``tlog.rollback`` or ``tlog.fork``, it contradicts one seen before; ``tlog.signature``,
                ``tlog.note``, ``tlog.checkpoint``, ``tlog.origin``, ``tlog.tile``.
            StorageError: ``tlog.no-checkpoint``, nothing was published yet.
        """
        signed = self._store.read(CHECKPOINT_PATH)
        if signed is None:
            raise StorageError(
                f"the log {self._origin} has no checkpoint", code="tlog.no-checkpoint", hint="Publish one first."
            )
        checkpoint = Checkpoint.parse_and_verify(signed, self._verifier, origin=self._origin)
        seen = self._tree
        if seen is None or (seen.size, seen.root) != (checkpoint.size, checkpoint.root):
            self._tree = self._advance(seen, checkpoint)
        self._signed = signed
        return checkpoint

    @property
    def signed_checkpoint(self) -> bytes:
        """The signed note of the checkpoint the reader answers from, with whatever cosignatures it carries."""
        if self._tree is None:
            self.checkpoint()
        return self._signed

    def entry(self, index: int) -> bytes:
        """Entry `index`, authenticated through the tiles above it."""
        tree = self._covering(index + 1 if index >= 0 else 0)
        if not 0 <= index < tree.size:
            raise InputError(f"entry {index} is not in a log of {tree.size}", code="tlog.index")
        bundle, offset = divmod(index, TILE_WIDTH)
        return self._bundles.get((tree, bundle))[offset]

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The authenticated entries [start, stop) in order, a bundle at a time; `stop` None means all published."""
        tree = self._covering(stop or 0)
        stop = tree.size if stop is None else stop
        if not 0 <= start <= stop <= tree.size:
            raise InputError(f"no entries {start} to {stop} in a log of {tree.size}", code="tlog.index")
        for index in range(start // TILE_WIDTH, -(-stop // TILE_WIDTH)):
            first = index * TILE_WIDTH
            yield from verified_bundle(self._store, tree, index)[max(start - first, 0) : stop - first]

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """PATH(index, D[size]) for a tree of any `size` up to the checkpoint's."""
        tree = self._covering(size)
        if not 0 <= index < size <= tree.size:
            raise InputError(f"no entry {index} in a tree of {size} of {tree.size}", code="tlog.index")
        return tree.inclusion_proof(index, size)

    def consistency_proof(self, size1: int, size2: int) -> list[bytes]:
        """PROOF(size1, D[size2]) for sizes up to the checkpoint's."""
        tree = self._covering(size2)
        if not 0 <= size1 <= size2 <= tree.size:
            raise InputError(f"no tree of {size1} in one of {size2} of {tree.size}", code="tlog.size")
        return tree.consistency_proof(size1, size2)

    def fork_proof(self, other: Checkpoint) -> list[bytes]:
        """The explicit proof of this log's own history at `other`'s size; see `witness.proves_fork`."""
        tree = self._covering(other.size)
        if not 0 < other.size <= tree.size:
            raise InputError(f"no tree of {other.size} in a log of {tree.size}", code="tlog.size")
        return tree.consistency_proof(other.size, tree.size, explicit=True)

    def verify_entry(self, index: int) -> VerifiedEntry:
        """Entry `index` with its inclusion proof, the proof checked as any third party would check it."""
        entry = self.entry(index)
        checkpoint = Checkpoint.parse_and_verify(self.signed_checkpoint, self._verifier, origin=self._origin)
        proof = self.inclusion_proof(index, checkpoint.size)
        verify_inclusion(leaf_hash(entry), index, checkpoint.size, proof, checkpoint.root)
        return VerifiedEntry(index, entry, tuple(proof), checkpoint)

    def prove(self, index: int, extra: bytes | None = None) -> Proof:
        """A tlog-proof of entry `index` in the checkpoint the reader answers from."""
        verified = self.verify_entry(index)
        return Proof(index, verified.proof, self._signed, extra)

    def _covering(self, size: int) -> TileTree:
        """The tree to answer from, after looking for a newer checkpoint if the known one is smaller than `size`."""
        if self._tree is None or self._tree.size < size:
            self.checkpoint()
        assert self._tree is not None
        return self._tree

    def _advance(self, seen: TileTree | None, new: Checkpoint) -> TileTree:
        if seen is not None and new.size < seen.size:
            raise IntegrityError(
                f"the log {self._origin} went back from {seen.size} to {new.size} entries",
                code="tlog.rollback",
                hint="Keep both checkpoints: each is signed, and together they show that the log was rolled back.",
            )
        tree = TileTree(self._store, new.size, new.root)
        if seen is not None and seen.size and tree.root_at(seen.size) != seen.root:
            raise IntegrityError(
                f"the log {self._origin} at {new.size} does not extend what it was at {seen.size}",
                code="tlog.fork",
                hint="Keep both checkpoints and `fork_proof`: together they prove the fork to anyone.",
            )
        return tree


def verified_bundle(store: LogReadStore, tree: TileTree, index: int) -> list[bytes]:
    """The entries of bundle `index` as wide as `tree` has it, hashed and compared with the tree."""
    bundle = Tile.in_tree(ENTRIES, index, tree.size)
    if bundle is None:
        raise ValueError(f"a tree of {tree.size} has no bundle {index}")
    entries = decode_bundle(read_tile(store, bundle))[: bundle.width]
    hashes = leaf_hashes(entries)
    if bundle.is_full:
        good = len(hashes) == TILE_WIDTH and root_from_leaves(hashes) == tree.tile_root(0, index)
    else:
        good = hashes == tree.tile_hashes(0, index)
    if not good:
        raise IntegrityError(
            f"{bundle.path} was altered: its entries do not hash to the tree",
            code="tlog.entries",
            hint="Run fsck; restore the file from a replica.",
        )
    return entries
