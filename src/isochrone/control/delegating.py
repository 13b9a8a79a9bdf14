"""What policies say of a delegation: each hop of a chain is judged where the chain is exchanged.

Whoever signs a hop needs nobody, so policies can only be asked afterwards; a hop that they deny gets no grant at any
site. Scopes narrow by themselves: where no permit speaks of ``delegate``, only forbids count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from isochrone.authority.delegation import Delegation
from isochrone.model.fabric import Fabric
from isochrone.policy.pdp import PDP, Request
from isochrone.policy.verdict import Deny
from isochrone.policy.vocabulary import AgentFacts, reference

__all__ = ["delegate_refusals"]

_UNLIMITED_CENTS = 2**53
_MICROS_PER_CENT = 10_000


def delegate_refusals(point: PDP, fabric: Fabric, hops: Sequence[Delegation]) -> list[str]:
    """Why policies deny a hop of a chain; empty exactly when they deny none.

    Args:
        point: of the policies in force. hops: verified, root first.
    """
    speaking = [policy for policy in point.policies.policies if policy.covers("delegate")]
    permits = any(policy.effect == "permit" for policy in speaking)
    found = []
    for at, hop in enumerate(hops if speaking else (), start=1):
        verdict = point.verdict(_request(fabric, hops, at))
        if isinstance(verdict, Deny):
            reasons = [each for each in verdict.reasons if permits or each.code != "no-permit"]
            found += [f"delegation to {hop.agent}: {each}" for each in reasons]
    return found


def _request(fabric: Fabric, hops: Sequence[Delegation], at: int) -> Request:
    hop = hops[at - 1]
    agents = tuple(AgentFacts(each.agent, each.human, depth) for depth, each in enumerate(hops[:at], start=1))
    giver = ("Human", hop.human) if at == 1 else ("Agent", hops[at - 2].agent)
    return Request(giver, "delegate", ("Agent", hop.agent), _context(fabric, hop), tuple(dict.fromkeys(agents)))


def _context(fabric: Fabric, hop: Delegation) -> dict[str, Any]:
    """A scope as policies see it: what it does not restrict is all that the fabric has."""
    scope, sites, terms = hop.scope, fabric.sites.values(), fabric.contracts.values()
    cost = scope.cost_max
    return {
        "workloads": [reference("Workload", each) for each in _or_all(scope.workloads, fabric.workloads)],
        "jurisdictions": [
            reference("Jurisdiction", each) for each in _or_all(scope.jurisdictions, {s.jurisdiction for s in sites})
        ],
        "vendors": _or_all(scope.vendors, {site.vendor for site in sites}),
        "data_classes": _or_all(scope.data_classes, {each.in_bounds.data_class for each in terms}),
        "budget_cents": _UNLIMITED_CENTS if cost is None else -(-cost.micros // _MICROS_PER_CENT),
        "lifetime_s": hop.exp_s - hop.nbf_s,
        "may_delegate": scope.may_delegate,
    }


def _or_all(chosen: frozenset[str] | None, every: Iterable[str]) -> list[str]:
    return sorted(every if chosen is None else chosen)
