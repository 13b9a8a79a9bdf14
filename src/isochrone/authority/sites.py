"""Which sites belong to the fabric: those that an operator's act admitted, with keys that the join token vouches for.

When an operator admits a site, its keys do not exist yet. So the act names the public half of a *join key*, whose
private half travels in the join token and nowhere else. The site that joins signs, with it, the digest of the keys it
made: its *admission*. Whoever has the acts and the admission can tell that these are the keys of the site admitted;
the hub, which has seen neither half of the secret, cannot put others in their place.

| act | does |
|---|---|
| admit | a site of this name may join, by this join key as well as by earlier ones |
| remove-site | none of its join keys counts any more |
| drain, undrain | it is to have no new executions, or to have them again |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from isochrone.authority.jose import PrivateKey, PublicKey, parse_compact, sha256_b64u, sign_compact
from isochrone.authority.scope import check_identifier, check_name
from isochrone.errors import AuthorityError

__all__ = ["SITE_ACTS", "SiteStanding", "admission_key", "admit_subject", "admitted", "sign_admission", "sites_after"]

SITE_ACTS = frozenset({"admit", "remove-site", "drain", "undrain"})
_TYP = "isochrone-admission+jwt"
_BYTES_MAX = 2048
_ENTRY = ("jwk", "vkey", "witness")


@dataclass(frozen=True, slots=True)
class SiteStanding:
    """What acts say of a site.

    Attributes:
        join_keys: thumbprints of every join key since it was last removed. An earlier one goes on counting, since the
            site runs by it until it joins again.
    """

    join_keys: frozenset[str]
    is_drained: bool = False


def sites_after(sites: Mapping[str, SiteStanding], act: str, subject: Mapping[str, Any]) -> Mapping[str, SiteStanding]:
    """Standing of every site after an act of `SITE_ACTS`. Raises AuthorityError when the act is not possible."""
    site = check_name(subject.get("site"), "site")
    known = sites.get(site)
    if act == "admit":
        earlier = known or SiteStanding(frozenset())
        key = check_identifier(subject.get("key"), "join key")
        return {**sites, site: replace(earlier, join_keys=earlier.join_keys | {key})}
    if known is None:
        raise AuthorityError(f"there is no site {site!r}: no act admits it", code="authority.unknown-site")
    if act == "remove-site":
        return {name: standing for name, standing in sites.items() if name != site}
    return {**sites, site: replace(known, is_drained=act == "drain")}


def admit_subject(site: str, join_key: PublicKey) -> dict[str, Any]:
    """Subject of an ``admit`` act."""
    return {"site": site, "key": join_key.thumbprint}


def entry_digest(entry: Mapping[str, Any]) -> str:
    """SHA-256 over the keys of a roster entry, base64url. Raises KeyError when one is missing."""
    return sha256_b64u(json.dumps({name: entry[name] for name in _ENTRY}, sort_keys=True).encode())


def sign_admission(join_key: PrivateKey, fabric: str, site: str, entry: Mapping[str, Any]) -> str:
    """The word of whoever holds a join token that these are the keys of the site it was given out for."""
    claims = {"fabric": fabric, "site": site, "keys": entry_digest(entry)}
    return sign_compact(claims, join_key, typ=_TYP, jwk=join_key.public.jwk)


def admission_key(admission: str, fabric: str, site: str, entry: Mapping[str, Any]) -> str:
    """Thumbprint of the join key by which a site has these keys.

    Raises:
        AuthorityError: no join key signed this, or it is about other keys, another site or another fabric.
    """
    document = parse_compact(admission, typ=_TYP, bytes_max=_BYTES_MAX, members=frozenset({"jwk"}))
    jwk = document.header.get("jwk")
    key = PublicKey.from_jwk(jwk if isinstance(jwk, dict) else {})
    if not document.is_signed_by(key):
        raise AuthorityError("its join key did not sign the admission", code="authority.signature")
    if document.claims != {"fabric": fabric, "site": site, "keys": entry_digest(entry)}:
        raise AuthorityError("the admission is of other keys, or of another site", code="authority.admission")
    return key.thumbprint


def admitted(
    sites: Mapping[str, SiteStanding], fabric: str, roster: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The entries of a roster that acts stand behind, by name; and why each of the others is not believed."""
    believed, faults = {}, []
    for site, entry in sorted(roster.items()):
        try:
            if site not in sites:
                raise AuthorityError("no act admits it", code="authority.unknown-site")
            if admission_key(str(entry["admission"]), fabric, site, entry) not in sites[site].join_keys:
                raise AuthorityError("no act names the key that it joined by", code="authority.admission")
            believed[site] = entry
        except (AuthorityError, KeyError, TypeError, ValueError) as error:
            faults.append(f"site {site} is not believed: {error if isinstance(error, AuthorityError) else 'malformed'}")
    return believed, faults
