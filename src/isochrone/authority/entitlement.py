"""Who may revoke what: requests, signed by those entitled, that the feed's keeper checks before numbering them.

| revokes | the human | the signer of a hop | an operator |
|---|---|---|---|
| hop (and all below it) | of own chains | own hops and all below them | any, with cause |
| key | own | the key that an own hop delegates to, or below | any, with cause |
| agent | - | - | any, with cause |
| human | oneself | - | any, with cause |
| grant | from own chains | from chains with an own hop | any, with cause |
| contract, workload, fabric, and lifting them | - | - | any, with cause |

Evidence is the chain that holds what is revoked: whoever keeps the feed needs no memory of chains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from isochrone.authority.delegation import VerifiedChain
from isochrone.authority.grant import Grant
from isochrone.authority.identity import Registry
from isochrone.authority.jose import Compact, PrivateKey, sign_compact
from isochrone.authority.proof import EnrolledKey, parse_signed
from isochrone.authority.reasons import Reason
from isochrone.authority.revocation import KINDS, STOPS, Kind, Revocation
from isochrone.authority.scope import check_identifier
from isochrone.errors import AuthorityError

__all__ = ["REQUEST_TYP", "RevocationRefused", "may_revoke", "request_claims", "sign_request"]

REQUEST_TYP = "revocation-request+jwt"
REQUEST_BYTES_MAX = 8192
REQUEST_LIFE_S = 300.0


@dataclass(frozen=True, slots=True)
class RevocationRefused:
    """The request is not entered into the feed."""

    reasons: tuple[Reason, ...]


def request_claims(
    fabric: str, kind: Kind, item: str, *, reason: str, by: str, now_s: float, jti: str, is_lifted: bool = False
) -> dict[str, Any]:
    """Claims of a request, to be signed by the key of thumbprint `by`, or through its passkey."""
    claims: dict[str, Any] = {
        "iss": by,
        "aud": fabric,
        "iat": int(now_s),
        "jti": jti,
        "kind": kind,
        "id": item,
        "reason": reason,
    }
    return claims | {"lift": True} if is_lifted else claims


def sign_request(
    fabric: str, kind: Kind, item: str, *, reason: str, key: PrivateKey, now_s: float, jti: str, is_lifted: bool = False
) -> str:
    """A request signed with a key of one's own."""
    by = key.public.thumbprint
    claims = request_claims(fabric, kind, item, reason=reason, by=by, now_s=now_s, jti=jti, is_lifted=is_lifted)
    return sign_compact(claims, key, typ=REQUEST_TYP)


def may_revoke(
    request: str,
    registry: Registry,
    *,
    seq: int,
    now_s: float,
    chain: VerifiedChain | None = None,
    grant: Grant | None = None,
    life_s: float = REQUEST_LIFE_S,
) -> Revocation | RevocationRefused:
    """The entry, number `seq`, that a request is entitled to; or why it is not.

    Args:
        chain: evidence, needed unless an operator asks or one revokes oneself. It may have expired: verify it with the
            time at which it was valid.
        grant: verified, and minted from `chain`: evidence for revoking it.
        life_s: how old a request may be, or how far in the future: replays are harmless (revoking is idempotent) except
            of lifted stops, which this bounds.
    """
    try:
        document = parse_signed(request, typ=REQUEST_TYP, bytes_max=REQUEST_BYTES_MAX)
        claims = document.claims
        kind, item, by = claims.get("kind"), check_identifier(claims.get("id"), "id"), claims.get("iss")
        reason, lift, iat = claims.get("reason"), claims.get("lift", False), claims.get("iat")
    except AuthorityError as error:
        return RevocationRefused((Reason.of(error),))
    if kind not in KINDS or type(lift) is not bool or type(iat) is not int or not isinstance(by, str):
        return _refused("malformed", "not a revocation request")
    if not isinstance(reason, str) or not reason.strip():
        return _refused("no-reason", "a revocation states its reason")
    if claims.get("aud") != registry.fabric:
        return _refused("audience", f"the request is for {claims.get('aud')!r}, not {registry.fabric}")
    if abs(now_s - iat) > life_s:
        return _refused("stale", f"the request was made {now_s - iat:.0f} s ago; sign it again")
    if lift and kind not in STOPS:
        return _refused("final", f"the revocation of a {kind} is final: delegate anew")
    if registry.operator_of(document, by) is None and not _is_own(document, by, kind, item, registry, chain, grant):
        return _refused("not-entitled", f"this key may not revoke {kind} {item}")
    entry = Revocation(seq, int(now_s), kind, item, reason, by, document.digest, is_lifted=lift)
    # An entry can be forgotten once its object has expired. A key may have signed anything: its entry never is.
    if kind == "grant" and grant is not None and grant.id == item:
        return replace(entry, until_s=grant.exp_s)
    if kind == "hop" and chain is not None:
        hop = next((hop for hop in chain.hops if hop.id == item), None)
        return replace(entry, depth=hop.depth, until_s=hop.exp_s) if hop else entry
    return entry


def _refused(code: str, text: str) -> RevocationRefused:
    return RevocationRefused((Reason(code, text),))


def _is_own(
    document: Compact,
    by: str,
    kind: str,
    item: str,
    registry: Registry,
    chain: VerifiedChain | None,
    grant: Grant | None,
) -> bool:
    """Whether a person revokes themselves or their own, or the signer of a hop something from there on."""
    owner = registry.owner(by)
    if owner is not None and owner.is_active and owner.kind == "human":
        key = owner.key(by)
        if key is not None and key.fault(document) is None:
            if kind == "human":
                return item == owner.id
            if kind == "key" and any(known.key.thumbprint == item for known in owner.keys):
                return True
            return chain is not None and chain.human == owner.id and _holds(chain, 0, kind, item, grant)
    if chain is None:
        return False
    for at, hop in enumerate(chain.hops):
        if hop.iss == by and at > 0 and EnrolledKey(chain.hops[at - 1].key).fault(document) is None:
            return _holds(chain, at, kind, item, grant)
    return False


def _holds(chain: VerifiedChain, first: int, kind: str, item: str, grant: Grant | None) -> bool:
    """Whether the chain from hop `first` on holds what is to be revoked."""
    below = chain.hops[first:]
    if kind == "hop":
        return any(hop.id == item for hop in below)
    if kind == "key":
        return any(hop.key.thumbprint == item for hop in below)
    return kind == "grant" and grant is not None and grant.id == item and grant.claims["chd"] == chain.digest
