"""Who may change the fabric: operators, unless a policy forbids it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from isochrone.model.difference import Change
from isochrone.model.fabric import Fabric
from isochrone.policy.bounds import world_of
from isochrone.policy.pdp import PDP, Request, Uid
from isochrone.policy.policies import PolicySet
from isochrone.policy.verdict import Allow
from isochrone.policy.vocabulary import HumanFacts

__all__ = ["OPERATORS", "administer_refusals", "touched"]

OPERATORS = "operators"
_DEFAULT = """@id("operators-administer")
permit (principal in Team::"operators", action == Action::"administer", resource);"""
_NOUNS = {"sites": "Site", "workloads": "Workload", "contracts": "Contract"}


@cache
def _default() -> PolicySet:
    return PolicySet.parse({"default.cedar": _DEFAULT})


def administer_refusals(
    policies: PolicySet, fabric: Fabric, operator: str, operation: str, resources: Iterable[Uid] = ()
) -> list[str]:
    """Why policies do not let an operator carry out an operation; empty exactly when they do.

    Args:
        policies: those in force before the change.
        operator: id of an active operator: that it is one, the caller knows from the registry.
        resources: what is touched, beside the fabric as a whole, which is always asked for.
    """
    world = replace(world_of(fabric), humans=(HumanFacts(operator, frozenset({OPERATORS})),), fabric=fabric.name)
    point = PDP(policies + _default(), world)
    found = []
    for resource in (("Fabric", fabric.name), *resources):
        verdict = point.verdict(Request(("Human", operator), "administer", resource, {"operation": operation}))
        if not isinstance(verdict, Allow):
            found += [f"{operator} may not {operation} {resource[0]} {resource[1]}: {each}" for each in verdict.reasons]
    return found


def touched(changes: Iterable[Change]) -> list[Uid]:
    """The sites, workloads and contracts that changes concern, as policies name them."""
    found: dict[Uid, None] = {}
    for change in changes:
        kind, _, rest = change.path.partition(".")
        name = rest.partition(".")[0]
        if kind in _NOUNS and name:
            found[_NOUNS[kind], name] = None
    return list(found)
