"""The token exchange of RFC 8693 as values: form parameters in, a request or an OAuth error out. HTTP is elsewhere.

What is asked for is said by ``scope``: one ``contract:NAME``, no more. The subject token is a delegation chain, and the
possession of its last key is proven beside the form, by DPoP or by the client's certificate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from isochrone.authority.delegation import CHAIN_BYTES_MAX, CHAIN_TOKEN_TYPE, split_chain
from isochrone.authority.grant import Grant
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import check_name
from isochrone.errors import AuthorityError

__all__ = ["ExchangeRequest", "OAuthError", "metadata", "parse_exchange", "response"]

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name, not a secret
FORM_BYTES_MAX = CHAIN_BYTES_MAX + 4096
_SCOPE_PREFIX = "contract:"


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """A well-formed request: nothing of it is verified."""

    chain: tuple[str, ...]
    contract: str


@dataclass(frozen=True, slots=True)
class OAuthError:
    """An error response (RFC 6749 section 5.2, RFC 8693 section 2.2.2, RFC 9449 section 5).

    Attributes:
        error: the registered code.
        description: for people; only the characters that section 5.2 allows.
        status: HTTP status: 400; 413 for a body too long; 429 for a rate used up (``slow_down``, RFC 8628 section
            3.5); 503 where the site cannot know what is revoked, or cannot reserve what is limited.
    """

    error: str
    description: str
    status: int = 400

    def body(self) -> dict[str, str]:
        """The JSON body, to be sent with ``Cache-Control: no-store``."""
        return {"error": self.error, "error_description": self.description}

    @classmethod
    def refusing(cls, reasons: Sequence[Reason]) -> OAuthError:
        """The error for a chain, proof or policy that does not carry the request."""
        codes = {reason.code for reason in reasons}
        error = "invalid_grant"
        if codes & {"nonce"}:
            error = "use_dpop_nonce"
        elif codes & {"method", "target", "ath", "replayed"}:
            error = "invalid_dpop_proof"
        elif codes & {"stale", "unreserved"}:
            return cls("temporarily_unavailable", _printable(str(reasons[0])), 503)
        elif codes & {"rate"}:
            return cls("slow_down", _printable(str(reasons[0])), 429)
        elif codes & {"scope-outside", "scope-unknown", "no-site"}:
            error = "invalid_scope"
        return cls(error, _printable("; ".join(str(reason) for reason in reasons)))


def _printable(text: str) -> str:
    """RFC 6749 section 5.2 allows %x20-21, %x23-5B and %x5D-7E in a description: no quotes, no backslash."""
    return "".join("'" if c == '"' else c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:1000]


def parse_exchange(form: bytes, *, fabric: str) -> ExchangeRequest | OAuthError:
    """Read an ``application/x-www-form-urlencoded`` body.

    Args:
        fabric: the fabric's name: the only `audience` there is.
    """
    if len(form) > FORM_BYTES_MAX:
        return OAuthError("invalid_request", f"the body has more than {FORM_BYTES_MAX} bytes", 413)
    try:
        pairs = parse_qsl(form.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=32)
    except ValueError:
        return OAuthError("invalid_request", "the body is not a form")
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            return OAuthError("invalid_request", f"{_printable(name)} is given twice")
        if value:  # RFC 6749 section 3.2: a parameter without a value counts as left out.
            given[name] = value
    return _read(given, fabric)


def _read(given: Mapping[str, str], fabric: str) -> ExchangeRequest | OAuthError:
    if "grant_type" not in given:
        return OAuthError("invalid_request", "grant_type is missing")
    if given["grant_type"] != GRANT_TYPE:
        return OAuthError("unsupported_grant_type", f"only {GRANT_TYPE} is served here")
    if "actor_token" in given or "actor_token_type" in given:
        return OAuthError("invalid_request", "the actor is the holder of the chain's last key: no actor_token is taken")
    # Parameters not understood are ignored, as RFC 6749 section 3.2 demands of them.
    if "subject_token" not in given or given.get("subject_token_type") != CHAIN_TOKEN_TYPE:
        return OAuthError("invalid_request", f"a subject_token of type {CHAIN_TOKEN_TYPE} is needed")
    if given.get("requested_token_type", ACCESS_TOKEN_TYPE) != ACCESS_TOKEN_TYPE:
        return OAuthError("invalid_request", f"only {ACCESS_TOKEN_TYPE} is issued")
    if "resource" in given or given.get("audience", fabric) != fabric:
        return OAuthError("invalid_target", f"grants are for the fabric {fabric} only; name no other resource")
    wanted = given.get("scope", "").split(" ")
    if len(wanted) != 1 or not wanted[0].startswith(_SCOPE_PREFIX):
        return OAuthError("invalid_scope", "scope is one contract, as contract:NAME")
    try:
        contract = check_name(wanted[0][len(_SCOPE_PREFIX) :], "contract")
    except AuthorityError as error:
        return OAuthError("invalid_scope", _printable(str(error)))
    return ExchangeRequest(tuple(split_chain(given["subject_token"])), contract)


def response(grant: Grant) -> dict[str, Any]:
    """The JSON body of a success (RFC 8693 section 2.2.1), to be sent with ``Cache-Control: no-store``.

    `token_type` is Bearer: possession is proven to the exchange by DPoP, or to the proxy by the TLS connection;
    no proof goes along with each request.
    """
    return {
        "access_token": grant.token,
        "issued_token_type": ACCESS_TOKEN_TYPE,
        "token_type": "Bearer",
        "expires_in": grant.exp_s - int(grant.claims["iat"]),
        "scope": _SCOPE_PREFIX + str(grant.claims["ctr"]),
    }


def metadata(issuer: str, token_endpoint: str, jwks_uri: str) -> dict[str, Any]:
    """The authorization server's metadata (RFC 8414 section 2, RFC 9449 section 5.1, RFC 8705 section 3.3)."""
    return {
        "issuer": issuer,
        "token_endpoint": token_endpoint,
        "jwks_uri": jwks_uri,
        "grant_types_supported": [GRANT_TYPE],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["none"],
        "dpop_signing_alg_values_supported": ["ES256", "Ed25519", "EdDSA"],
        "tls_client_certificate_bound_access_tokens": True,
        "authorization_details_types_supported": ["isochrone_execution"],
    }
