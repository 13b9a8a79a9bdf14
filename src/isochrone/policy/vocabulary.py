"""The nouns a policy speaks of, as plain values, and the facts of a request that reach a proxy.

`World` is everything that is known before a request: sites, contracts, workloads, people and the dated table of
jurisdiction groups. What a request adds is in `FACTS`: each is a header that `jwt_authn` fills from a verified claim
(client copies are stripped before), or, for the time, something Envoy knows itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from isochrone.errors import PolicyError
from isochrone.model.jurisdictions import JurisdictionGroup, jurisdiction_groups
from isochrone.policy import engine
from isochrone.policy.formula import Fact

__all__ = [
    "DEPTH_MAX",
    "ENCODED_JSON",
    "FACTS",
    "FACT_MAX_BYTES",
    "SITES_HEADER",
    "AgentFacts",
    "ContractFacts",
    "HumanFacts",
    "SiteFacts",
    "WorkloadFacts",
    "World",
    "malformed_fact",
]

DEPTH_MAX = 8
"""Longest delegation chain the vocabulary knows; a deeper agent is refused before any policy is asked."""

FACT_MAX_BYTES = 256
"""Longest id or data class, in bytes of UTF-8."""

SITES_HEADER = "x-isochrone-sites"
"""The sites a grant may be used at, as ``|a|b|``, or ``*``: checked beside the policies, not by them."""

ENCODED_JSON = r"e30={0,2}|(ey[I-L]|W(y[I-L0-3]|z[A-Za-n]|3[Q-Ts-v]|2[YZab4-7]|1[s-v]))[A-Za-z0-9_-]*={0,2}|W10={0,2}"
"""What `jwt_authn` makes of a claim that is a list or object: base64url of its JSON, which begins with ``{"``, ``[``
and the first character of a value, or is empty. Such text equals no constant, so without this it could only be seen
by a negation, which it would satisfy."""

FACTS: Mapping[str, Fact] = {
    fact.name: fact
    for fact in (
        Fact("principal.human", "x-isochrone-human", entity_type="Human"),
        Fact("principal", "x-isochrone-agent", entity_type="Agent"),
        Fact("principal.depth", "x-isochrone-depth", domain=tuple(str(n) for n in range(1, DEPTH_MAX + 1))),
        Fact("context.contract", "x-isochrone-contract", entity_type="Contract"),
        Fact("context.workload", "x-isochrone-workload", entity_type="Workload"),
        Fact("context.data_class", "x-isochrone-data-class"),
        Fact("context.hour_utc", domain=tuple(str(n) for n in range(24))),
        Fact("context.weekday", domain=tuple(str(n) for n in range(1, 8))),
    )
}
"""Every request fact the compiler may use, by its place in a Cedar policy."""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What the fabric knows of a site from its enrolment (never from what the site says of itself)."""

    id: str
    tier: str
    vendor: str
    operator: str
    jurisdiction: str
    hardware: frozenset[str] = frozenset()
    attestations: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ContractFacts:
    """A contract as policies see it. `data_class` and `workload` are used by `allowed_sites`; `owner` is a human."""

    id: str
    tenant: str
    home: str | None = None
    data_class: str = ""
    workload: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadFacts:
    """A workload as policies see it. `kind` is inference, batch or training."""

    id: str
    kind: str = "inference"
    publisher: str = ""


@dataclass(frozen=True, slots=True)
class HumanFacts:
    """A named person and the teams she belongs to."""

    id: str
    teams: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """An agent of a request: who it acts for and how many delegations (1..`DEPTH_MAX`) away it is."""

    id: str
    human: str
    depth: int = 1


@dataclass(frozen=True)
class World:
    """All entities that exist before a request; `fabric` is its name, where it is asked about. `humans` None means
    the people are not known here (a proxy's node may not know them): then policies that ask for a person's teams are
    left to the external authorizer."""

    sites: tuple[SiteFacts, ...] = ()
    contracts: tuple[ContractFacts, ...] = ()
    workloads: tuple[WorkloadFacts, ...] = ()
    humans: tuple[HumanFacts, ...] | None = None
    groups: tuple[JurisdictionGroup, ...] = field(default_factory=jurisdiction_groups)
    fabric: str = ""

    def __post_init__(self) -> None:
        for kind in ("sites", "contracts", "workloads", "humans"):
            ids = [fact.id for fact in getattr(self, kind) or ()]
            if len(set(ids)) != len(ids):
                double = next(i for i in ids if ids.count(i) > 1)
                raise PolicyError(f"two {kind} have the id {double!r}", code="policy.duplicate", hint="rename one")
            for identifier in ids:
                if wrong := malformed_fact(identifier):
                    raise PolicyError(
                        f"id {identifier!r} of {kind} {wrong}", code="policy.id", hint="choose another id"
                    )

    @cached_property
    def documents(self) -> list[dict[str, Any]]:
        """Cedar entity documents, jurisdictions and tenants included."""
        entries = [_site(site) for site in self.sites]
        entries += [_contract(contract) for contract in self.contracts]
        entries += [_workload(workload) for workload in self.workloads]
        entries += [entity("Fabric", self.fabric, {"id": self.fabric}, [])] if self.fabric else []
        entries += [
            entity("Human", h.id, {"id": h.id}, [("Team", t) for t in sorted(h.teams)]) for h in self.humans or ()
        ]
        places = {s.jurisdiction for s in self.sites} | {c.home for c in self.contracts if c.home}
        places |= {member for group in self.groups for member in group.members}
        groups = {group.id for group in self.groups}
        for place in sorted(places - groups):
            parents = [("Jurisdiction", g.id) for g in self.groups if place in g.members]
            entries.append(entity("Jurisdiction", place, {}, parents))
        for group in self.groups:
            wider = [("Jurisdiction", g.id) for g in self.groups if group.members < g.members]
            entries.append(entity("Jurisdiction", group.id, {}, wider))
        return entries

    @cached_property
    def entities(self) -> engine.Entities:
        """Prepared, validated entities."""
        return engine.entities(self.documents)

    def site(self, identifier: str) -> SiteFacts:
        """The site of that id. Raises PolicyError."""
        for site in self.sites:
            if site.id == identifier:
                return site
        raise PolicyError(f"no site {identifier!r}", code="policy.unknown-site", hint="enrol it first")


def entity(kind: str, identifier: str, attrs: Mapping[str, Any], parents: list[tuple[str, str]]) -> dict[str, Any]:
    """One entity in Cedar's JSON entity format."""
    return {
        "uid": {"type": kind, "id": identifier},
        "attrs": dict(attrs),
        "parents": [{"type": t, "id": i} for t, i in parents],
    }


def reference(kind: str, identifier: str) -> dict[str, Any]:
    """An attribute value that names an entity."""
    return {"__entity": {"type": kind, "id": identifier}}


def _site(site: SiteFacts) -> dict[str, Any]:
    attrs = {
        "id": site.id,
        "tier": site.tier,
        "vendor": site.vendor,
        "operator": site.operator,
        "jurisdiction": reference("Jurisdiction", site.jurisdiction),
        "hardware": sorted(site.hardware),
        "attestations": sorted(site.attestations),
    }
    return entity("Site", site.id, attrs, [("Jurisdiction", site.jurisdiction)])


def _contract(contract: ContractFacts) -> dict[str, Any]:
    attrs: dict[str, Any] = {"id": contract.id, "tenant": reference("Tenant", contract.tenant)}
    if contract.home:
        attrs["home"] = reference("Jurisdiction", contract.home)
    return entity("Contract", contract.id, attrs, [("Tenant", contract.tenant)])


def _workload(workload: WorkloadFacts) -> dict[str, Any]:
    attrs = {"id": workload.id, "kind": workload.kind, "publisher": workload.publisher}
    return entity("Workload", workload.id, attrs, [])


def _human(human: HumanFacts) -> dict[str, Any]:
    return entity("Human", human.id, {"id": human.id}, [("Team", team) for team in sorted(human.teams)])


@lru_cache(maxsize=4096)
def malformed_fact(value: str) -> str:
    """Why `value` may not be an id or data class, or "" when it may.

    Two copies of a header are joined with a comma, and the proxy trims blanks and cannot carry control characters: a
    value with any of these could read differently at the proxy, so it is refused everywhere.
    """
    if not value:
        return "is empty"
    if len(value.encode("utf-8", "replace")) > FACT_MAX_BYTES:
        return f"is longer than {FACT_MAX_BYTES} bytes"
    if any(c < " " or c == "\x7f" for c in value):
        return "has a control character"
    if "," in value:
        return "has a comma"
    if value != value.strip(" "):
        return "begins or ends with a blank"
    if re.fullmatch(ENCODED_JSON, value):
        return "reads like an encoded list or object"
    return ""
