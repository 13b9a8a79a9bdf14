"""Tile coordinates and entry bundles."""

from __future__ import annotations

import pytest

from isochrone.errors import InputError, IntegrityError
from isochrone.tlog.edge import Edge
from isochrone.tlog.merkle import leaf_hashes
from isochrone.tlog.tiles import ENTRIES, Tile, decode_bundle, encode_bundle


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/1",
        "tile/0/x001",
        "tile/00/001",
        "tile/64/001",
        "tile/0/x000/001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/0/001.p/999",
        "tile/entries/001.q/5",
        "tile/-1/001",
        "tile/0/001/",
        "checkpoint",
        "tile/0/xx01/001",
        "tile/0/０01",
    ],
)
def test_paths_that_are_no_tile(path: str) -> None:
    assert Tile.parse(path) is None


def test_level_63_is_the_highest() -> None:
    assert Tile.parse("tile/63/000") == Tile(63, 0)


def test_bundles() -> None:
    entries = [b"", b"a", b"x" * 65_535]
    data = encode_bundle(entries)
    assert data[:5] == b"\0\0\0\1a"
    assert decode_bundle(data) == entries
    for cut in (1, 4, len(data) - 1):
        with pytest.raises(IntegrityError) as caught:
            decode_bundle(data[:cut])
        assert caught.value.code == "tlog.entries"


def test_an_entry_over_the_limit_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        encode_bundle([b"x" * 65_536])
    assert caught.value.code == "tlog.entry-size"


def test_an_edge_must_fit_its_size() -> None:
    hashes = leaf_hashes([b"a", b"b"])
    with pytest.raises(ValueError, match="edge"):
        Edge(1, [hashes])
    with pytest.raises(ValueError, match="levels"):
        Edge(258, [hashes])


def test_an_extension_stays_in_its_bundle() -> None:
    hashes = leaf_hashes([b"%d" % i for i in range(257)])
    with pytest.raises(ValueError, match="bundle"):
        list(Edge().extend(hashes))


def test_bundle_paths_have_their_own_level() -> None:
    assert Tile.parse("tile/entries/x001/000.p/3") == Tile(ENTRIES, 1000, 3)
