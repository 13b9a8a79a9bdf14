"""Enrolment of sites: what passes between a hub and a site that joins it, or renews its certificate.

An operator names the site and gets a *join token*, good once and for a while. The site's machine makes the site's keys,
which never leave it, and sends a *site request*: a compact JWS signed with its grant key, over a certificate signing
request and the key of its log. To join, the token's join key signs those keys (`authority.sites`), and the secret is
sent to nobody; later, to renew, being signed with the grant key that was enrolled is enough. The answer is the
certificate, and what the site must know of its fabric.

The token pins the hub twice: by the fingerprint of the fabric's certificate authority, which the connection is verified
against, and by the thumbprint of the hub's key, which everything the hub says later is signed with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isochrone.authority.grant import tag
from isochrone.authority.jose import PrivateKey, PublicKey, b64u_decode, b64u_encode, parse_compact, sign_compact
from isochrone.authority.sites import admission_key, entry_digest
from isochrone.errors import AuthorityError, InputError
from isochrone.tlog.note import Verifier, parse_vkey

__all__ = [
    "REQUEST_BYTES_MAX",
    "TOKEN_LIFE_S",
    "Invitations",
    "JoinToken",
    "SiteRequest",
    "hub_name",
    "hub_uri",
    "log_origin",
    "roster_entry",
    "witness_name",
]

TOKEN_LIFE_S = 24 * 3600
_PREFIX = "isochrone-join-"
_TOKEN_CHARS_MAX = 2048
_REQUEST_TYP = "isochrone-site+jwt"
REQUEST_BYTES_MAX = 16 * 1024
_FRESH_S = 300.0
_CHECK_CHARS = 8


def log_origin(fabric: str, site: str) -> str:
    """Origin line of a site's main log, also its key name; see `record.shards` for its other logs."""
    return f"isochrone.invalid/{fabric}/{site}"


def witness_name(fabric: str, site: str) -> str:
    """Key name of a site as a witness."""
    return f"isochrone.invalid/{fabric}/{site}/witness"


def hub_name(fabric: str) -> str:
    """The DNS name in the hub's certificate: sites verify it wherever the hub's address may be."""
    return f"hub.{fabric}.isochrone.invalid"


def hub_uri(fabric: str) -> str:
    """The URI name in the hub's certificate (SPIFFE ID)."""
    return f"spiffe://{fabric}/hub"


def roster_entry(grant_key: PublicKey, vkey: str, witness: str) -> dict[str, Any]:
    """What others must know to trust a site: the keys of its grants, of its logs, and as a witness."""
    jwk = {**grant_key.jwk, "kid": tag(grant_key.thumbprint), "alg": "ES256", "use": "sig"}
    return {"jwk": jwk, "vkey": vkey, "witness": witness}


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What an operator hands to whoever sets up a site's machine: a secret, good once.

    Attributes:
        hub: host:port of the hub's endpoint for sites.
        authority: SHA-256 of the fabric's authority certificate, hexadecimal.
        hub_key: thumbprint of the hub's key (RFC 7638).
        exp_s: when it lapses, seconds since 1970.
        secret: seed of the join key (Ed25519), whose public half an operator's act names.
    """

    fabric: str
    site: str
    hub: str
    authority: str
    hub_key: str
    exp_s: int
    secret: str = field(repr=False)

    def encode(self) -> str:
        """One word. Its end is a checksum: a token that was cut or mistyped is told apart from a stale one."""
        body = b64u_encode(json.dumps(asdict(self), separators=(",", ":")).encode())
        return f"{_PREFIX}{body}.{_checksum(body)}"

    @property
    def key(self) -> PrivateKey:
        """The join key. Raises AuthorityError or ValueError when the secret is none."""
        return PrivateKey.from_seed(b64u_decode(self.secret), "OKP")

    @classmethod
    def parse(cls, text: str, now_s: float) -> JoinToken:
        """Read a token.

        Raises:
            InputError: ``join.token``, not one or damaged; ``join.expired``.
        """
        body, _, check = text.strip().removeprefix(_PREFIX).partition(".")
        try:
            if len(text) > _TOKEN_CHARS_MAX or not text.strip().startswith(_PREFIX) or check != _checksum(body):
                raise ValueError("cut short or mistyped")
            members = json.loads(b64u_decode(body))
            token = cls(**members)
            wrong = [name for name, kind in cls.__annotations__.items() if type(members[name]).__name__ != kind]
            if wrong:
                raise ValueError(f"{', '.join(wrong)} is not of the right type")
            _ = token.key
        except (AuthorityError, ValueError, TypeError) as error:
            hint = "copy the whole word that `isochrone enrol` printed"
            raise InputError(f"not a join token: {error}", code="join.token", hint=hint) from error
        if now_s >= token.exp_s:
            hint = f"ask an operator for a new one: `isochrone enrol --site {token.site}`"
            text = f"this token for {token.site} lapsed {(now_s - token.exp_s) / 60:.0f} minutes ago"
            raise InputError(text, code="join.expired", hint=hint)
        return token


@dataclass(frozen=True, slots=True)
class SiteRequest:
    """A site's request that has been verified to be signed with `grant_key`.

    Attributes:
        csr: certificate signing request, PEM. vkey: verifier key of the site's logs; witness: of its cosignatures.
        admission: what the join key signed; empty when the site renews.
    """

    fabric: str
    site: str
    csr: bytes
    vkey: str
    witness: str
    grant_key: PublicKey
    admission: str = ""

    @staticmethod
    def sign(
        key: PrivateKey, fabric: str, site: str, csr: bytes, entry: Mapping[str, Any], now_s: float, admission: str = ""
    ) -> str:
        """The request as it travels; `entry` as for the roster."""
        claims = {"fabric": fabric, "site": site, "csr": csr.decode(), "iat": int(now_s), "admission": admission}
        keys = {"vkey": entry["vkey"], "witness": entry["witness"]}
        return sign_compact(claims | keys, key, typ=_REQUEST_TYP, jwk=key.public.jwk)

    @classmethod
    def parse(cls, text: str, fabric: str, now_s: float) -> SiteRequest:
        """Verify a request.

        Raises:
            InputError: ``join.request``, malformed, not signed by its own key, of another time or of a foreign log;
                ``join.fabric``, of another fabric.
        """
        try:
            document = parse_compact(text, typ=_REQUEST_TYP, bytes_max=REQUEST_BYTES_MAX, members=frozenset({"jwk"}))
            key = PublicKey.from_jwk(document.header["jwk"])
            if key.kty != "EC" or not document.is_signed_by(key):
                raise ValueError("its P-256 key did not sign it")
            claims = _strings(document.claims, "fabric", "site", "csr", "vkey", "witness", "admission")
            if abs(float(document.claims["iat"]) - now_s) > _FRESH_S:
                raise ValueError("its time is not now: check the clocks")
            if claims["fabric"] != fabric:
                raise InputError(f"this is fabric {fabric}, not {claims['fabric']}", code="join.fabric")
            named = Verifier.from_vkey(claims["vkey"]).name, parse_vkey(claims["witness"])[0]
            if named != (log_origin(fabric, claims["site"]), witness_name(fabric, claims["site"])):
                raise ValueError("the keys of its logs and cosignatures are not named after it")
        except (KeyError, TypeError, ValueError, AuthorityError) as error:
            raise InputError(f"not a site's request: {error}", code="join.request") from error
        return cls(
            fabric, claims["site"], claims["csr"].encode(), claims["vkey"], claims["witness"], key, claims["admission"]
        )

    @property
    def entry(self) -> dict[str, Any]:
        """The keys that the roster is to name."""
        return roster_entry(self.grant_key, self.vkey, self.witness)

    @property
    def holder(self) -> str:
        """Digest of the keys asked for: what tells a repeated request from somebody else's."""
        return entry_digest(self.entry)

    @property
    def join_key(self) -> str:
        """Thumbprint of the join key that vouches for these keys; empty when none does."""
        try:
            return admission_key(self.admission, self.fabric, self.site, self.entry)
        except AuthorityError:
            return ""


@dataclass(slots=True)
class Invitations:
    """Tokens given out, by site: at most one counts for each, the last. A plain value; `HubHome` keeps it on disk.

    Each is ``{"key": thumbprint of the join key, "exp_s": ..., "used_by": digest of keys, "used_s": ...}``.
    """

    by_site: dict[str, dict[str, Any]]

    def invite(self, site: str, join_key: PublicKey, exp_s: int) -> None:
        """Let a site join by a key; an earlier one opens nothing more."""
        self.by_site[site] = {"key": join_key.thumbprint, "exp_s": exp_s}

    def use(self, request: SiteRequest, now_s: float) -> None:
        """Take a token's one use. The same keys may ask again, since an answer can be lost.

        Raises:
            InputError: ``join.unknown``, ``join.expired``, ``join.used``.
        """
        held = self.by_site.get(request.site, {})
        again = f"ask an operator for a new one: `isochrone enrol --site {request.site}`"
        if not request.join_key or request.join_key != held.get("key"):
            text = f"no token that counts for {request.site}: never given here, or replaced by a newer one"
            raise InputError(text, code="join.unknown", hint=again)
        if now_s >= held["exp_s"]:
            raise InputError(f"the token for {request.site} has lapsed", code="join.expired", hint=again)
        if held.get("used_by", request.holder) != request.holder:
            text = f"the token for {request.site} was used before, by another machine"
            raise InputError(text, code="join.used", hint=f"if that was not you, remove the site; {again}")
        held |= {"used_by": request.holder, "used_s": int(now_s)}


def _strings(claims: Mapping[str, Any], *names: str) -> dict[str, str]:
    found = {name: claims[name] for name in names}
    wrong = [name for name, value in found.items() if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} is not text")
    return found


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:_CHECK_CHARS]
