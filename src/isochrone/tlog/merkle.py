"""RFC 6962 Merkle trees: hashes, inclusion proofs and consistency proofs (section 2.1).

Hashes are 32-byte SHA-256 digests; indexes and sizes count leaves from zero. Proofs are made over a `RangeHash`, so
that the same code serves a list in memory and tiles on disk. Verification follows RFC 9162 sections 2.1.3.2 and
2.1.4.2, which state the algorithms for the same trees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from isochrone.errors import IntegrityError

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "RangeHash",
    "consistency_proof",
    "consistency_roots",
    "inclusion_proof",
    "leaf_hash",
    "leaf_hashes",
    "node_hash",
    "parent_row",
    "root_from_leaves",
    "root_from_proof",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

RangeHash = Callable[[int, int], bytes]
"""`range_hash(start, stop)` is MTH(D[start:stop]); it is asked only for ranges that RFC 6962 splits a tree into."""


def leaf_hash(entry: bytes) -> bytes:
    """MTH({entry}) = SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """`leaf_hash` of many entries; the loop every append and every verification spends its time in."""
    return [sha256(b"\x00" + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def parent_row(row: Sequence[bytes]) -> list[bytes]:
    """The row above `row`: one hash for each complete pair; an odd last hash has no parent yet."""
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=False)]


def root_from_leaves(hashes: Sequence[bytes]) -> bytes:
    """MTH over leaf hashes (or over the hashes of equal perfect subtrees); EMPTY_ROOT for none."""
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        above = parent_row(row)
        if len(row) % 2:  # RFC 6962 promotes the lone right node unchanged
            above.append(row[-1])
        row = above
    return row[0]


def _split(size: int) -> int:
    """The largest power of two smaller than `size` (RFC 6962's k), for size > 1."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, range_hash: RangeHash) -> list[bytes]:
    """PATH(index, D[size]), leaf's sibling first (RFC 6962 section 2.1.1).

    Raises:
        ValueError: `index` is not inside the tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"no entry {index} in a tree of {size}")
    start, stop = 0, size
    path: list[bytes] = []
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(range_hash(middle, stop))
            stop = middle
        else:
            path.append(range_hash(start, middle))
            start = middle
    path.reverse()
    return path


def consistency_proof(size1: int, size2: int, range_hash: RangeHash, *, explicit: bool = False) -> list[bytes]:
    """PROOF(size1, D[size2]) (RFC 6962 section 2.1.2); empty when `size1` is 0 or equal to `size2`.

    Args:
        explicit: always begin with the hash of the subtree that ends at `size1`, which RFC 6962 leaves out when the
            old root is that very hash. `consistency_roots` takes this form; fork evidence needs it.

    Raises:
        ValueError: the sizes are not 0 <= size1 <= size2.
    """
    if not 0 <= size1 <= size2:
        raise ValueError(f"no consistency proof from {size1} to {size2}")
    if size1 == 0:
        return []
    start, stop = 0, size2
    path: list[bytes] = []
    while size1 != stop:
        middle = start + _split(stop - start)
        if size1 <= middle:
            path.append(range_hash(middle, stop))
            stop = middle
        else:
            path.append(range_hash(start, middle))
            start = middle
    if start or explicit:
        path.append(range_hash(start, stop))
    path.reverse()
    return path


def root_from_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 section 2.1.3.2).

    Raises:
        IntegrityError: ``tlog.proof``, the proof has not the length this index and size call for.
    """
    if not 0 <= index < size:
        raise _bad_proof(f"entry {index} is outside a tree of {size}")
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise _bad_proof("the inclusion proof is too long")
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise _bad_proof("the inclusion proof is too short")
    return result


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (a leaf hash) is entry `index` of the tree with this `size` and `root`.

    Raises:
        IntegrityError: ``tlog.proof``.
    """
    _check_hashes((leaf, root, *proof))
    if root_from_proof(leaf, index, size, proof) != root:
        raise _bad_proof(f"the inclusion proof of entry {index} does not lead to the root of size {size}")


def consistency_roots(size1: int, size2: int, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The two roots that an explicit consistency proof leads to (RFC 9162 section 2.1.4.2), for 0 < size1 < size2.

    Raises:
        IntegrityError: ``tlog.proof``, the proof has not the length these sizes call for.
    """
    if not proof:
        raise _bad_proof("the consistency proof is empty")
    node, last = size1 - 1, size2 - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = proof[0]
    for sibling in proof[1:]:
        if last == 0:
            raise _bad_proof("the consistency proof is too long")
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise _bad_proof("the consistency proof is too short")
    return first, second


def verify_consistency(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (`size1`, `root1`) is a prefix of the tree (`size2`, `root2`).

    From the empty tree the proof is empty and `root1` is EMPTY_ROOT (https://c2sp.org/tlog-witness).

    Raises:
        IntegrityError: ``tlog.proof``.
    """
    if not 0 <= size1 <= size2:
        raise _bad_proof(f"a tree of {size1} cannot be a prefix of a tree of {size2}")
    if size1 in (0, size2):
        if proof:
            raise _bad_proof(f"the consistency proof from {size1} to {size2} must be empty")
        if root1 != (EMPTY_ROOT if size1 == 0 else root2) or (size2 == 0 and root2 != EMPTY_ROOT):
            raise _bad_proof(f"the root of size {size1} is not the one it must be")
        return
    _check_hashes((root1, root2, *proof))
    power_of_two = size1 & (size1 - 1) == 0
    first, second = consistency_roots(size1, size2, (root1, *proof) if power_of_two else proof)
    if first != root1 or second != root2:
        raise _bad_proof(f"the consistency proof does not lead from the root of {size1} to the root of {size2}")


def _check_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(value) != HASH_BYTES for value in hashes):
        raise _bad_proof("a hash in the proof is not 32 bytes long")


def _bad_proof(message: str) -> IntegrityError:
    return IntegrityError(message, code="tlog.proof", hint="Treat whoever gave this proof as hostile or broken.")
