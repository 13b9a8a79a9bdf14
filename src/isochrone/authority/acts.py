"""What people do beside enrolling each other: change desired state, approve a contract, take an approval back.

These acts stand in the registry's one sequence (`identity`), so each names the act before it, and whoever follows the
sequence knows every change that a person made, in order, from that person's signature alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isochrone.authority.jose import sha256_b64u
from isochrone.authority.scope import check_identifier, check_name
from isochrone.errors import AuthorityError

__all__ = [
    "Applied",
    "Approval",
    "apply_subject",
    "approve_subject",
    "policies_digest",
    "text_digest",
    "withdraw_subject",
]

REASON_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Applied:
    """A change of desired state, as its act says it.

    Attributes:
        seq: number of the act.
        revision: of desired state, from 1.
        fabric, policies: digests of the fabric document and of its policy files.
        by: the person who signed.
        at_s: when, by the signer's clock, seconds since 1970.
    """

    seq: int
    revision: int
    fabric: str
    policies: str
    by: str
    at_s: int

    @classmethod
    def from_act(cls, claims: Mapping[str, Any], by: str) -> Applied:
        """Raises AuthorityError when the act's subject is malformed."""
        match claims["subject"]:
            case {"revision": int(revision), "fabric": str(fabric), "policies": str(policies)} if revision > 0:
                return cls(claims["seq"], revision, fabric, policies, by, claims["iat"])
        raise AuthorityError("the act does not say what is applied", code="authority.malformed")


@dataclass(frozen=True, slots=True)
class Approval:
    """A named person's word that a contract may be executed on its present terms.

    Attributes:
        id: digest of the act.
        terms: digest of the contract's terms that the person saw; other terms are not approved.
        by, key: the person, and the thumbprint of the key that signed.
        at_s, until_s: from and until when it counts, seconds since 1970.
        ended_s: when it was taken back; None while it was not.
    """

    id: str
    contract: str
    terms: str
    reason: str
    by: str
    key: str
    at_s: int
    until_s: int
    ended_s: int | None = None

    @classmethod
    def from_act(cls, claims: Mapping[str, Any], digest: str, by: str) -> Approval:
        """Raises AuthorityError when the act's subject is malformed."""
        match claims["subject"]:
            case {"contract": str(contract), "terms": str(terms), "reason": reason, "until": int(until_s)}:
                at_s = claims["iat"]
                if until_s <= at_s:
                    raise AuthorityError("the approval ends before it begins", code="authority.malformed")
                name = check_name(contract, "contract")
                return cls(digest, name, terms, check_reason(reason), by, claims["iss"], at_s, until_s)
        raise AuthorityError("the act does not say what is approved", code="authority.malformed")


def check_reason(value: object) -> str:
    """A reason in words; never empty. Raises AuthorityError."""
    if not isinstance(value, str) or not value.strip() or len(value) > REASON_CHARS_MAX:
        raise AuthorityError(
            f"a reason in words is needed, at most {REASON_CHARS_MAX:,} characters", code="authority.no-reason"
        )
    return value


def withdrawn_id(subject: Mapping[str, Any]) -> str:
    """Which approval an act of withdrawal takes back. Raises AuthorityError."""
    check_reason(subject.get("reason"))
    return check_identifier(subject.get("approval"), "approval")


def text_digest(text: str) -> str:
    """SHA-256 of a fabric document's text, base64url."""
    return sha256_b64u(text.encode())


def policies_digest(policies: Mapping[str, str]) -> str:
    """SHA-256 of policy files by name, base64url: over their JSON with sorted names."""
    return sha256_b64u(json.dumps(dict(policies), sort_keys=True, separators=(",", ":")).encode())


def withdraw_subject(approval: str, reason: str) -> dict[str, Any]:
    """Subject of a ``withdraw`` act."""
    return {"approval": approval, "reason": reason}


def apply_subject(revision: int, text: str, policies: Mapping[str, str]) -> dict[str, Any]:
    """Subject of an ``apply`` act."""
    return {"revision": revision, "fabric": text_digest(text), "policies": policies_digest(policies)}


def approve_subject(contract: str, terms: str, reason: str, until_s: int) -> dict[str, Any]:
    """Subject of an ``approve`` act."""
    return {"contract": contract, "terms": terms, "reason": reason, "until": until_s}
