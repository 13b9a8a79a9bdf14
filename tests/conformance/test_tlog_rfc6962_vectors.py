"""Published Merkle vectors: transparency-dev/merkle (RFC 6962 golden hashes, inclusion and consistency proofs)."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from isochrone.errors import IntegrityError
from isochrone.tlog import merkle
from isochrone.tlog.edge import Edge

VECTORS = Path(__file__).parents[3] / "shared/vectors/transparency-dev-merkle"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="the published Merkle vectors are not beside the project")


def cases(kind: str) -> list[Any]:
    paths = sorted((VECTORS / "testdata" / kind).rglob("*.json"))
    return [
        pytest.param(json.loads(path.read_text()), id=str(path.relative_to(VECTORS / "testdata"))) for path in paths
    ]


def hashes(case: dict[str, Any]) -> list[bytes]:
    return [b64decode(value) for value in case["proof"] or ()]


@pytest.mark.parametrize("case", cases("inclusion"))
def test_inclusion_proof(case: dict[str, Any]) -> None:
    leaf, root = b64decode(case["leafHash"]), b64decode(case["root"])
    if case["wantErr"]:
        with pytest.raises(IntegrityError):
            merkle.verify_inclusion(leaf, case["leafIdx"], case["treeSize"], hashes(case), root)
    else:
        merkle.verify_inclusion(leaf, case["leafIdx"], case["treeSize"], hashes(case), root)


@pytest.mark.parametrize("case", cases("consistency"))
def test_consistency_proof(case: dict[str, Any]) -> None:
    root1, root2 = b64decode(case["root1"]), b64decode(case["root2"])
    if case["wantErr"]:
        with pytest.raises(IntegrityError):
            merkle.verify_consistency(case["size1"], case["size2"], root1, root2, hashes(case))
    else:
        merkle.verify_consistency(case["size1"], case["size2"], root1, root2, hashes(case))


def golden() -> dict[str, Any]:
    paths = list(VECTORS.rglob("rfc6962-golden.json"))
    return json.loads(paths[0].read_text()) if paths else {}


def test_golden_hashes_and_roots() -> None:
    data = golden()
    leaves = [bytes.fromhex(value) for value in data["leaf_inputs_hex"]]
    assert [h.hex() for h in merkle.leaf_hashes(leaves)] == data["level_hashes"][0]
    row = merkle.leaf_hashes(leaves)
    for level in data["level_hashes"][1:]:
        row = merkle.parent_row(row)
        assert [h.hex() for h in row] == level
    for size, root in enumerate(data["root_hashes_by_size"]):
        assert merkle.root_from_leaves(merkle.leaf_hashes(leaves[:size])).hex() == root
        assert Edge(size, [merkle.leaf_hashes(leaves[:size])]).root.hex() == root
    hasher = data["hasher"]
    assert merkle.EMPTY_ROOT.hex() == hasher["empty_root"]
    assert merkle.leaf_hash(b"").hex() == hasher["empty_leaf"]
    assert merkle.leaf_hash(b"L123456").hex() == hasher["leaf_L123456"]
    assert merkle.node_hash(b"N123", b"N456").hex() == hasher["node_N123_N456"]


def test_proofs_we_make_are_the_published_ones() -> None:
    leaves = merkle.leaf_hashes([bytes.fromhex(value) for value in golden()["leaf_inputs_hex"]])

    def range_hash(start: int, stop: int) -> bytes:
        return merkle.root_from_leaves(leaves[start:stop])

    happy = [p.values[0] for kind in ("inclusion", "consistency") for p in cases(kind)]
    happy = [case for case in happy if not case["wantErr"] and case["desc"] == "happy path"]
    assert happy
    for case in happy:
        if "leafIdx" in case:
            assert merkle.inclusion_proof(case["leafIdx"], case["treeSize"], range_hash) == hashes(case)
        else:
            assert merkle.consistency_proof(case["size1"], case["size2"], range_hash) == hashes(case)
