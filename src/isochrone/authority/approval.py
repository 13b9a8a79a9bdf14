"""Whether the people whose approval a contract asks for gave it: a grant rests on that as well as on its chain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from isochrone.authority.acts import Approval
from isochrone.authority.identity import Registry
from isochrone.authority.reasons import Reason
from isochrone.authority.revocation import RevocationState
from isochrone.authority.scope import Scope
from isochrone.model.contract import Contract, Oversight

__all__ = ["Overseen", "is_live", "overseen"]

CLOCK_SKEW_S = 5.0


@dataclass(frozen=True, slots=True)
class Overseen:
    """What oversight says of one exchange.

    Attributes:
        required: of how many people the approval is needed.
        approvals: those that count, one of each person.
        refusal: why there is no grant; None when there may be one.
    """

    required: int
    approvals: tuple[Approval, ...] = ()
    refusal: Reason | None = None

    def to_json(self) -> dict[str, Any] | None:
        """As an exchange records it; None where nobody's approval is asked for."""
        return {"required": self.required, "approvals": [each.id for each in self.approvals]} if self.required else None


def overseen(
    name: str,
    contract: Contract,
    scope: Scope,
    registry: Registry,
    revocations: RevocationState,
    *,
    currency: str,
    now_s: float,
) -> Overseen:
    """Judge an exchange for a contract under a delegation of `scope`.

    An approval counts while it lives, for exactly the terms that were approved, if who gave it may (an active person
    whom the contract names, or any active operator where it names nobody) and neither person nor key is revoked.

    Args:
        currency: of the fabric, which `Oversight.above_cost` is in.
    """
    terms = contract.oversight
    if not terms.approvals or _is_below(terms, scope, currency):
        return Overseen(0)
    live = [
        each
        for each in registry.approvals.values()
        # One that was taken back counts no more, whatever the clock of who took it back says.
        if each.contract == name
        and each.ended_s is None
        and is_live(each, now_s)
        and _counts(each, terms, registry, revocations)
    ]
    counting = {each.by: each for each in live if each.terms == contract.digest}
    approvals = tuple(counting[by] for by in sorted(counting))
    if len(approvals) >= terms.approvals:
        return Overseen(terms.approvals, approvals)
    return Overseen(terms.approvals, approvals, _refusal(name, terms, len(approvals), live))


def is_live(approval: Approval, at_s: float) -> bool:
    """Whether an approval counted at a time: given before, not expired, and not taken back by then."""
    is_ended = approval.ended_s is not None and approval.ended_s <= at_s
    return approval.at_s <= at_s + CLOCK_SKEW_S and at_s < approval.until_s and not is_ended


def _is_below(terms: Oversight, scope: Scope, currency: str) -> bool:
    """Whether the delegation is bounded to a cost that needs no approval; one without a bound never is."""
    bound = scope.cost_max
    if terms.above_cost is None or bound is None or bound.currency != currency:
        return False
    return bound.micros <= terms.above_cost * 1e6


def _counts(approval: Approval, terms: Oversight, registry: Registry, revocations: RevocationState) -> bool:
    person = registry.human(approval.by)
    if person is None or person.key(approval.key) is None:
        return False
    if ("human", approval.by) in revocations.revoked or ("key", approval.key) in revocations.revoked:
        return False
    return approval.by in terms.by if terms.by else person.is_operator


def _refusal(name: str, terms: Oversight, given: int, live: Iterable[Approval]) -> Reason:
    whose = " or ".join(terms.by) if terms.by else "an operator"
    text = f"contract {name} needs the approval of {terms.approvals} ({whose}), and has {given}"
    if any(live):
        text += "; its terms have changed since others were given"
    return Reason("unapproved", f"{text}: isochrone approve {name}")
