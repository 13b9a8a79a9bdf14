"""What does governing a request cost, beside proxies that govern nothing? `python -m benchmarks.hop`

One upstream (nginx, one fixed small chat completion to every request, so that the hop is all there is to see) behind
each proxy. Every proxy has one worker and one core to itself; load generator and upstream share the other. Rounds are
interleaved: each proxy is measured once a round, the others stopped (SIGSTOP), first in a closed loop, then at a fixed
rate. Ratios are to bare Envoy in the same round; the table shows medians over rounds.

Limits: one machine, loopback, no TLS, small bodies, one client token; with two cores the load generator itself may be
the limit of the fastest proxies, which understates the differences between them.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from benchmarks.hop import envoy, governed, load, nginx, peers
from benchmarks.hop.peers import Running
from benchmarks.hop.processes import CORES, NotReady, cpu_s, end, pause, resume, rss_bytes
from rich.console import Console
from rich.table import Table

from isochrone.serve import binaries

BARE = "envoy (bare)"
GOVERNED = "isochrone"
Start = Callable[[Path, int], Running]


@dataclass(slots=True)
class Contender:
    """A proxy in the comparison, and what came of it: `why_not` when it could not be measured."""

    name: str
    work: str
    start: Start
    running: Running | None = None
    why_not: str = ""
    rounds: list[dict[str, Any]] = field(default_factory=list)


def contenders(cache: Path) -> list[Contender]:
    """Every proxy in the comparison, bare Envoy first."""

    def plain(start: Callable[[Path, int], tuple[int, list[psutil.Popen]]]) -> Start:
        def started(folder: Path, upstream_port: int) -> Running:
            port, processes = start(folder, upstream_port)
            return Running(port, {}, processes)

        return started

    def with_grant(folder: Path, upstream_port: int) -> Running:
        port, token, processes = governed.start(upstream_port, folder)
        return Running(port, {"authorization": f"Bearer {token}"}, processes)

    def peer(name: str, folder: Path, upstream_port: int) -> Running:
        folder.mkdir(parents=True, exist_ok=True)
        return peers.START[name](peers.install(name, cache), folder, upstream_port)

    return [
        Contender(BARE, "routes; nothing else", plain(envoy.bare)),
        Contender("nginx", "forwards; nothing else", plain(nginx.proxy)),
        Contender(GOVERNED, governed.WORK, with_grant),
        *(Contender(name, peers.WORK[name], functools.partial(peer, name)) for name in peers.START),
    ]


@contextmanager
def started(all_: list[Contender], folder: Path) -> Iterator[int]:
    """The upstream and every proxy, each checked with one request and then stopped until its turn. Gives the port."""
    upstream_port, upstream = nginx.upstream(folder / "upstream")
    try:
        for contender in all_:
            try:
                contender.running = contender.start(folder / contender.name.replace(" ", "-"), upstream_port)
                _check(contender.running, folder)
                pause(contender.running.processes)
            except NotReady as e:
                contender.why_not = str(e)
        yield upstream_port
    finally:
        end([*upstream, *(p for c in all_ if c.running for p in c.running.processes)])


def _check(running: Running, folder: Path) -> None:
    """One short run whose answers must all be good: a router may listen before it knows its worker.

    Raises:
        NotReady: they were not.
    """
    deadline = time.monotonic() + 30
    while True:
        tried = load.fixed_rate(running.port, running.headers, rps=20, seconds=1, connections=1, folder=folder)
        if tried.requests and not tried.failed:
            return
        if time.monotonic() > deadline:
            raise NotReady(f"listens, but answers {tried.failed} of {tried.failed + tried.requests} with an error")


def measure(contender: Contender, options: argparse.Namespace, folder: Path) -> None:
    """One round of one proxy: warm up, closed loop with CPU time, fixed rate."""
    running = contender.running
    if running is None or contender.why_not:
        return
    resume(running.processes)
    try:
        loop = functools.partial(
            load.closed_loop, running.port, running.headers, connections=options.connections, folder=folder
        )
        loop(seconds=1)
        before_s = cpu_s(running.processes)
        closed = loop(seconds=options.seconds)
        used_s = cpu_s(running.processes) - before_s
        fixed = load.fixed_rate(
            running.port,
            running.headers,
            rps=options.rps,
            seconds=options.seconds,
            connections=options.connections,
            folder=folder,
        )
        contender.rounds.append(
            {
                "closed_loop": closed.as_json(),
                "fixed_rate": fixed.as_json(),
                "cpu_s_per_request": used_s / max(1, closed.requests),
                "rss_bytes": rss_bytes(running.processes),
            }
        )
    except (RuntimeError, psutil.Error) as e:
        contender.why_not = f"failed under load: {e}"
    finally:
        if not contender.why_not:
            pause(running.processes)


def summary(all_: list[Contender]) -> list[dict[str, Any]]:
    """One row per proxy: medians over rounds, and ratios to bare Envoy round by round, then their median."""
    base = next((c.rounds for c in all_ if c.name == BARE), [])
    rows = []
    for contender in all_:
        row: dict[str, Any] = {"name": contender.name, "work": contender.work, "why_not": contender.why_not}
        if contender.rounds:
            for name, read in _FIGURES.items():
                row[name] = statistics.median(map(read, contender.rounds))
                # A round of bare Envoy's own failure leaves nothing to compare with.
                pairs = zip(contender.rounds, base, strict=False)
                ratios = [read(ours) / read(theirs) for ours, theirs in pairs if read(theirs)]
                row[f"{name}_ratio"] = statistics.median(ratios) if ratios else None
            row["failed"] = sum(r[kind]["failed"] for r in contender.rounds for kind in ("closed_loop", "fixed_rate"))
        rows.append(row)
    return rows


_FIGURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "rps": lambda r: r["closed_loop"]["rps"],
    "latency_s_p50": lambda r: r["closed_loop"]["latency_s_p50"],
    "latency_s_p99": lambda r: r["closed_loop"]["latency_s_p99"],
    "fixed_rps": lambda r: r["fixed_rate"]["rps"],
    "fixed_latency_s_p50": lambda r: r["fixed_rate"]["latency_s_p50"],
    "fixed_latency_s_p99": lambda r: r["fixed_rate"]["latency_s_p99"],
    "cpu_s_per_request": lambda r: r["cpu_s_per_request"],
    "rss_bytes": lambda r: r["rss_bytes"],
}


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> Table:
    """The figures as people read them."""
    title = (
        f"one hop, {options.rounds} rounds of {options.seconds:g} s, {options.connections} connections, one core each"
    )
    shown = Table(title=title, caption="x: ratio to bare Envoy, in the same round; medians over rounds")
    columns = (
        "proxy",
        "requests/s",
        "x",
        "p50 ms",
        "p99 ms",
        "x",
        f"at {options.rps:g}/s: got",
        "p50 ms",
        "p99 ms",
        "x",
    )
    for column in (*columns, "CPU us/request", "x", "MiB"):
        shown.add_column(column, justify="left" if column == "proxy" else "right")
    shown.add_column("what it does to each request", overflow="fold")
    for row in rows:
        if "rps" not in row:
            shown.add_row(row["name"], *[""] * 12, f"not measured: {row['why_not']}")
            continue
        note = row["work"] + (f" [{row['failed']} FAILED]" if row["failed"] else "")
        note += f" [{row['why_not']}]" if row["why_not"] else ""
        shown.add_row(
            row["name"],
            f"{row['rps']:,.0f}", _times(row["rps_ratio"]),
            f"{row['latency_s_p50'] * 1e3:.2f}",
            f"{row['latency_s_p99'] * 1e3:.2f}", _times(row["latency_s_p99_ratio"]),
            f"{row['fixed_rps']:,.0f}", f"{row['fixed_latency_s_p50'] * 1e3:.2f}",
            f"{row['fixed_latency_s_p99'] * 1e3:.2f}", _times(row["fixed_latency_s_p99_ratio"]),
            f"{row['cpu_s_per_request'] * 1e6:.0f}", _times(row["cpu_s_per_request_ratio"]),
            f"{row['rss_bytes'] / 2**20:.0f}", note.replace("[", r"\["),
        )  # fmt: skip
    return shown


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hop", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rps", type=float, default=2000.0, help="the fixed rate, requests a second")
    parser.add_argument("--only", help=f"comma-separated, of: {', '.join(names)}")
    parser.add_argument("--cache", type=Path, default=Path(".isochrone/bench-envs"), help="where peers are installed")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    unknown = set((options.only or "").split(",")) - {""} - set(names)
    if unknown or min(options.rounds, options.seconds, options.connections, options.rps) <= 0:
        parser.error(f"unknown: {', '.join(sorted(unknown))}" if unknown else "numbers must be positive")
    return options


def main() -> int:
    """Measure, print, and exit with 0 when the governed path and bare Envoy were measured without a failed request."""
    options = _arguments([c.name for c in contenders(Path())])
    missing = load.missing_tools()
    if missing:
        print(f"missing: {', '.join(missing)}; apt-get install wrk nghttp2-client nginx util-linux", file=sys.stderr)
        return 2
    all_ = contenders(options.cache.resolve())
    if options.only:
        chosen = {BARE, *options.only.split(",")}
        all_ = [c for c in all_ if c.name in chosen]
    with tempfile.TemporaryDirectory(prefix="isochrone-hop-") as name:
        folder = Path(name)
        with started(all_, folder):
            for number in range(options.rounds):
                for contender in all_:
                    print(f"round {number + 1} of {options.rounds}: {contender.name}", file=sys.stderr, flush=True)
                    measure(contender, options, folder)
    rows = summary(all_)
    Console(width=200 if not sys.stdout.isatty() else None).print(table(rows, options))
    if len(CORES) < 2:
        print("one core only: load and proxies shared it, so the figures mean little")
    print(f"upstream: nginx, {len(nginx.ANSWER)} bytes of answer")
    if options.json:
        machine = {"cores": len(CORES), "machine": platform.machine(), "engines": binaries.versions()}
        packages = peers.PYTHON_PEERS | peers.NODE_PEERS
        document = {"machine": machine, "peers": packages, "rows": rows, "rounds": {c.name: c.rounds for c in all_}}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    ours = [row for row in rows if row["name"] in (BARE, GOVERNED)]
    return 0 if all(row.get("failed") == 0 and not row["why_not"] for row in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
