"""The grant: what a site's proxy checks of an authority, in one short-lived token for one contract.

An ES256 JWT (RFC 7519, RFC 9068's `at+jwt`) minted by any site from a verified chain. What a proxy needs of it are
scalars, because Envoy copies only scalars to headers; `CLAIM_HEADERS` is the whole correspondence. A chain of four hops
makes about 1 KiB, one of eight hops, the longest, is why `GRANT_BYTES_MAX` is a little more.

Chain elements are carried as tags, the first 12 characters (72 bits) of a digest: h1..h8 of the hops, k0..k8 of the
keys (the human's first). A tag only ever denies. Nobody gains by a collision: to share the tag of something revoked is
to be refused, and to give a victim's tag to something of one's own, and have that revoked, takes 2^72 signatures. What
proves the chain is `chd`, in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isochrone.authority.delegation import HOPS_MAX, VerifiedChain
from isochrone.authority.jose import (
    PrivateKey,
    PublicKey,
    b64u_decode,
    b64u_encode,
    load_json_object,
    parse_compact,
    sign_compact,
)
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import Execution, Groups, Scope, check_name
from isochrone.errors import AuthorityError

__all__ = [
    "ALL_SITES",
    "CLAIM_HEADERS",
    "GRANT_BYTES_MAX",
    "HOP_HEADERS",
    "KEY_HEADERS",
    "Allowance",
    "Binding",
    "Grant",
    "GrantRefused",
    "issuer_name",
    "mint",
    "tag",
    "verify_grant",
]

GRANT_TYP = "at+jwt"
GRANT_BYTES_MAX = 1280
GRANT_LIFE_S = 60
ALL_SITES = "*"
TAG_CHARS = 12

HOP_CLAIMS = tuple(f"h{at}" for at in range(1, HOPS_MAX + 1))
KEY_CLAIMS = tuple(f"k{at}" for at in range(HOPS_MAX + 1))

_PREFIX = "x-isochrone-"
HOP_HEADERS = tuple(_PREFIX + claim for claim in HOP_CLAIMS)
KEY_HEADERS = tuple(_PREFIX + claim for claim in KEY_CLAIMS)

CLAIM_HEADERS: Mapping[str, str] = {
    "aud": f"{_PREFIX}fabric",
    "sub": f"{_PREFIX}human",
    "act.sub": f"{_PREFIX}agent",
    "ctr": f"{_PREFIX}contract",
    "wl": f"{_PREFIX}workload",
    "dc": f"{_PREFIX}data-class",
    "chd": f"{_PREFIX}chain",
    "sites": f"{_PREFIX}sites",
    "pol": f"{_PREFIX}policy",
    "epo": f"{_PREFIX}epoch",
    "jti": f"{_PREFIX}grant",
    "x5h": f"{_PREFIX}certificate",
    "dep": f"{_PREFIX}depth",
    "n": f"{_PREFIX}requests",
    "at": f"{_PREFIX}counted-at",
    **dict(zip(HOP_CLAIMS, HOP_HEADERS, strict=True)),
    **dict(zip(KEY_CLAIMS, KEY_HEADERS, strict=True)),
}
"""Claim of the grant (a path, where nested) -> request header. Clients' own copies must be stripped."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The client key that the grant is bound to, of which exactly one is given (RFC 7800).

    Attributes:
        jkt: thumbprint of the DPoP key (RFC 9449 section 6); it was checked at the exchange.
        certificate_sha256: SHA-256 of the client's DER certificate, 32 bytes (RFC 8705 section 3); Envoy checks it.
    """

    jkt: str = ""
    certificate_sha256: bytes = b""

    def __post_init__(self) -> None:
        if bool(self.jkt) == bool(self.certificate_sha256) or len(self.certificate_sha256) not in (0, 32):
            raise ValueError("a binding is a key thumbprint or a certificate's SHA-256, one of them")

    def claims(self) -> dict[str, Any]:
        """`cnf`, and for a certificate also `x5h`: Envoy's CEL sees the digest in hexadecimal only."""
        if self.jkt:
            return {"cnf": {"jkt": self.jkt}}
        return {
            "cnf": {"x5t#S256": b64u_encode(self.certificate_sha256)},
            "x5h": self.certificate_sha256.hex(),
        }


@dataclass(frozen=True, slots=True)
class Allowance:
    """How often a grant under a limited delegation may be used, and where that is counted.

    Attributes:
        requests: a power of two, reserved in every account of the chain (`budget`).
        at: names the counters of the site that minted the grant: at another site, or once these counters are gone, the
            grant is refused and the client exchanges again.
    """

    requests: int
    at: str

    def claims(self) -> dict[str, Any]:
        return {"n": self.requests, "at": self.at}


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant that was minted or verified.

    Attributes:
        token: the compact JWT; empty when the grant was read from claims alone.
        claims: its claims.
    """

    token: str
    claims: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its `jti`."""
        return str(self.claims["jti"])

    @property
    def signer(self) -> str:
        """Its `kid`: the tag of the key that the minting site signs with."""
        return str(load_json_object(b64u_decode(self.token.partition(".")[0]))["kid"])

    @property
    def exp_s(self) -> int:
        """When it expires, seconds since 1970."""
        return int(self.claims["exp"])

    @property
    def sites(self) -> frozenset[str] | None:
        """Names of the sites where it may be used; None for all of them."""
        listed = str(self.claims["sites"])
        return None if listed == ALL_SITES else frozenset(listed.strip("|").split("|"))

    def headers(self) -> dict[str, str]:
        """The headers that a proxy derives from it: for callers that stand where Envoy does not."""
        flat = dict(self.claims) | {"act.sub": self.claims["act"]["sub"]}
        return {header: str(flat[claim]) for claim, header in CLAIM_HEADERS.items() if claim in flat}


@dataclass(frozen=True, slots=True)
class GrantRefused:
    """No grant: the chain does not cover what is asked."""

    reasons: tuple[Reason, ...]


def is_limited(scope: Scope) -> bool:
    """Whether the scope bounds how much, and not only what and where."""
    return any(limit is not None for limit in (scope.rate_rps_max, scope.tokens_max, scope.cost_max))


def tag(digest: str) -> str:
    """The short form of a digest that grants carry and revocations deny."""
    return digest[:TAG_CHARS]


def issuer_name(fabric: str) -> str:
    """The `iss` of every grant of a fabric; which site minted it, the `kid` says."""
    return f"isochrone:{fabric}"


def allowed_sites(
    chain: VerifiedChain, asked: Execution, candidates: Iterable[Execution] | None, groups: Groups
) -> tuple[str, list[Reason]]:
    """Where the chain allows the execution that is asked for.

    Args:
        asked: workload, contract, data class and time; its site is ignored.
        candidates: the same execution at every site (and hardware class) that policy allows; None when the policy does
            not restrict sites.

    Returns:
        ``|a|b|`` sorted, or ``*``, and the reasons if it is nowhere. A site is listed only if every candidate there is
        allowed, because the grant cannot say which of its hardware will run.
    """
    if candidates is None:
        reasons = chain.refusals(asked, groups)
        return ALL_SITES, reasons
    good, bad = set[str](), set[str]()
    reasons = []
    for candidate in candidates:
        name = check_name(candidate.site, "site")
        refused = chain.refusals(candidate, groups)
        (bad if refused else good).add(name)
        reasons.extend(Reason(r.code, f"{name}: {r.text}") for r in refused)
    listed = sorted(good - bad)
    if not listed and not reasons:
        reasons.append(Reason("no-site", "policy allows no site"))
    return "".join(f"|{name}" for name in listed) + "|", [] if listed else reasons


def mint(
    chain: VerifiedChain,
    site_key: PrivateKey,
    groups: Groups,
    *,
    asked: Execution,
    candidates: Iterable[Execution] | None,
    binding: Binding,
    policy: str,
    epoch: int,
    fabric: str,
    now_s: float,
    jti: str,
    life_s: int = GRANT_LIFE_S,
    allowance: Allowance | None = None,
) -> Grant | GrantRefused:
    """Mint the grant for one contract from a verified chain.

    Args:
        chain: verified now (`verify_chain`), unrevoked and fresh: the caller's two other duties.
        site_key: the minting site's ES256 key; its thumbprint, shortened, is the `kid`.
        asked: workload, contract, data class; `at_s` is set to `now_s`.
        candidates: see `allowed_sites`.
        policy: digest of the policy in force. epoch: number of the last revocation applied.
        jti: unique, from the caller's generator.
        life_s: seconds; cut to the chain's own expiry and to the window of its scope.
        allowance: what was reserved for the grant; a chain that sets a limit gives no grant without one.

    Returns:
        The grant, or why not: outside the scope everywhere, nothing left of the lifetime, or over `GRANT_BYTES_MAX`.
    """
    scope = chain.last.scope
    if site_key.public.kty != "EC":
        raise ValueError("a grant is signed with ES256: give the site a P-256 key")
    if asked.contract is None or asked.workload is None or asked.data_class is None:
        raise ValueError("a grant is for one contract, workload and data class")
    sites, reasons = allowed_sites(chain, asked, candidates, groups)
    now = int(now_s)
    ends = [now + life_s, chain.exp_s] + ([scope.not_after_s] if scope.not_after_s is not None else [])
    if min(ends) <= now:
        reasons.append(Reason("expired", "nothing is left of the delegation's lifetime"))
    if is_limited(scope) and allowance is None:
        reasons.append(Reason("unheld", "the delegation sets a limit, and nothing was reserved for this grant"))
    if reasons:
        return GrantRefused(tuple(reasons))
    claims = {
        "iss": issuer_name(fabric),
        "aud": fabric,
        "iat": now,
        "exp": min(ends),
        "jti": jti,
        "sub": chain.human,
        "act": {"sub": chain.last.agent},
        "ctr": asked.contract,
        "wl": asked.workload,
        "dc": asked.data_class,
        "chd": chain.digest,
        "dep": len(chain.hops),
        "sites": sites,
        "pol": policy,
        "epo": epoch,
        **binding.claims(),
        **(allowance.claims() if allowance else {}),
        **{claim: tag(hop.id) for claim, hop in zip(HOP_CLAIMS, chain.hops, strict=False)},
        **{claim: tag(key) for claim, key in zip(KEY_CLAIMS, chain.keys, strict=False)},
    }
    token = sign_compact(claims, site_key, typ=GRANT_TYP, kid=tag(site_key.public.thumbprint))
    if len(token) > GRANT_BYTES_MAX:
        text = f"the grant would have {len(token)} bytes, and at most {GRANT_BYTES_MAX} fit: name fewer sites"
        return GrantRefused((Reason("oversized", text),))
    return Grant(token, claims)


_REQUIRED: Mapping[str, type] = {
    "dep": int,
    "iss": str,
    "aud": str,
    "iat": int,
    "exp": int,
    "jti": str,
    "sub": str,
    "act": dict,
    "ctr": str,
    "wl": str,
    "dc": str,
    "chd": str,
    "sites": str,
    "pol": str,
    "epo": int,
    "cnf": dict,
    "h1": str,
    "k0": str,
    "k1": str,
}


def verify_grant(
    token: str, site_keys: Sequence[PublicKey], *, fabric: str, now_s: float, skew_s: float = 1.0
) -> Grant | GrantRefused:
    """Verify a grant without Envoy: signature by an enrolled site's key, fabric, lifetime and every required claim.

    Whether it is revoked, used at a site it names, or held by the key it is bound to, the caller decides
    (`revocation.is_denied`, `Grant.sites`, `is_bound_to`).
    """
    try:
        document = parse_compact(token, typ=GRANT_TYP, bytes_max=GRANT_BYTES_MAX, members=frozenset({"kid"}))
    except AuthorityError as error:
        return GrantRefused((Reason.of(error),))
    claims = document.claims
    key = next((k for k in site_keys if k.kty == "EC" and tag(k.thumbprint) == document.header.get("kid")), None)
    if key is None or not document.is_signed_by(key):
        return GrantRefused((Reason("signature", "no site of the fabric signed this grant"),))
    reasons = [
        Reason("claim", f"claim {name} is missing or not of type {kind.__name__}")
        for name, kind in _REQUIRED.items()
        if type(claims.get(name)) is not kind
    ]
    if reasons or not isinstance(claims["act"].get("sub"), str):
        return GrantRefused(tuple(reasons) or (Reason("claim", "act names nobody"),))
    if claims["aud"] != fabric or claims["iss"] != issuer_name(fabric):
        reasons.append(Reason("audience", f"the grant is of fabric {claims['aud']}, not {fabric}"))
    if now_s >= claims["exp"]:
        reasons.append(Reason("expired", f"the grant expired {now_s - claims['exp']:.0f} s ago"))
    if claims["iat"] > now_s + skew_s:
        reasons.append(Reason("not-yet", f"the grant is issued {claims['iat'] - now_s:.0f} s in the future"))
    return GrantRefused(tuple(reasons)) if reasons else Grant(token, claims)


def is_bound_to(grant: Grant, binding: Binding) -> bool:
    """Whether the grant is bound to exactly this key or certificate (RFC 8705 section 3, RFC 9449 section 7.1)."""
    cnf = grant.claims["cnf"]
    if binding.jkt:
        return bool(cnf.get("jkt") == binding.jkt)
    try:
        return b64u_decode(str(cnf.get("x5t#S256", ""))) == binding.certificate_sha256
    except AuthorityError:
        return False
