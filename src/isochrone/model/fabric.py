"""Fabric: all sites, workloads and contracts of one control plane, checked against each other."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints

from isochrone.model.base import Name, Noun, Positive
from isochrone.model.contract import Contract
from isochrone.model.keeping import Keeping, witnesses_of
from isochrone.model.site import Site, is_loopback
from isochrone.model.workload import External, Workload

__all__ = ["Emulation", "Fabric", "Mistake", "Publisher", "cross_check"]


# Names of logs and of the hub end so (RFC 2606): nobody's address can.
RESERVED = "isochrone.invalid"


class Emulation(Noun):
    """For fabrics whose sites all stand on one machine: distances added to every request between two sites.

    `rtt_ms` maps "a/b" (either order) to the round trip to emulate; pairs left out get stretch x the physics floor.
    """

    rtt_ms: dict[str, Positive] = Field(default_factory=dict)
    stretch: Annotated[float, Field(ge=1, le=10)] = 2.0


class Publisher(Noun):
    """Who makes models: the Ed25519 key, 32 bytes in base64, that signs their bundles."""

    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]


class Fabric(Noun):
    """A validated `fabric.yaml`.

    Attributes:
        publishers: whose bundles this fabric accepts.
        on_record: how records are kept and witnessed.
        policies: Cedar files, relative to the document.
        emulate: present only when sites share one machine and distances are added artificially.
    """

    name: Name
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "EUR"
    sites: dict[Name, Site] = Field(min_length=1)
    workloads: dict[Name, Workload] = Field(min_length=1)
    contracts: dict[Name, Contract] = Field(min_length=1)
    publishers: dict[Name, Publisher] = Field(default_factory=dict)
    on_record: Keeping = Keeping()
    policies: tuple[str, ...] = ()
    emulate: Emulation | None = None

    def with_drained(self, sites: Set[str]) -> Fabric:
        """This fabric with these of its sites drained as well."""
        drained = {name: self.sites[name].model_copy(update={"drained": True}) for name in sites & self.sites.keys()}
        return self.model_copy(update={"sites": {**self.sites, **drained}}) if drained else self


class Mistake(NamedTuple):
    """One thing wrong in a document: the keys that lead to it, what is wrong, what to do."""

    path: tuple[str | int, ...]
    problem: str
    hint: str = ""


def _missing(path: tuple[str | int, ...], kind: str, name: str, known: Iterator[str] | list[str]) -> Mistake:
    names = ", ".join(sorted(known)) or "none"
    return Mistake(path, f"there is no {kind} named {name!r}", f"{kind}s in this file: {names}")


def cross_check(fabric: Fabric) -> list[Mistake]:
    """Mistakes that only show when the nouns are held against each other. Returns all of them, in document order."""
    found: list[Mistake] = []
    for name, site in fabric.sites.items():
        found += _check_transport(name, site)
    found += _check_workloads(fabric)
    for name, contract in fabric.contracts.items():
        found += _check_contract(fabric, name, contract)
    found += _check_keeping(fabric)
    if fabric.emulate:
        found += _check_distances(fabric, fabric.emulate)
    return found


def _check_keeping(fabric: Fabric) -> list[Mistake]:
    witnesses = len(witnesses_of(frozenset(fabric.sites), min(fabric.sites)))
    if fabric.on_record.quorum is None or fabric.on_record.quorum <= witnesses:
        return []
    problem = f"each log has {witnesses} witnesses here, and a quorum of {fabric.on_record.quorum} is never met"
    return [Mistake(("on_record", "quorum"), problem, f"write {witnesses} at most, or leave it out: more than half")]


def _check_on_record(fabric: Fabric, name: str, contract: Contract) -> list[Mistake]:
    found: list[Mistake] = []
    terms, kept = contract.on_record, fabric.on_record.retention
    if terms.retention is not None and terms.retention.days > kept.days:
        problem = f"records kept for {terms.retention} rest on those of the main log, which are kept for {kept}"
        hint = f"write `on_record: {{retention: {terms.retention}}}` for the fabric as well"
        found.append(Mistake(("contracts", name, "on_record", "retention"), problem, hint))
    if terms.is_synchronous and terms.goes_on_unrecorded:
        problem = "what must be recorded before it runs cannot go on unrecorded"
        found.append(Mistake(("contracts", name, "on_record", "when_unrecorded"), problem, "write `stop`"))
    return found


def _check_transport(name: str, site: Site) -> list[Mistake]:
    path, tls = ("sites", name, "tls"), site.tls
    if tls is None:
        if site.address is None or is_loopback(site.address):
            return []
        problem = f"clients on other machines would send their grants to {site.address} in the clear"
        hint = "add `tls: {names: [NAME]}`, or `tls: {outside: true}` where TLS ends before the ingress"
        return [Mistake(("sites", name, "address"), problem, hint)]
    found = []
    if (tls.certificate_file is None) != (tls.key_file is None):
        found.append(Mistake(path, "a certificate and its key belong together", "name both files, or neither"))
    if tls.outside and (tls.certificate_file or tls.key_file):
        found.append(Mistake(path, "where TLS ends outside, no certificate is shown here", "leave the files out"))
    if any(each.endswith(RESERVED) for each in tls.names):
        found.append(Mistake((*path, "names"), f"names below {RESERVED} are the fabric's own", "use a name of yours"))
    return found


def _check_distances(fabric: Fabric, emulate: Emulation) -> list[Mistake]:
    found: list[Mistake] = []
    seen: set[frozenset[str]] = set()
    for pair in emulate.rtt_ms:
        path, ends = ("emulate", "rtt_ms", pair), pair.split("/")
        found += [_missing(path, "site", end, list(fabric.sites)) for end in ends if end not in fabric.sites]
        if len(ends) != 2 or ends[0] == ends[1]:
            found.append(Mistake(path, "a distance is between two sites", "write it as `a/b`"))
        elif frozenset(ends) in seen:
            found.append(Mistake(path, "this distance stands here twice, once in each direction", "keep one of them"))
        seen.add(frozenset(ends))
    return found


def _check_workloads(fabric: Fabric) -> list[Mistake]:
    found: list[Mistake] = []
    offered = {hardware for site in fabric.sites.values() for hardware in site.hardware}
    for name, workload in fabric.workloads.items():
        if workload.bundle:
            found += _check_bundle(fabric, name, workload)
        if isinstance(workload.runtime, External):
            for site in workload.runtime.at:
                if site not in fabric.sites:
                    found.append(_missing(("workloads", name, "runtime", "at", site), "site", site, list(fabric.sites)))
        if not offered & set(workload.service):
            wanted = ", ".join(sorted(workload.service))
            found.append(
                Mistake(
                    ("workloads", name, "service"),
                    f"no site has any of the hardware classes this workload can run on ({wanted})",
                    f"hardware classes at the sites: {', '.join(sorted(offered))}",
                )
            )
    return found


def _check_bundle(fabric: Fabric, name: str, workload: Workload) -> list[Mistake]:
    found: list[Mistake] = []
    if workload.publisher not in fabric.publishers:
        hint = "name a `publisher`, and its key under `publishers`: a bundle is verified by that key"
        found.append(Mistake(("workloads", name, "bundle"), "nobody's key verifies this bundle", hint))
    if workload.model.digest is None:
        problem = "without a digest of the model nothing binds this bundle to it"
        found.append(Mistake(("workloads", name, "bundle"), problem, "add `digest: sha256:...` to the model"))
    return found


def _check_contract(fabric: Fabric, name: str, contract: Contract) -> list[Mistake]:
    found: list[Mistake] = []
    if contract.workload not in fabric.workloads:
        path = ("contracts", name, "workload")
        found.append(_missing(path, "workload", contract.workload, list(fabric.workloads)))
    found += _check_on_record(fabric, name, contract)
    if contract.oversight.by and len(set(contract.oversight.by)) < contract.oversight.approvals:
        problem = f"{contract.oversight.approvals} approvals are asked for, of {len(set(contract.oversight.by))} people"
        hint = "name as many people, or leave `by` out: then any operator may approve"
        found.append(Mistake(("contracts", name, "oversight", "by"), problem, hint))
    for site in contract.demand_rps:
        if site not in fabric.sites:
            found.append(_missing(("contracts", name, "demand_rps", site), "site", site, list(fabric.sites)))
    for index, other in enumerate(contract.apart_from):
        where = ("contracts", name, "apart_from", index)
        if other == name:
            found.append(Mistake(where, "a contract cannot be kept apart from itself"))
        elif other not in fabric.contracts:
            found.append(_missing(where, "contract", other, list(fabric.contracts)))
    for index, site in enumerate(contract.in_bounds.sites):
        if site not in fabric.sites:
            place = ("contracts", name, "in_bounds", "sites", index)
            found.append(_missing(place, "site", site, list(fabric.sites)))
    return found
