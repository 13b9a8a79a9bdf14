"""Proof that a log forked: two of its signed checkpoints that cannot both be heads of one history.

Anyone who holds the log's key can check it, offline, with nothing but these bytes.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from isochrone.errors import IntegrityError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.note import NoteVerifier
from isochrone.tlog.store import LogReadStore
from isochrone.tlog.tree import TileTree
from isochrone.tlog.witness import proves_fork

__all__ = ["ForkEvidence", "compare"]


@dataclass(frozen=True, slots=True)
class ForkEvidence:
    """Two signed notes of one log, the smaller tree first, and what shows that the second does not extend the first.

    `proof` is the second history's explicit consistency proof from the first's size; empty for two trees of one size.
    """

    first: bytes
    second: bytes
    proof: tuple[bytes, ...] = ()

    def holds(self, verifiers: Sequence[NoteVerifier]) -> bool:
        """Whether it proves that the log whose keys are `verifiers` forked.

        Raises:
            IntegrityError: a note is malformed or not signed by the log.
        """
        return proves_fork(self.first, self.second, self.proof, verifiers)

    def encode(self) -> bytes:
        """As a file: JSON of the two notes as text and the proof's hashes in base64."""
        proof = [b64encode(value).decode() for value in self.proof]
        document = {"first": self.first.decode(), "second": self.second.decode(), "proof": proof}
        return json.dumps(document, indent=1).encode()

    @staticmethod
    def parse(data: bytes) -> ForkEvidence:
        """Inverse of `encode`; verifies nothing.

        Raises:
            IntegrityError: ``tlog.evidence``.
        """
        try:
            document = json.loads(data)
            proof = tuple(b64decode(value, validate=True) for value in document["proof"])
            return ForkEvidence(str(document["first"]).encode(), str(document["second"]).encode(), proof)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise IntegrityError(
                f"this is not evidence of a fork: {error!r}", code="tlog.evidence", hint="Give the file as it was kept."
            ) from error


def compare(one: bytes, other: bytes, verifiers: Sequence[NoteVerifier], store: LogReadStore) -> ForkEvidence | None:
    """What two signed checkpoints of one log show when held against each other: None if one extends the other.

    Args:
        store: the log's files, as far as they belong to the larger tree; not read for trees of one size.

    Raises:
        IntegrityError: a note is malformed, not signed by the log, or of another log; ``tlog.tile``, the store does not
            hold the tree that the log signed.
        StorageError: the store failed, or something is missing from it.
    """
    old = Checkpoint.parse_and_verify(one, *verifiers)
    new = Checkpoint.parse_and_verify(other, *verifiers, origin=old.origin)
    if old.size > new.size:
        one, other, old, new = other, one, new, old
    if old.size == new.size:
        return ForkEvidence(one, other) if old.root != new.root else None
    if old.size == 0:
        return None
    tree = TileTree(store, new.size, new.root)
    if tree.root_at(old.size) == old.root:
        return None
    return ForkEvidence(one, other, tuple(tree.consistency_proof(old.size, new.size, explicit=True)))
