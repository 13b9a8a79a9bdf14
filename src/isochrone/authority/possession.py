"""Proof that the client holds the key: DPoP (RFC 9449) and mutual TLS certificates (RFC 8705)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from isochrone.authority.grant import Binding
from isochrone.authority.jose import PrivateKey, PublicKey, parse_compact, sha256_b64u, sign_compact
from isochrone.authority.reasons import Reason
from isochrone.errors import AuthorityError

__all__ = [
    "Possession",
    "ProofRejected",
    "ReplayCache",
    "ReplayWindow",
    "make_dpop",
    "verify_certificate",
    "verify_dpop",
]

DPOP_TYP = "dpop+jwt"
DPOP_BYTES_MAX = 4096
DPOP_AGE_S_MAX = 60.0
JTI_CHARS_MAX = 256


@dataclass(frozen=True, slots=True)
class Possession:
    """The client has proven that it holds a key.

    Attributes:
        jkt: thumbprint of that key, to be compared with the last key of a chain.
        binding: what a grant for this client is bound to.
        proof: name of the DPoP proof that was used up, and until when it must be remembered; None for a certificate.
    """

    jkt: str
    binding: Binding
    proof: tuple[bytes, float] | None = None


@dataclass(frozen=True, slots=True)
class ProofRejected:
    """Possession is not proven."""

    reasons: tuple[Reason, ...]

    @property
    def needs_nonce(self) -> bool:
        """Whether the answer is ``use_dpop_nonce`` with a fresh nonce (RFC 9449 section 8)."""
        return any(reason.code == "nonce" for reason in self.reasons)


class ReplayCache(Protocol):
    """Port: remembers proofs until they could not be used again."""

    def is_new(self, key: bytes, *, now_s: float, until_s: float) -> bool:
        """Whether `key` was never given before; remembers it until `until_s`. Atomic; may say no when full."""
        ...


@dataclass(slots=True)
class ReplayWindow:
    """A replay cache in memory, bounded: full, it refuses new proofs (fails closed) until old ones lapse."""

    entries_max: int = 100_000
    _until: dict[bytes, float] = field(default_factory=dict)
    _swept_s: float = float("-inf")

    def is_new(self, key: bytes, *, now_s: float, until_s: float) -> bool:
        """See `ReplayCache`. Lapsed entries are swept at most once a second: constant time on average."""
        known = self._until.get(key)
        if known is not None and known > now_s:
            return False
        if now_s - self._swept_s >= 1.0:
            self._until = {old: until for old, until in self._until.items() if until > now_s}
            self._swept_s = now_s
        if len(self._until) >= self.entries_max:
            return False
        self._until[key] = until_s
        return True


def verify_dpop(
    proof: str,
    *,
    method: str,
    url: str,
    now_s: float,
    replay: ReplayCache,
    skew_s: float = 5.0,
    age_s_max: float = DPOP_AGE_S_MAX,
    nonce: str | None = None,
    access_token: str | None = None,
) -> Possession | ProofRejected:
    """Verify a DPoP proof by the twelve checks of RFC 9449 section 4.3.

    Args:
        method, url: of the request that carried it; the URL's query and fragment are ignored (check 9).
        replay: asked last, so that a proof that is refused does not use up its `jti`.
        nonce: the nonce this server gave out, when it demands one.
        access_token: the token presented along with it, whose `ath` the proof must then carry.
    """
    try:
        document = parse_compact(proof, typ=DPOP_TYP, bytes_max=DPOP_BYTES_MAX, members=frozenset({"jwk"}))
        jwk = document.header.get("jwk")
        key = PublicKey.from_jwk(jwk if isinstance(jwk, dict) else {})
    except AuthorityError as error:
        return ProofRejected((Reason.of(error),))
    if not document.is_signed_by(key):
        return ProofRejected((Reason("signature", "the proof is not signed by its own key"),))
    claims = document.claims
    jti, iat = claims.get("jti"), claims.get("iat")
    if not isinstance(jti, str) or not 1 <= len(jti) <= JTI_CHARS_MAX or not isinstance(iat, int | float):
        return ProofRejected((Reason("claim", "the proof lacks jti or iat"),))
    reasons = _context_faults(claims, method, url, nonce, access_token)
    if iat > now_s + skew_s:
        reasons.append(Reason("not-yet", f"the proof was made {iat - now_s:.0f} s in the future"))
    if iat < now_s - age_s_max - skew_s:
        reasons.append(Reason("expired", f"the proof was made {now_s - iat:.0f} s ago"))
    if reasons:
        return ProofRejected(tuple(reasons))
    seen = hashlib.sha256(f"{key.thumbprint}\n{_target(url)}\n{jti}".encode()).digest()
    until_s = iat + age_s_max + skew_s
    if not replay.is_new(seen, now_s=now_s, until_s=until_s):
        return ProofRejected((Reason("replayed", "the proof was used before"),))
    return Possession(key.thumbprint, Binding(jkt=key.thumbprint), (seen, until_s))


def _context_faults(
    claims: Mapping[str, Any], method: str, url: str, nonce: str | None, access_token: str | None
) -> list[Reason]:
    reasons = []
    htu = claims.get("htu")
    if claims.get("htm") != method:
        reasons.append(Reason("method", f"the proof is for {claims.get('htm')!r}, not {method}"))
    if not isinstance(htu, str) or _target(htu) != _target(url):
        reasons.append(Reason("target", f"the proof is for {htu!r}, not {_target(url)}"))
    if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        reasons.append(Reason("nonce", "the proof does not carry the server's nonce"))
    if access_token is not None and claims.get("ath") != sha256_b64u(access_token.encode("utf-8")):
        reasons.append(Reason("ath", "the proof is for another access token"))
    return reasons


def _target(url: str) -> str:
    """Scheme, authority and path, normalised as RFC 3986 sections 6.2.2 and 6.2.3 say, without query and fragment."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return ""
    if not parts.scheme or not host or parts.username is not None:
        return ""
    named = "" if port is None or (parts.scheme.lower(), port) in (("https", 443), ("http", 80)) else f":{port}"
    return f"{parts.scheme.lower()}://{host}{named}{parts.path or '/'}"


def make_dpop(
    key: PrivateKey,
    *,
    method: str,
    url: str,
    now_s: float,
    jti: str,
    nonce: str | None = None,
    access_token: str | None = None,
) -> str:
    """A DPoP proof for one request; `jti` from the caller's generator (96 random bits or more)."""
    claims: dict[str, Any] = {"jti": jti, "htm": method, "htu": _target(url), "iat": int(now_s)}
    if nonce is not None:
        claims["nonce"] = nonce
    if access_token is not None:
        claims["ath"] = sha256_b64u(access_token.encode("utf-8"))
    return sign_compact(claims, key, typ=DPOP_TYP, jwk=key.public.jwk)


def verify_certificate(der: bytes) -> Possession | ProofRejected:
    """Possession by mutual TLS (RFC 8705): the handshake proved it, and the certificate says of which key.

    The certificate may be self-signed: the chain names the key, and the grant is bound to the certificate.
    """
    try:
        key = PublicKey.from_certificate(der)
    except AuthorityError as error:
        return ProofRejected((Reason.of(error),))
    return Possession(key.thumbprint, Binding(certificate_sha256=hashlib.sha256(der).digest()))
