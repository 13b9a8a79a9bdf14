"""Trees, proofs and tiles against a literal reading of RFC 6962 section 2.1."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import IntegrityError
from isochrone.tlog import merkle
from isochrone.tlog.edge import Edge
from isochrone.tlog.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, encode_bundle

LEAVES = merkle.leaf_hashes([b"entry %d" % i for i in range(600)])


def mth(hashes: list[bytes]) -> bytes:
    """RFC 6962's definition, word by word (over leaf hashes)."""
    if not hashes:
        return sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def range_hash(start: int, stop: int) -> bytes:
    return mth(LEAVES[start:stop])


sizes = st.integers(0, 600)


@given(sizes)
def test_roots(size: int) -> None:
    assert merkle.root_from_leaves(LEAVES[:size]) == mth(LEAVES[:size])


@settings(deadline=None)
@given(st.lists(st.integers(0, 90), max_size=8))
def test_an_edge_grown_in_any_steps_has_the_right_root_and_tiles(steps: list[int]) -> None:
    edge, tiles = Edge(), {}
    for step in steps:
        stop = min(edge.size + step, 600)
        while edge.size < stop:
            boundary = (edge.size // TILE_WIDTH + 1) * TILE_WIDTH
            tiles |= dict(edge.extend(LEAVES[edge.size : min(stop, boundary)]))
    assert edge.root == mth(LEAVES[: edge.size])
    assert Edge(edge.size, edge.hashes()).root == edge.root
    assert sorted(tiles) == [Tile(0, n) for n in range(edge.size // TILE_WIDTH)]
    assert all(hashes == LEAVES[tile.index * TILE_WIDTH :][:TILE_WIDTH] for tile, hashes in tiles.items())


@settings(deadline=None)
@given(st.data())
def test_inclusion(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 600))
    index = data.draw(st.integers(0, size - 1))
    root = mth(LEAVES[:size])
    proof = merkle.inclusion_proof(index, size, range_hash)
    merkle.verify_inclusion(LEAVES[index], index, size, proof, root)
    with pytest.raises(IntegrityError):
        merkle.verify_inclusion(LEAVES[(index + 1) % 600], index, size, proof, root)
    with pytest.raises(IntegrityError):
        merkle.verify_inclusion(LEAVES[index], index, size, [*proof, root], root)
    if proof:
        bad = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[bad][0] ^ 1]) + proof[bad][1:]
        for wrong in (proof[:-1], proof[1:], [*proof[:bad], flipped, *proof[bad + 1 :]], [b"short", *proof[1:]]):
            with pytest.raises(IntegrityError):
                merkle.verify_inclusion(LEAVES[index], index, size, wrong, root)
        with pytest.raises(IntegrityError):
            merkle.verify_inclusion(LEAVES[index], (index + 1) % size, size, proof, root)


@settings(deadline=None)
@given(st.data())
def test_consistency(data: st.DataObject) -> None:
    size2 = data.draw(st.integers(1, 600))
    size1 = data.draw(st.integers(0, size2))
    root1, root2 = mth(LEAVES[:size1]), mth(LEAVES[:size2])
    proof = merkle.consistency_proof(size1, size2, range_hash)
    merkle.verify_consistency(size1, size2, root1, root2, proof)
    if 0 < size1 < size2:
        explicit = merkle.consistency_proof(size1, size2, range_hash, explicit=True)
        assert merkle.consistency_roots(size1, size2, explicit) == (root1, root2)
        bad = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[bad][0] ^ 1]) + proof[bad][1:]
        for wrong in (proof[:-1], [*proof, root1], [*proof[:bad], flipped, *proof[bad + 1 :]]):
            with pytest.raises(IntegrityError):
                merkle.verify_consistency(size1, size2, root1, root2, wrong)
    other = merkle.leaf_hash(b"another history")
    for roots in ((other, root2), (root1, other)):
        if size1 or roots[0] == other:
            with pytest.raises(IntegrityError):
                merkle.verify_consistency(size1, size2, *roots, proof)
    with pytest.raises(IntegrityError):
        merkle.verify_consistency(size2 + 1, size2, root2, root2, [])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_no_proof_of_what_is_not_in_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no entry"):
        merkle.inclusion_proof(index, size, range_hash)
    with pytest.raises(IntegrityError):
        merkle.verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])


def test_no_consistency_proof_backwards() -> None:
    with pytest.raises(ValueError, match="no consistency"):
        merkle.consistency_proof(4, 3, range_hash)


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_bundles_round_trip(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries)) == entries


@given(st.integers(-1, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_tile_paths_round_trip(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert Tile.parse(tile.path) == tile
    assert tile.path.startswith("tile/entries/") == (level == ENTRIES)


@given(st.text(alphabet="tile/0123456789.px", max_size=30))
def test_every_path_that_parses_is_canonical(text: str) -> None:
    for path in (text, f"tile/0/{text}"):
        tile = Tile.parse(path)
        assert tile is None or tile.path == path
