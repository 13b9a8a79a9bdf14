"""A fabric that really runs on this machine, for benchmarks: stand-in model servers, `isochrone up`, open-loop load.

The model servers are stand-ins: they answer the OpenAI chat protocol after a log-normal time and compute nothing, so
that what is compared is where requests go, not how fast a model is.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from isochrone.authority.scope import Scope
from isochrone.cli.delegate import issue
from isochrone.errors import IsochroneError
from isochrone.serve.client import GrantSource
from isochrone.serve.keyring import Keyring

T = TypeVar("T")
AGENT = "agent:bench"
PATH = "/v1/chat/completions"
BODY = {"model": "bench", "messages": [{"role": "user", "content": "hello"}]}
_CLI = [sys.executable, "-m", "isochrone.cli.main"]
POLICY = '@id("agents-may")\npermit (principal, action, resource);\n'


def until(true: Callable[[], T], what: str, timeout_s: float = 90.0, every_s: float = 0.02) -> T:
    """Poll until `true()` is truthy; errors count as not yet."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        with contextlib.suppress(httpx.HTTPError, OSError, KeyError, ValueError):
            if found := true():
                return found
        time.sleep(every_s)
    raise SystemExit(f"not within {timeout_s:g} s: {what}")


class StandIn:
    """A model server that takes `median_s` (log-normal, sigma 0.3), times `slow`, plus `extra_s` before it begins.

    No more than `servers` requests are worked on at once; others wait.
    """

    def __init__(self, site: str, median_s: float, servers: int = 32, extra_s: float = 0.0, seed: int = 1) -> None:
        self.site, self.median_s, self.extra_s, self.slow, self.served = site, median_s, extra_s, 1.0, 0
        self._slots, self._rng = threading.Semaphore(servers), random.Random(f"{seed}/{site}")
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._answer({"status": "ok"})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                time.sleep(outer.extra_s)
                with outer._slots:
                    time.sleep(outer.slow * outer.median_s * outer._rng.lognormvariate(0.0, 0.3))
                outer.served += 1
                message = {"role": "assistant", "content": outer.site}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                head = {"id": "x", "object": "chat.completion", "created": 0, "model": "bench"}
                self._answer(head | {"choices": [choice], "usage": usage})

            def _answer(self, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        http.server.ThreadingHTTPServer.daemon_threads = True
        http.server.ThreadingHTTPServer.request_queue_size = 512
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Live:
    """A running fabric: its directory and the process that runs it."""

    directory: Path
    process: subprocess.Popen[bytes]
    sites: list[str]

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        hub = self.state / "hub"
        url = json.loads((hub / "api.json").read_bytes())["url"]
        headers = {"authorization": f"Bearer {(hub / 'api.token').read_text()}"}
        return dict(httpx.request(method, url + path, json=body, headers=headers, timeout=30.0).json())

    def status(self) -> dict[str, Any]:
        return self.ask("GET", "/status")

    def cli(self, *words: str) -> None:
        subprocess.run(
            [*_CLI, *words, "--state", str(self.state)], check=True, cwd=self.directory, stdout=subprocess.DEVNULL
        )

    def begin(self, *words: str) -> None:
        """Run a command without waiting for its end."""
        command = [*_CLI, *words, "--state", str(self.state)]
        subprocess.Popen(command, cwd=self.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def base(self, site: str) -> str:
        return f"http://{json.loads((self.state / 'sites' / site / 'ports.json').read_bytes())['ingress']}"

    def source(self, site: str, contract: str) -> GrantSource:
        ring = Keyring(self.state)
        if ring.find(AGENT) is None:
            issue(self.state, ring, "human:operator", AGENT, Scope(), 0, 24 * 3600)
        holder = Keyring(self.state).get(AGENT)
        return GrantSource([self.base(site)], holder.chain, holder.key, contract)

    def child(self, *words: str) -> psutil.Process:
        """The process below ours whose command line has all these words."""
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = each.cmdline()
                if all(word in line for word in words) and "launch" not in line:
                    return each
        raise SystemExit(f"no child runs {words}")

    def kill_site(self, site: str) -> None:
        """Node and Envoy at once, as when a site loses power."""
        processes = [self.child("node", str(self.state / "sites" / site)), self.child("--service-node", site)]
        for process in processes:
            process.kill()

    def in_force(self, revision: int, sites: list[str]) -> bool:
        reports = self.status()["sites"]
        return all(reports[site]["plan"] >= revision for site in sites)


@contextlib.contextmanager
def running(directory: Path, document: str, sites: list[str]) -> Iterator[Live]:
    """`isochrone up` on the document, until every site forwards; ended with the block."""
    (directory / "fabric.yaml").write_text(document)
    (directory / "all.cedar").write_text(POLICY)
    with (directory / "out.log").open("wb") as log:
        command = [*_CLI, "up", "fabric.yaml", "--state", str(directory / "state")]
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    live = Live(directory, process, sites)
    try:
        until(
            lambda: set(live.status()["up"]) == set(sites) and live.in_force(1, sites), f"up; see {directory}/out.log"
        )
        yield live
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@dataclass
class Answers:
    """What became of requests: (seconds since the start, seconds it took, status, site that answered)."""

    rows: list[tuple[float, float, int, str]] = field(default_factory=list)
    began_s: float = 0.0  # by the monotonic clock

    @property
    def elapsed_s(self) -> float:
        """Since the load began."""
        return time.monotonic() - self.began_s

    def between(self, from_s: float, to_s: float) -> list[tuple[float, float, int, str]]:
        return [row for row in self.rows if from_s <= row[0] < to_s]


def arrivals(rps: float, seconds: float, seed: int) -> list[float]:
    """Poisson arrival times."""
    rng, at_s, times = random.Random(seed), 0.0, []
    while (at_s := at_s + rng.expovariate(rps)) < seconds:
        times.append(at_s)
    return times


async def open_loop(
    times: list[float], url: str, headers: Callable[[], dict[str, str]], answers: Answers, timeout_s: float = 10.0
) -> None:
    """Send a request at each time, whether or not earlier ones were answered."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(timeout=timeout_s, limits=limits) as client:
        start_s = answers.began_s = time.monotonic()

        async def one(at_s: float) -> None:
            sent_s = time.monotonic()
            try:
                answer = await client.post(url, json=BODY, headers=await asyncio.to_thread(headers))
                site = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else ""
                answers.rows.append((at_s, time.monotonic() - sent_s, answer.status_code, site))
            except (httpx.HTTPError, IsochroneError, KeyError, ValueError):
                # A grant that cannot be had is a request that is lost, too.
                answers.rows.append((at_s, time.monotonic() - sent_s, 0, ""))

        async with asyncio.TaskGroup() as group:
            for at_s in times:
                await asyncio.sleep(max(0.0, start_s + at_s - time.monotonic()))
                group.create_task(one(at_s))


def warm(url: str, headers: dict[str, str], count: int = 30) -> None:
    """Requests one after another, until so many were answered: nobody's first request is measured."""
    with httpx.Client(timeout=30.0) as client:
        for _ in range(count):
            until(lambda: client.post(url, json=BODY, headers=headers).status_code == 200, f"{url} answers")


async def with_load(load: Awaitable[None], script: Callable[[], T], *, whole: bool = True) -> T:
    """Run a blocking script while the load goes on; unless `whole`, the load ends with the script."""
    task = asyncio.ensure_future(load)
    try:
        return await asyncio.to_thread(script)
    finally:
        if not whole:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
