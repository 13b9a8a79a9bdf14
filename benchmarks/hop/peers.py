"""The peers that install from packages: pinned versions, an environment each, and how each is run at its fastest.

Settings that favour the peer: the cheapest balancing it has, no access log, no telemetry, no database.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from benchmarks.hop.processes import NotReady, end, free_port, spawn, wait_listening

# name -> what is installed. A peer is measured at a stated version, so that a table can be made again.
# Releases 1.82.7 and 1.82.8 of litellm were published by attackers, and 1.107.0, since withdrawn, is reported to have
# been: never loosen its pin to a range.
PYTHON_PEERS = {
    "vllm-router": "vllm-router==0.1.17",
    "sglang-router": "sglang-router==0.3.2",
    "litellm": "litellm[proxy]==1.106.2",
}
NODE_PEERS = {"portkey": "@portkey-ai/gateway@1.15.2"}


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that listens: its port, the headers a client must send, and its processes."""

    port: int
    headers: dict[str, str]
    processes: list[psutil.Popen]


def install(name: str, cache: Path) -> Path:
    """The environment of a peer, made on first use.

    Raises:
        NotReady: it does not install; the reason is the installer's.
    """
    package = PYTHON_PEERS.get(name) or NODE_PEERS[name]
    home = cache / name
    stamp = home / "installed.txt"
    if stamp.is_file() and stamp.read_text() == package:
        return home
    print(f"installing {package} ...", file=sys.stderr, flush=True)
    home.mkdir(parents=True, exist_ok=True)
    if name in PYTHON_PEERS:
        venv.create(home, with_pip=True, clear=True)
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", package]
    else:
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home), package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise NotReady(f"does not install: {e}") from e
    if done.returncode != 0:
        errors = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
        raise NotReady(f"does not install: {(errors or ['no reason given'])[-1][:250]}")
    stamp.write_text(package)
    return home


def vllm_router(home: Path, folder: Path, upstream_port: int) -> Running:
    port = free_port()
    command: list[str | Path] = [home / "bin" / "vllm-router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream_port}", "--policy", "round_robin"]
    command += ["--prometheus-port", str(free_port()), "--log-level", "error"]
    return _run(command, port, folder, {"TOKIO_WORKER_THREADS": "1"})


def sglang_router(home: Path, folder: Path, upstream_port: int) -> Running:
    port = free_port()
    command: list[str | Path] = [home / "bin" / "python", "-m", "sglang_router.launch_router", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--worker-urls", f"http://127.0.0.1:{upstream_port}", "--policy", "round_robin"]
    command += ["--prometheus-port", str(free_port()), "--log-level", "error"]
    return _run(command, port, folder, {"TOKIO_WORKER_THREADS": "1"})


def litellm(home: Path, folder: Path, upstream_port: int) -> Running:
    port = free_port()
    target = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
    # It does not start without a key of its own, which each client must then send.
    key = f"sk-{secrets.token_hex(24)}"
    config = folder / "litellm.json"  # JSON is YAML
    document = {
        "model_list": [{"model_name": "bench", "litellm_params": target}],
        "general_settings": {"master_key": key},
    }
    config.write_text(json.dumps(document))
    command: list[str | Path] = [home / "bin" / "litellm", "--config", config, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    running = _run(command, port, folder, quiet)
    return Running(running.port, {"authorization": f"Bearer {key}"}, running.processes)


def portkey(home: Path, folder: Path, upstream_port: int) -> Running:
    port = free_port()
    server = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    running = _run(["node", server, f"--port={port}", "--headless"], port, folder, {"NODE_ENV": "production"})
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
        "authorization": "Bearer none",
    }
    return Running(running.port, headers, running.processes)


START: dict[str, Callable[[Path, Path, int], Running]] = {
    "vllm-router": vllm_router,
    "sglang-router": sglang_router,
    "litellm": litellm,
    "portkey": portkey,
}
WORK = {
    "vllm-router": "parses the request, round robin; no grant, policy, revocation or journal",
    "sglang-router": "parses the request, round robin; no grant, policy, revocation or journal",
    "litellm": "one static key; translates request and answer, counts cost; no policy, revocation or journal",
    "portkey": "translates request and answer by provider; no grant, policy, revocation or journal",
}


def _run(command: list[str | Path], port: int, folder: Path, environment: dict[str, str]) -> Running:
    log = folder / "out.log"
    process = spawn(command, log=log, environment=environment)
    try:
        wait_listening(process, port, log)
    except NotReady:
        end([process])
        raise
    return Running(port, {}, [process])
