"""The journal: Envoy's access log of both ends of every request, one JSON object a line.

The start line is written when a request arrives, and says that and where; the end line when its stream is over, and
says all the rest. `start_fields` and `end_fields` are the one place that names what is written; `record` reads it back.
What is known only at the end, or cannot change in between, is not written twice: each field costs every request.
"""

from __future__ import annotations

import re

from isochrone.forward.headers import CLAIMS, CONTRACT, DEADLINE, INGRESS, NODE_PREFIX, PLAN
from isochrone.forward.view import SiteView
from isochrone.forward.xds import Json, typed

__all__ = ["JOURNAL_VERSION", "access_log", "attempt_fields", "attempt_log", "end_fields", "start_fields"]

JOURNAL_VERSION = 3


def start_fields(site: str, role: str) -> dict[str, object]:
    """Journal field -> Envoy command operator. `role` is ``ingress`` or ``peer``."""
    return {
        "v": JOURNAL_VERSION,
        "site": site,
        "role": role,
        "type": "DownstreamStart",
        "id": "%REQ(X-REQUEST-ID)%",
        "start": "%START_TIME(%s.%6f)%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
    }


def end_fields(site: str, role: str, policy_digest: str) -> dict[str, object]:
    """Journal field -> Envoy command operator. ``claims`` is the verified grant's payload, whole, in one field."""
    return start_fields(site, role) | {
        "type": "DownstreamEnd",
        "policy": policy_digest,
        "claims": f"%REQ({CLAIMS})%",
        "deadline_ms": f"%REQ({DEADLINE})%",
        "ingress": f"%REQ({INGRESS})%",
        "plan": f"%REQ({PLAN})%",
        "peer": "%DOWNSTREAM_PEER_URI_SAN%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "upstream": "%UPSTREAM_HOST%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "received_bytes": "%BYTES_RECEIVED%",
        "sent_bytes": "%BYTES_SENT%",
        "first_byte_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%",
        "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        # Of the attempt that was answered, between this Envoy and the one it was sent to: at the executing site, the
        # model server's own time.
        "upstream_first_byte_us": "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%",
        "upstream_us": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
    }


def attempt_fields(site: str, role: str) -> dict[str, object]:
    """One attempt of a request that may have several at a time, from the executing side of the connection."""
    return start_fields(site, role) | {
        "type": "UpstreamEnd",
        "upstream": "%UPSTREAM_HOST%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "duration_us": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
    }


def attempt_log(view: SiteView) -> list[Json]:
    """A line for each attempt of contracts that buy hedging; others have one at a time, and pay for no line."""
    hedged = [name for name, contract in sorted(view.fabric.contracts.items()) if contract.hedge]
    if not hedged:
        return []
    named = {"name": CONTRACT, "string_match": {"safe_regex": {"regex": "|".join(map(re.escape, hedged))}}}
    made = _file("UpstreamEnd", view, attempt_fields(view.site, "ingress"))
    return [made | {"filter": {"header_filter": {"header": named}}}]


def access_log(view: SiteView, role: str) -> list[Json]:
    """Both listeners of a site write to the same file. The node's own endpoints and probes are no executions: what
    matters of them (exchanges, revocations) the node records itself."""
    start = start_fields(view.site, role)
    end = end_fields(view.site, role, view.policy_digest)
    return [_logger(view, "DownstreamStart", start), _logger(view, "DownstreamEnd", end)]


def _logger(view: SiteView, line: str, fields: dict[str, object]) -> Json:
    own = {"name": ":path", "string_match": {"prefix": NODE_PREFIX}}
    conditions = [
        {"log_type_filter": {"types": [line]}},
        {"header_filter": {"header": own | {"invert_match": True}}},
    ]
    return _file(line, view, fields) | {"filter": {"and_filter": {"filters": conditions}}}


def _file(line: str, view: SiteView, fields: dict[str, object]) -> Json:
    return typed(
        f"journal-{line}",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=view.files.journal,
        log_format={"json_format": fields},  # what is not known is null
    )
