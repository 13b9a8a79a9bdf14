"""The chain from a named human to the agent that acts: one signed hop each, each narrower than the one before.

Claim names follow draft-niyikiza-oauth-attenuating-agent-tokens (`iss` is the thumbprint of the parent's `cnf` key,
`del_depth`, `del_max_depth`, `par_hash`), draft-asor-wimse-agent-delegation-chain (one principal `sub` throughout, an
`act` at each hop), RFC 7800 (`cnf`), RFC 9396 (`authorization_details`) and RFC 7519 for the rest.

A hop's id is the SHA-256 of its signing input. `par_hash` is the parent's id, so the id of the last hop commits to the
whole chain: it is the chain's digest. Why not the digest of the whole token: see `jose.Compact.digest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isochrone.authority.identity import Registry
from isochrone.authority.jose import Compact, PrivateKey, PublicKey, sign_compact
from isochrone.authority.proof import parse_signed, unsigned_for_passkey
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import Execution, Groups, Scope, check_identifier, check_name
from isochrone.errors import AuthorityError

__all__ = [
    "CHAIN_TOKEN_TYPE",
    "HOPS_MAX",
    "HOP_TYP",
    "ChainRejected",
    "Delegation",
    "DelegationRefused",
    "VerifiedChain",
    "issue_child",
    "issue_root",
    "join_chain",
    "parse_hop",
    "root_claims",
    "split_chain",
]

HOP_TYP = "delegation+jwt"
HOPS_MAX = 8
HOP_BYTES_MAX = 8192
CHAIN_BYTES_MAX = 32768
CHAIN_TOKEN_TYPE = "urn:isochrone:params:oauth:token-type:delegation-chain"  # noqa: S105 - a name, not a secret

_CLAIMS = frozenset(
    ("iss", "sub", "aud", "iat", "nbf", "exp", "jti", "act", "cnf", "del_depth", "del_max_depth", "par_hash")
) | {"authorization_details"}


@dataclass(frozen=True, slots=True)
class Delegation:
    """One hop, parsed; verified only as part of a `VerifiedChain`.

    Attributes:
        id: digest of the signing input, base64url, 43 characters.
        iss: thumbprint of the key that signs: the human's for the root, else the parent's `key`.
        human: the invariant principal (`sub`).
        fabric: the audience.
        agent: to whom is delegated (`act.sub`).
        key: the delegatee's key (`cnf.jwk`).
        depth, depth_max: this hop's depth, 0 for the root; the greatest depth a descendant may have.
        par_hash: the parent's id; empty for the root.
        iat_s, nbf_s, exp_s: seconds since 1970.
    """

    id: str
    iss: str
    human: str
    fabric: str
    agent: str
    key: PublicKey
    depth: int
    depth_max: int
    par_hash: str
    scope: Scope
    iat_s: int
    nbf_s: int
    exp_s: int
    jti: str
    text: str
    document: Compact


@dataclass(frozen=True, slots=True)
class DelegationRefused:
    """The hop was not issued: it would not verify."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class ChainRejected:
    """The chain proves nothing."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain that was verified; its last hop says what it allows, for every hop is narrower than the one before."""

    human: str
    human_name: str
    hops: tuple[Delegation, ...]

    @property
    def last(self) -> Delegation:
        """The hop whose holder acts."""
        return self.hops[-1]

    @property
    def digest(self) -> str:
        """Commits to every hop: the id of the last one."""
        return self.hops[-1].id

    @property
    def keys(self) -> tuple[str, ...]:
        """Thumbprints of every key in the chain: the human's, then each delegatee's."""
        return (self.hops[0].iss, *(hop.key.thumbprint for hop in self.hops))

    @property
    def exp_s(self) -> int:
        """When the first of its hops expires: never before the last one, since children do not outlive parents."""
        return min(hop.exp_s for hop in self.hops)

    def refusals(self, execution: Execution, groups: Groups) -> list[Reason]:
        """Why the chain does not allow `execution`; empty exactly when it does."""
        return self.last.scope.refusals(execution, groups)


def join_chain(hops: Sequence[str]) -> str:
    """The chain as one text: its hops, root first, with ``~`` between."""
    return "~".join(hops)


def split_chain(text: str) -> list[str]:
    """The hops of a chain's text; bounds and contents are checked by verification."""
    return text.split("~")


def _claim(claims: Mapping[str, Any], name: str, kind: type) -> Any:
    value = claims.get(name)
    if type(value) is not kind:
        raise AuthorityError(f"claim {name} is missing or not of type {kind.__name__}", code="authority.claim")
    return value


def parse_hop(text: str) -> Delegation:
    """Read one hop, strictly; nothing is verified.

    Raises:
        AuthorityError: oversized, malformed, with a claim missing, unknown or of the wrong type.
    """
    document = parse_signed(text, typ=HOP_TYP, bytes_max=HOP_BYTES_MAX)
    claims = document.claims
    unknown = claims.keys() - _CLAIMS
    if unknown:
        raise AuthorityError(f"claims not understood: {', '.join(sorted(unknown))}", code="authority.claim")
    act, cnf, details = (_claim(claims, *c) for c in (("act", dict), ("cnf", dict), ("authorization_details", list)))
    if act.keys() != {"sub"} or cnf.keys() != {"jwk"} or not isinstance(cnf["jwk"], dict):
        raise AuthorityError("act holds one sub, and cnf one jwk", code="authority.claim")
    if len(details) != 1:
        # Several would be a union, and a union of parts of several parents is how siblings recombine into more.
        raise AuthorityError("authorization_details holds exactly one object", code="authority.claim")
    depth, depth_max = _claim(claims, "del_depth", int), _claim(claims, "del_max_depth", int)
    if not 0 <= depth <= depth_max < HOPS_MAX:
        raise AuthorityError(f"depth {depth} of at most {depth_max} is not in order", code="authority.depth")
    iat_s, nbf_s, exp_s = (_claim(claims, name, int) for name in ("iat", "nbf", "exp"))
    if iat_s < 0 or not 0 <= nbf_s < exp_s < 2**53:
        raise AuthorityError("iat, nbf and exp are not in order", code="authority.claim")
    return Delegation(
        id=document.digest,
        iss=_claim(claims, "iss", str),
        human=check_name(claims.get("sub"), "sub"),
        fabric=check_name(claims.get("aud"), "aud"),
        agent=check_name(act["sub"], "act.sub"),
        key=PublicKey.from_jwk(cnf["jwk"]),
        depth=depth,
        depth_max=depth_max,
        par_hash=_claim(claims, "par_hash", str) if depth else _no_parent(claims),
        scope=Scope.from_details(details[0]),
        iat_s=iat_s,
        nbf_s=nbf_s,
        exp_s=exp_s,
        jti=check_identifier(claims.get("jti"), "jti"),
        text=text,
        document=document,
    )


def _no_parent(claims: Mapping[str, Any]) -> str:
    if "par_hash" in claims:
        raise AuthorityError("a root has no par_hash", code="authority.claim")
    return ""


def link_faults(child: Delegation, parent: Delegation, groups: Groups) -> list[Reason]:
    """Every way in which `child` does not rest on `parent`, the signature aside."""
    at = child.depth
    reasons = []
    if child.par_hash != parent.id:
        reasons.append(Reason("spliced", "par_hash is not the digest of the hop before", at))
    if child.iss != parent.key.thumbprint:
        reasons.append(Reason("issuer", "iss is not the key that the hop before delegates to", at))
    if child.human != parent.human:
        reasons.append(Reason("principal", f"acts for {child.human}, the hop before for {parent.human}", at))
    if child.fabric != parent.fabric:
        reasons.append(Reason("audience", f"is for {child.fabric}, the hop before for {parent.fabric}", at))
    if child.depth != parent.depth + 1:
        reasons.append(Reason("depth", f"depth {child.depth} follows depth {parent.depth}", at))
    if child.depth_max > parent.depth_max or child.depth > parent.depth_max:
        reasons.append(Reason("depth", f"goes deeper than the {parent.depth_max} that the hop before permits", at))
    if not parent.scope.may_delegate:
        reasons.append(Reason("may-not-delegate", "the hop before may not be delegated further", at))
    if child.exp_s > parent.exp_s or child.nbf_s < parent.nbf_s:
        reasons.append(Reason("outlives", "is valid when the hop before is not", at))
    reasons.extend(Reason(r.code, r.text, at) for r in child.scope.widenings(parent.scope, groups))
    return reasons


def _claims(fabric: str, human: str, agent: str, key: PublicKey, scope: Scope, jti: str) -> dict[str, Any]:
    return {
        "sub": human,
        "aud": fabric,
        "act": {"sub": agent},
        "cnf": {"jwk": key.jwk},
        "authorization_details": [scope.details],
        "jti": jti,
    }


def root_claims(
    registry: Registry,
    human: str,
    human_key: str,
    *,
    agent: str,
    agent_key: PublicKey,
    scope: Scope,
    depth_max: int,
    now_s: float,
    life_s: int,
    jti: str,
) -> dict[str, Any]:
    """The claims of a root hop, for `issue_root` to sign with a key or a browser to sign with a passkey.

    Args:
        human_key: thumbprint of the person's key.
        depth_max: how many hops may follow the root.
        life_s: seconds until it expires.
        jti: unique, from the caller's generator.
    """
    now = int(now_s)
    return {
        "iss": human_key,
        **_claims(registry.fabric, human, agent, agent_key, scope, jti),
        "iat": now,
        "nbf": now,
        "exp": now + life_s,
        "del_depth": 0,
        "del_max_depth": depth_max,
    }


def issue_root(claims: Mapping[str, Any], key: PrivateKey) -> str | DelegationRefused:
    """Sign a root hop with the person's own key; refuses what would not parse."""
    if claims.get("iss") != key.public.thumbprint:
        return DelegationRefused((Reason("issuer", "iss is not the signing key"),))
    return _checked(sign_compact(claims, key, typ=HOP_TYP))


def root_for_passkey(claims: Mapping[str, Any]) -> bytes:
    """The signing input of a root hop that a passkey is to approve (see `proof.attach_assertion`)."""
    return unsigned_for_passkey(claims, typ=HOP_TYP)


def _checked(text: str) -> str | DelegationRefused:
    try:
        parse_hop(text)
    except AuthorityError as error:
        return DelegationRefused((Reason.of(error),))
    return text


def issue_child(
    chain: Sequence[str],
    key: PrivateKey,
    groups: Groups,
    *,
    agent: str,
    agent_key: PublicKey,
    scope: Scope,
    now_s: float,
    life_s: int,
    jti: str,
    depth_max: int | None = None,
) -> list[str] | DelegationRefused:
    """Delegate further, offline: the chain with one more hop, signed by the holder of its last hop.

    Args:
        key: the holder's private key: the last hop's `cnf` key.
        depth_max: how deep descendants may go; the parent's, if left out.

    Returns:
        The longer chain, or every reason why its verification would refuse it: widening above all.
    """
    try:
        parent = parse_hop(chain[-1])
    except AuthorityError as error:
        return DelegationRefused((Reason.of(error, len(chain) - 1),))
    now = int(now_s)
    claims = {
        "iss": key.public.thumbprint,
        **_claims(parent.fabric, parent.human, agent, agent_key, scope, jti),
        "iat": now,
        "nbf": max(now, parent.nbf_s),
        "exp": min(now + life_s, parent.exp_s),
        "del_depth": parent.depth + 1,
        "del_max_depth": parent.depth_max if depth_max is None else depth_max,
        "par_hash": parent.id,
    }
    text = sign_compact(claims, key, typ=HOP_TYP)
    try:
        child = parse_hop(text)
    except AuthorityError as error:
        return DelegationRefused((Reason.of(error, len(chain)),))
    reasons = link_faults(child, parent, groups)
    return DelegationRefused(tuple(reasons)) if reasons else [*chain, text]
