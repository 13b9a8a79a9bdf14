"""Does a real Envoy take our files, keep the last good ones, say so, and write a journal that we read whole?"""

import asyncio
import contextlib
import datetime
import json
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from isochrone.errors import PeerError, ProcessError
from isochrone.serve.envoy import EnvoyProcess, validate
from isochrone.serve.journal import JournalTail
from isochrone.serve.process import Supervisor, free_port

T = "type.googleapis.com/envoy."
HCM = T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def response(version: str, *resources: Mapping[str, Any]) -> bytes:
    return json.dumps({"version_info": version, "resources": resources}).encode()


def source(kind_dir: str, name: str) -> dict[str, Any]:
    folder = f"xds/{kind_dir}"
    path = {"path": f"{folder}/{name}.json", "watched_directory": {"path": folder}}
    return {"path_config_source": path, "resource_api_version": "V3"}


BOOTSTRAP = {"dynamic_resources": {"cds_config": source("cds", "cds"), "lds_config": source("lds", "lds")}}


def cds(version: str, *names: str, **more: Any) -> bytes:
    clusters = [
        {
            "@type": T + "config.cluster.v3.Cluster",
            "name": name,
            "type": "EDS",
            "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": source("eds", name)},
            **more,
        }
        for name in names
    ]
    return response(version, *clusters)


def eds(version: str, name: str, port: int) -> bytes:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    load = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return response(version, {"@type": T + "config.endpoint.v3.ClusterLoadAssignment", **load})


def rds(version: str, cluster: str, **more: Any) -> bytes:
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
        **more,
    }
    return response(version, {"@type": T + "config.route.v3.RouteConfiguration", "name": "rt", "virtual_hosts": [host]})


def ecds(version: str, action: str) -> bytes:
    everyone = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    rbac = {
        "@type": T + "extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": action, "policies": {"all": everyone}},
    }
    return response(
        version, {"@type": T + "config.core.v3.TypedExtensionConfig", "name": "revocation", "typed_config": rbac}
    )


def lds(version: str, port: int) -> bytes:
    log = {
        "name": "journal",
        "typed_config": {
            "@type": T + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": "journal.jsonl",
            "log_format": {"json_format": {"n": "%REQ(X-N)%", "at": "%ACCESS_LOG_TYPE%", "code": "%RESPONSE_CODE%"}},
        },
    }
    discovery = {
        "config_source": source("ecds", "revocation"),
        "type_urls": [T + "extensions.filters.http.rbac.v3.RBAC"],
    }
    router = {"@type": T + "extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": HCM,
        "stat_prefix": "in",
        "access_log": [log],
        "access_log_options": {"flush_access_log_on_new_request": True},
        "rds": {"route_config_name": "rt", "config_source": source("rds", "rt")},
        "http_filters": [
            {"name": "revocation", "config_discovery": discovery},
            {"name": "router", "typed_config": router},
        ],
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    return response(version, {"@type": T + "config.listener.v3.Listener", **listener})


class World:
    """One Envoy, one upstream that answers with its name, one client."""

    def __init__(self, envoy: EnvoyProcess, supervisor: Supervisor, upstream: int, port: int) -> None:
        self.envoy, self.supervisor, self.upstream, self.port = envoy, supervisor, upstream, port
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5)
        self.tail = JournalTail(envoy.directory / "journal.jsonl")

    def files(self, version: str = "1", *clusters: str) -> dict[str, bytes]:
        names = clusters or ("one",)
        return {
            "cds/cds.json": cds(version, *names),
            **{f"eds/{n}.json": eds(version, n, self.upstream) for n in names},
            "ecds/revocation.json": ecds(version, "ALLOW"),
            "rds/rt.json": rds(version, names[0]),
            "lds/lds.json": lds(version, self.port),
        }

    async def get(self, n: int = 0) -> int:
        return (await self.client.get("/", headers={"x-n": str(n)})).status_code


@contextlib.asynccontextmanager
async def world(folder: Path, start: bool = True) -> AsyncIterator[World]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    envoy = EnvoyProcess("edge", folder / "envoy", BOOTSTRAP, journal_flush_s=0.01, drain_s=1)
    async with Supervisor(folder / "log") as supervisor:
        w = World(envoy, supervisor, server.sockets[0].getsockname()[1], free_port())
        if start:
            await envoy.write_files(w.files())
            await envoy.start(supervisor)
            result = await envoy.wait_in_force()
            assert result.ok, result
        yield w
        await w.client.aclose()
        await envoy.close()
    server.close()


def in_world(folder: Path, scene: Callable[[World], Awaitable[None]], start: bool = True) -> None:
    async def main() -> None:
        async with world(folder, start) as w:
            await asyncio.wait_for(scene(w), 60)

    asyncio.run(main())


def test_files_come_into_force_and_only_changed_ones_are_written(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        assert await w.get() == 200
        assert set((await w.envoy.in_force()).values()) == {"1"}
        assert await w.envoy.write_files(w.files()) == []
        changed = {**w.files(), "ecds/revocation.json": ecds("2", "DENY")}
        assert await w.envoy.write_files(changed) == ["ecds/revocation.json"]
        result = await w.envoy.wait_in_force({"ecds/revocation.json": "2"})
        assert result.ok
        assert result.in_force == {"ecds/revocation.json": "2"}
        assert await w.get() == 403

    in_world(tmp_path, scene)


def test_clusters_and_endpoints_are_written_before_what_refers_to_them(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        order = await w.envoy.write_files(w.files("1", "b", "a"))
        assert [file.split("/")[0] for file in order] == ["eds", "eds", "cds", "ecds", "rds", "lds"]
        assert order[:2] == ["eds/a.json", "eds/b.json"]
        assert all(stat.S_IMODE((w.envoy.files_dir / file).stat().st_mode) == 0o600 for file in order)

    in_world(tmp_path, scene, start=False)


@pytest.mark.parametrize(
    ("file", "bad", "reason"),
    [
        ("rds/rt.json", rds("2", "one", domains=[]), "Domains"),
        ("rds/rt.json", rds("2", "one", domain=["*"]), "domain"),
        ("ecds/revocation.json", ecds("2", "PERMIT"), "PERMIT"),
        ("eds/one.json", eds("2", "one", 99_999), "PortValue"),
        ("eds/one.json", eds("2", "two", 9), "expecting one"),
        ("cds/cds.json", cds("2", "one", connect_timeout="soon"), "connect_timeout"),
    ],
)
def test_a_rejected_file_keeps_the_last_good_and_says_why(tmp_path: Path, file: str, bad: bytes, reason: str) -> None:
    async def scene(w: World) -> None:
        name = "two" if b'"two"' in bad else ""
        await w.envoy.write_files({file: bad})
        result = await w.envoy.wait_in_force({file: "2"}, timeout_s=0.5 if name else 5.0)
        if name:  # the file names another cluster: Envoy rejects it under the cluster that reads it
            assert result.pending == {file: "2"}
        else:
            assert not result.ok
            assert reason in result.rejected[file], result
        assert await w.get() == 200
        await w.envoy.write_files(w.files("3"))
        assert (await w.envoy.wait_in_force()).ok

    in_world(tmp_path, scene)


def test_a_listener_whose_port_is_taken_is_reported_though_envoy_is_live(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", w.port))
            taken.listen()
            await w.envoy.write_files(w.files())
            await w.envoy.start(w.supervisor)
            assert await w.envoy.ready()
            result = await w.envoy.wait_in_force()
            assert "Address already in use" in result.rejected["lds/lds.json"]
        await w.envoy.write_files({"lds/lds.json": lds("2", w.port)})
        assert (await w.envoy.wait_in_force()).ok
        assert await w.get() == 200

    in_world(tmp_path, scene, start=False)


def test_removing_a_cluster_never_breaks_its_route(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        codes: set[int] = set()
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                codes.add(await w.get())
                await asyncio.sleep(0)

        task = asyncio.create_task(load())
        for version, name in (("2", "two"), ("3", "three"), ("4", "one")):
            result = await w.envoy.apply(w.files(version, name))
            assert result.ok, result
        done.set()
        await task
        assert codes == {200}
        assert set(await w.envoy.in_force()) == set(w.files())
        assert not (w.envoy.files_dir / "eds" / "two.json").exists()

    in_world(tmp_path, scene)


def test_a_secret_comes_into_force_with_the_listener_that_names_it(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        pair = _certificate()
        context = {
            "tls_certificate_sds_secret_configs": [{"name": "identity", "sds_config": source("sds", "identity")}]
        }
        tls = T + "extensions.transport_sockets.tls.v3."
        secured = json.loads(lds("2", w.port))
        secured["resources"][0]["filter_chains"][0]["transport_socket"] = {
            "name": "tls",
            "typed_config": {"@type": tls + "DownstreamTlsContext", "common_tls_context": context},
        }
        files = {**w.files(), "lds/lds.json": json.dumps(secured).encode()}
        for version, chain in (("1", pair[0]), ("2", "junk"), ("3", pair[0])):
            material = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": pair[1]}}
            secret = {"@type": tls + "Secret", "name": "identity", "tls_certificate": material}
            files["sds/identity.json"] = response(version, secret)
            result = await w.envoy.apply(files)
            assert result.ok == (chain != "junk"), result
        assert "sds/identity.json" in await w.envoy.in_force()
        async with httpx.AsyncClient(verify=False, base_url=f"https://127.0.0.1:{w.port}") as client:
            assert (await client.get("/")).status_code == 200

    in_world(tmp_path, scene)


def _certificate() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge")])
    start = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(hours=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start)
    signed = made.not_valid_after(start + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return signed.public_bytes(Encoding.PEM).decode(), private.decode()


def test_apply_removes_nothing_when_a_file_is_rejected(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        bad = {**w.files("2", "two"), "rds/rt.json": rds("2", "two", domains=[])}
        result = await w.envoy.apply(bad)
        assert set(result.rejected) == {"rds/rt.json"}
        assert await w.get() == 200
        unread = {**w.files("3", "three"), "cds/cds.json": cds("3", "three", connect_timeout="soon")}
        result = await w.envoy.apply(unread)
        assert set(result.rejected) == {"cds/cds.json"}
        assert set(result.pending) == set(unread) - {"cds/cds.json"}
        assert (w.envoy.files_dir / "rds" / "rt.json").read_bytes() != unread["rds/rt.json"]
        assert await w.get() == 200
        assert (w.envoy.files_dir / "eds" / "one.json").exists()

    in_world(tmp_path, scene)


def test_a_killed_envoy_returns_with_its_last_files(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        await w.envoy.write_files({"ecds/revocation.json": ecds("2", "DENY")})
        assert (await w.envoy.wait_in_force()).ok
        child = w.envoy.child
        assert child is not None
        child.kill()
        deadline_s = time.monotonic() + 20
        while child.restarts == 0:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.02)
        assert (await w.envoy.wait_in_force()).ok
        assert await w.get() == 403

    in_world(tmp_path, scene)


def test_the_admin_endpoint_is_a_private_socket_even_under_a_long_path(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        for path, kind in ((w.envoy.admin_socket, stat.S_ISSOCK), (w.envoy.admin_socket.parent, stat.S_ISDIR)):
            mode = path.stat().st_mode
            assert kind(mode)
            assert stat.S_IMODE(mode) & 0o077 == 0
        assert "admin" in (await w.envoy.config_dump())["configs"][0]["bootstrap"]
        assert (await w.envoy.stats(r"^server\.live$")) == {"server.live": 1}

    in_world(tmp_path / ("deep" * 30), scene)


def test_drain_lets_requests_end_and_then_refuses_new_ones(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        assert await w.get() == 200
        draining = asyncio.create_task(w.envoy.drain(10))
        served = 0
        while not draining.done():
            with contextlib.suppress(httpx.TransportError):
                assert await w.get() == 200
                served += 1
            await asyncio.sleep(0.02)
        assert draining.result()
        assert served > 0
        with pytest.raises(httpx.ConnectError):
            await w.get()
        assert await w.envoy.ready()

    in_world(tmp_path, scene)


def test_an_admin_that_does_not_answer_is_typed(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        assert not await w.envoy.ready()
        with pytest.raises(PeerError) as caught:
            await w.envoy.stats()
        assert caught.value.code == "envoy.admin"

    in_world(tmp_path, scene, start=False)


def test_a_bad_bootstrap_is_refused_with_envoys_reason(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        await validate({"static_resources": {}})
        with pytest.raises(ProcessError) as caught:
            await validate({"static_resorces": {}})
        assert caught.value.code == "envoy.invalid-config"
        assert "static_resorces" in str(caught.value)
        bad = EnvoyProcess("bad", tmp_path / "bad", {"static_resorces": {}})
        with pytest.raises(ProcessError) as caught:
            await bad.start(w.supervisor)
        assert caught.value.code == "process.died"
        assert "static_resorces" in str(caught.value)
        await bad.close()

    in_world(tmp_path, scene, start=False)


def test_every_request_is_in_the_journal_once_across_rotation_and_kill(tmp_path: Path) -> None:
    async def scene(w: World) -> None:
        entries: list[dict[str, Any]] = []
        cursor = b""

        def read() -> None:
            nonlocal cursor
            batch = w.tail.read(cursor)
            assert batch.findings == []
            entries.extend(batch.entries)
            cursor = batch.cursor

        for n in range(200):
            assert await w.get(n) == 200
            if n % 20 == 0:
                read()
                await w.tail.rotate(w.envoy.reopen_logs, bytes_max=500, sequenced=cursor)
        deadline_s = time.monotonic() + 10
        while len(entries) < 400:
            assert time.monotonic() < deadline_s, len(entries)
            read()
            await asyncio.sleep(0.02)
        ends = [int(e["n"]) for e in entries if e["at"] == "DownstreamEnd"]
        starts = [int(e["n"]) for e in entries if e["at"] == "DownstreamStart"]
        assert ends == starts == list(range(200))
        assert len(w.tail.segments()) < 5

    in_world(tmp_path, scene)
