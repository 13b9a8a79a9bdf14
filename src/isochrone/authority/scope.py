"""What can be delegated: a closed, typed vocabulary, and the one meaning of "narrower than".

A `Scope` says by itself which executions it allows; nothing is inherited. A member left out does not restrict. Hence a
child may leave a member out only where its parent, and so every ancestor up to the root, left it out too: leaving out
what the parent restricts is a widening. On the wire it is one RFC 9396 ``authorization_details`` object.

| type of member | members | child is narrower or equal when |
|---|---|---|
| set of names | workloads, contracts, sites, vendors, hardware_classes, data_classes | it is a subset |
| set of areas | jurisdictions | every area of it, groups expanded, is in the parent's, groups expanded |
| upper limit | rate_rps_max, tokens_max, cost_max, not_after_s | it is lower or equal |
| lower limit | not_before_s | it is higher or equal |
| permission | may_delegate | it is not true where the parent's is false |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from isochrone.authority.reasons import Reason
from isochrone.errors import AuthorityError

__all__ = ["AUTHORIZATION_TYPE", "Execution", "Groups", "Money", "Scope", "check_identifier", "check_name"]

AUTHORIZATION_TYPE = "isochrone_execution"
NAMES_MAX = 256

# Names go into headers, into `|a|b|` lists and into exact-match tables: no separators, no blanks, no case folding.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:@/+-]{0,126}[A-Za-z0-9])?\Z")

# Digests and random ids are base64url: they may begin and end with its last two letters.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._:@/+-]{0,126}[A-Za-z0-9_-])?\Z")

# Set member of Scope -> field of Execution that must lie in it.
_SETS: Mapping[str, str] = {
    "workloads": "workload",
    "contracts": "contract",
    "sites": "site",
    "jurisdictions": "jurisdiction",
    "vendors": "vendor",
    "hardware_classes": "hardware_class",
    "data_classes": "data_class",
}
_UPPER = ("rate_rps_max", "tokens_max", "not_after_s")


def check_name(name: object, what: str) -> str:
    """`name` if it is a well-formed name of ours.

    Raises:
        AuthorityError: it is not.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise AuthorityError(
            f"{what} {name!r} is not a name: letters, digits and . _ : @ / + - inside, at most 128 characters",
            code="authority.name",
        )
    return name


def check_identifier(value: object, what: str) -> str:
    """`value` if it is a name, a digest or a random id.

    Raises:
        AuthorityError: it is not.
    """
    if not isinstance(value, str) or not _IDENTIFIER.match(value):
        raise AuthorityError(f"{what} {value!r} is neither a name nor base64url", code="authority.name")
    return value


class Groups:
    """Areas that contain areas, as ``{"EU": {"AT", "DE", ...}}``; containment is transitive, cycles are harmless."""

    __slots__ = ("_closed", "_members")

    def __init__(self, members: Mapping[str, frozenset[str]] | None = None) -> None:
        self._members = dict(members or {})
        self._closed = {name: self._closure(name) for name in self._members}

    def _closure(self, name: str) -> frozenset[str]:
        seen, todo = {name}, [name]
        while todo:
            fresh = self._members.get(todo.pop(), frozenset()) - seen
            seen |= fresh
            todo.extend(fresh)
        return frozenset(seen)

    def expand(self, areas: frozenset[str]) -> frozenset[str]:
        """The areas and all that they contain. A group is not implied by the list of its members."""
        if self._closed.keys().isdisjoint(areas):
            return areas
        return areas.union(*(self._closed[area] for area in areas if area in self._closed))


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of one currency in millionths, so that no sum ever rounds."""

    currency: str
    micros: int

    def __str__(self) -> str:
        return f"{self.currency} {self.micros / 1e6:.2f}"


@dataclass(frozen=True, slots=True)
class Execution:
    """The facts of one execution that a scope can restrict. A fact left out is unknown, and unknown is not allowed."""

    workload: str | None = None
    contract: str | None = None
    site: str | None = None
    jurisdiction: str | None = None
    vendor: str | None = None
    hardware_class: str | None = None
    data_class: str | None = None
    at_s: float | None = None


@dataclass(frozen=True)
class Scope:
    """What one delegation allows.

    Attributes:
        workloads, contracts, sites, vendors, hardware_classes, data_classes: exact names; None does not restrict.
        jurisdictions: areas, which may be groups; None does not restrict.
        rate_rps_max: requests per second over all sites together.
        tokens_max: tokens, in and out together, over the life of the delegation.
        cost_max: money over the life of the delegation.
        not_before_s, not_after_s: when executions may begin, seconds since 1970, the end excluded.
        may_delegate: whether the holder may delegate further; how deep, the hop's ``del_max_depth`` says.
    """

    workloads: frozenset[str] | None = None
    contracts: frozenset[str] | None = None
    sites: frozenset[str] | None = None
    jurisdictions: frozenset[str] | None = None
    vendors: frozenset[str] | None = None
    hardware_classes: frozenset[str] | None = None
    data_classes: frozenset[str] | None = None
    rate_rps_max: float | None = None
    tokens_max: int | None = None
    cost_max: Money | None = None
    not_before_s: int | None = None
    not_after_s: int | None = None
    may_delegate: bool = False

    def __post_init__(self) -> None:
        for name in _SETS:
            _check_names(name, getattr(self, name))
        for name in ("rate_rps_max", *_INTEGERS):
            _check_number(name, getattr(self, name))
        if type(self.may_delegate) is not bool:
            raise AuthorityError("may_delegate is true or false", code="authority.scope")
        if self.cost_max is not None:
            _check_money(self.cost_max)

    @cached_property
    def details(self) -> dict[str, Any]:
        """The RFC 9396 authorization details object, members in the order of the vocabulary."""
        shown: dict[str, Any] = {"type": AUTHORIZATION_TYPE}
        for member in fields(self):
            value = getattr(self, member.name)
            if isinstance(value, frozenset):
                shown[member.name] = sorted(value)
            elif isinstance(value, Money):
                shown[member.name] = {"currency": value.currency, "micros": value.micros}
            elif value is not None and value is not False:
                shown[member.name] = value
        return shown

    @classmethod
    def from_details(cls, details: object) -> Scope:
        """Read an authorization details object of our type.

        Raises:
            AuthorityError: another type, a member that is not of the vocabulary, or a value of the wrong kind.
        """
        if not isinstance(details, dict) or details.get("type") != AUTHORIZATION_TYPE:
            raise AuthorityError(f"authorization details are not of type {AUTHORIZATION_TYPE}", code="authority.scope")
        unknown = details.keys() - _MEMBERS
        if unknown:
            raise AuthorityError(
                f"authorization details name what cannot be delegated: {', '.join(sorted(unknown))}",
                code="authority.scope",
                hint=f"the vocabulary is closed: {', '.join(sorted(_MEMBERS))}",
            )
        read = {name: _read(name, value) for name, value in details.items() if name != "type"}
        return cls(**read)

    def narrowed(self, **members: Any) -> Scope:
        """This scope with some members replaced: the usual way to write a child. Not checked to be narrower."""
        return replace(self, **members)

    def widenings(self, parent: Scope, groups: Groups) -> list[Reason]:
        """Every way in which this scope is wider than `parent`; empty exactly when it is narrower or equal."""
        reasons = [_widened(name, getattr(self, name), getattr(parent, name), groups) for name in _SETS]
        for name in _UPPER:
            mine, theirs = getattr(self, name), getattr(parent, name)
            if theirs is not None and (mine is None or mine > theirs):
                reasons.append(_exceeds(name, mine, theirs))
        if parent.not_before_s is not None and (self.not_before_s is None or self.not_before_s < parent.not_before_s):
            reasons.append(_exceeds("not_before_s", self.not_before_s, parent.not_before_s))
        if parent.cost_max is not None and not _within(self.cost_max, parent.cost_max):
            reasons.append(_exceeds("cost_max", self.cost_max, parent.cost_max))
        if self.may_delegate and not parent.may_delegate:
            reasons.append(Reason("scope-widened", "may_delegate is true where the parent's is false"))
        return [reason for reason in reasons if reason]

    def is_narrower_or_equal(self, parent: Scope, groups: Groups) -> bool:
        """Whether every execution this scope allows is allowed by `parent` too. Reflexive and transitive."""
        return not self.widenings(parent, groups)

    def refusals(self, execution: Execution, groups: Groups) -> list[Reason]:
        """Every reason why this scope does not allow `execution`; empty exactly when it allows it.

        Budgets and rates are not facts of one execution: the ledger of `isochrone.authority.budget` holds them.
        """
        reasons: list[Reason] = []
        for name, fact in _SETS.items():
            allowed, value = getattr(self, name), getattr(execution, fact)
            if allowed is None:
                continue
            if value is None:
                reasons.append(Reason("scope-unknown", f"the {fact} is not known and the delegation restricts it"))
            elif value not in (groups.expand(allowed) if name == "jurisdictions" else allowed):
                reasons.append(Reason("scope-outside", f"{fact} {value} is not among {_listed(allowed)}"))
        if self.not_before_s is not None or self.not_after_s is not None:
            reasons.extend(self._untimely(execution.at_s))
        return reasons

    def _untimely(self, at_s: float | None) -> list[Reason]:
        if at_s is None:
            return [Reason("scope-unknown", "the time is not known and the delegation restricts it")]
        if self.not_before_s is not None and at_s < self.not_before_s:
            return [Reason("scope-outside", f"{at_s:.0f} is before the window opens at {self.not_before_s}")]
        if self.not_after_s is not None and at_s >= self.not_after_s:
            return [Reason("scope-outside", f"{at_s:.0f} is not before the window closes at {self.not_after_s}")]
        return []


_INTEGERS = ("tokens_max", "not_before_s", "not_after_s")
_MEMBERS = frozenset(member.name for member in fields(Scope)) | {"type"}


def _listed(names: frozenset[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _exceeds(name: str, mine: object, theirs: object) -> Reason:
    said = "left out" if mine is None else str(mine)
    return Reason("scope-widened", f"{name} is {said} where the parent's is {theirs}")


def _within(mine: Money | None, theirs: Money) -> bool:
    return mine is not None and mine.currency == theirs.currency and mine.micros <= theirs.micros


def _widened(name: str, mine: frozenset[str] | None, theirs: frozenset[str] | None, groups: Groups) -> Reason | None:
    if theirs is None or mine == theirs:
        return None
    if mine is None:
        return _exceeds(name, mine, _listed(theirs))
    extra = groups.expand(mine) - groups.expand(theirs) if name == "jurisdictions" else mine - theirs
    return Reason("scope-widened", f"{name} adds {_listed(extra)}") if extra else None


def _read(name: str, value: Any) -> Any:
    if name in _SETS:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise AuthorityError(f"{name} is not a list of names", code="authority.scope")
        return frozenset(value)
    if name == "cost_max":
        if not isinstance(value, dict) or value.keys() != {"currency", "micros"}:
            raise AuthorityError("cost_max is not a currency and an amount in micros", code="authority.scope")
        return Money(value["currency"], value["micros"])
    if value is None:
        raise AuthorityError(f"{name} is null; leave it out instead", code="authority.scope")
    return value


def _check_names(name: str, value: frozenset[str] | None) -> None:
    if value is None:
        return
    if not isinstance(value, frozenset) or not value or len(value) > NAMES_MAX:
        raise AuthorityError(
            f"{name} holds from 1 to {NAMES_MAX} names",
            code="authority.scope",
            hint="leave the member out to leave it unrestricted; an empty list would allow nothing",
        )
    for item in value:
        check_name(item, name)


def _check_number(name: str, value: float | None) -> None:
    if value is None:
        return
    kinds = (int,) if name in _INTEGERS else (int, float)
    if type(value) not in kinds or not math.isfinite(value) or not 0 <= value < 2**53:
        kind = "an integer" if name in _INTEGERS else "a number"
        raise AuthorityError(f"{name} is {value!r}, not {kind} from 0 to 2^53", code="authority.scope")


def _check_money(value: Money) -> None:
    if not isinstance(value.currency, str) or not re.fullmatch(r"[A-Z]{3}", value.currency):
        raise AuthorityError(f"{value.currency!r} is no ISO 4217 currency code", code="authority.scope")
    if type(value.micros) is not int or not 0 <= value.micros < 2**53:
        raise AuthorityError("cost_max is not an integer number of micros", code="authority.scope")
