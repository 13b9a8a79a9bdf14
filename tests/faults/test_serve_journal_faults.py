"""What is in the journal after Envoy is killed again and again, and when the disk under it is full?"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from isochrone.serve.envoy import EnvoyProcess
from isochrone.serve.journal import Batch, Cursor, JournalTail
from isochrone.serve.process import Supervisor, free_port

T = "type.googleapis.com/envoy."


def bootstrap(port: int, journal: Path) -> dict[str, Any]:
    """A listener that answers by itself and journals both ends of every request."""
    log = {
        "name": "journal",
        "typed_config": {
            "@type": T + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(journal),
            "log_format": {"json_format": {"n": "%REQ(X-N)%", "at": "%ACCESS_LOG_TYPE%", "pad": "x" * 300}},
        },
    }
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
    }
    manager = {
        "@type": T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "access_log": [log],
        "access_log_options": {"flush_access_log_on_new_request": True},
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [{"name": "router", "typed_config": {"@type": T + "extensions.filters.http.router.v3.Router"}}],
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener]}}


class Reader:
    """Reads to the end, keeping what a sequencer would keep."""

    def __init__(self, tail: JournalTail) -> None:
        self.tail, self.cursor = tail, b""
        self.entries: list[dict[str, Any]] = []
        self.kinds: list[str] = []

    def read(self) -> None:
        batch: Batch = self.tail.read(self.cursor)
        assert batch.cursor >= self.cursor
        self.entries += batch.entries
        self.kinds += [f.kind for f in batch.findings]
        self.cursor = batch.cursor


@contextlib.asynccontextmanager
async def envoy_on(folder: Path, journal: Path) -> AsyncIterator[tuple[EnvoyProcess, Reader, httpx.AsyncClient]]:
    reader = Reader(JournalTail(journal))

    async def close_segment() -> None:
        reader.tail.close_live(Cursor.from_bytes(reader.cursor).segment)

    port = free_port()
    settings = bootstrap(port, journal)
    envoy = EnvoyProcess("edge", folder / "envoy", settings, journal_flush_s=0.01, before_start=close_segment)
    async with (
        Supervisor(folder / "log") as supervisor,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        await envoy.start(supervisor)
        yield envoy, reader, client
        await envoy.close()


def test_kill_9_of_envoy_loses_no_written_line_and_doubles_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with envoy_on(tmp_path, tmp_path / "journal.jsonl") as (envoy, reader, client):
            child = envoy.child
            assert child is not None
            sent = 0
            for round_ in range(4):
                for _ in range(40):
                    assert (await client.get("/", headers={"x-n": str(sent)})).status_code == 200
                    sent += 1
                if round_ < 3:
                    child.kill()
                    async with asyncio.timeout(20):
                        await child.wait_restarted(round_)
                reader.read()
            deadline_s = time.monotonic() + 10
            while not reader.entries or reader.entries[-1] != {"n": "159", "at": "DownstreamEnd", "pad": "x" * 300}:
                assert time.monotonic() < deadline_s
                reader.read()
                await asyncio.sleep(0.02)
            on_disk = b"".join(p.read_bytes() for p in (*reader.tail.segments().values(), reader.tail.path))
            complete = [json.loads(line) for line in on_disk.split(b"\n") if line.endswith(b"}")]
            assert reader.entries == complete
            ends = [int(e["n"]) for e in reader.entries if e["at"] == "DownstreamEnd"]
            assert ends == sorted(set(ends))
            assert set(reader.kinds) <= {"torn"}
            assert len(reader.tail.segments()) == 3

    asyncio.run(main())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux":
        pytest.skip("a small tmpfs needs Linux")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_under_the_journal_shows_in_counters_and_findings(tmp_path: Path, small_disk: Path) -> None:
    async def main() -> None:
        async with envoy_on(tmp_path, small_disk / "journal.jsonl") as (envoy, reader, client):
            sent = 0

            async def send(count: int) -> None:
                nonlocal sent
                for _ in range(count):
                    await client.get("/", headers={"x-n": str(sent)})
                    sent += 1

            async def failures() -> int:
                return int((await envoy.stats(r"^filesystem\.write_failed$"))["filesystem.write_failed"])

            await send(20)
            assert await failures() == 0
            deadline_s = time.monotonic() + 20
            while await failures() == 0:
                assert time.monotonic() < deadline_s
                await send(20)
            reader.read()
            before = len(reader.entries)
            assert await reader.tail.rotate(envoy.reopen_logs, bytes_max=1, sequenced=reader.cursor) == []
            small_disk.joinpath("journal-000001.jsonl").unlink()  # room again
            await send(1)
            deadline_s = time.monotonic() + 10
            while not reader.entries[before:]:
                assert time.monotonic() < deadline_s
                reader.read()
                await asyncio.sleep(0.02)
            recorded = [int(e["n"]) for e in reader.entries if e["at"] == "DownstreamEnd"]
            assert recorded == sorted(set(recorded))
            assert len(recorded) < sent

    asyncio.run(main())
