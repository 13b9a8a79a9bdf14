"""A grant in front of the real Envoy: the headers it derives are those that `Grant.headers` says."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.grant import CLAIM_HEADERS, Binding, Grant, tag
from isochrone.authority.jose import b64u_encode
from isochrone.authority.testing import World, named_key
from isochrone.serve.process import free_port

ENVOY = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
TYPE = "type.googleapis.com/envoy.extensions.filters"

pytestmark = pytest.mark.skipif(ENVOY is None, reason="no envoy binary is installed")


def configuration(port: int, upstream_port: int) -> dict[str, Any]:
    key = named_key("site vie").public
    provider = {
        "issuer": "isochrone:acme",
        "audiences": ["acme"],
        "require_expiration": True,
        "clock_skew_seconds": 1,
        "local_jwks": {"inline_string": json.dumps({"keys": [key.jwk | {"kid": tag(key.thumbprint)}]})},
        "claim_to_headers": [{"claim_name": claim, "header_name": header} for claim, header in CLAIM_HEADERS.items()],
    }
    jwt = {
        "@type": f"{TYPE}.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"site": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "site"}}],
    }
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}]
    manager = {
        "@type": f"{TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "jwt", "typed_config": jwt},
            {"name": "router", "typed_config": {"@type": f"{TYPE}.http.router.v3.Router"}},
        ],
    }

    def address(of: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": of}}

    endpoint = {"endpoint": {"address": address(upstream_port)}}
    assignment = {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]}
    listener = {"address": address(port), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}
    clusters = [{"name": "upstream", "type": "STATIC", "load_assignment": assignment}]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


class Proxy:
    """An Envoy in front of an upstream that remembers the headers it was sent."""

    def __init__(self, port: int, seen: dict[str, str]) -> None:
        self.port, self.seen = port, seen

    def get(self, token: str, **headers: str) -> tuple[int, dict[str, str]]:
        self.seen.clear()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/", headers={"authorization": f"Bearer {token}", **headers})
        status = connection.getresponse().status
        connection.close()
        return status, {name: value for name, value in self.seen.items() if name.startswith("x-isochrone-")}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    seen: dict[str, str] = {}

    class Upstream(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.update({name.lower(): value for name, value in self.headers.items()})
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    upstream = http.server.HTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    port = free_port()
    path = tmp_path_factory.mktemp("envoy") / "envoy.json"
    path.write_text(json.dumps(configuration(port, upstream.server_address[1])), "utf-8")
    assert ENVOY
    options = ["--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    process = subprocess.Popen([ENVOY, "-c", str(path), *options])
    try:
        deadline_s = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "Envoy refused its configuration"
                assert time.monotonic() < deadline_s, "Envoy did not listen"
                time.sleep(0.05)
        yield Proxy(port, seen)
    finally:
        process.terminate()
        process.wait(10)
        upstream.shutdown()
        upstream.server_close()


def granted(hops: int, *, now_s: float | None = None, **options: Any) -> Grant:
    world = World(now_s=time.time() if now_s is None else now_s)
    grant = world.grant(world.verified(hops), now_s=world.now_s, **options)
    assert isinstance(grant, Grant)
    return grant


@pytest.mark.parametrize("hops", [1, 4, 8])
def test_every_claim_becomes_its_header(proxy: Proxy, hops: int) -> None:
    grant = granted(hops, binding=Binding(certificate_sha256=b"c" * 32))
    status, headers = proxy.get(grant.token)
    assert status == 204
    assert headers == grant.headers()
    assert len(headers) == 15 + hops + hops + 1


def test_a_clients_own_headers_do_not_get_through(proxy: Proxy) -> None:
    grant = granted(1)
    forged = dict.fromkeys(CLAIM_HEADERS.values(), "forged")
    status, headers = proxy.get(grant.token, **forged)
    assert status == 204
    assert headers == grant.headers()


def test_what_envoy_refuses(proxy: Proxy) -> None:
    grant = granted(2)
    head, payload, signature = grant.token.split(".")
    none = b64u_encode(b'{"alg":"none","typ":"at+jwt"}')
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    for token in (f"{head}.{payload}.{flipped}", f"{none}.{payload}.", "junk", granted(1, now_s=1e9).token):
        status, headers = proxy.get(token)
        assert (status, headers) == (401, {})
