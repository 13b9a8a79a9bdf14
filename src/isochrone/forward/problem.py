"""Refusals on the wire: RFC 9457 `application/problem+json`.

Envoy answers refusals itself, from text that was compiled in; a body is at most 4,096 bytes (Envoy's limit for direct
responses), so a long list of sites is cut, saying how many were left out.
"""

from __future__ import annotations

import json

from isochrone.forward.filters import COUNTED_ELSEWHERE
from isochrone.forward.headers import EXECUTION, REFUSED
from isochrone.forward.xds import Json, header, typed
from isochrone.plan.plan import Refusal

__all__ = ["MEDIA_TYPE", "direct_response", "local_replies", "problem_type", "refusal_response"]

MEDIA_TYPE = "application/problem+json"
_BODY_BYTES_MAX = 4000


def problem_type(kind: str) -> str:
    """Identifier of a problem kind; documented one by one in docs/reference/refusals.md."""
    return f"urn:isochrone:refusal:{kind}"


def refusal_response(refusal: Refusal, contract: str, deadline_ms: float) -> tuple[Json, list[Json]]:
    """A direct response that says which sites were out of time, which out of bounds, which down or full.

    What time will not mend (physics, bounds) is 422, so that clients do not retry; what it may mend is 503.
    """
    kinds = {exclusion.kind for exclusion in refusal.exclusions}
    passing = bool(kinds & {"full", "down", "not_placed", "loading", "drained", "spread"})
    kind = "unavailable" if passing else ("out_of_bounds" if kinds == {"out_of_bounds"} else "out_of_time")
    body: Json = {
        "type": problem_type(kind),
        "title": refusal.title,
        "status": 503 if passing else 422,
        "detail": refusal.detail,
        "contract": contract,
        "deadline_ms": deadline_ms,
        "nearest_site": refusal.nearest_site,
        "needed_ms": refusal.needed_ms,
        "floor_ms": refusal.floor_ms,
        "sites": [exclusion.to_json() for exclusion in refusal.exclusions],
    }
    return direct_response(body, kind)


def direct_response(body: Json, kind: str) -> tuple[Json, list[Json]]:
    """Envoy's `direct_response` and the response headers that go with it, from a problem document."""
    sites = list(body.get("sites", ()))
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    shortened = dict(body)
    while len(text.encode()) > _BODY_BYTES_MAX:
        if sites:
            sites = sites[: len(sites) // 2]
            shortened |= {"sites": sites, "sites_left_out": len(body["sites"]) - len(sites)}
        else:
            shortened["detail"] = shortened["detail"][: len(shortened["detail"]) // 2]
        text = json.dumps(shortened, sort_keys=True, separators=(",", ":"))
    # Envoy takes an inline body as it is: command operators in it are not expanded.
    action = {"status": body["status"], "body": {"inline_string": text}}
    headers = [header("content-type", MEDIA_TYPE), header(REFUSED, kind)]
    return action, headers + ([header("retry-after", "1")] if body["status"] == 503 else [])


# What Envoy itself refuses: (access log filter, kind, title, detail).
_FLAG = "response_flag_filter"
_LOCAL: tuple[tuple[Json, str, str], ...] = (
    ({_FLAG: {"flags": ["UO"]}}, "full", "The executing site is full"),
    ({_FLAG: {"flags": ["UH", "UF", "UC", "LH", "NC"]}}, "unavailable", "No executing site answers"),
    ({_FLAG: {"flags": ["UT", "SI", "DT", "UMSDR"]}}, "timeout", "The execution took longer than allowed"),
    ({_FLAG: {"flags": ["DPE"]}}, "malformed", "The request is not well-formed HTTP"),
)
# By status, the first that holds: (comparison, status, kind, title).
_STATUS = (
    ("EQ", 401, "grant", "The grant is missing or not valid"),
    ("EQ", 403, "denied", "The grant, its policy or its revocation does not allow this"),
    ("EQ", 408, "slow", "The request did not arrive in time"),
    ("EQ", 413, "too_large", "The request is too large"),
    ("EQ", 429, "allowance", "The requests of this grant are used up: exchange again"),
    ("EQ", 431, "too_large", "The request headers are too large"),
    ("EQ", 504, "timeout", "The execution took longer than allowed"),
    ("GE", 500, "unavailable", "The request cannot be served now"),
    ("GE", 400, "malformed", "The request is not well-formed HTTP"),
)


def _cel(expression: str) -> Json:
    return {
        "extension_filter": typed(
            "envoy.access_loggers.extension_filters.cel",
            "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=expression,
        )
    }


# Direct responses are problem documents already, and so is what the node answers.
_NOT_DIRECT = _cel("!(response.code_details in ['direct_response', 'ext_authz_denied'])")
_ELSEWHERE = _cel(f"response.code_details == 'rbac_access_denied_matched_policy[{COUNTED_ELSEWHERE}]'")


def local_replies(site: str) -> Json:
    """`local_reply_config`: every reply Envoy makes by itself becomes a problem document with a reason."""
    mappers = [_mapper(log_filter, kind, title, site) for log_filter, kind, title in _LOCAL]
    # A client that meets this exchanges anew, as for any grant that is not valid here.
    elsewhere = _mapper(_ELSEWHERE, "grant", "The requests of this grant are not counted here: exchange again", site)
    mappers.append(elsewhere | {"status_code": 401})
    for operator, status, kind, title in _STATUS:
        comparison = {"op": operator, "value": {"default_value": status, "runtime_key": "isochrone.unused"}}
        log_filter = {"and_filter": {"filters": [{"status_code_filter": {"comparison": comparison}}, _NOT_DIRECT]}}
        mappers.append(_mapper(log_filter, kind, title, site))
    return {"mappers": mappers}


def _mapper(log_filter: Json, kind: str, title: str, site: str) -> Json:
    body = {
        "type": problem_type(kind),
        "title": title,
        "status": "%RESPONSE_CODE%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "site": site,
        "instance": f"{site}/%REQ(X-REQUEST-ID)%",
    }
    return {
        "filter": log_filter,
        "body_format_override": {"json_format": body, "content_type": MEDIA_TYPE},
        "headers_to_add": [header(REFUSED, kind), header(EXECUTION, f"{site}/%REQ(X-REQUEST-ID)%")],
    }
