"""A fabric of real Envoys on one machine: views compiled, certificates issued, model servers behind, all on free ports.

The files are compiled by `isochrone.forward` and written by `isochrone.serve.xds`, as a node does it. Only what stands
around Envoy is made here: a plan by hand, grants signed with a site's key, and model servers that remember what they
were sent.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from isochrone.authority.grant import CLAIM_HEADERS, issuer_name, tag
from isochrone.authority.jose import PrivateKey, sign_compact
from isochrone.forward.fib import fib_for
from isochrone.forward.secrets import CREDENTIAL, secret_file, secret_path
from isochrone.forward.snapshot import bootstrap, compile_site
from isochrone.forward.view import Files, SiteView, site_uri
from isochrone.forward.xds import Address
from isochrone.model.document import parse_fabric
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Exclusion, Plan, Refusal, Rung, Share
from isochrone.plan.verdicts import Verdict
from isochrone.serve.binaries import envoy
from isochrone.serve.pki import Authority
from isochrone.serve.process import free_port
from isochrone.serve.xds import rejections_of, target_of, versions_of, write_files
from support import documents

KONSTANZ, ZURICH, FRANKFURT = SITES = ("konstanz", "zurich", "frankfurt")
PATH = "/v2/models/voice/infer"

FABRIC = """
name: lakeside
sites:
  konstanz: {tier: edge, at: {lat: 47.66, lon: 9.18}, jurisdiction: DE, vendor: seewerk, hardware: {cpu: {units: 4}}}
  zurich: {tier: metro, at: {lat: 47.37, lon: 8.54}, jurisdiction: CH, vendor: limmat, hardware: {cpu: {units: 8}}}
  frankfurt: {tier: metro, at: {lat: 50.11, lon: 8.68}, jurisdiction: DE, vendor: main, hardware: {cpu: {units: 8}}}
workloads:
  voice:
    protocol: open-inference
    model: {name: silero-vad}
    runtime: {kind: process, command: [serve, "{port}"]}
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 5}, rps_max: 100}}
  chat:
    protocol: openai
    model: {name: smollm2}
    runtime: {kind: process, command: [serve, "{port}"]}
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 5}, rps_max: 100}}
contracts:
  line-audio: {workload: voice, in_time: {objective_ms: 20}}
  bounded-audio: {workload: voice, in_time: {objective_ms: 20}, in_bounds: {jurisdictions: [DE]}}
  assistant: {workload: chat, in_time: {objective_ms: 1000, metric: first_byte}}
  reflex: {workload: chat, in_time: {objective_ms: 5}}
"""

TOO_FAR = Refusal(
    "No site is in time",
    "konstanz is nearest and needs 120 ms: 100% sure, %REQ(:path)% or not",
    "konstanz",
    120.0,
    0.0,
    (Exclusion("konstanz", "out_of_time", needed_ms=120.0, rtt_ms=0.0, service_ms=120.0, floor_ms=0.0),),
)

ANY = {"action": "ALLOW", "policies": {"any": {"permissions": [{"any": True}], "principals": [{"any": True}]}}}


def even_routes(site: str) -> dict[str, tuple[Rung, ...]]:
    """5 ms is refused, 10 ms runs here with the others behind it, 20 ms is shared by Konstanz and Frankfurt."""
    others = tuple(other for other in SITES if other != site)
    shared = (Share(KONSTANZ, 0.7), Share(FRANKFURT, 0.3))
    return {
        "line-audio": (
            Rung(5.0, (), (), TOO_FAR),
            Rung(10.0, (Share(site, 1.0),), others),
            Rung(20.0, shared, (ZURICH,)),
        ),
        # The plan is wrong on purpose: Zurich is out of bounds for this contract.
        "bounded-audio": (Rung(20.0, (Share(ZURICH, 0.9), Share(KONSTANZ, 0.1)), (FRANKFURT,)),),
        "assistant": (Rung(1000.0, (Share(FRANKFURT, 1.0),), (KONSTANZ,)),),
        "reflex": (Rung(5.0, (), (), TOO_FAR),),
    }


def plan_of(routes: Callable[[str], Mapping[str, tuple[Rung, ...]]], limits: Mapping[str, Mapping[str, int]]) -> Plan:
    """A plan by hand, revision 7."""
    return documents.plan(revision=7, routes={site: routes(site) for site in SITES}, limits=limits)


def bounds_of(fabric: Fabric) -> dict[tuple[str, str], Verdict]:
    """Jurisdictions as the contracts list them, without groups."""
    return {
        (name, site): Verdict(not terms.in_bounds.jurisdictions or noun.jurisdiction in terms.in_bounds.jurisdictions)
        for name, terms in fabric.contracts.items()
        for site, noun in fabric.sites.items()
    }


def until(true: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = 40.0) -> Any:
    """Poll until `true()` is truthy and return it; fail saying `what` otherwise."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s: {what if isinstance(what, str) else what()}")


# --- model servers ------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """A request as a model server received it: header lines in order, names as sent."""

    path: str
    headers: list[tuple[str, str]]
    body_bytes: int

    def names(self) -> set[str]:
        return {name.lower() for name, _ in self.headers}

    def get(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


class ModelServer(http.server.ThreadingHTTPServer):
    """Answers with its own name and remembers what it was sent. `hold` keeps answers back while it is not set, and
    `hold_rest` the second half of their bodies."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.seen: list[Seen] = []
        self.hold, self.hold_rest = threading.Event(), threading.Event()
        self.hold.set()
        self.hold_rest.set()
        self.extra_headers: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.server_port)

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ModelServer

    def do_POST(self) -> None:
        length = 0
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                length += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            length = len(self.rfile.read(int(self.headers.get("content-length", 0))))
        self.server.seen.append(Seen(self.path, list(self.headers.items()), length))
        self.server.hold.wait(20)
        body = json.dumps({"site": self.server.name}).encode()
        self.send_response(200)
        for name, value in self.server.extra_headers:
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.server.hold_rest.wait(20)
        self.wfile.write(body[half:])

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Quiet."""


# --- answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An answer: `headers` by lower-case name, repeated ones joined by a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def site(self) -> str:
        """The model server that answered."""
        assert self.status == 200, self
        return str(self.json["site"])


class CutShort(Exception):
    """An answer that had begun and whose end never came; `answer` is what there is of it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"cut short: {answer}")
        self.answer = answer


def read_answer(connection: socket.socket, method: str = "POST") -> Answer:
    """Read one HTTP/1.1 answer from a socket.

    Raises:
        CutShort: the answer had begun, and the connection ended before it did.
    """
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    joined: dict[str, str] = {}
    for name, value in response.getheaders():
        joined[name.lower()] = f"{joined[name.lower()]}, {value}" if name.lower() in joined else value
    try:
        return Answer(response.status, joined, response.read())
    except http.client.IncompleteRead as cut:
        raise CutShort(Answer(response.status, joined, cut.partial)) from cut
    except ConnectionError as cut:
        raise CutShort(Answer(response.status, joined, b"")) from cut


# --- one site -----------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """One Envoy with its model server and its files."""

    name: str
    directory: Path
    ingress: Address
    peer: Address
    model: ModelServer
    node: ModelServer
    key: PrivateKey
    process: subprocess.Popen[bytes] | None = None
    written: dict[str, bytes] = field(default_factory=dict)

    @property
    def files(self) -> Files:
        at = self.directory
        return Files(str(at / "xds"), str(at / "identity"), str(at / "journal.jsonl"), str(at / "admin.sock"))

    def start(self) -> None:
        (self.directory / "envoy.log").unlink(missing_ok=True)
        (self.directory / "bootstrap.json").write_bytes(bootstrap(self.files))
        words: list[str | Path] = [
            "-c",
            self.directory / "bootstrap.json",
            "--service-node",
            self.name,
            "--service-cluster",
            "lakeside",
        ]
        words += ["--concurrency", "1", "--disable-hot-restart", "--reject-unknown-dynamic-fields", "-l", "warning"]
        words += ["--file-flush-interval-msec", "20", "--log-path", self.directory / "envoy.log"]
        words += ["--drain-time-s", "1"]
        self.process = subprocess.Popen([envoy(), *words])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def admin(self, path: str) -> Any:
        with httpx.Client(transport=httpx.HTTPTransport(uds=self.files.admin), base_url="http://envoy") as client:
            return client.get(path).json()

    def stats(self, pattern: str = "") -> dict[str, Any]:
        rows = self.admin(f"/stats?format=json&filter={pattern}")["stats"]
        return {row["name"]: row["value"] for row in rows if "name" in row}

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files as a node does."""
        write_files(self.directory / "xds", files)
        self.written |= files

    def in_force(self) -> bool:
        """Whether Envoy follows exactly what was written last."""
        try:
            stats = self.stats("version_text|warming|listeners_active")
        except (httpx.HTTPError, ValueError):
            return False
        versions = versions_of(stats)
        wanted = dict(target_of(name, data) for name, data in self.written.items())
        settled = (
            not stats["listener_manager.total_listeners_warming"] and not stats["cluster_manager.warming_clusters"]
        )
        return settled and all(versions.get(t) == {v} for t, v in wanted.items() if t.kind != "sds")

    def rejections(self) -> int:
        return sum(rejections_of(self.stats("update_rejected|update_failure|config_fail")).values())

    def log(self) -> str:
        path = self.directory / "envoy.log"
        return path.read_text() if path.exists() else ""

    def journal(self) -> list[dict[str, Any]]:
        path = Path(self.files.journal)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def journal_end(self, execution: str) -> dict[str, Any]:
        """The end line of the request with this id (or ``site/id``)."""
        wanted = execution.rpartition("/")[2]

        def found() -> dict[str, Any] | None:
            ends = (line for line in self.journal() if line.get("id") == wanted and line["type"] == "DownstreamEnd")
            return next(ends, None)

        return until(found, f"journal end line of {execution}")  # type: ignore[no-any-return]


# --- the fabric ---------------------------------------------------------------------------------------------------

Edit = Callable[[str, dict[str, bytes]], dict[str, bytes]]


class FabricOfEnvoys:
    """Three sites. `changes` of `publish` replace fields of every view, as `dataclasses.replace` does."""

    def __init__(self) -> None:
        self.fabric = parse_fabric(FABRIC)
        self.bounds = bounds_of(self.fabric)
        # A short path: a Unix socket's name has at most 108 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="iso-"))
        self.authority = Authority.create("lakeside", _now())
        self.sites = {name: self._site(name) for name in SITES}

    def _site(self, name: str) -> Site:
        directory = self.root / name
        ingress, peer = (Address("127.0.0.1", free_port()) for _ in range(2))
        site = Site(
            name, directory, ingress, peer, ModelServer(name), ModelServer(f"{name}-node"), PrivateKey.generate()
        )
        Path(site.files.identity).mkdir(parents=True)
        self.identify(site)
        return site

    def identify(self, site: Site, uri: str | None = None, authority: Authority | None = None) -> None:
        """Give a site a certificate: its own by default, another's name or of another authority where asked."""
        own = authority or self.authority
        issued = own.issue(uri or site_uri("lakeside", site.name), _now())
        (Path(site.files.identity) / "trust.pem").write_bytes(self.authority.certificate)
        site.put({secret_path(CREDENTIAL): secret_file(CREDENTIAL, issued.certificate, issued.key)})

    def view(
        self,
        name: str,
        routes: Callable[[str], Mapping[str, tuple[Rung, ...]]] = even_routes,
        limits: Mapping[str, Mapping[str, int]] | None = None,
        **changes: Any,
    ) -> SiteView:
        site = self.sites[name]
        allowed = {
            contract: frozenset(s for s in SITES if self.bounds[contract, s].allowed)
            for contract in self.fabric.contracts
        }
        view = SiteView(
            fabric=self.fabric,
            site=name,
            fib=fib_for(self.fabric, plan_of(routes, limits or {}), name, self.bounds),
            files=site.files,
            ingress=site.ingress,
            peer=site.peer,
            node_api=site.node.address,
            enrolled=frozenset(SITES),
            peers={other: self.sites[other].peer for other in SITES if other != name},
            replicas={"voice": (site.model.address,), "chat": (site.model.address,)},
            jwks=self.jwks,
            issuer=issuer_name("lakeside"),
            rules=ANY,
            anywhere_rules=ANY,
            allowed=allowed,
            deny={},
            policy_digest="policy-digest",
            epoch=3,
        )
        return replace(view, **changes)

    @property
    def jwks(self) -> dict[str, Any]:
        keys = [site.key.public for site in self.sites.values()]
        return {"keys": [key.jwk | {"kid": tag(key.thumbprint), "alg": "ES256"} for key in keys]}

    def publish(self, *names: str, edit: Edit = lambda _, files: files, **changes: Any) -> None:
        """Compile and write the files of the named sites (all by default) and wait until running ones follow them."""
        for name in names or SITES:
            files = dict(compile_site(self.view(name, **changes)).files)
            self.sites[name].put(edit(name, files))
        self.settle(*names)

    def settle(self, *names: str) -> None:
        for name in names or SITES:
            site = self.sites[name]
            if site.process is not None:
                until(site.in_force, lambda site=site: f"{site.name} follows its files; its log: {site.log()[:3000]}")  # type: ignore[misc]

    def start(self, *names: str) -> None:
        for name in names or SITES:
            self.sites[name].start()
        for name in names or SITES:
            self._outlast_inotify(self.sites[name])
        self.settle(*names)

    def _outlast_inotify(self, site: Site) -> None:
        """Envoy takes one inotify instance a followed file and aborts without; others on this machine take them too."""

        def up() -> bool:
            if site.process is not None and site.process.poll() is not None and "inotify" in site.log():
                time.sleep(0.5)
                site.start()
            return site.in_force()

        until(up, lambda: f"{site.name} starts; its log: {site.log()[:3000]}", timeout_s=30)

    def token(self, signer: str = KONSTANZ, **claims: Any) -> str:
        """A grant signed by a site; claims given as None are left out."""
        key, now = self.sites[signer].key, int(time.time())
        body: dict[str, Any] = {
            "iss": issuer_name("lakeside"),
            "aud": "lakeside",
            "iat": now,
            "exp": now + 60,
            "jti": os.urandom(6).hex(),
            "sub": "human:ada",
            "act": {"sub": "agent:line-7"},
            "ctr": "line-audio",
            "wl": "voice",
            "dc": "public",
            "chd": "chain-digest",
            "sites": "*",
            "pol": "policy-digest",
            "epo": 3,
            "cnf": {"jkt": "thumbprint"},
            "dep": 1,
            **{claim: f"{claim}-tag" for claim in CLAIM_HEADERS if claim[0] in "hk" and claim[1:].isdigit()},
        }
        body = {name: value for name, value in (body | claims).items() if value is not None}
        return sign_compact(body, key, typ="at+jwt", kid=tag(key.public.thumbprint))

    def call(
        self,
        site: str = KONSTANZ,
        token: str | None = "",
        *,
        path: str = PATH,
        body: bytes = b"{}",
        headers: Mapping[str, str] | list[tuple[str, str]] = (),  # type: ignore[assignment]
        method: str = "POST",
    ) -> Answer:
        """One request on its own connection. By default the token is a good one; None sends none."""
        lines = [("host", "isochrone"), ("content-length", str(len(body)))]
        lines += [("authorization", f"Bearer {token or self.token()}")] if token is not None else []
        lines += list(headers.items() if isinstance(headers, Mapping) else headers)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines)
        with self.connect(site) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            return read_answer(connection, method)

    @contextlib.contextmanager
    def connect(self, site: str) -> Iterator[socket.socket]:
        address = self.sites[site].ingress
        with socket.create_connection((address.host, address.port), timeout=20) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection

    def client_tls(self, uri: str | None, authority: Authority | None = None) -> ssl.SSLContext:
        """A TLS client for a handover listener, with a certificate for `uri` or with none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        if uri is not None:
            issued = (authority or self.authority).issue(uri, _now())
            with tempfile.NamedTemporaryFile(dir=self.root) as file:
                file.write(issued.certificate + issued.key)
                file.flush()
                context.load_cert_chain(file.name)
        return context

    def stop(self) -> None:
        for site in self.sites.values():
            site.kill()
            for server in (site.model, site.node):
                server.hold.set()
                server.hold_rest.set()
                server.shutdown()
                server.server_close()
        shutil.rmtree(self.root, ignore_errors=True)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@contextlib.contextmanager
def running(*names: str, **changes: Any) -> Iterator[FabricOfEnvoys]:
    """A fabric whose Envoys (all, or those of the named sites) follow their files; ended with the block."""
    fabric = FabricOfEnvoys()
    try:
        fabric.publish(**changes)
        fabric.start(*names)
        yield fabric
    finally:
        fabric.stop()
