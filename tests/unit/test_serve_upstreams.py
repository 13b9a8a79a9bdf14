"""Is what an address stood for still known when its record is made, after restarts as well?"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isochrone.forward.xds import Address
from isochrone.serve.site_cache import SiteCache
from isochrone.serve.upstreams import Upstreams


def view(peer: int, replica: int) -> Any:
    return SimpleNamespace(
        site="here", peers={"there": Address("127.0.0.1", peer)}, replicas={"echo": (Address("127.0.0.1", replica),)}
    )


def test_addresses_outlive_their_endpoints_and_the_node(tmp_path: Path) -> None:
    first = Upstreams(SiteCache(tmp_path))
    first.load()
    first.learn(view(1, 2))
    first.learn(view(1, 3))
    again = Upstreams(SiteCache(tmp_path))
    again.load()
    for known in (first, again):
        sites = [known.site_at(f"127.0.0.1:{port}") for port in (1, 2, 3, 4)]
        assert sites == ["there", "here", "here", None]


def test_an_address_that_changes_hands_stands_for_the_last(tmp_path: Path) -> None:
    upstreams = Upstreams(SiteCache(tmp_path))
    upstreams.learn(view(1, 2))
    upstreams.learn(view(2, 1))
    assert [upstreams.site_at(f"127.0.0.1:{port}") for port in (1, 2)] == ["here", "there"]


def test_the_oldest_go_first(tmp_path: Path) -> None:
    upstreams = Upstreams(SiteCache(tmp_path))
    for port in range(1, 5001):
        upstreams._sites[f"127.0.0.1:{port}"] = "there"
    upstreams.learn(view(6001, 6002))
    assert upstreams.site_at("127.0.0.1:1") is None
    assert upstreams.site_at("127.0.0.1:6002") == "here"


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "upstreams.json").write_text("[")
    with pytest.raises(ValueError):
        Upstreams(SiteCache(tmp_path)).load()
