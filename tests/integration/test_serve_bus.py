"""Does the bus keep its promises against a real NATS server, also one that is killed, wiped or refuses us?"""

import asyncio
import contextlib
import datetime as dt
import os
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from isochrone.errors import PeerError, ProcessError
from isochrone.serve.bus import Bus, Entry
from isochrone.serve.nats_server import PAYLOAD_BYTES_MAX, NatsServer, NatsUser
from isochrone.serve.pki import Authority
from isochrone.serve.process import Child, Supervisor, free_port
from isochrone.serve.tls import TlsFiles
from support.parties import Parties

HUB, EDGE = NatsUser("spiffe://pair/hub"), NatsUser("spiffe://pair/edge", {"publish": {"deny": ["orders.>"]}})


async def until(what: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, "did not happen"
        await asyncio.sleep(0.01)


class World:
    """A server, a client, and what it takes to disturb them."""

    def __init__(self, supervisor: Supervisor, server: NatsServer, bus: Bus, parties: Parties) -> None:
        self.supervisor, self.server, self.bus, self.parties = supervisor, server, bus, parties

    @property
    def child(self) -> Child:
        return self.supervisor.children["nats"]

    async def kill_and_return(self) -> None:
        restarts = self.child.restarts
        self.child.kill()
        await until(lambda: self.child.restarts > restarts)
        await self.bus.wait_connected(10)

    async def stop(self) -> None:
        await self.supervisor.stop("nats")
        await until(lambda: not self.bus.connected)

    async def start(self) -> None:
        await self.supervisor.start(self.server.spec())
        await self.bus.wait_connected(10)


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    parties = Parties(folder / "parties")
    server = NatsServer(folder / "nats", free_port(), (HUB, EDGE), parties.party(HUB.uri))
    async with Supervisor(folder / "log") as supervisor:
        await supervisor.start(server.spec())
        async with Bus(server.url, name="test", tls=server.tls) as bus:
            await bus.wait_connected(10)
            yield World(supervisor, server, bus, parties)


def in_world(folder: Path, scene: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with world(folder) as w:
            await asyncio.wait_for(scene(w), 60)

    asyncio.run(main())


class Watcher:
    """Collects what a watch yields."""

    def __init__(self, bus: Bus, bucket: str, pattern: str = ">") -> None:
        self.seen: list[Entry] = []
        self.syncs = 0
        self._task = asyncio.create_task(self._watch(bus, bucket, pattern))

    async def _watch(self, bus: Bus, bucket: str, pattern: str) -> None:
        def synced() -> None:
            self.syncs += 1

        async for entry in bus.watch(bucket, pattern, synced):
            self.seen.append(entry)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def test_revisions_rise_and_compare_and_set_lets_one_win(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        first = await w.bus.put("plan", "site/a", b"1")
        assert await w.bus.get("plan", "site/a") == Entry("site/a", b"1", first)
        results = await asyncio.gather(*(w.bus.put_if("plan", "site/a", b"%d" % n, first) for n in range(5)))
        winners = [r for r in results if r is not None]
        assert len(winners) == 1
        assert winners[0] > first
        assert await w.bus.put_if("plan", "new", b"x", 0) is not None
        assert await w.bus.put_if("plan", "new", b"y", 0) is None
        assert await w.bus.get("plan", "absent") is None
        await w.bus.delete("plan", "new")
        assert await w.bus.get("plan", "new") is None
        assert set(await w.bus.entries("plan")) == {"site/a"}
        assert await w.bus.entries("empty") == {}

    in_world(tmp_path, scene)


def test_watch_gives_present_values_first_then_changes(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        for n in range(3):
            await w.bus.put("plan", "a", b"%d" % n)
        await w.bus.put("plan", "b.c", b"x")
        await w.bus.delete("plan", "gone")
        everything, some, none = Watcher(w.bus, "plan"), Watcher(w.bus, "plan", "b.*"), Watcher(w.bus, "unused")
        await until(lambda: everything.syncs == 1 and some.syncs == 1 and none.syncs == 1)
        assert [(e.key, e.value) for e in everything.seen] == [("a", b"2"), ("b.c", b"x")]
        revision = await w.bus.put("plan", "b.d", b"y")
        await w.bus.delete("plan", "a")
        await until(lambda: len(everything.seen) == 4 and len(some.seen) == 2)
        assert everything.seen[2:] == [Entry("b.d", b"y", revision), Entry("a", None, revision + 1)]
        assert [e.key for e in some.seen] == ["b.c", "b.d"]
        for watcher in (everything, some, none):
            await watcher.stop()

    in_world(tmp_path, scene)


def test_watch_survives_a_killed_server_and_repeats_nothing(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        watcher = Watcher(w.bus, "plan")
        await w.bus.put("plan", "kept", b"1")
        await until(lambda: len(watcher.seen) == 1)
        for n in range(3):
            await w.kill_and_return()
            await _put_patiently(w.bus, "changed", b"%d" % n)
            await until(lambda n=n: watcher.seen[-1].value == b"%d" % n)
        assert [(e.key, e.value) for e in watcher.seen] == [("kept", b"1")] + [("changed", b"%d" % n) for n in range(3)]
        revisions = [e.revision for e in watcher.seen]
        assert revisions == sorted(set(revisions))
        await watcher.stop()

    in_world(tmp_path, scene)


def test_changes_made_while_cut_off_arrive_on_return(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        statuses: list[bool] = []
        cut = Proxy(w.server.port)
        await cut.open()
        async with Bus(cut.url, name="far", tls=w.server.tls, on_status=statuses.append) as far:
            await far.wait_connected(10)
            for key in ("a", "b"):
                await w.bus.put("plan", key, b"old")
            watcher = Watcher(far, "plan")
            await until(lambda: len(watcher.seen) == 2)
            await cut.close()
            await until(lambda: not far.connected)
            for n in range(20):  # more than the bucket's history
                await w.bus.put("plan", "a", b"%d" % n)
            await w.bus.delete("plan", "b")
            with pytest.raises(PeerError) as caught:
                await far.put("plan", "a", b"stale")
            assert caught.value.code == "bus.disconnected"
            await cut.open()
            await until(lambda: len(watcher.seen) == 4)
            assert [(e.key, e.value) for e in watcher.seen[2:]] == [("a", b"19"), ("b", None)]
            entry = await w.bus.get("plan", "a")
            assert entry is not None
            assert entry.value == b"19"
            await watcher.stop()
        await cut.close()
        assert statuses == [True, False, True, False]

    in_world(tmp_path, scene)


def test_a_wiped_server_shows_as_deletions_and_new_values(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        for key in ("a", "b"):
            await w.bus.put("plan", key, b"before")
        watcher = Watcher(w.bus, "plan")
        await until(lambda: len(watcher.seen) == 2)
        await w.stop()
        shutil.rmtree(w.server.directory / "store")
        await w.start()
        await until(lambda: len(watcher.seen) == 4)
        assert {(e.key, e.value) for e in watcher.seen[2:]} == {("a", None), ("b", None)}
        await _put_patiently(w.bus, "a", b"after")
        await until(lambda: len(watcher.seen) == 5)
        assert watcher.seen[4][:2] == ("a", b"after")
        await watcher.stop()

    in_world(tmp_path, scene)


def test_what_was_answered_is_on_disk_after_kill_9(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        written = {f"k{n}": await w.bus.put("state", f"k{n}", os.urandom(100)) for n in range(50)}
        await w.kill_and_return()
        deadline_s = time.monotonic() + 10
        while True:
            try:
                found = await w.bus.entries("state")
                break
            except PeerError:
                assert time.monotonic() < deadline_s
                await asyncio.sleep(0.05)
        assert {k: e.revision for k, e in found.items()} == written

    in_world(tmp_path, scene)


def test_messages_and_requests_also_after_a_reconnect(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        heard: list[bytes] = []

        async def listen(subject: str, data: bytes) -> None:
            if data == b"bad":
                raise ValueError("handler")
            heard.append(data)

        async def answer(subject: str, data: bytes) -> bytes:
            return data.upper()

        subscription = await w.bus.subscribe("news.*", listen)
        await w.bus.reply("echo", answer)
        for n in range(2):
            for data in (b"bad", b"good"):
                await w.bus.publish("news.x", data)
            await until(lambda n=n: len(heard) == n + 1)
            assert await w.bus.request("echo", b"hi") == b"HI"
            if n == 0:
                await w.kill_and_return()
        await subscription.unsubscribe()
        await subscription.unsubscribe()
        with pytest.raises(PeerError) as caught:
            await w.bus.request("nobody", b"")
        assert caught.value.code == "bus.no-responder"

    in_world(tmp_path, scene)


def test_silence_and_refusals_are_typed(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        async def slow(subject: str, data: bytes) -> bytes:
            await asyncio.sleep(60)
            return b""

        await w.bus.reply("slow", slow)
        with pytest.raises(PeerError) as caught:
            await w.bus.request("slow", b"", timeout_s=0.2)
        assert caught.value.code == "bus.timeout"
        for key in ("", "with space", ".dot"):
            with pytest.raises(PeerError) as caught:
                await w.bus.put("plan", key, b"")
            assert caught.value.code == "bus.refused"
        with pytest.raises(PeerError) as caught:
            await w.bus.put("plan", "big", b"x" * (PAYLOAD_BYTES_MAX + 1))
        assert caught.value.code == "bus.refused"
        big = os.urandom(PAYLOAD_BYTES_MAX - 4096)
        await w.bus.put("plan", "big", big)
        entry = await w.bus.get("plan", "big")
        assert entry is not None
        assert entry.value == big

    in_world(tmp_path, scene)


def test_nobody_without_a_certificate_of_a_user_ever_connects(tmp_path: Path) -> None:
    other = Authority.create("pair", dt.datetime.now(dt.UTC))

    async def scene(w: World) -> None:
        thieves = {
            "a party that is no user": w.parties.party("spiffe://pair/site/unenrolled"),
            "a certificate of another authority": w.parties.party(HUB.uri, other),
            "a certificate that has ended": w.parties.party("spiffe://pair/edge", life_s=-1),
        }
        for who, tls in thieves.items():
            async with Bus(w.server.url, name="thief", tls=tls) as thief:
                with pytest.raises(PeerError) as caught:
                    await thief.wait_connected(1.0)
                assert caught.value.code == "bus.disconnected", who

    in_world(tmp_path, scene)


def test_the_bus_speaks_nothing_in_the_clear_and_to_nobody_without_a_certificate(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.server.port)
        writer.write(b'CONNECT {"verbose":true}\r\nPING\r\n')
        answer = await asyncio.wait_for(reader.read(4096), 5)
        answer += await asyncio.wait_for(reader.read(4096), 5)
        assert b"PONG" not in answer
        assert b"+OK" not in answer
        context = ssl.create_default_context(cafile=str(w.parties.trust))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", w.server.port, ssl=context, server_hostname=w.server.tls.server_name
        )
        with pytest.raises((ssl.SSLError, OSError)):  # TLS 1.3 tells a client only after its handshake
            await asyncio.wait_for(reader.read(1), 5)

    in_world(tmp_path, scene)


def test_a_client_gives_nothing_to_a_server_that_is_not_the_hubs(tmp_path: Path) -> None:
    """One with a site's certificate, and one that asks for no TLS at all."""

    async def scene(w: World) -> None:
        site = tmp_path / "site.pem"
        site.write_bytes(w.parties.authority.issue("spiffe://pair/site/x", dt.datetime.now(dt.UTC)).pem)
        heard: list[bytes] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1024,"headers":true}\r\n')
            heard.append(await reader.read(65536))
            writer.close()

        for context in (replace(w.server.tls, credential=site).server(), None):
            port = free_port()
            async with await asyncio.start_server(talk, "127.0.0.1", port, ssl=context):
                async with Bus(f"tls://127.0.0.1:{port}", name="test", tls=w.server.tls) as bus:
                    with pytest.raises(PeerError):
                        await bus.wait_connected(1.0)
        assert not any(b"CONNECT" in each for each in heard)

    in_world(tmp_path, scene)


def test_users_come_and_go_without_dropping_the_others(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        statuses: dict[str, list[bool]] = {"edge": [], "late": []}
        late = w.parties.party("spiffe://pair/late")
        async with (
            Bus(w.server.url, name="edge", tls=w.parties.party(EDGE.uri), on_status=statuses["edge"].append) as edge,
            Bus(w.server.url, name="late", tls=late, on_status=statuses["late"].append) as joining,
        ):
            await edge.wait_connected(10)
            assert not joining.connected
            assert replace(w.server, users=(HUB, EDGE, NatsUser("spiffe://pair/late"))).reload()
            await joining.wait_connected(10)
            assert statuses["edge"] == [True]
            assert replace(w.server, users=(HUB, NatsUser("spiffe://pair/late"))).reload()
            await until(lambda: not edge.connected)
            await asyncio.sleep(0.5)
            assert not edge.connected
            assert statuses["late"] == [True]
            assert w.bus.connected

    in_world(tmp_path, scene)


def test_a_denied_subject_does_not_reach_anyone(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        heard: list[bytes] = []

        async def listen(subject: str, data: bytes) -> None:
            heard.append(data)

        await w.bus.subscribe("orders.x", listen)
        async with Bus(w.server.url, name="edge", tls=w.parties.party(EDGE.uri)) as edge:
            await edge.wait_connected(10)
            await edge.publish("orders.x", b"forged")
            await w.bus.publish("orders.x", b"real")
            await until(lambda: heard == [b"real"])
            assert edge.connected

    in_world(tmp_path, scene)


def test_a_client_starts_before_its_server(tmp_path: Path) -> None:
    async def main() -> None:
        server = NatsServer(tmp_path / "nats", free_port(), (HUB,), Parties(tmp_path / "parties").party(HUB.uri))
        async with Bus(server.url, name="early", tls=server.tls) as bus:
            watcher = Watcher(bus, "plan")
            await asyncio.sleep(0.3)
            assert not bus.connected
            async with Supervisor(tmp_path / "log") as supervisor:
                await supervisor.start(server.spec())
                await bus.wait_connected(10)
                await _put_patiently(bus, "a", b"1")
                await until(lambda: len(watcher.seen) == 1)
            await watcher.stop()

    asyncio.run(main())


def test_a_port_held_by_another_server_is_not_taken_for_ours(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path / "log") as supervisor:
            tls = Parties(tmp_path / "parties").party(HUB.uri)
            first = NatsServer(tmp_path / "one", free_port(), (HUB,), tls, name="one")
            await supervisor.start(first.spec())
            second = NatsServer(tmp_path / "two", first.port, (HUB,), tls, name="two")
            with pytest.raises(ProcessError) as caught:
                await supervisor.start(second.spec())
            assert caught.value.code == "process.port-in-use"

    asyncio.run(main())


def test_the_server_keeps_its_configuration_and_needs_users(tmp_path: Path) -> None:
    tls = TlsFiles(tmp_path / "credential.pem", tmp_path / "trust.pem", "hub")
    server = NatsServer(tmp_path / "nats", 4222, (HUB,), tls)
    assert not server.reload()
    server.spec()
    assert (tmp_path / "nats" / "nats.conf").stat().st_mode & 0o777 == 0o600
    assert server.config() == server.config()
    with pytest.raises(ValueError, match="users"):
        NatsServer(tmp_path, 4222, (), tls)


class Proxy:
    """A TCP relay that can be cut: a network partition between one client and the server."""

    def __init__(self, port: int) -> None:
        self._to, self.port = port, free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port, family=socket.AF_INET)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, upstream_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))


async def _put_patiently(bus: Bus, key: str, value: bytes) -> None:
    """Right after a start JetStream may not answer yet."""
    deadline_s = time.monotonic() + 10
    while True:
        try:
            await bus.put("plan", key, value)
            return
        except PeerError:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.05)
