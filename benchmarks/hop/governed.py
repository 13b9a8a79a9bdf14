"""One Envoy that governs each request: ES256 grant, policy, revocation map by ECDS, journal of both ends, address lock.

All in one function, so that what builds the configuration can be exchanged in one place.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
from benchmarks.hop import envoy
from benchmarks.hop.envoy import TYPE, typed
from benchmarks.hop.processes import free_port
from joserfc import jwt
from joserfc.jwk import ECKey

WORK = (
    "ES256 grant, RBAC policy, revocation map (1,000), route by contract, journal of both ends, upstream address lock"
)
CONFIGURATION = "written by hand after the design; not yet what the compiler generates"
_REVOKED = 1000
_CONTRACT = "chat-assistant"


def start(upstream_port: int, folder: Path) -> tuple[int, str, list[psutil.Popen]]:
    """Port, grant to send as bearer token, and processes of the governed path in front of `upstream_port`."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ECKey.generate_key("P-256", {"kid": "bench"})
    port, now = free_port(), int(time.time())
    claims = {
        "iss": "bench", "aud": "isochrone", "sub": "human:ada", "iat": now, "exp": now + 36_000, "jti": "grant-1",
        "contract": _CONTRACT, "chain": "sha256:" + 64 * "a", "agent": "agent:planner", "policy": "sha256:" + 64 * "b",
    }  # fmt: skip
    token = jwt.encode({"alg": "ES256", "kid": "bench"}, claims, key, algorithms=["ES256"])
    bootstrap = envoy.configuration(
        port,
        upstream_port,
        filters=[_grant(key), _policy(), _revocation(folder)],
        route_match={"headers": [_header_is("x-isochrone-contract", _CONTRACT)]},
        manager={
            "access_log": [_journal(folder)],
            "access_log_options": {"flush_access_log_on_new_request": True},
        },
        cluster=_address_lock(upstream_port),
    )
    return port, token, [envoy.run(folder, bootstrap, port)]


def _header_is(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "string_match": {"exact": value}}


def _grant(key: ECKey) -> dict[str, Any]:
    headers = {"contract": "contract", "jti": "grant", "chain": "chain", "sub": "human", "agent": "agent"}
    provider = {
        "issuer": "bench",
        "audiences": ["isochrone"],
        "require_expiration": True,
        "clock_skew_seconds": 1,
        "local_jwks": {"inline_string": json.dumps({"keys": [key.as_dict(private=False)]})},
        "jwt_cache_config": {"jwt_cache_size": 1000},
        "claim_to_headers": [
            {"header_name": f"x-isochrone-{header}", "claim_name": claim} for claim, header in headers.items()
        ],
        "clear_route_cache": True,
    }
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "site"}}
    kind = "extensions.filters.http.jwt_authn.v3.JwtAuthentication"
    return typed("grant", kind, providers={"site": provider}, rules=[rule])


def _policy() -> dict[str, Any]:
    policy = {
        "permissions": [{"url_path": {"path": {"prefix": "/v1/"}}}],
        "principals": [{"header": _header_is("x-isochrone-contract", _CONTRACT)}],
    }
    return typed("policy", "extensions.filters.http.rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {"p": policy}})


def _revocation(folder: Path) -> dict[str, Any]:
    """A map from revoked chain elements to DENY, in a file of its own that a node rewrites on revocation."""

    def action(name: str, verdict: str) -> dict[str, Any]:
        return {"action": typed("a", "config.rbac.v3.Action", name=name, action=verdict)}

    revoked = {f"sha256:{i:064x}": action("revoked", "DENY") for i in range(_REVOKED)}
    chain = typed("h", "type.matcher.v3.HttpRequestHeaderMatchInput", header_name="x-isochrone-chain")
    matcher = {
        "matcher_tree": {"input": chain, "exact_match_map": {"map": revoked}},
        "on_no_match": action("in-force", "ALLOW"),
    }
    rbac = {"@type": f"{TYPE}.extensions.filters.http.rbac.v3.RBAC", "matcher": matcher}
    extension = {"@type": f"{TYPE}.config.core.v3.TypedExtensionConfig", "name": "revocation", "typed_config": rbac}
    file = folder / "revocation.json"
    file.write_text(json.dumps({"version_info": "1", "resources": [extension]}))
    discovery = {
        "config_source": {"path_config_source": {"path": str(file)}, "resource_api_version": "V3"},
        "type_urls": [rbac["@type"]],
    }
    return {"name": "revocation", "config_discovery": discovery}


def _journal(folder: Path) -> dict[str, Any]:
    fields = {
        "id": "%REQ(X-REQUEST-ID)%", "at": "%ACCESS_LOG_TYPE%", "start": "%START_TIME(%s.%6f)%",
        "duration_ms": "%DURATION%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "to": "%UPSTREAM_HOST%",
        "sent": "%BYTES_SENT%", "received": "%BYTES_RECEIVED%", "grant": "%REQ(X-ISOCHRONE-GRANT)%",
        "chain": "%REQ(X-ISOCHRONE-CHAIN)%", "contract": "%REQ(X-ISOCHRONE-CONTRACT)%",
    }  # fmt: skip
    return typed(
        "journal",
        "extensions.access_loggers.file.v3.FileAccessLog",
        path=str(folder / "journal.jsonl"),
        log_format={"json_format": fields},
    )


def _address_lock(upstream_port: int) -> dict[str, Any]:
    """Answers 403 when the address finally chosen is not among the allowed ones."""
    allowed = typed(
        "upstream_ip_port",
        "extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher",
        upstream_ip={"address_prefix": "127.0.0.1", "prefix_len": 32},
        upstream_port_range={"start": upstream_port, "end": upstream_port + 1},
    )
    policy = {"permissions": [{"matcher": allowed}], "principals": [{"any": True}]}
    rbac = typed(
        "envoy.filters.http.upstream_rbac",
        "extensions.filters.http.rbac.v3.RBAC",
        rules={"action": "ALLOW", "policies": {"sites": policy}},
    )
    codec = typed("envoy.filters.http.upstream_codec", "extensions.filters.http.upstream_codec.v3.UpstreamCodec")
    options = {
        "@type": f"{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "http_filters": [rbac, codec],
    }
    return {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}}
