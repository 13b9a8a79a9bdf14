"""What compiled policies cost: throughput of one Envoy worker beside no policy, and the decision point's latency.

Envoy answers `direct_response` 200 behind the RBAC filter, asked by `wrk` over 16 connections; rounds are interleaved
and the median is shown. The policies are typical (one contract, data classes, jurisdiction each); the request is
allowed by the last permit only, so every rule before it is evaluated. Run: python benchmarks/policy.py [seconds]
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

from test_policy_equality import envoy

from isochrone.policy import (
    PDP,
    AgentFacts,
    ContractFacts,
    PolicySet,
    Request,
    SiteFacts,
    WorkloadFacts,
    World,
    compile_for_site,
    compile_sites,
)
from isochrone.policy.pdp import execution_context

ROUNDS = 3
SIZES = (10, 50, 200)
HEADERS = {
    "x-isochrone-human": "ada",
    "x-isochrone-agent": "bot",
    "x-isochrone-sites": "|s0|",
    "x-isochrone-workload": "chat",
    "x-isochrone-data-class": "personal",
}


def world(sites: int, contracts: int) -> World:
    places = ("DE", "FR", "US", "GB", "JP")
    return World(
        sites=tuple(SiteFacts(f"s{n}", "edge", f"v{n % 9}", "o", places[n % 5]) for n in range(sites)),
        contracts=tuple(ContractFacts(f"c{n}", "t", ("EU", None)[n % 2]) for n in range(contracts)),
        workloads=(WorkloadFacts("chat"),),
    )


def policies(count: int) -> PolicySet:
    """Four fifths permits, one fifth forbids, each for its own contract."""
    scope = 'principal, action == Action::"execute", resource'
    texts = []
    for n in range(count):
        mine = f'context.contract == Contract::"c{n}"'
        if n % 5 == 4:
            texts.append(f'forbid({scope}) when {{ {mine} && context.data_class == "secret" }};')
        else:
            where = f'{scope} in Jurisdiction::"EEA"'
            texts.append(f'permit({where}) when {{ {mine} && ["personal", "public"].contains(context.data_class) }};')
    return PolicySet.parse({"bench": "\n".join(texts)})


def throughput(port: int, path: str, contract: str, seconds: int) -> float:
    headers = {**HEADERS, "x-isochrone-contract": contract}
    options = [option for name, value in headers.items() for option in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", *options, f"http://127.0.0.1:{port}{path}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output:
        raise SystemExit(f"{path} was denied: the measurement would be of refusals")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])  # type: ignore[index]


def measure_envoy(seconds: int) -> None:
    here = world(1, max(SIZES))
    anything: dict[str, Any] = {
        "action": "ALLOW",
        "policies": {"a": {"permissions": [{"any": True}], "principals": [{"any": True}]}},
    }
    variants: dict[str, tuple[dict[str, Any], str]] = {"no policy": (anything, "c0")}
    for size in SIZES:
        last = f"c{max(n for n in range(size) if n % 5 != 4)}"
        for backend in ("native", "cel"):
            compiled = compile_for_site(policies(size), "s0", here, backend=backend)  # type: ignore[arg-type]
            variants[f"{size:3} policies, {backend}"] = (compiled.rules, last)
    rates: dict[str, list[float]] = {name: [] for name in variants}
    with (
        tempfile.TemporaryDirectory() as folder,
        envoy([rules for rules, _ in variants.values()], Path(folder)) as port,
    ):
        for _ in range(ROUNDS):
            for index, (name, (_, contract)) in enumerate(variants.items()):
                rates[name].append(throughput(port, f"/{index}/", contract, seconds))
    base = statistics.median(rates["no policy"])
    print(f"Envoy, one worker, {ROUNDS} interleaved rounds of {seconds} s")
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"  {name:22} {rate:8.0f} requests/s   {rate / base:5.3f} of no policy")


def measure_decision_point(slices: int, count: int = 5000) -> None:
    point = PDP(policies(50), world(20, 50), slices_max=slices)
    context = execution_context("c48", "chat", "personal", 12, 3)
    request = Request(("Agent", "bot"), "execute", ("Site", "s0"), context, (AgentFacts("bot", "ada"),))
    if not point.verdict(request):
        raise SystemExit("the request should be allowed")
    taken_us = []
    for _ in range(count):
        start = time.perf_counter()
        point.verdict(request)
        taken_us.append((time.perf_counter() - start) * 1e6)
    taken_us.sort()
    p50, p99 = taken_us[count // 2], taken_us[count * 99 // 100]
    asked = "those that can matter" if slices else "all asked"
    print(f"decision point, 50 policies prepared, {asked}: p50 {p50:.0f} us, p99 {p99:.0f} us")


def measure_compiler() -> None:
    parsed, fabric = policies(50), world(100, 50)
    start = time.perf_counter()
    compiled = compile_sites(parsed, fabric)
    taken_s = time.perf_counter() - start
    size = len(json.dumps(compiled["s0"].rules))
    print(f"compiler, 50 policies for 100 sites: {taken_s:.2f} s ({size} bytes of JSON at one site)")


if __name__ == "__main__":
    measure_compiler()
    measure_decision_point(slices=0)
    measure_decision_point(slices=64)
    measure_envoy(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
