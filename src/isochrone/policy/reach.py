"""Which sites a contract may use, for placement and the route lock. What depends on the request the proxy decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from isochrone.policy.compile import verdict_formula
from isochrone.policy.environment import Specialiser
from isochrone.policy.formula import FALSE, TRUE, Formula, bound
from isochrone.policy.policies import PolicySet
from isochrone.policy.specialise import Residual, specialise
from isochrone.policy.values import Known, Uid, Value
from isochrone.policy.verdict import Allow, Deny, Reason, Verdict
from isochrone.policy.vocabulary import ContractFacts, World

__all__ = ["allowed_sites"]


def allowed_sites(
    policies: PolicySet,
    contract: ContractFacts,
    world: World,
    *,
    sites: Iterable[str] | None = None,
    action: str = "execute",
) -> Mapping[str, Verdict]:
    """Per site: Allow when some request under the contract could be allowed there, else Deny with the reasons.

    `contract` is looked up in the world by its id; its `data_class` and `workload`, when given, are taken as fixed.
    With action ``place`` and an `owner`, the owner is the principal.
    """
    specialiser = Specialiser.of(world)
    known: dict[str, Value] = {"context.contract": Known(Uid("Contract", contract.id))}
    if contract.workload:
        known["context.workload"] = Known(Uid("Workload", contract.workload))
    if contract.data_class:
        known["context.data_class"] = Known(contract.data_class)
    if action == "place" and contract.owner:
        known["principal"] = Known(Uid("Human", contract.owner))
    chosen = [world.site(site).id for site in sites] if sites is not None else [site.id for site in world.sites]
    return {site: _verdict(policies, specialiser, site, action, known) for site in chosen}


def _verdict(
    policies: PolicySet, specialiser: Specialiser, site: str, action: str, known: Mapping[str, Value]
) -> Verdict:
    env = specialiser.environment(site, action, known)
    residuals = [specialise(policy, env) for policy in policies.policies]
    if verdict_formula(residuals, lenient=True) != FALSE:
        possible = [r for r in residuals if r.policy.effect == "permit" and bound(r.applies, upper=True) != FALSE]
        return Allow(tuple(Reason("permit", r.policy.id) for r in possible))
    return Deny(tuple(_reasons(residuals)))


def _reasons(residuals: list[Residual]) -> Iterable[Reason]:
    """Errors, then forbids, then the lack of a permit; what may hold is told only where nothing surely does."""
    certain = list(_causes(residuals, lambda formula: formula == TRUE))
    possible = certain or list(_causes(residuals, lambda formula: bound(formula, upper=False) != FALSE))
    return possible or [Reason("no-permit", text="no permit policy covers this contract at this site")]


def _causes(residuals: list[Residual], holds: Callable[[Formula], bool]) -> Iterable[Reason]:
    for residual in residuals:
        if holds(residual.error):
            yield Reason("error", residual.policy.id, "cannot be evaluated for this contract here")
    for residual in residuals:
        if residual.policy.effect == "forbid" and holds(residual.applies):
            yield Reason("forbid", residual.policy.id, residual.policy.note)
