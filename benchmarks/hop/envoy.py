"""Envoy as it comes, the yardstick of the table, and how an Envoy is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
from benchmarks.hop.processes import free_port, spawn, wait_listening

from isochrone.serve import binaries

_TYPE = "type.googleapis.com/envoy"


def bare(folder: Path, upstream_port: int) -> tuple[int, list[psutil.Popen]]:
    """Envoy that routes and does nothing else, with the defaults of its documentation's first example."""
    port = free_port()
    route = {"match": {"prefix": "/"}, "route": {"cluster": "models", "timeout": "30s"}}
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}}
        ],
    }
    endpoint = {"endpoint": {"address": _address(upstream_port)}}
    cluster = {
        "name": "models",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "models", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    bootstrap = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    folder.mkdir(parents=True, exist_ok=True)
    return port, [run(folder, json.dumps(bootstrap).encode(), port)]


def run(folder: Path, bootstrap: bytes, port: int) -> psutil.Popen:
    """An Envoy with one worker and the options that a node starts it with, once it listens on `port`."""
    config, log = folder / "envoy.json", folder / "out.log"
    config.write_bytes(bootstrap)
    options = ["--concurrency", "1", "--disable-hot-restart", "--service-node", "bench", "--service-cluster", "bench"]
    options += ["--file-flush-interval-msec", "50", "--log-level", "warning", "--reject-unknown-dynamic-fields"]
    process = spawn([binaries.envoy(), "-c", config, *options], log=log)
    wait_listening(process, port, log)
    return process


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
