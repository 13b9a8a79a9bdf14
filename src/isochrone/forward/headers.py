"""The request and response headers that are ours, in one place: who sets each, and that clients never do.

Every header below is removed from a client's request before anything reads it, except `DEADLINE`, which a client may
set to tighten its contract's deadline. The claim headers are set from a verified grant by Envoy's `jwt_authn`.
"""

from __future__ import annotations

from isochrone.authority.grant import CLAIM_HEADERS

__all__ = [
    "CERTIFICATE",
    "CHAINS_PATH",
    "CLAIMS",
    "CLIENT_CERTIFICATE",
    "CONTRACT",
    "COUNTED_AT",
    "DEADLINE",
    "EXECUTION",
    "GRANT",
    "INGRESS",
    "MEANT",
    "MODEL_US",
    "PLAN",
    "REFUSED",
    "REQUESTS",
    "SITES",
    "STALE",
    "claim_headers",
    "is_ours",
]

PREFIX = "x-isochrone-"
# Recorded, never matched: the journal has them in `CLAIMS`, and a header each would be paid for by every request.
_ONLY_RECORDED = frozenset({"chd", "pol", "epo"})
NODE_PREFIX = "/.isochrone/"  # paths of the node itself, on either listener
CHAINS_PATH = f"{NODE_PREFIX}chains/"  # what peers may ask of a node: the chain behind a grant minted there
PEER_PREFIX = "/.isochrone/peer/"  # those for other sites only, on the peer listener

CLAIMS = "x-isochrone-claims"  # the verified grant's payload as it was signed: base64url of its JSON
CONTRACT = CLAIM_HEADERS["ctr"]  # which contract the grant is for
SITES = CLAIM_HEADERS["sites"]  # `*`, or the sites the grant allows as |a|b|
GRANT = CLAIM_HEADERS["jti"]  # the grant's id
REQUESTS = CLAIM_HEADERS["n"]  # how often the grant may be used, where its delegation is limited
COUNTED_AT = CLAIM_HEADERS["at"]  # and which counters of which site's proxy count that
CERTIFICATE = CLAIM_HEADERS["x5h"]  # SHA-256 of the certificate that the grant is bound to, in hexadecimal
CLIENT_CERTIFICATE = "x-isochrone-client-certificate"  # to the node alone: what the client showed, PEM, URL-encoded
DEADLINE = "x-isochrone-deadline-ms"  # set by clients: tightens, never loosens
INGRESS = "x-isochrone-ingress"  # set by the ingress for the executing site
MEANT = "x-isochrone-meant"  # set by the ingress: the site it meant, of which others may take over
MODEL_US = "x-isochrone-model-us"  # on answers of another site: what its model server took to its first byte
PLAN = "x-isochrone-plan"  # plan revision in force: on forwarded requests and on answers
STALE = "x-isochrone-stale-since"  # on answers, while the site goes on without its hub: when it last heard it
EXECUTION = "x-isochrone-execution"  # on answers: <site>/<id>
REFUSED = "x-isochrone-refused"  # on refusals: why, as one word; `full` and `unrecorded` are retried elsewhere


def claim_headers() -> list[dict[str, str]]:
    """`claim_to_headers` of jwt_authn: what routes, policies and revocations match. Scalars only."""
    matched = sorted(set(CLAIM_HEADERS) - _ONLY_RECORDED)
    return [{"header_name": CLAIM_HEADERS[claim], "claim_name": claim} for claim in matched]


def is_ours(name: str) -> bool:
    """Whether a client may not send this header."""
    return name.lower().startswith(PREFIX) and name.lower() != DEADLINE
