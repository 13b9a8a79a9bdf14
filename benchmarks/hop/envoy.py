"""Envoy as it comes: the yardstick of the table, and the parts that the governed configuration starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
from benchmarks.hop.processes import free_port, spawn, wait_listening

from isochrone.serve import binaries

TYPE = "type.googleapis.com/envoy"


def typed(name: str, kind: str, /, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{TYPE}.{kind}", **fields}}


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def configuration(
    port: int,
    upstream_port: int,
    *,
    filters: list[dict[str, Any]] | None = None,
    route_match: dict[str, Any] | None = None,
    manager: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A bootstrap with one listener, one route and one cluster; the arguments are what governing adds to each."""
    route = {"match": {"prefix": "/"} | (route_match or {}), "route": {"cluster": "models", "timeout": "30s"}}
    router = typed("router", "extensions.filters.http.router.v3.Router")
    connection_manager = typed(
        "http",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[*(filters or []), router],
        **(manager or {}),
    )
    models = {
        "name": "models",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "models",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream_port)}}]}],
        },
        **(cluster or {}),
    }
    listener = {"address": address(port), "filter_chains": [{"filters": [connection_manager]}]}
    return {"static_resources": {"listeners": [listener], "clusters": [models]}}


def bare(folder: Path, upstream_port: int) -> tuple[int, list[psutil.Popen]]:
    """Envoy that routes and does nothing else."""
    port = free_port()
    return port, [run(folder, configuration(port, upstream_port), port)]


def run(folder: Path, bootstrap: dict[str, Any], port: int) -> psutil.Popen:
    """An Envoy with one worker, once it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "envoy.json", folder / "out.log"
    config.write_text(json.dumps(bootstrap))
    options = ["--concurrency", "1", "--use-dynamic-base-id", "--service-node", "bench", "--service-cluster", "bench"]
    # The journal is flushed as often as a node's is.
    options += ["--file-flush-interval-msec", "100", "--file-flush-min-size-kb", "64", "--log-level", "warning"]
    process = spawn([binaries.envoy(), "-c", config, *options], log=log)
    wait_listening(process, port, log)
    return process
