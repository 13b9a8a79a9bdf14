"""The journal: Envoy's access log of both ends of every request, one JSON object a line.

The start line is written when a request arrives, the end line when its stream is over. `fields` is the one place that
names what is written; `record` reads it back.
"""

from __future__ import annotations

from isochrone.authority.grant import CLAIM_HEADERS
from isochrone.forward.headers import DEADLINE, INGRESS, NODE_PREFIX, PLAN
from isochrone.forward.view import SiteView
from isochrone.forward.xds import Json, typed

__all__ = ["JOURNAL_VERSION", "access_log", "fields"]

JOURNAL_VERSION = 1


def fields(site: str, role: str, policy_digest: str) -> dict[str, object]:
    """Journal field -> Envoy command operator. `role` is ``ingress`` or ``peer``."""
    claims = {f"c_{claim}": f"%REQ({name})%" for claim, name in sorted(CLAIM_HEADERS.items())}
    return {
        "v": JOURNAL_VERSION,
        "site": site,
        "role": role,
        "policy": policy_digest,
        "type": "%ACCESS_LOG_TYPE%",
        "id": "%REQ(X-REQUEST-ID)%",
        "start": "%START_TIME(%s.%6f)%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
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
        **claims,
    }


def access_log(view: SiteView, role: str) -> list[Json]:
    """Both listeners of a site write to the same file. The node's own endpoints and probes are no executions: what
    matters of them (exchanges, revocations) the node records itself."""
    own = {"name": ":path", "string_match": {"prefix": NODE_PREFIX}}
    return [
        typed(
            "journal",
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            path=view.files.journal,
            log_format={"json_format": fields(view.site, role, view.policy_digest), "omit_empty_values": True},
        )
        | {"filter": {"header_filter": {"header": own | {"invert_match": True}}}}
    ]
