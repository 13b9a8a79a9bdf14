"""Who exists: people, agents, and the keys that speak for them, and what people did, as one sequenced registry.

The registry is a value. It changes only by acts: documents signed by a person, each numbered one above the last and
naming the digest of the act before it, so that every site that applies the same acts holds the same registry, and a
missing, repeated or alternative act is noticed. The first registry is the trust anchor: it is configured, not proven.

| act | signed by | does |
|---|---|---|
| enrol, retire, enrol-key, retire-key | an operator | changes who exists |
| apply | an operator | changes desired state |
| approve | any active person | lets a contract be executed (`approval` says whose word counts) |
| withdraw | who approved, or an operator | takes an approval back |
| admit, remove-site, drain, undrain | an operator | says which sites there are, and have executions (`sites`) |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from isochrone.authority.acts import Applied, Approval, withdrawn_id
from isochrone.authority.jose import Compact, PrivateKey, sha256_b64u, sign_compact
from isochrone.authority.proof import EnrolledKey, parse_signed
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import check_name
from isochrone.authority.sites import SITE_ACTS, SiteStanding, sites_after
from isochrone.errors import AuthorityError

__all__ = ["ACT_TYP", "ActRejected", "Identity", "Kind", "Registry", "act_claims", "sign_act"]

ACT_TYP = "act+jwt"
ACT_BYTES_MAX = 8192
KEYS_MAX = 16
OPEN_ACTS = frozenset({"approve", "withdraw"})
"""Acts that any active person may sign; all others are operators'."""
_MEMBERS = frozenset({"id", "kind", "name", "keys", "operator", "spiffe_id"})

Kind = Literal["human", "agent"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A person or an agent.

    Attributes:
        id: the name that tokens and records carry, e.g. ``human:ada``.
        kind: person or agent. Only a person can root a chain.
        name: the person's own name, or what the agent is for.
        keys: every key ever enrolled, retired ones too: revoking an agent must find them.
        is_operator: may sign acts and revoke with cause; people only.
        spiffe_id: the agent's SPIFFE id, if it has one.
        is_active: False once retired; it never becomes True again.
    """

    id: str
    kind: Kind
    name: str
    keys: tuple[EnrolledKey, ...]
    is_operator: bool = False
    spiffe_id: str = ""
    is_active: bool = True

    def key(self, thumbprint: str) -> EnrolledKey | None:
        """The active key with this thumbprint."""
        return next((k for k in self.keys if k.is_active and k.key.thumbprint == thumbprint), None)

    def to_json(self) -> dict[str, Any]:
        """The identity as an enrolment act carries it."""
        shown: dict[str, Any] = {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "keys": [key.to_json() for key in self.keys],
        }
        if self.is_operator:
            shown["operator"] = True
        if self.spiffe_id:
            shown["spiffe_id"] = self.spiffe_id
        return shown

    @classmethod
    def from_json(cls, value: object) -> Identity:
        """Read an identity.

        Raises:
            AuthorityError: it is malformed, has no key, or an agent is to be an operator.
        """
        if not isinstance(value, dict) or value.keys() - _MEMBERS:
            raise AuthorityError("an identity is an object of its known members", code="authority.malformed")
        kind, name, keys = value.get("kind"), value.get("name"), value.get("keys")
        if kind not in ("human", "agent") or not isinstance(name, str) or not name or not isinstance(keys, list):
            raise AuthorityError("an identity has an id, a kind, a name and keys", code="authority.malformed")
        if not 1 <= len(keys) <= KEYS_MAX:
            raise AuthorityError(f"an identity has from 1 to {KEYS_MAX} keys", code="authority.malformed")
        operator = value.get("operator", False)
        if type(operator) is not bool or (operator and kind == "agent"):
            raise AuthorityError("only a person can be an operator", code="authority.malformed")
        enrolled = tuple(EnrolledKey.from_json(key) for key in keys)
        spiffe_id = value.get("spiffe_id", "")
        if not isinstance(spiffe_id, str) or (spiffe_id and not spiffe_id.startswith("spiffe://")):
            raise AuthorityError(f"{spiffe_id!r} is no SPIFFE id", code="authority.malformed")
        return cls(check_name(value.get("id"), "identity"), kind, name, enrolled, operator, spiffe_id)


@dataclass(frozen=True, slots=True)
class ActRejected:
    """The registry stays as it was."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Registry:
    """Everyone the fabric knows, after `seq` acts.

    Attributes:
        fabric: the fabric's name, the audience of every act.
        people: id to identity, retired ones too.
        seq: number of acts applied.
        head: digest of the last act; of the anchor before the first, so that the first act commits to it.
        applied: the last two changes of desired state, older first: the one in force and the one before.
        approvals: all that were given, by id; expired and withdrawn ones too.
        sites: those that were admitted and not removed, by name.
    """

    fabric: str
    people: Mapping[str, Identity]
    seq: int = 0
    head: str = ""
    applied: tuple[Applied, ...] = ()
    approvals: Mapping[str, Approval] = field(default_factory=dict)
    sites: Mapping[str, SiteStanding] = field(default_factory=dict)
    _owners: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def anchored(cls, fabric: str, identities: Iterable[Identity]) -> Registry:
        """The first registry: configured, with at least one operator, or nobody could ever change it."""
        people = {identity.id: identity for identity in identities}
        if not any(identity.is_operator for identity in people.values()):
            raise AuthorityError(
                "no operator among the first identities",
                code="authority.no-operator",
                hint="enrol a person as operator",
            )
        text = json.dumps([people[each].to_json() for each in sorted(people)], sort_keys=True, separators=(",", ":"))
        return cls(check_name(fabric, "fabric"), people, head=sha256_b64u(text.encode()), _owners=_owners(people))

    @property
    def drained(self) -> frozenset[str]:
        """Sites that are to have no new executions."""
        return frozenset(name for name, standing in self.sites.items() if standing.is_drained)

    def owner(self, thumbprint: str) -> Identity | None:
        """Whose key this is or was."""
        owner = self._owners.get(thumbprint)
        return self.people[owner] if owner else None

    def human(self, human_id: str) -> Identity | None:
        """The active person of this id."""
        identity = self.people.get(human_id)
        return identity if identity and identity.kind == "human" and identity.is_active else None

    def signer_of(self, document: Compact, thumbprint: object) -> Identity | None:
        """The active person whose active key `thumbprint` proves `document`."""
        owner = self.owner(thumbprint) if isinstance(thumbprint, str) else None
        if owner is None or owner.kind != "human" or not owner.is_active:
            return None
        key = owner.key(str(thumbprint))
        return owner if key is not None and key.fault(document) is None else None

    def operator_of(self, document: Compact, thumbprint: object) -> Identity | None:
        """As `signer_of`, for operators only."""
        signer = self.signer_of(document, thumbprint)
        return signer if signer is not None and signer.is_operator else None

    def apply(self, act: str) -> Registry | ActRejected:
        """The registry after one signed act.

        Steps: the act parses; its audience is this fabric; it is number `seq` + 1 and names `head`; someone entitled
        signed it; what it does is possible. The last act applied may come again and changes nothing.
        """
        try:
            document = parse_signed(act, typ=ACT_TYP, bytes_max=ACT_BYTES_MAX)
            claims = document.claims
            if document.digest == self.head:
                return self
            reasons = self._order_faults(claims)
            signer = self.signer_of(document, claims.get("iss"))
            if signer is None or not (signer.is_operator or claims.get("act") in OPEN_ACTS):
                who = "person" if claims.get("act") in OPEN_ACTS else "operator"
                reasons.append(Reason("signature", f"no active {who} signed this act"))
            if reasons or signer is None:
                return ActRejected(tuple(reasons))
            after = replace(self._after(document, signer), seq=self.seq + 1, head=document.digest)
        except AuthorityError as error:
            return ActRejected((Reason.of(error),))
        if not any(identity.is_operator and identity.is_active for identity in after.people.values()):
            return ActRejected((Reason("no-operator", "the act would leave the fabric without an operator"),))
        return after

    def _after(self, document: Compact, signer: Identity) -> Registry:
        claims, subject = document.claims, document.claims.get("subject")
        if type(claims.get("iat")) is not int or not isinstance(subject, dict):
            raise AuthorityError("the act has no time or no subject", code="authority.malformed")
        match claims.get("act"):
            case "apply":
                return replace(self, applied=(*self.applied[-1:], self._next_applied(claims, signer.id)))
            case "approve":
                approval = Approval.from_act(claims, document.digest, signer.id)
                return replace(self, approvals={**self.approvals, approval.id: approval})
            case "withdraw":
                known = self.approvals.get(withdrawn_id(subject))
                if known is None or known.ended_s is not None or not (signer.is_operator or signer.id == known.by):
                    raise AuthorityError(
                        f"{signer.id} has no such approval to take back", code="authority.unknown-approval"
                    )
                ended = replace(known, ended_s=claims["iat"])
                return replace(self, approvals={**self.approvals, known.id: ended})
            case str(kind) if kind in SITE_ACTS:
                return replace(self, sites=sites_after(self.sites, kind, subject))
        changed = self._changed(claims)
        people = {**self.people, changed.id: changed}
        return replace(self, people=people, _owners=_owners(people))

    def _next_applied(self, claims: Mapping[str, Any], by: str) -> Applied:
        applied = Applied.from_act(claims, by)
        due = self.applied[-1].revision + 1 if self.applied else 1
        if applied.revision != due:
            raise AuthorityError(
                f"the act applies revision {applied.revision}; the next is {due}", code="authority.revision"
            )
        return applied

    def _order_faults(self, claims: Mapping[str, Any]) -> list[Reason]:
        reasons = []
        if claims.get("aud") != self.fabric:
            reasons.append(Reason("audience", f"the act is for {claims.get('aud')!r}, not {self.fabric!r}"))
        if claims.get("seq") != self.seq + 1 or type(claims.get("seq")) is not int:
            reasons.append(Reason("sequence", f"the act is number {claims.get('seq')!r}; the next is {self.seq + 1}"))
        if claims.get("prev") != self.head:
            reasons.append(Reason("fork", "the act follows another act than the last one applied here"))
        return reasons

    def _changed(self, claims: Mapping[str, Any]) -> Identity:
        kind, subject = claims.get("act"), claims.get("subject")
        if kind == "enrol":
            identity = Identity.from_json(subject)
            if identity.id in self.people:
                raise AuthorityError(f"{identity.id} is enrolled already", code="authority.enrolled")
            for key in identity.keys:
                self._check_unowned(key)
            return identity
        assert isinstance(subject, dict)
        if not isinstance(subject.get("id"), str):
            raise AuthorityError("the act names nobody", code="authority.malformed")
        known = self.people.get(subject["id"])
        if known is None or not known.is_active:
            raise AuthorityError(f"{subject['id']} is not enrolled, or retired", code="authority.unknown-identity")
        if kind == "retire":
            return replace(known, is_active=False)
        if kind == "enrol-key":
            key = EnrolledKey.from_json(subject.get("key"))
            self._check_unowned(key)
            if len(known.keys) >= KEYS_MAX:
                raise AuthorityError(f"{known.id} has {KEYS_MAX} keys already", code="authority.too-many-keys")
            return replace(known, keys=(*known.keys, key))
        if kind == "retire-key":
            if known.key(str(subject.get("thumbprint"))) is None:
                raise AuthorityError(f"{known.id} has no such active key", code="authority.unknown-key")
            retired = (
                replace(key, is_active=False) if key.key.thumbprint == subject["thumbprint"] else key
                for key in known.keys
            )
            return replace(known, keys=tuple(retired))
        raise AuthorityError(f"no such act: {kind!r}", code="authority.malformed")

    def _check_unowned(self, key: EnrolledKey) -> None:
        owner = self._owners.get(key.key.thumbprint)
        if owner:
            raise AuthorityError(f"the key belongs to {owner}: one key, one holder", code="authority.key-owned")


def _owners(people: Mapping[str, Identity]) -> dict[str, str]:
    return {key.key.thumbprint: identity.id for identity in people.values() for key in identity.keys}


def act_claims(
    registry: Registry, act: str, subject: Mapping[str, Any], *, signer_key: str, now_s: float
) -> dict[str, Any]:
    """The claims of the next act on `registry`, to be signed by the key of this thumbprint or by passkey."""
    return {
        "iss": signer_key,
        "aud": registry.fabric,
        "iat": int(now_s),
        "seq": registry.seq + 1,
        "prev": registry.head,
        "act": act,
        "subject": dict(subject),
    }


def sign_act(registry: Registry, act: str, subject: Mapping[str, Any], *, key: PrivateKey, now_s: float) -> str:
    """The next act on `registry`, signed with a person's own key."""
    claims = act_claims(registry, act, subject, signer_key=key.public.thumbprint, now_s=now_s)
    return sign_compact(claims, key, typ=ACT_TYP)
