"""Bounds of a fabric's contracts: what the contract itself says, and what the Cedar policies say, both at once.

The contract's own lists can only narrow; a policy the contract names must be there, or nothing is in bounds.
"""

from __future__ import annotations

from isochrone.model.bounds import outside
from isochrone.model.contract import Contract
from isochrone.model.countries import COUNTRIES
from isochrone.model.fabric import Fabric, Mistake
from isochrone.model.jurisdictions import jurisdiction_groups
from isochrone.model.site import Site
from isochrone.plan.verdicts import Verdict
from isochrone.policy.policies import PolicySet
from isochrone.policy.reach import allowed_sites
from isochrone.policy.verdict import Deny
from isochrone.policy.vocabulary import ContractFacts, SiteFacts, WorkloadFacts, World

__all__ = ["bounds_of", "check_policies", "world_of"]


def world_of(fabric: Fabric) -> World:
    """The fabric in the policies' vocabulary. People are not part of a fabric document: they are left unknown."""
    return World(
        sites=tuple(
            SiteFacts(
                id=name,
                tier=site.tier.value,
                vendor=site.vendor,
                operator=site.operator or site.vendor,
                jurisdiction=site.jurisdiction,
                hardware=frozenset(site.hardware),
                attestations=frozenset(site.attestations),
            )
            for name, site in sorted(fabric.sites.items())
        ),
        contracts=tuple(_facts(name, contract) for name, contract in sorted(fabric.contracts.items())),
        workloads=tuple(
            WorkloadFacts(name, workload.kind.value, workload.publisher or "")
            for name, workload in sorted(fabric.workloads.items())
        ),
    )


def bounds_of(fabric: Fabric, policies: PolicySet) -> dict[tuple[str, str], Verdict]:
    """Verdict by (contract, site): both placing and executing must be possible there."""
    world = world_of(fabric)
    found: dict[tuple[str, str], Verdict] = {}
    for name, contract in sorted(fabric.contracts.items()):
        stages = [allowed_sites(policies, _facts(name, contract), world, action=a) for a in ("place", "execute")]
        for site_name, site in sorted(fabric.sites.items()):
            reasons = list(_own_reasons(contract, site_name, site, policies))
            for stage in stages:
                verdict = stage[site_name]
                if isinstance(verdict, Deny):
                    reasons += [reason.policy or str(reason) for reason in verdict.reasons]
            found[name, site_name] = Verdict(not reasons, tuple(dict.fromkeys(reasons)))
    return found


def check_policies(fabric: Fabric, policies: PolicySet) -> list[Mistake]:
    """Mistakes that show only with the policies at hand: policies and jurisdictions that do not exist."""
    known = {policy.id for policy in policies.policies}
    found = []
    for name, contract in fabric.contracts.items():
        for index, wanted in enumerate(contract.in_bounds.policies):
            if wanted not in known:
                path = ("contracts", name, "in_bounds", "policies", index)
                found.append(Mistake(path, f"no policy has the id {wanted!r}", f"ids: {', '.join(sorted(known))}"))
    return [*found, *_check_places(fabric)]


def _check_places(fabric: Fabric) -> list[Mistake]:
    """Sites are in countries; contracts may also name groups of them."""
    groups = {group.id for group in jurisdiction_groups()}
    country = "an ISO 3166-1 alpha-2 code, such as DE (GB is the code of the United Kingdom)"
    found = [
        Mistake(("sites", name, "jurisdiction"), f"{site.jurisdiction!r} is no country", country)
        for name, site in fabric.sites.items()
        if site.jurisdiction not in COUNTRIES
    ]
    for name, contract in fabric.contracts.items():
        areas: list[tuple[tuple[str | int, ...], str]] = [
            (("in_bounds", "jurisdictions", index), area) for index, area in enumerate(contract.in_bounds.jurisdictions)
        ]
        areas += [(("home",), contract.home)] if contract.home else []
        for path, area in areas:
            if area not in groups and area not in COUNTRIES:
                hint = f"{country}, or one of {', '.join(sorted(groups))}"
                found.append(Mistake(("contracts", name, *path), f"{area!r} is no jurisdiction", hint))
    return found


def _facts(name: str, contract: Contract) -> ContractFacts:
    terms = contract.in_bounds
    return ContractFacts(name, contract.tenant, contract.home, terms.data_class, contract.workload)


def _own_reasons(contract: Contract, name: str, site: Site, policies: PolicySet) -> list[str]:
    """Why the contract's own terms exclude the site; empty when they do not."""
    terms = contract.in_bounds
    missing = [wanted for wanted in terms.policies if wanted not in {policy.id for policy in policies.policies}]
    own = outside(terms, name, jurisdiction=site.jurisdiction, vendor=site.vendor, hardware=site.hardware)
    return [f"policy {wanted} is missing" for wanted in missing] + [f"contract: {reason}" for reason in own]
