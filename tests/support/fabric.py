"""A whole fabric as a user starts it: `isochrone up` in a process of its own, with real NATS, hub, nodes and Envoys.

Only the model server is light: an HTTP server in this process, which every site reaches as `external`.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from isochrone.authority.acts import apply_subject
from isochrone.authority.scope import Scope
from isochrone.cli.delegate import issue
from isochrone.serve.client import GrantSource
from isochrone.serve.keyring import Keyring
from isochrone.serve.people import registry_from
from isochrone.serve.process import free_port, free_ports
from isochrone.serve.signing import act_signer
from isochrone.serve.tls import trusting_nobody

T = TypeVar("T")
SITES = ("konstanz", "frankfurt")
PATH = "/infer"
AGENT = "agent:caller"
WAIT_S = 90.0
CLI = [sys.executable, "-m", "isochrone.cli.main"]

FABRIC = """
name: pair
sites:
  konstanz: {{tier: edge, at: {{lat: 47.66, lon: 9.18}}, jurisdiction: DE, vendor: seewerk,
             hardware: {{cpu: {{units: 4, price_per_unit_hour: 0.05}}}}}}
  frankfurt: {{tier: metro, at: {{lat: 50.11, lon: 8.68}}, jurisdiction: DE, vendor: mainkraft,
              hardware: {{cpu: {{units: 4, price_per_unit_hour: 0.05}}}}}}
workloads:
  echo:
    protocol: http
    model: {{name: echo}}
    runtime: {{kind: external, at: {{konstanz: "127.0.0.1:{konstanz}", frankfurt: "127.0.0.1:{frankfurt}"}}}}
    service: {{cpu: {{duration: {{p50_ms: 1, p99_ms: 4}}, concurrency: 8, rps_max: 200}}}}
    tokens_per_request_max: 100
{workloads}
contracts:
  anywhere:
    workload: echo
    in_time: {{quantile: 0.9, objective_ms: 500}}
    demand_rps: {{konstanz: 5, frankfurt: 5}}
    price_per_1k: 1
    penalty_per_1k: 20
  lakeside:
    workload: echo
    in_time: {{quantile: 0.9, objective_ms: 500}}
    in_bounds: {{sites: [konstanz]}}
    demand_rps: {{konstanz: 5}}
    price_per_1k: 1
    penalty_per_1k: 20
{contracts}
policies: [bounds.cedar]
"""

POLICY = """
@id("agents-may")
permit (principal, action, resource);
"""


def until(true: Callable[[], T], what: str, timeout_s: float = WAIT_S, every_s: float = 0.05) -> T:
    """Poll until `true()` is truthy and return it; an operating error counts as not yet. Fails saying `what`."""
    end_s, last = time.monotonic() + timeout_s, ""
    while time.monotonic() < end_s:
        try:
            if found := true():
                return found
        except Exception as error:
            last = f" ({type(error).__name__}: {error})"
        time.sleep(every_s)
    raise AssertionError(f"not within {timeout_s:g} s: {what}{last}")


class ModelServer:
    """Answers every POST with ``{"answer": site}`` after `delay_s`, and ``/stream`` with events until its client goes;
    can be stopped and started again on the same port."""

    def __init__(self, site: str) -> None:
        self.site, self.port, self.served, self.delay_s = site, free_port(), 0, 0.0
        self.ids: list[str] = []
        self._server: http.server.ThreadingHTTPServer | None = None
        self._connections: set[socket.socket] = set()
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer._connections.add(self.request)
                super().setup()

            def finish(self) -> None:
                outer._connections.discard(self.request)
                super().finish()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.served += 1
                time.sleep(outer.delay_s)
                outer.ids.append(self.headers.get("x-request-id", ""))
                if self.path == "/stream":
                    self.stream()
                    return
                body = json.dumps({"answer": outer.site}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                with contextlib.suppress(OSError):
                    while outer._server is not None:
                        self.wfile.write(b"b\r\ndata: {}\n\n \r\n")
                        time.sleep(0.05)

            def log_message(self, *_: object) -> None:
                return

        http.server.ThreadingHTTPServer.daemon_threads = True
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        # As when a process dies: kept connections end, too.
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass
class RunningFabric:
    """One fabric: its document, its state, and the process that runs it."""

    directory: Path
    models: dict[str, ModelServer]
    process: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)
    secure: frozenset[str] = frozenset()  # sites whose ingress speaks TLS
    _grants: dict[tuple[str, str], GrantSource] = field(default_factory=dict)

    @classmethod
    def make(cls, directory: Path, *, contracts: str = "", policy: str = POLICY) -> RunningFabric:
        """The documents and the model servers; nothing runs yet. For `contracts` see `text`."""
        made = cls(directory, {site: ModelServer(site) for site in SITES})
        made.path.write_text(made.text(contracts=contracts))
        (directory / "bounds.cedar").write_text(policy)
        return made

    def text(self, workloads: str = "", contracts: str = "") -> str:
        """The fabric document, with more workloads and contracts (indented YAML)."""
        ports = {site: model.port for site, model in self.models.items()}
        return FABRIC.format(workloads=workloads, contracts=contracts, **ports)

    @property
    def path(self) -> Path:
        return self.directory / "fabric.yaml"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def output(self) -> str:
        """What the commands printed."""
        path = self.directory / "out.log"
        return path.read_text() if path.exists() else ""

    # --- life -----------------------------------------------------------------------------------------------------

    def spawn(self, *arguments: str, program: Sequence[str] = CLI) -> subprocess.Popen[bytes]:
        """Run one of our commands in the background; its output goes to `output`."""
        with (self.directory / "out.log").open("ab") as log:
            return subprocess.Popen(
                [*program, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory,
                env={**os.environ, **self.env, "ISOCHRONE_TEST_MARK": str(self.directory)},
            )  # fmt: skip

    def run(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one of our commands to its end."""
        return subprocess.run(
            [*CLI, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False, cwd=self.directory,
            env={**os.environ, **self.env, "ISOCHRONE_TEST_MARK": str(self.directory)},
        )  # fmt: skip

    def up(self) -> None:
        """`isochrone up`, until every site forwards."""
        self.process = self.spawn("up", str(self.path), "--state", str(self.state))
        self.wait_up()

    def wait_up(self) -> None:
        def healthy() -> bool:
            assert self.process is None or self.process.poll() is None, self.output
            status = self.status()
            wanted = status["desired"]
            reports = [status["sites"].get(site) for site in self.models]
            return set(status["up"]) == set(self.models) and all(
                report and report["desired"] == wanted and report["plan"] for report in reports
            )

        until(healthy, f"every site is up\n{self.output}")
        for site in self.models:
            until(lambda site=site: self.call(site).status_code == 200, f"{site} serves")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End `up` by a signal; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process = None
        return status

    def close(self) -> None:
        """Kill whatever is left of it."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for model in self.models.values():
            model.stop()

    # --- processes ------------------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Every living process that this fabric started, however deep and orphaned."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and _marked(p, str(self.directory))]

    def find(self, *words: str) -> psutil.Process:
        """The one process of this fabric whose command line has all these words."""
        found = [p for p in self.processes() if _is(p, words)]
        assert len(found) == 1, (words, [p.cmdline() for p in found])
        return found[0]

    def hub(self) -> psutil.Process:
        return self.find("isochrone.cli.main", "hub")

    def node(self, site: str) -> psutil.Process:
        return self.find("isochrone.cli.main", "node", str(self.state / "sites" / site))

    def envoy(self, site: str) -> psutil.Process:
        return self.find("--service-node", site)

    def nats(self) -> psutil.Process:
        return self.find("-c", str(self.state / "bus" / "nats.conf"))

    # --- use ------------------------------------------------------------------------------------------------------

    def ask_hub(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        hub = self.state / "hub"
        url = json.loads((hub / "api.json").read_bytes())["url"]
        headers = {"authorization": f"Bearer {(hub / 'api.token').read_text()}"}
        answer = httpx.request(method, url + path, json=body, headers=headers, timeout=30.0, verify=trusting_nobody())
        return dict(answer.json()) | {"status_code": answer.status_code}

    def apply(self, text: str, policies: dict[str, str]) -> dict[str, Any]:
        """Change desired state, signed by the operator whose key is in the state directory."""
        registry = registry_from("pair", self.ask_hub("GET", "/people"))
        subject = apply_subject(registry.applied[-1].revision + 1, text, policies)
        act = act_signer(Keyring(self.state))(registry, "apply", subject)
        return self.ask_hub("POST", "/apply", {"fabric": text, "policies": policies, "act": act})

    def status(self) -> dict[str, Any]:
        return self.ask_hub("GET", "/status")

    def report(self, site: str) -> dict[str, Any]:
        """What a site's own node says of it."""
        return dict(
            httpx.get(f"{self.base(site)}/.isochrone/status", timeout=5.0, verify=self.verify).raise_for_status().json()
        )

    def base(self, site: str) -> str:
        """The site's ingress, as a client knows it: it stays the same for the life of the state."""
        address = json.loads((self.state / "sites" / site / "ports.json").read_bytes())["ingress"]
        return f"{'https' if site in self.secure else 'http'}://{address}"

    @property
    def verify(self) -> ssl.SSLContext:
        """Whom clients believe to be a site."""
        path = self.state / "hub" / "authority.pem"
        return ssl.create_default_context(cafile=str(path)) if self.secure else trusting_nobody()

    def delegate(
        self, agent: str = AGENT, giver: str = "human:operator", depth: int = 0, **members: Sequence[str]
    ) -> list[str]:
        sets: dict[str, Any] = {name: frozenset(values) for name, values in members.items()}
        return issue(self.state, Keyring(self.state), giver, agent, Scope(**sets, may_delegate=depth > 0), depth, 3600)

    def token(self, site: str, contract: str = "anywhere") -> str:
        """A grant for the contract, exchanged at the site, kept while it is fresh."""
        if Keyring(self.state).find(AGENT) is None:
            self.delegate()
        if (site, contract) not in self._grants:
            self._grants[site, contract] = self.source(site, contract)
        return self._grants[site, contract].token()

    def source(self, site: str, contract: str = "anywhere", agent: str = AGENT) -> GrantSource:
        """A source of grants of its own, which holds none yet."""
        if Keyring(self.state).find(agent) is None:
            self.delegate(agent)
        holder = Keyring(self.state).get(agent)
        verify = self.state / "hub" / "authority.pem"
        return GrantSource([self.base(site)], holder.chain, holder.key, contract, verify=verify)

    def call(self, site: str, contract: str = "anywhere", token: str = "") -> httpx.Response:
        """One execution that enters at the site."""
        headers = {"authorization": f"Bearer {token or self.token(site, contract)}"}
        return httpx.post(f"{self.base(site)}{PATH}", json={"x": 1}, headers=headers, timeout=15.0, verify=self.verify)

    def entries(self, site: str) -> list[dict[str, Any]]:
        """Every record of a site's log, read from its files and verified."""
        from isochrone.serve.enrolment import log_origin
        from isochrone.serve.home import SiteHome
        from isochrone.serve.logstore import FileLogStore
        from isochrone.tlog.reader import LogReader

        home = SiteHome(self.state / "sites" / site)
        reader = LogReader(
            FileLogStore(home.root / "log", writable=False),
            home.log_signer("pair", site).verifier,
            log_origin("pair", site),
        )
        reader.checkpoint()
        return [json.loads(data) for data in reader.entries(0)]

    def wait_recorded(self, execution: str) -> dict[str, Any]:
        """The evidence about an execution, once a checkpoint covers it."""
        site, _, identifier = execution.partition("/")

        def ask() -> dict[str, Any] | None:
            answer = httpx.get(f"{self.base(site)}/.isochrone/evidence/{identifier}", timeout=5.0, verify=self.verify)
            return dict(answer.json()) if answer.status_code == 200 else None

        found = until(ask, f"{execution} is recorded")
        assert found is not None
        return found


@contextlib.contextmanager
def running_fabric(directory: Path, *, contracts: str = "", policy: str = POLICY) -> Iterator[RunningFabric]:
    """A fabric of two sites that is up; nothing of it is left afterwards. See `RunningFabric.make`."""
    fabric = RunningFabric.make(directory, contracts=contracts, policy=policy)
    try:
        fabric.up()
        yield fabric
    finally:
        fabric.close()


def alive(processes: Sequence[psutil.Process], timeout_s: float) -> list[str]:
    """Command lines of those that are still running after waiting."""
    _, left = psutil.wait_procs(processes, timeout=timeout_s)
    return [" ".join(_cmdline(p)) for p in left if _running(p)]


def _running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _is(process: psutil.Process, words: Sequence[str]) -> bool:
    line = _cmdline(process)
    # The launcher that is about to become the program has the same words.
    return all(word in line for word in words) and "launch" not in line and _running(process)


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("ISOCHRONE_TEST_MARK") == mark
    except (psutil.Error, OSError):
        return False


__all__ = ["AGENT", "PATH", "SITES", "ModelServer", "RunningFabric", "alive", "free_ports", "running_fabric", "until"]
