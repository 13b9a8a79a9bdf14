"""SiteView: everything that one site's Envoy is compiled from, gathered in one immutable value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from isochrone.authority.revocation import DenyMap
from isochrone.forward.fib import Fib
from isochrone.forward.xds import Address, Json
from isochrone.model.fabric import Fabric

__all__ = ["Files", "Shadow", "SiteView", "members", "site_uri"]


def site_uri(fabric: str, site: str) -> str:
    """The URI name in a site's certificate (SPIFFE ID)."""
    return f"spiffe://{fabric}/site/{site}"


def members(view: SiteView) -> list[str]:
    """URI names of the sites that may hand over to this one: itself, and every other that is enrolled and in the
    fabric document."""
    sites = {view.site} | (view.enrolled & view.fabric.sites.keys())
    return [site_uri(view.fabric.name, site) for site in sorted(sites)]


@dataclass(frozen=True, slots=True)
class Files:
    """Where Envoy finds what it follows, as absolute paths on the site's machine.

    Attributes:
        xds: directory of the discovery files, watched.
        identity: directory with `trust.pem`, the certificate of the fabric's authority.
        journal: the access log both listeners write to.
        admin: Unix socket of the admin endpoint.
        authorizer: Unix socket where the node answers what Envoy must ask before it forwards.
    """

    xds: str
    identity: str
    journal: str
    admin: str
    authorizer: str = ""

    @property
    def live(self) -> str:
        """The file beside the journal in which both listeners name the requests that are running."""
        return self.journal.rpartition("/")[0] + "/live.jsonl"


@dataclass(frozen=True, slots=True)
class Shadow:
    """Rules that are evaluated and journaled beside those that decide: `here` and `anywhere` as `SiteView` has them."""

    number: int
    here: Json
    anywhere: Json


@dataclass(frozen=True, slots=True)
class SiteView:
    """The inputs of the compiler.

    Attributes:
        enrolled: sites of the roster: nobody else may hand over, whatever certificate it shows.
        peers: handover address of every other site whose address is known.
        down: peers this site's own probes hold for dead.
        stale_since_s: when the hub was last heard, seconds since 1970, where it is not heard any more.
        replicas: addresses of local model servers that are ready, by workload.
        jwks: public grant keys of all enrolled sites, a JWK Set.
        rules: RBAC `rules` compiled from Cedar for executions at this site, ALLOW only. They allow at least what full
            Cedar allows, and exactly that for contracts that `asked` does not name.
        anywhere_rules: the union of every site's rules: what no site would execute is refused at the ingress.
        asked: contracts of which this site's node decides, with full Cedar, what its proxy cannot.
        candidate: what runs in shadow.
        some_ask: whether any site's node does so, and needs to know which site was meant.
        allowed: sites in bounds by contract, by this site's own evaluation of the policies (not by the plan).
        plan: the plan's revision; `fib` may have been the same for some revisions.
        boot: changes with every start of this site's Envoy.
        deny, deny_recent: revoked ids by the header that carries them: most of them, and those that came since.
        rtt_ms: round trip to emulate towards this site, by ingress site; empty when distances are real.
    """

    fabric: Fabric
    site: str
    fib: Fib
    files: Files
    ingress: Address
    peer: Address
    node_api: Address
    peers: Mapping[str, Address]
    replicas: Mapping[str, tuple[Address, ...]]
    jwks: Json
    issuer: str
    rules: Json
    anywhere_rules: Json
    allowed: Mapping[str, frozenset[str]]
    deny: DenyMap
    policy_digest: str
    epoch: int
    desired: int = 0
    plan: int = 0
    asked: frozenset[str] = frozenset()
    some_ask: bool = False
    deny_recent: DenyMap = field(default_factory=dict)
    boot: str = ""
    candidate: Shadow | None = None
    enrolled: frozenset[str] = frozenset()
    down: frozenset[str] = frozenset()
    stale_since_s: float | None = None
    rtt_ms: Mapping[str, float] = field(default_factory=dict)
