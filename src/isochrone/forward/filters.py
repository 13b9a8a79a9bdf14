"""HTTP filters of both listeners, in the order a request meets them: grant, scope, policy, revocation, the node."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from isochrone.authority.budget import REQUESTS_MAX
from isochrone.forward.headers import (
    CERTIFICATE,
    CLAIMS,
    COUNTED_AT,
    DEADLINE,
    GRANT,
    INGRESS,
    MEANT,
    PLAN,
    PREFIX,
    REQUESTS,
    SITES,
    claim_headers,
)
from isochrone.forward.view import SiteView, members
from isochrone.forward.xds import Json, any_of, path_source, typed

__all__ = [
    "AUTHORIZE_HERE",
    "AUTHORIZE_S_MAX",
    "AUTHORIZE_THERE",
    "BINDING",
    "BODY_BYTES_MAX",
    "CANDIDATE_SAYS",
    "POLICY_ANYWHERE",
    "POLICY_HERE",
    "REVOCATION",
    "REVOCATION_RECENT",
    "SCOPE",
    "allowance",
    "authorize",
    "binding",
    "body_limit",
    "counted_here",
    "fault",
    "grant",
    "policy",
    "revocation",
    "revocation_resource",
    "router",
    "scope",
    "strip",
]

REVOCATION = "revocation"  # nearly all that is revoked, written rarely
REVOCATION_RECENT = "revocation-recent"  # the rest, written at once
COUNTED_ELSEWHERE = "counted-elsewhere"
SCOPE = "scope"
BINDING = "binding"  # of a grant to the certificate that the client shows
POLICY_HERE = "policy-here"  # what this site executes
POLICY_ANYWHERE = "policy-anywhere"  # what some site would execute
AUTHORIZE_HERE = "authorize-here"  # the node is asked of an execution at this site
AUTHORIZE_THERE = "authorize-there"  # of one that is handed over, where the admission must be durable first
AUTHORIZER = "node-authorizer"
AUTHORIZE_S_MAX = 1.0
_CANDIDATE = "candidate_"
CANDIDATE_SAYS = f"%DYNAMIC_METADATA(envoy.filters.http.rbac:{_CANDIDATE}shadow_engine_result)%"
_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
_ACTION = "envoy.config.rbac.v3.Action"
_JWT_CACHE_SIZE = 10_000
# Envoy forgets the counter least recently used above this. A site has half as many grants to count at most, by kind.
ALLOWANCES_MAX = 20_000
BODY_BYTES_MAX = 8 * 1024 * 1024


def strip(trusted_peer: bool) -> list[Json]:
    """Early header mutation: what a client may not send is gone before any filter, route or log reads it.

    A peer may hand over only which ingress it is, which site it meant and its plan revision; the claims are read from
    the grant again.
    """
    keep = [DEADLINE, *([INGRESS, MEANT, PLAN] if trusted_peer else [])]
    ours = _others(PREFIX, [name.removeprefix(PREFIX) for name in keep])
    # Envoy's own headers are set again by Envoy after this; who the client is, nobody learns from the client.
    foreign = ("x-envoy-.*", "x-forwarded-.*", "forwarded", "x-real-ip", "te")
    # One expression: a mutation each would go through all headers once more.
    names = {"safe_regex": {"regex": "|".join((ours, *foreign))}}
    return [
        typed(
            "envoy.http.early_header_mutation.header_mutation",
            "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[{"remove_on_match": {"key_matcher": names}}],
        )
    ]


def _others(prefix: str, keep: list[str]) -> str:
    """A regular expression (RE2, which has no look-ahead) for every string with `prefix` except prefix + one of `keep`.

    Matching whole names keeps what stays as it came: a header sent twice is still seen twice.
    """
    following: dict[str, list[str]] = {}
    for rest in filter(None, keep):
        following.setdefault(rest[0], []).append(rest[1:])
    first = "".join(re.escape(char) for char in sorted(following))
    branches = [f"[^{first}].*" if following else ".+", *(_others(char, following[char]) for char in sorted(following))]
    return f"{re.escape(prefix)}(?:{'|'.join(branches)}){'' if '' in keep else '?'}"


def grant(view: SiteView) -> Json:
    """`jwt_authn`: ES256 grants of enrolled sites only, with `exp`, for this fabric; claims become headers."""
    provider = {
        "issuer": view.issuer,
        "audiences": [view.fabric.name],
        "require_expiration": True,
        "clock_skew_seconds": 1,
        "forward": True,
        "local_jwks": {"inline_string": json.dumps(view.jwks, sort_keys=True, separators=(",", ":"))},
        "jwt_cache_config": {"jwt_cache_size": _JWT_CACHE_SIZE, "jwt_max_token_size": 2048},
        "claim_to_headers": claim_headers(),
        "forward_payload_header": CLAIMS,
        # Routes are chosen by claims, which exist only now.
        "clear_route_cache": True,
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
    }
    return typed(
        "envoy.filters.http.jwt_authn",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"grant": provider},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "grant"}}],
    )


def binding(*, ends_tls: bool) -> Json:
    """A grant that is bound to a certificate (RFC 8705 section 3) is good on a connection that shows it, and on no
    other: nowhere, where TLS does not end here. ALLOW only: what errors is denied."""
    bound = {"header": {"name": CERTIFICATE, "present_match": True}}
    rules: Json = {"unbound": {"permissions": [{"any": True}], "principals": [{"not_id": bound}]}}
    if ends_tls:
        shown = _select(_ident("connection"), "sha256_peer_certificate_digest")
        named = _call("_[_]", _select(_ident("request"), "headers"), {"const_expr": {"string_value": CERTIFICATE}})
        same = _call("_==_", shown, named)
        rules["bound"] = {"permissions": [{"any": True}], "principals": [bound], "condition": same}
    return typed(BINDING, _RBAC, rules={"action": "ALLOW", "policies": rules})


def _ident(name: str) -> Json:
    return {"ident_expr": {"name": name}}


def _select(operand: Json, field: str) -> Json:
    return {"select_expr": {"operand": operand, "field": field}}


def _call(function: str, *args: Json) -> Json:
    return {"call_expr": {"function": function, "args": list(args)}}


def scope(view: SiteView) -> Json:
    """At the executing site: the handing-over site is one of ours, and the grant's own scope includes this site."""
    this_site = {
        "or_ids": {
            "ids": [
                {"header": {"name": SITES, "string_match": {"exact": "*"}}},
                {"header": {"name": SITES, "string_match": {"contains": f"|{view.site}|"}}},
            ]
        }
    }
    peers = [{"authenticated": {"principal_name": {"exact": uri}}} for uri in members(view)]
    rule = {
        "permissions": [{"any": True}],
        "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": peers}}, this_site]}}],
    }
    return typed(SCOPE, _RBAC, rules={"action": "ALLOW", "policies": {"scope": rule}})


def policy(name: str, rules: Json, candidate: Json | None = None) -> Json:
    """Rules compiled from Cedar. ALLOW only: what errors or matches nothing is denied.

    What the `candidate` says is left in dynamic metadata, for the journal (`CANDIDATE_SAYS`), and decides nothing.
    """
    if rules.get("action", "ALLOW") != "ALLOW":
        raise ValueError("policy rules must be ALLOW: a DENY rule fails open when its condition errors")
    shadow = {"shadow_rules": candidate, "shadow_rules_stat_prefix": _CANDIDATE} if candidate is not None else {}
    return typed(name, _RBAC, rules=rules, **shadow)


def authorize(name: str, role: str) -> Json:
    """Ask the node, on its Unix socket, where a route switches it on (`forward.routes`); fails closed.

    The node gets the grant itself and verifies it anew, so nothing that a client writes is believed on the way: of
    other headers only those that this Envoy set or took from a peer's Envoy go along. An answer of 200 lets the request
    on as it is; any other is the client's answer; none in time is 503.
    """
    told = ["x-request-id", INGRESS, MEANT]
    service = {
        "server_uri": {"uri": "http://node", "cluster": AUTHORIZER, "timeout": f"{AUTHORIZE_S_MAX:g}s"},
        "path_prefix": f"/{role}/{name}",
        "authorization_response": {
            "allowed_client_headers": {"patterns": [{"prefix": PREFIX}, {"exact": "content-type"}]}
        },
    }
    return typed(
        name,
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        http_service=service,
        allowed_headers={"patterns": [{"exact": header} for header in told]},
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        stat_prefix=name,
    )


def revocation(view: SiteView, name: str) -> Json:
    """A revocation map, followed by ECDS so that a change is in force without touching the listener."""
    return {
        "name": name,
        "config_discovery": {
            "config_source": path_source(f"{view.files.xds}/ecds", f"{name}.json"),
            "type_urls": [f"type.googleapis.com/{_RBAC}"],
        },
    }


def counted_here(counters: str) -> Json:
    """A grant with an allowance is good only where it is counted, and only by these counters.

    Its condition is native and cannot err, so DENY does not fail open here; it has a name of its own in the details.
    """
    elsewhere = {
        "and_rules": {
            "rules": [
                {"header": {"name": COUNTED_AT, "present_match": True}},
                {"not_rule": {"header": {"name": COUNTED_AT, "string_match": {"exact": counters}}}},
            ]
        }
    }
    rule = {"permissions": [elsewhere], "principals": [{"any": True}]}
    return typed(COUNTED_ELSEWHERE, _RBAC, rules={"action": "DENY", "policies": {COUNTED_ELSEWHERE: rule}})


def allowance() -> Json:
    """Counts the requests of each grant that has an allowance: one bucket a grant, which never refills in its life.

    A grant without an allowance has no descriptor, and meets no bucket.
    """
    never = {"tokens_per_fill": 1, "fill_interval": "86400s"}
    kinds = [2**power for power in range(REQUESTS_MAX.bit_length())]
    return typed(
        "allowance",
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="allowance",
        token_bucket={"max_tokens": 2**32 - 1, **never},
        always_consume_default_token_bucket=False,
        filter_enabled={"default_value": {"numerator": 100}},
        filter_enforced={"default_value": {"numerator": 100}},
        max_dynamic_descriptors=ALLOWANCES_MAX,
        rate_limits=[
            {
                "actions": [
                    {"request_headers": {"header_name": REQUESTS, "descriptor_key": "requests"}},
                    {"request_headers": {"header_name": GRANT, "descriptor_key": "grant"}},
                ]
            }
        ],
        descriptors=[
            {
                "entries": [{"key": "requests", "value": str(kind)}, {"key": "grant"}],
                "token_bucket": {"max_tokens": kind, **never},
            }
            for kind in kinds
        ],
    )


def revocation_resource(name: str, deny: Mapping[str, frozenset[str]]) -> Json:
    """The ECDS resource: one exact-match map per header; the first that holds a revoked id denies.

    Args:
        name: which of the two maps.
        deny: revoked ids by header. Headers without ids cost nothing.
    """
    matcher: Json = {"on_no_match": _act("live", "ALLOW")}
    for header in sorted(deny, reverse=True):
        if not deny[header]:
            continue
        tree = {
            "input": typed(name, "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=header),
            "exact_match_map": {"map": {revoked: _act("revoked", "DENY") for revoked in sorted(deny[header])}},
        }
        following = matcher if "matcher_tree" in matcher else None
        matcher = {
            "matcher_tree": tree,
            "on_no_match": {"matcher": following} if following else _act("live", "ALLOW"),
        }
    return any_of("envoy.config.core.v3.TypedExtensionConfig", name=name, typed_config=any_of(_RBAC, matcher=matcher))


def _act(name: str, action: str) -> Json:
    return {"action": typed(name, _ACTION, name=name, action=action)}


def body_limit() -> Json:
    """Counts what arrives, so that a body of no stated length is limited as well."""
    return typed(
        "body-limit",
        "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit",
        max_request_bytes=BODY_BYTES_MAX,
    )


def fault(ingress: str, rtt_ms: float) -> Json:
    """Emulated distance: the whole round trip is added before the request goes on. Envoy's timers tick in 1 ms."""
    return typed(
        f"distance-from-{ingress}",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        delay={"fixed_delay": f"{rtt_ms / 1000:.3f}s", "percentage": {"numerator": 100}},
        headers=[{"name": f"{PREFIX}ingress", "string_match": {"exact": ingress}}],
    )


def router(attempt_log: Sequence[Json] = ()) -> Json:
    """The last filter. `attempt_log` is written for each attempt upstream."""
    logged = {"upstream_log": list(attempt_log)} if attempt_log else {}
    return typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        suppress_envoy_headers=True,
        **logged,
    )
