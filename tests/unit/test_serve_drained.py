"""Is a drained site remembered, and does only the newest of what floods wait?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from isochrone.control.report import SiteReport
from isochrone.errors import InputError, StorageError
from isochrone.serve.drained import DrainedSites
from isochrone.serve.newest import Newest


def test_drained_sites_outlive_the_hub(tmp_path: Path) -> None:
    path = tmp_path / "drained.json"
    assert DrainedSites(path).change("b", ["a", "b"], undo=False) == {"b"}
    assert DrainedSites(path).sites == {"b"}
    assert DrainedSites(path).change("b", ["a", "b"], undo=True) == frozenset()
    assert DrainedSites(path).sites == frozenset()


def test_what_is_no_site_or_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "drained.json"
    with pytest.raises(InputError, match="no site 'x'"):
        DrainedSites(path).change("x", ["a"], undo=False)
    assert not path.exists()
    for damaged in ("{", "{}", "[1]", '"a"'):
        path.write_text(damaged)
        with pytest.raises(StorageError, match="no list of sites"):
            DrainedSites(path)


def test_only_the_newest_of_a_flood_waits() -> None:
    async def heard() -> list[tuple[str, bytes | None]]:
        newest, found = Newest(0.0), []
        for n in range(1000):
            newest.put("loud", b"%d" % n)
        newest.put("quiet", b"here")
        async for key, value in newest:
            found.append((key, value))
            if key == "quiet":
                newest.put("loud", None)
            if value is None:
                return found
        return found

    assert asyncio.run(heard()) == [("loud", b"999"), ("quiet", b"here"), ("loud", None)]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"site": "a"}'])
def test_what_is_no_report_is_refused_by_its_type(data: bytes) -> None:
    with pytest.raises(InputError):
        SiteReport.told_under("a", data)
