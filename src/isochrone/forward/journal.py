"""The journal: Envoy's access log of both ends of every request, one JSON object a line.

The start line is written when a request arrives, and says that and where; the end line when its stream is over, and
says all the rest. `start_fields` and `end_fields` are the one place that names what is written; `record` reads it back.
What is known only at the end, or cannot change in between, is not written twice: each field costs every request.
Requests that go on are named in a file of their own while they run, so that the node can cut what is revoked
meanwhile, and sees what is late before it ends.
"""

from __future__ import annotations

import re

from isochrone.forward.filters import CANDIDATE_SAYS
from isochrone.forward.headers import CLAIMS, CONTRACT, DEADLINE, INGRESS, MODEL_US, NODE_PREFIX, PLAN
from isochrone.forward.view import SiteView
from isochrone.forward.xds import Json, typed

__all__ = [
    "JOURNAL_VERSION",
    "LIVE_INTERVAL",
    "OWN_STATS",
    "access_log",
    "attempt_fields",
    "attempt_log",
    "end_fields",
    "live_fields",
    "start_fields",
]

JOURNAL_VERSION = 3

# Counters of requests to the node's own endpoints, by listener: the proxy counts them, the journal has no line of them.
OWN_STATS = "own_endpoints"
_OWN = {"name": ":path", "string_match": {"prefix": NODE_PREFIX}, "treat_missing_header_as_empty": True}
LIVE_INTERVAL = "0.500s"  # requests that run longer are named in the file of live streams each time it passes


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
        "attempted": "%UPSTREAM_HOSTS_ATTEMPTED%",
        "received_bytes": "%BYTES_RECEIVED%",
        "sent_bytes": "%BYTES_SENT%",
        "first_byte_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%",
        "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        # Of the attempt that was answered, between this Envoy and the one it was sent to: at the executing site, the
        # model server's own time.
        "upstream_first_byte_us": "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%",
        "upstream_us": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
        # As the executing site says, where that is another one.
        "model_us": f"%RESP({MODEL_US})%",
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
    made = _file(view.files.journal, "UpstreamEnd", attempt_fields(view.site, "ingress"))
    return [made | {"filter": {"header_filter": {"header": named}}}]


def live_fields(role: str) -> dict[str, object]:
    """What is said of a request again and again while it runs: grant, connections, since when, as of when."""
    return {
        "role": role,
        "id": "%REQ(X-REQUEST-ID)%",
        "start": "%START_TIME(%s.%6f)%",
        "now": "%EMIT_TIME(%s.%6f)%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "first_byte_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%",
        "claims": f"%REQ({CLAIMS})%",
        "client": ["%DOWNSTREAM_LOCAL_ADDRESS%", "%DOWNSTREAM_REMOTE_ADDRESS%"],
        "model": ["%UPSTREAM_LOCAL_ADDRESS%", "%UPSTREAM_HOST%"],
    }


def access_log(view: SiteView, role: str) -> list[Json]:
    """Both listeners of a site write to the same file. The node's own endpoints and probes are no executions: what
    matters of them (exchanges, revocations) the node records itself."""
    start = start_fields(view.site, role)
    end = end_fields(view.site, role, view.policy_digest)
    if view.candidate is not None:
        end |= {"candidate": f"{view.candidate.number} {CANDIDATE_SAYS}"}
    journal, live = view.files.journal, view.files.live
    return [
        _logger(journal, "DownstreamStart", start),
        _logger(journal, "DownstreamEnd", end),
        _logger(live, "DownstreamPeriodic", live_fields(role)),
        _own_counter(role),
    ]


def _own_counter(role: str) -> Json:
    """Counts what the journal leaves out, so that the proxy's own counters can be held against the journal."""
    counter = {"stat": {"name": role}, "value_fixed": 1}
    made = typed(
        "own-endpoints",
        "envoy.extensions.access_loggers.stats.v3.Config",
        stat_prefix=OWN_STATS,
        counters=[counter],
    )
    conditions = [{"log_type_filter": {"types": ["DownstreamEnd"]}}, {"header_filter": {"header": _OWN}}]
    return made | {"filter": {"and_filter": {"filters": conditions}}}


def _logger(path: str, line: str, fields: dict[str, object]) -> Json:
    conditions = [
        {"log_type_filter": {"types": [line]}},
        {"header_filter": {"header": _OWN | {"invert_match": True}}},
    ]
    return _file(path, line, fields) | {"filter": {"and_filter": {"filters": conditions}}}


def _file(path: str, line: str, fields: dict[str, object]) -> Json:
    return typed(
        f"journal-{line}",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=path,
        log_format={"json_format": fields},  # what is not known is null
    )
