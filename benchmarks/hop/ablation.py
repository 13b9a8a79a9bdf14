"""What does each part of governing a request cost? `python -m benchmarks.hop.ablation`

The governed path of `benchmarks.hop`, whole and with one part left out at a time, beside bare Envoy; the figure is CPU
time of the Envoy (all threads, user and system) a request. Bursts of a fixed number of requests are interleaved in
random order, because a shared machine changes more from minute to minute than the parts cost.

Two processes of the *same* configuration differ by several microseconds for as long as they live (where their memory
and code happen to lie), so each variant runs as several processes and the figure is a low quantile over all of them. A
part that costs less than that difference cannot be told from nothing, and the table says how large it was.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
from benchmarks.hop import envoy, governed, load, nginx
from benchmarks.hop.processes import end, pause, resume

from isochrone.forward.filters import POLICY_ANYWHERE, POLICY_HERE, REVOCATION
from isochrone.forward.xds import Json

BARE, WHOLE = "envoy (bare)", "governed, whole"
Files = dict[str, Json]


def _manager(files: Files) -> Json:
    listener = next(each for each in files["lds/listeners.json"]["resources"] if each["name"] == "ingress")
    manager: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _without_filters(*names: str) -> governed.Edit:
    def edit(files: Files) -> None:
        manager = _manager(files)
        manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] not in names]

    return edit


def _without(*keys: str) -> governed.Edit:
    def edit(files: Files) -> None:
        for key in keys:
            del _manager(files)[key]

    return edit


def _host(files: Files) -> Json:
    host: Json = files["rds/ingress.json"]["resources"][0]["virtual_hosts"][0]
    return host


def _no_answer_headers(files: Files) -> None:
    del _host(files)["response_headers_to_add"]


def _no_start_line(files: Files) -> None:
    del _manager(files)["access_log_options"]


def _no_lock(files: Files) -> None:
    for cluster in files["cds/clusters.json"]["resources"]:
        for options in cluster.get("typed_extension_protocol_options", {}).values():
            options["http_filters"] = [
                f for f in options["http_filters"] if f["name"] != "envoy.filters.http.upstream_rbac"
            ]


def _no_retry(files: Files) -> None:
    for route in _host(files)["routes"]:
        for key in ("retry_policy", "max_stream_duration", "idle_timeout"):
            route.get("route", {}).pop(key, None)


def _only_contract_claims(files: Files) -> None:
    """Claims that routes need; without tags and facts there is nothing for policy and revocation to look at either."""
    provider = _manager(files)["http_filters"][0]["typed_config"]["providers"]["grant"]
    provider["claim_to_headers"] = [c for c in provider["claim_to_headers"] if c["claim_name"] in ("ctr", "sites")]
    _without_filters(POLICY_ANYWHERE, POLICY_HERE, REVOCATION)(files)


def _no_payload(files: Files) -> None:
    del _manager(files)["http_filters"][0]["typed_config"]["providers"]["grant"]["forward_payload_header"]


PARTS: dict[str, governed.Edit] = {
    "journal, both ends": _without("access_log", "access_log_options"),
    "journal, start line": _no_start_line,
    "grant's payload for the journal": _no_payload,
    "policy": _without_filters(POLICY_ANYWHERE, POLICY_HERE),
    "revocation maps": _without_filters(REVOCATION),
    "policy, revocation and their claims": _only_contract_claims,
    "removing client headers": _without("early_header_mutation_extensions"),
    "headers on answers": _no_answer_headers,
    "upstream lock": _no_lock,
    "retries and stream bounds": _no_retry,
    "body limit": _without_filters("body-limit"),
    "path normalisation": _without("normalize_path", "merge_slashes", "path_with_escaped_slashes_action"),
    "time limits on requests": _without("request_headers_timeout", "request_timeout"),
    "problem documents": _without("local_reply_config"),
}


class Variant:
    """One process: its port, the headers to send, and CPU time a request of every burst, us."""

    def __init__(self, name: str, port: int, headers: dict[str, str], processes: list[psutil.Popen]) -> None:
        self.name, self.port, self.headers, self.processes = name, port, headers, processes
        self.bursts: list[float] = []

    def burst(self, requests: int, body: Path) -> None:
        """Send `requests` and note what one cost. Raises RuntimeError when one was not answered well."""
        resume(self.processes)
        before_ns = _cpu_ns(self.processes)
        command = ["taskset", "-c", str(load.CORE_OF_LOAD), "h2load", "--h1", "-t1", "-c16", f"-n{requests}"]
        command += ["-d", str(body), *load.header_words(self.headers), f"http://127.0.0.1:{self.port}{load.PATH}"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        used_ns = _cpu_ns(self.processes) - before_ns
        pause(self.processes)
        if f"status codes: {requests} 2xx" not in out:
            raise RuntimeError(f"{self.name}: not every request was answered well: {out}")
        self.bursts.append(used_ns / requests / 1e3)


def _cpu_ns(processes: list[psutil.Popen]) -> int:
    """Time on a processor of all threads, from the scheduler: ns where `/proc/PID/stat` has ticks of 10 ms."""
    files = (file for process in processes for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files)


def _start(name: str, edit: governed.Edit | None, upstream_port: int, folder: Path) -> Variant:
    if edit is None:
        port, processes = envoy.bare(folder, upstream_port)
        return Variant(name, port, {}, processes)
    port, token, processes = governed.start_edited(upstream_port, folder, edit)
    return Variant(name, port, {"authorization": f"Bearer {token}"}, processes)


def _quantile(values: list[float], at: float) -> float:
    return sorted(values)[min(len(values) - 1, int(at * len(values)))]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[Variant]]:
    """Every variant's processes with their bursts."""
    edits: dict[str, governed.Edit | None] = {BARE: None, WHOLE: lambda files: None, **PARTS}
    body = folder / "body.json"
    body.write_text(load.BODY)
    upstream_port, upstream = nginx.upstream(folder / "upstream")
    variants: list[Variant] = []
    try:
        for copy in range(options.processes):
            for number, (name, edit) in enumerate(edits.items()):
                variants.append(_start(name, edit, upstream_port, folder / f"{number}-{copy}"))
                variants[-1].burst(2 * options.requests, body)
                variants[-1].bursts.clear()
        for _ in range(options.rounds):
            for variant in random.sample(variants, len(variants)):
                variant.burst(options.requests, body)
    finally:
        end([*upstream, *(process for variant in variants for process in variant.processes)])
    return {name: [variant for variant in variants if variant.name == name] for name in edits}


def report(by_name: dict[str, list[Variant]], say: Callable[[str], None] = print) -> None:
    """The table: what a request cost without each part, and the difference to the whole."""

    def cost(name: str, at: float) -> float:
        return _quantile([burst for variant in by_name[name] for burst in variant.bursts], at)

    say(f"{'':38}{'p25 us':>8}{'p50 us':>8}{'part, p25':>11}{'part, p50':>11}{'x bare, p25':>13}")
    for name in by_name:
        shown = name if name in (BARE, WHOLE) else f"without {name}"
        low, middle = cost(name, 0.25), cost(name, 0.5)
        parts = (cost(WHOLE, 0.25) - low, cost(WHOLE, 0.5) - middle)
        words = "".join(f"{part:11.1f}" for part in parts) if name != WHOLE else " " * 22
        say(f"{shown:38}{low:8.1f}{middle:8.1f}{words}{low / cost(BARE, 0.25):13.2f}")
    spreads = [
        max(medians) - min(medians)
        for variants in by_name.values()
        if (medians := [statistics.median(variant.bursts) for variant in variants])
    ]
    say(f"median difference between processes of one configuration: {statistics.median(spreads):.1f} us")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hop.ablation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=1000, help="in a burst, over 16 connections")
    parser.add_argument("--processes", type=int, default=3, help="of each variant")
    options = parser.parse_args()
    if missing := load.missing_tools():
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="isochrone-ablation-") as name:
        report(measure(options, Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
