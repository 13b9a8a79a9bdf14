"""What a document says, in the words that a person reads before signing it. What has no words is not to be signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from isochrone.authority.delegation import HOP_TYP
from isochrone.authority.entitlement import REQUEST_TYP
from isochrone.authority.explain import explain_scope
from isochrone.authority.identity import ACT_TYP, Identity
from isochrone.authority.proof import EnrolledKey
from isochrone.authority.scope import Scope
from isochrone.authority.sites import SITE_ACTS
from isochrone.errors import AuthorityError

__all__ = ["Facts", "Words", "words"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the hub knows beside the document, to say what it means. None where it does not know.

    Attributes:
        changes: what an apply would change, one line each.
        terms: contracts in force by the digest of their terms, in their JSON form.
        approvals: id of an approval to the line that describes it.
    """

    changes: tuple[str, ...] | None = None
    terms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    approvals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Words:
    """A document in words.

    Attributes:
        title: what it does, imperative.
        lead: one sentence: what follows from signing.
        lines: all that it says, one thing each.
    """

    title: str
    lead: str
    lines: tuple[str, ...]


def words(typ: str, claims: Mapping[str, Any], facts: Facts) -> Words:
    """The words for a document.

    Raises:
        AuthorityError: ``words.none``: it is of no known kind, or malformed.
    """
    try:
        if typ == HOP_TYP:
            return _delegation(claims)
        if typ == REQUEST_TYP:
            return _revocation(claims)
        if typ == ACT_TYP:
            return _ACTS[claims["act"]](claims, facts)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise AuthorityError(f"this {typ} cannot be put in words: {error!r}", code="words.none") from error
    raise AuthorityError(f"{typ} is no kind of document that people sign", code="words.none")


def _delegation(claims: Mapping[str, Any]) -> Words:
    agent, further = str(claims["act"]["sub"]), int(claims["del_max_depth"]) - int(claims["del_depth"])
    scope = Scope.from_details(claims["authorization_details"][0])
    lines = [f"until {_time(claims['exp'])}", *explain_scope(scope)]
    lines += [f"at most {further} more {'hop' if further == 1 else 'hops'}"] if scope.may_delegate else []
    lines += [f"the agent's key: {_key(EnrolledKey.from_json(claims['cnf']))}"]
    return Words(f"Delegate to {agent}", f"{agent} will act in your name, as far as this says.", tuple(lines))


def _revocation(claims: Mapping[str, Any]) -> Words:
    kind, item, lifts = str(claims["kind"]), str(claims["id"]), bool(claims.get("lift"))
    noun = {"hop": "delegation", "human": "person"}.get(kind, kind)
    if lifts:
        lead = f"What was stopped may run again under {noun} {item}."
    elif kind in ("contract", "workload", "fabric"):
        lead = f"Nothing will run under {noun} {item} at any site, until an operator lifts this."
    else:
        lead = f"Nothing that rests on {noun} {item} will run at any site any more. This is final."
    return Words(f"{'Lift the stop of' if lifts else 'Revoke'} {noun} {item}", lead, (f"reason: {claims['reason']}",))


def _enrol(claims: Mapping[str, Any], _: Facts) -> Words:
    subject = Identity.from_json(claims["subject"])
    noun = "an operator" if subject.is_operator else "a person" if subject.kind == "human" else "an agent"
    lead = f"{subject.id} will be known to every site as {noun}: {subject.name}."
    lines = [f"{'passkey' if key.passkey else 'key'}: {_key(key)}" for key in subject.keys]
    lines += [f"used at {', '.join(key.passkey.origins)}" for key in subject.keys if key.passkey]
    lines += [f"SPIFFE id: {subject.spiffe_id}"] if subject.spiffe_id else []
    lines += ["may enrol and retire people, change the fabric, and revoke"] if subject.is_operator else []
    return Words(f"Enrol {subject.id}", lead, tuple(lines))


def _retire(claims: Mapping[str, Any], _: Facts) -> Words:
    name = str(claims["subject"]["id"])
    return Words(f"Retire {name}", f"Nothing that {name} signed or holds will count any more. This is final.", ())


def _enrol_key(claims: Mapping[str, Any], _: Facts) -> Words:
    name, key = str(claims["subject"]["id"]), EnrolledKey.from_json(claims["subject"]["key"])
    noun = "passkey" if key.passkey else "key"
    return Words(f"Enrol a {noun} of {name}", f"Whoever holds it will act as {name}.", (f"{noun}: {_key(key)}",))


def _retire_key(claims: Mapping[str, Any], _: Facts) -> Words:
    name, thumbprint = str(claims["subject"]["id"]), str(claims["subject"]["thumbprint"])
    return Words(f"Retire a key of {name}", "What it signed will not count any more.", (f"key: {thumbprint[:16]}",))


def _apply(claims: Mapping[str, Any], facts: Facts) -> Words:
    if facts.changes is None:
        raise AuthorityError("the documents of this change are not at hand", code="words.none")
    revision = int(claims["subject"]["revision"])
    count = len(facts.changes)
    lead = f"Every site will take over {'this change' if count == 1 else f'these {count} changes'}."
    return Words(f"Change the fabric to revision {revision}", lead, facts.changes)


def _approve(claims: Mapping[str, Any], facts: Facts) -> Words:
    subject = claims["subject"]
    contract, terms = str(subject["contract"]), facts.terms.get(str(subject["terms"]))
    if terms is None:
        raise AuthorityError("these are not the terms of a contract in force", code="words.none")
    lead = f"Executions under contract {contract} may begin, on the terms below and no others."
    lines = (f"until {_time(subject['until'])}", f"reason: {subject['reason']}", *_flat(terms))
    return Words(f"Approve contract {contract}", lead, lines)


def _withdraw(claims: Mapping[str, Any], facts: Facts) -> Words:
    subject = claims["subject"]
    lines = (facts.approvals[str(subject["approval"])], f"reason: {subject['reason']}")
    return Words("Take an approval back", "No new grants will rest on it.", lines)


def _site(claims: Mapping[str, Any], _: Facts) -> Words:
    act, subject = str(claims["act"]), claims["subject"]
    site = str(subject["site"])
    if act == "admit":
        lead = f"Whoever joins by the token made for it is believed, at every site, to be {site}."
        return Words(f"Admit site {site}", lead, (f"join key: {str(subject['key'])[:16]}",))
    if act == "remove-site":
        lead = f"Every site refuses {site}, its grants and its certificate, until it is admitted again."
        return Words(f"Remove site {site}", lead, ())
    if act == "drain":
        return Words(f"Drain site {site}", f"{site} will have no new executions.", ())
    return Words(f"End the drain of site {site}", f"{site} may have executions again.", ())


_ACTS: Mapping[str, Callable[[Mapping[str, Any], Facts], Words]] = {
    "enrol": _enrol,
    "retire": _retire,
    "enrol-key": _enrol_key,
    "retire-key": _retire_key,
    "apply": _apply,
    "approve": _approve,
    "withdraw": _withdraw,
    **dict.fromkeys(SITE_ACTS, _site),
}


def _flat(terms: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in terms.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        elif value or not isinstance(value, list | str):
            yield f"{path}{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"


def _key(enrolled: EnrolledKey) -> str:
    return enrolled.key.thumbprint[:16]


def _time(at_s: object) -> str:
    return datetime.fromtimestamp(int(str(at_s)), UTC).strftime("%Y-%m-%d %H:%M UTC")
