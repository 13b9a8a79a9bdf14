"""nginx in two parts: the upstream that every proxy stands in front of, and one of those proxies."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
from benchmarks.hop.processes import CORE_OF_LOAD, CORE_UNDER_TEST, free_port, spawn, wait_listening

ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "It is clear."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 16, "completion_tokens": 4, "total_tokens": 20},
    },
    separators=(",", ":"),
)
# What LLM routers ask a worker before they send it anything.
_MODELS = '{"object":"list","data":[{"id":"bench","object":"model","created":1700000000,"owned_by":"bench"}]}'

_COMMON = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log error;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 3600s; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  {http}
}}
"""


def upstream(folder: Path) -> tuple[int, list[psutil.Popen]]:
    """A "model server" that costs next to nothing: one fixed chat completion to every request."""
    port = free_port()
    http = f"""
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 '{ANSWER}'; }}
    location = /v1/models {{ return 200 '{_MODELS}'; }}
    location = /health {{ return 200 '{{}}'; }}
  }}"""
    return port, [_start(folder, http, port, CORE_OF_LOAD)]


def proxy(folder: Path, upstream_port: int) -> tuple[int, list[psutil.Popen]]:
    """nginx as a plain reverse proxy with kept-alive connections to the upstream."""
    port = free_port()
    http = f"""
  upstream models {{ server 127.0.0.1:{upstream_port}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://models; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}"""
    return port, [_start(folder, http, port, CORE_UNDER_TEST)]


def _start(folder: Path, http: str, port: int, core: int) -> psutil.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "nginx.conf", folder / "out.log"
    config.write_text(_COMMON.format(folder=folder, http=http))
    process = spawn(["nginx", "-p", folder, "-e", folder / "error.log", "-c", config], log=log, core=core)
    wait_listening(process, port, log)
    return process
