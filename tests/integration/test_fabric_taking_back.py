"""Authority taken back in a running fabric: streams that run, switches, what is listed, and what outlives a restart."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from isochrone.cli.revoke import revoke_everywhere
from support.fabric import SITES, RunningFabric, running_fabric, until

KONSTANZ, FRANKFURT = SITES


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("t")) as running:
        yield running


class Stream:
    """A client that reads an endless answer until it is cut."""

    def __init__(self, fabric: RunningFabric, site: str, agent: str, contract: str = "anywhere") -> None:
        self.events, self.ended_s, self.status = 0, 0.0, 0
        self._url = f"{fabric.base(site)}/stream"
        self._headers = {"authorization": f"Bearer {fabric.source(site, contract, agent).token()}"}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until(lambda: self.events > 2, f"{agent} streams at {site}")

    def _read(self) -> None:
        try:
            with httpx.stream("POST", self._url, json={}, headers=self._headers, timeout=10.0) as answer:
                self.status = answer.status_code
                for _ in answer.iter_raw():
                    self.events += 1
                    if self._stop.is_set():
                        return
        except httpx.HTTPError:
            pass
        finally:
            self.ended_s = time.monotonic()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


def take_back(fabric: RunningFabric, kind: str, item: str) -> float:
    """Revoke by the command's own code; when it was entered, by this machine's monotonic clock."""
    import asyncio

    begun_s = time.monotonic()
    answer = asyncio.run(revoke_everywhere(fabric.state, kind, item, "human:operator", "test"))
    assert not answer["missing"]
    return begun_s


@pytest.mark.parametrize(
    ("entry", "contract"), [(KONSTANZ, "anywhere"), (FRANKFURT, "lakeside")], ids=["executed here", "handed over"]
)
def test_a_running_stream_ends_when_its_delegation_is_revoked(fabric: RunningFabric, entry: str, contract: str) -> None:
    doomed, other = f"agent:doomed-{entry}", f"agent:other-{entry}"
    cut, kept = Stream(fabric, entry, doomed, contract), Stream(fabric, entry, other, contract)
    begun_s = take_back(fabric, "delegation", doomed)
    until(lambda: cut.ended_s, "the stream is cut", timeout_s=20.0)
    print(f"cut {cut.ended_s - begun_s:.2f} s after the revocation was asked for")
    seen = kept.events
    until(lambda: kept.events > seen + 20, "another agent's stream goes on")
    kept.close()
    assert (cut.status, kept.status) == (200, 200)
