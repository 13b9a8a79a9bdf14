"""How long a revocation takes until its first refusal at every site of a running fabric, beside the bounds we state.

    python benchmarks/revocation.py [--sites 8] [--rounds 20] [--live 10000] [--cut-off] [--json]

Starts `isochrone up` with real NATS, hub, nodes and Envoys on this machine. At each site a client asks all the time,
on one kept connection, under a delegation of its own round; then that delegation is revoked, and the clock runs from
the moment the hub is asked until the first 403 at each site. `--live` revocations are in force before: of hops that
nobody uses. `--cut-off` then cuts one site's connection to the bus and asks there, with fresh grants while there are
any, until nothing is served any more: about 66 s. What was answered by neither 200 nor 403, and every connection that
was lost, is counted as dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.server
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from isochrone.authority.delegation import parse_hop
from isochrone.authority.entitlement import sign_request
from isochrone.authority.grant import GRANT_LIFE_S
from isochrone.authority.revocation import Revocation, RevocationState, bound_s, sign_entry
from isochrone.authority.scope import Scope
from isochrone.cli.delegate import issue
from isochrone.errors import IsochroneError
from isochrone.serve.client import GrantSource
from isochrone.serve.exchange import STALE_AFTER_S
from isochrone.serve.home import HubHome
from isochrone.serve.hub_client import HubClient
from isochrone.serve.keyring import Keyring

FABRIC, PATH = "revoking", "/infer"
CONNECTED_BOUND_S = bound_s(stale_after_s=STALE_AFTER_S, grant_life_s=GRANT_LIFE_S, is_connected=True)
CUT_OFF_BOUND_S = bound_s(stale_after_s=STALE_AFTER_S, grant_life_s=GRANT_LIFE_S, is_connected=False)


class Model(http.server.BaseHTTPRequestHandler):
    """A model server that costs nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        return


def document(sites: list[str], model: int) -> str:
    nouns = "".join(
        f"  {site}: {{tier: metro, at: {{lat: 50.1, lon: {8 + at / 100:.2f}}}, jurisdiction: DE, vendor: v,"
        " hardware: {cpu: {units: 4}}}\n"
        for at, site in enumerate(sites)
    )
    demand = ", ".join(f"{site}: 5" for site in sites)
    at = ", ".join(f'{site}: "127.0.0.1:{model}"' for site in sites)
    return f"""
name: {FABRIC}
sites:
{nouns}workloads:
  echo:
    protocol: http
    model: {{name: echo}}
    runtime: {{kind: external, at: {{{at}}}}}
    service: {{cpu: {{duration: {{p50_ms: 1, p99_ms: 4}}, concurrency: 64, rps_max: 5000}}}}
contracts:
  c: {{workload: echo, in_time: {{quantile: 0.9, objective_ms: 2000}}, demand_rps: {{{demand}}}}}
policies: [p.cedar]
"""


def seed(state: Path, live: int) -> None:
    """Enter revocations of hops that nobody uses, before anything runs."""
    home = HubHome.open(state, FABRIC)
    feed = RevocationState(FABRIC, home.key.public)
    entries: list[str] = []
    for at in range(live):
        entry = Revocation(
            feed.seq + 1, int(time.time()), "hop", f"unused{at:012}", "seeded", "by", "req", depth=at % 8
        )
        entries.append(sign_entry(entry, feed, home.key))
        after = feed.apply(entries[-1:])
        assert isinstance(after, RevocationState)
        feed = after
    (home.root / "feed").write_text("".join(f"{entry}\n" for entry in entries))


@dataclass
class Asking:
    """A client at one site that asks until it is told to stop; when it was first refused."""

    base: str
    token: str
    refused_s: float | None = None
    asked: int = 0
    dropped: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        headers = {"authorization": f"Bearer {self.token}"}
        # Plain HTTP: loading certificates would be the most of what this client does.
        with httpx.Client(headers=headers, timeout=10.0, verify=False) as client:
            while not self.stop.is_set():
                try:
                    status = client.post(f"{self.base}{PATH}", content=b"{}").status_code
                except httpx.HTTPError:
                    status = 0
                self.asked += 1
                if status == 403:
                    self.refused_s = time.monotonic()
                    return
                self.dropped += status != 200
                time.sleep(0.002)


@contextlib.contextmanager
def running(directory: Path, sites: list[str], live: int) -> Iterator[Path]:
    model = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    model.daemon_threads = True
    threading.Thread(target=model.serve_forever, daemon=True).start()
    (directory / "fabric.yaml").write_text(document(sites, model.server_port))
    (directory / "p.cedar").write_text('@id("any")\npermit (principal, action, resource);\n')
    state = directory / "state"
    state.mkdir(mode=0o700)
    if live:
        seed(state, live)
    with (directory / "out.log").open("wb") as log:
        words = [
            sys.executable,
            "-m",
            "isochrone.cli.main",
            "up",
            str(directory / "fabric.yaml"),
            "--state",
            str(state),
        ]
        process = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        wait_up(state, sites, live, directory / "out.log", process)
        yield state
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        model.shutdown()


def wait_up(state: Path, sites: list[str], live: int, log: Path, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + 300
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(IsochroneError):
            reports = asyncio.run(HubClient(state).status())["sites"]
            if set(reports) == set(sites) and all(r["plan"] and r["epoch"] >= live for r in reports.values()):
                return
        time.sleep(0.5)
    raise SystemExit(f"the fabric is not up:\n{log.read_text()[-2000:]}")


def revoke(state: Path, chain: list[str]) -> float:
    """When the hub was asked."""
    ring, now_s = Keyring(state), time.time()
    request = sign_request(
        FABRIC, "hop", parse_hop(chain[-1]).id, reason="benchmark", key=ring.get("human:operator").key, now_s=now_s,
        jti=f"r{now_s}",
    )  # fmt: skip
    at = json.loads((state / "hub" / "api.json").read_bytes())["url"]
    headers = {"authorization": f"Bearer {(state / 'hub' / 'api.token').read_text()}"}
    with httpx.Client(headers=headers, timeout=30.0, verify=False) as client:
        client.get(f"{at}/status")
        begun_s = time.monotonic()
        answer = client.post(f"{at}/revocations", json={"request": request, "chain": chain})
    assert answer.status_code == 200, answer.text
    return begun_s


def delegated(state: Path, name: str, bases: dict[str, str]) -> tuple[list[str], dict[str, GrantSource]]:
    chain = issue(state, Keyring(state), "human:operator", name, Scope(), 0, 3600)
    key = Keyring(state).get(name).key
    return chain, {site: GrantSource([base], chain, key, "c", timeout_s=30.0) for site, base in bases.items()}


def one_round(state: Path, number: int, bases: dict[str, str]) -> tuple[dict[str, float], int, int]:
    """Seconds to the first refusal by site; requests asked; dropped."""
    chain, sources = delegated(state, f"agent:r{number}", bases)
    asking = {site: Asking(bases[site], sources[site].token()) for site in bases}
    with ThreadPoolExecutor(len(bases)) as pool:
        for each in asking.values():
            pool.submit(each.run)
        time.sleep(0.3)
        begun_s = revoke(state, chain)
        end_s = time.monotonic() + 30
        while time.monotonic() < end_s and not all(each.refused_s for each in asking.values()):
            time.sleep(0.01)
        for each in asking.values():
            each.stop.set()
    took = {site: (each.refused_s or float("inf")) - begun_s for site, each in asking.items()}
    return took, sum(each.asked for each in asking.values()), sum(each.dropped for each in asking.values())


class Cut:
    """A relay in front of the bus, for one site; `cut()` ends it."""

    def __init__(self, to: tuple[str, int]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.to = self.listener.getsockname()[1], to
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.to)
                self.open += [near, far]
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(a, b), daemon=True).start()

    def _copy(self, a: socket.socket, b: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        for each in (a, b):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        # Closed alone, a listener that a thread waits on would take one connection more.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self.open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def cut_off(state: Path, site: str, base: str) -> float:
    """Seconds from a revocation until a site that is cut off from the bus serves nothing more under it."""
    home = state / "sites" / site / "site.json"
    described = json.loads(home.read_bytes())
    host, _, port = described["bus"].rpartition("/")[2].rpartition(":")
    relay = Cut((host, int(port)))
    described["bus"] = described["bus"].replace(f"{host}:{port}", f"127.0.0.1:{relay.port}")
    home.write_text(json.dumps(described))
    before = httpx.get(f"{base}/.isochrone/status", timeout=5.0).json()["boot"]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"node" in words and str(state / "sites" / site).encode() in words and b"launch" not in words:
                os.kill(int(process.name), signal.SIGKILL)  # `up` starts it again, and it takes the relay
    chain, sources = delegated(state, "agent:cut-off", {site: base})
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        with contextlib.suppress(httpx.HTTPError, IsochroneError, KeyError, ValueError):
            if httpx.get(f"{base}/.isochrone/status", timeout=5.0).json()["boot"] != before and sources[site].token():
                break
        time.sleep(0.2)
    assert relay.open, "the node did not take the relay"
    relay.cut()
    begun_s = last_s = revoke(state, chain)
    with httpx.Client(timeout=5.0) as client:
        while time.monotonic() - last_s < 10:
            # As long as the site mints, take what it mints: the last grant lives longest.
            with contextlib.suppress(IsochroneError):
                sources[site]._token = sources[site]._exchange()
            with contextlib.suppress(httpx.HTTPError, AttributeError):
                headers = {"authorization": f"Bearer {sources[site]._token.value}"}  # type: ignore[union-attr]
                if client.post(f"{base}{PATH}", content=b"{}", headers=headers).status_code == 200:
                    last_s = time.monotonic()
            time.sleep(0.1)
    return last_s - begun_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--live", type=int, default=0)
    parser.add_argument("--cut-off", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sites = [f"site{at}" for at in range(options.sites)]
    with tempfile.TemporaryDirectory(prefix="isochrone-bench-") as scratch:
        with running(Path(scratch), sites, options.live) as state:
            reports = asyncio.run(HubClient(state).status())["sites"]
            bases = {site: f"http://{report['ingress']}" for site, report in reports.items()}
            rounds = [one_round(state, number, bases) for number in range(options.rounds)]
            cut_s = cut_off(state, sites[0], bases[sites[0]]) if options.cut_off else None
    by_site = {site: sorted(took[site] for took, _, _ in rounds) for site in sites}
    every = sorted(value for values in by_site.values() for value in values)
    result: dict[str, Any] = {
        "sites": len(sites), "rounds": len(rounds), "live": options.live,
        "p50_s": statistics.median(every), "p99_s": every[min(len(every) - 1, int(len(every) * 0.99))],
        "worst_s": every[-1], "bound_s": CONNECTED_BOUND_S,
        "slowest_site_p50_s": statistics.median(max(took.values()) for took, _, _ in rounds),
        "asked": sum(asked for _, asked, _ in rounds), "dropped": sum(dropped for _, _, dropped in rounds),
        "cut_off_s": cut_s, "cut_off_bound_s": CUT_OFF_BOUND_S,
        "by_site_p50_s": {site: statistics.median(values) for site, values in by_site.items()},
    }  # fmt: skip
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{len(sites)} sites, {options.live:,} live revocations each, {len(rounds)} rounds")
    for site, value in result["by_site_p50_s"].items():
        print(f"  {site:10} {value * 1e3:8.1f} ms   median to the first refusal")
    print(f"  {'p50':10} {result['p50_s'] * 1e3:8.1f} ms")
    print(f"  {'p99':10} {result['p99_s'] * 1e3:8.1f} ms   {result['p99_s'] / CONNECTED_BOUND_S:.2f} of the bound")
    print(f"  {'worst':10} {result['worst_s'] * 1e3:8.1f} ms   bound {CONNECTED_BOUND_S * 1e3:.0f} ms")
    print(f"  last site  {result['slowest_site_p50_s'] * 1e3:8.1f} ms   median of the slowest site of each round")
    print(f"  {result['asked']:,} requests asked meanwhile, {result['dropped']} dropped")
    if cut_s is not None:
        print(f"  cut off    {cut_s:8.1f} s    bound {CUT_OFF_BOUND_S:.0f} s, {cut_s / CUT_OFF_BOUND_S:.2f} of it")


if __name__ == "__main__":
    main()
