"""Bounds of a capital document: its classes are contracts to the policies, its sites are sites, as in a fabric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isochrone.errors import InputError
from isochrone.policy.policies import PolicySet
from isochrone.policy.reach import allowed_sites
from isochrone.policy.verdict import Deny
from isochrone.policy.vocabulary import ContractFacts, SiteFacts, WorkloadFacts, World

if TYPE_CHECKING:
    from isochrone.serve.capital_document import ClassRow, Document

__all__ = ["check_names", "denied_by"]


def check_names(doc: Document, policies: PolicySet) -> None:
    """Refuse a class whose terms name a site, hardware or policy that is not there.

    Raises:
        InputError: every such name.
    """
    known = {
        "site": {s.name for s in doc.sites},
        "hardware": {h.name for h in doc.hardware},
        "policy": {p.id for p in policies.policies},
    }
    found = [
        f"class {c.name!r}: in_bounds names {what} {name!r}, which is not there"
        for c in doc.classes
        for what, names in (("site", c.in_bounds.sites), ("hardware", c.in_bounds.hardware),
                            ("policy", c.in_bounds.policies))
        for name in names
        if name not in known[what]
    ]  # fmt: skip
    if found:
        raise InputError(
            "the plan's input has mistakes:\n- " + "\n- ".join(found),
            code="capital.bounds",
            hint="sites and hardware are those of the document, policies those of the Cedar files it lists",
        )


def denied_by(doc: Document, policies: PolicySet) -> dict[tuple[str, str, str, str], str]:
    """(class, jurisdiction the work arises in, site, hardware) to the reason why policies deny it there.

    Both placing and executing must be possible, as for a fabric's contracts. Without policies nothing is denied.
    """
    if not policies.policies:
        return {}
    found = {}
    for home in sorted({p.jurisdiction for p in doc.places}):
        for hardware in doc.hardware:
            world = _world(doc, home, hardware.name)
            for contract in world.contracts:
                for action in ("place", "execute"):
                    for site, verdict in allowed_sites(policies, contract, world, action=action).items():
                        if isinstance(verdict, Deny):
                            told = dict.fromkeys(str(reason) for reason in verdict.reasons)
                            found[contract.id, home, site, hardware.name] = "; ".join(told)
    return found


def _world(doc: Document, home: str, hardware: str) -> World:
    """The document as the policies see it: this hardware at every site, all work from one jurisdiction, a workload a
    class (batch where it has no deadline)."""
    sites = tuple(
        SiteFacts(s.name, s.tier, s.vendor, s.operator or s.vendor, s.jurisdiction, frozenset({hardware}),
                  frozenset(s.attestations))
        for s in doc.sites
    )  # fmt: skip
    kinds = tuple(WorkloadFacts(c.name, "batch" if c.objective_ms is None else "inference") for c in doc.classes)
    return World(sites=sites, contracts=tuple(_facts(c, home) for c in doc.classes), workloads=kinds)


def _facts(row: ClassRow, home: str) -> ContractFacts:
    return ContractFacts(row.name, row.tenant, home or None, row.in_bounds.data_class, workload=row.name)
