"""The node's control loop: what one site forwards by, from all it has learned. Pure, and right without the hub.

The plan is advice. What is in bounds is this site's own evaluation of the policies it holds, and who is alive is what
its own probes say, so a site that is cut off keeps its last plan, fails over by itself and never leaves the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from isochrone.authority.grant import issuer_name
from isochrone.authority.identity import Registry
from isochrone.authority.revocation import DenyMap, RevocationState, deny_beside
from isochrone.control.shadow import Candidate
from isochrone.forward.ease import eased
from isochrone.forward.fib import fib_for
from isochrone.forward.view import Files, Shadow, SiteView
from isochrone.forward.xds import Address, Json
from isochrone.latency.floor import rtt_floor_s
from isochrone.model.fabric import Fabric
from isochrone.model.site import Site
from isochrone.model.workload import External
from isochrone.plan.plan import Plan
from isochrone.plan.verdicts import Bounds, Verdict
from isochrone.policy.bounds import bounds_of, world_of
from isochrone.policy.compile import CompiledPolicy, compile_anywhere, compile_for_site
from isochrone.policy.policies import PolicySet
from isochrone.record.shards import classes_of

__all__ = [
    "STALE_AFTER_S", "Listening", "NodeState", "adopt", "denied", "probed", "refused_placements", "site_view",
    "stale_since", "wanted_replicas",
]  # fmt: skip

# So many probes in a row must fail before a peer is held for dead, and one success revives it.
PROBES_FAILED_MAX = 2
# A hub that was not heard of for so long is held for away: its plan goes on, and whoever asks is told since when.
STALE_AFTER_S = 5.0
# Envoy takes 0.3 ms for an entry of the large map (measured with 10,000), so new ones go into one this small.
RECENT_MAX = 256


@dataclass(frozen=True, slots=True)
class Listening:
    """Where this site listens."""

    ingress: Address
    peer: Address
    node_api: Address


@dataclass(frozen=True, slots=True)
class NodeState:
    """All that one site has learned (its RIB), as one value.

    Attributes:
        minters: the site whose grant key has a `kid`, by that `kid`.
        deny_in_force: the large revocation map as Envoy confirmed it; what came since goes into a small one beside it.
        envoy_boot: changes with every start of this site's Envoy.
        stale_since_s: when the hub was last heard, seconds since 1970, while it is not heard any more; else None.
        doubted: contract to site to the part of its share that a site keeps which is late now (see `control.lateness`).
    """

    site: str
    files: Files
    listening: Listening
    desired: int = 0
    fabric: Fabric | None = None
    policies: PolicySet | None = None
    compiled: CompiledPolicy | None = None
    anywhere: CompiledPolicy | None = None
    bounds: Bounds = field(default_factory=dict)
    plan: Plan | None = None
    peers: Mapping[str, Address] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    replicas: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    jwks: Json = field(default_factory=lambda: {"keys": []})
    minters: Mapping[str, str] = field(default_factory=dict)
    candidate: Candidate | None = None
    log_vkeys: Mapping[str, str] = field(default_factory=dict)
    witness_vkeys: Mapping[str, str] = field(default_factory=dict)
    revocations: RevocationState | None = None
    registry: Registry | None = None
    deny_in_force: DenyMap = field(default_factory=dict)
    envoy_boot: str = ""
    stale_since_s: float | None = None
    doubted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def noun(self) -> Site | None:
        """What the fabric says of this site."""
        return self.fabric.sites.get(self.site) if self.fabric is not None else None

    @property
    def shards(self) -> dict[str, str]:
        """Contract to the shard of its records, where that is not the main log."""
        return classes_of(self.fabric) if self.fabric is not None else {}

    @property
    def going_on(self) -> list[str]:
        """Contracts that are executed even where nothing can be recorded."""
        contracts = self.fabric.contracts if self.fabric is not None else {}
        return sorted(name for name, each in contracts.items() if each.on_record.goes_on_unrecorded)

    @property
    def down(self) -> frozenset[str]:
        """Peers that this site's own probes hold for dead."""
        return frozenset(site for site, count in self.failures.items() if count >= PROBES_FAILED_MAX)


def adopt(state: NodeState, revision: int, fabric: Fabric, policies: PolicySet) -> NodeState:
    """Take over desired state: policies are compiled here, by this site, for itself."""
    world = world_of(fabric)
    # The grant's own site list is checked beside the policies, by the `scope` filter.
    here = (
        compile_for_site(policies, state.site, world, check_grant_sites=False) if state.site in fabric.sites else None
    )
    return replace(
        state,
        desired=revision,
        fabric=fabric,
        policies=policies,
        compiled=here,
        anywhere=compile_anywhere(policies, world),
        bounds=bounds_of(fabric, policies),
    )


def probed(state: NodeState, peer: str, *, answered: bool) -> NodeState:
    """Take a probe's outcome into account."""
    count = 0 if answered else min(state.failures.get(peer, 0) + 1, PROBES_FAILED_MAX)
    if state.failures.get(peer, 0) == count:
        return state
    return replace(state, failures={**state.failures, peer: count})


def stale_since(heard_s: float | None, now_s: float) -> float | None:
    """When the hub was last heard, if that is too long ago for it to be there; None while it is heard, and where it
    never was. What is told stays the same for as long as it is away."""
    return None if heard_s is None or now_s - heard_s <= STALE_AFTER_S else heard_s


def wanted_replicas(state: NodeState) -> dict[str, int]:
    """Model servers the plan places here, by workload; those that run elsewhere already (`external`) are none of ours.

    A placement out of bounds is not carried out, whatever the plan says: see `refused_placements`.
    """
    return {workload: count for workload, count, verdicts in _placed(state) if any(each.allowed for each in verdicts)}


def refused_placements(state: NodeState) -> dict[str, tuple[str, ...]]:
    """Workloads that the plan places here and no contract allows here, with the reasons."""
    return {
        workload: tuple(dict.fromkeys(reason for each in verdicts for reason in each.reasons))
        for workload, _, verdicts in _placed(state)
        if not any(each.allowed for each in verdicts)
    }


def _placed(state: NodeState) -> Iterator[tuple[str, int, list[Verdict]]]:
    """Workload, count and this site's own verdict for each contract of the workload."""
    if state.plan is None or state.fabric is None:
        return
    for workload, count in state.plan.placements.get(state.site, {}).items():
        noun = state.fabric.workloads.get(workload)
        if noun is None or isinstance(noun.runtime, External):
            continue
        contracts = [name for name, terms in state.fabric.contracts.items() if terms.workload == workload]
        verdicts = [state.bounds.get((name, state.site)) for name in contracts]
        yield workload, count, [each for each in verdicts if each is not None]


def site_view(state: NodeState) -> SiteView | None:
    """What this site's Envoy is compiled from; None until desired state and a plan are known."""
    fabric, plan = state.fabric, state.plan
    if fabric is None or plan is None or state.compiled is None or state.anywhere is None:
        return None
    allowed = {
        contract: frozenset(site for site in fabric.sites if _allowed(state, contract, site))
        for contract in fabric.contracts
    }
    enrolled = frozenset(state.minters.values())
    others = (fabric.sites.keys() & enrolled) - {state.site}
    deny = denied(state)
    recent = deny_beside(state.deny_in_force, deny)
    # The large map is written anew when the small one has grown, and when something is no longer denied.
    grown = sum(map(len, recent.values())) > RECENT_MAX
    folded = deny if grown or deny_beside(deny, state.deny_in_force) else state.deny_in_force
    return SiteView(
        fabric=fabric,
        site=state.site,
        fib=eased(fib_for(fabric, plan, state.site, state.bounds), state.doubted),
        files=state.files,
        ingress=state.listening.ingress,
        peer=state.listening.peer,
        node_api=state.listening.node_api,
        enrolled=enrolled,
        peers={site: at for site, at in sorted(state.peers.items()) if site in others},
        replicas={**_external(fabric, state.site), **state.replicas},
        jwks=state.jwks,
        issuer=issuer_name(fabric.name),
        candidate=_in_shadow(state),
        rules=state.compiled.prefilter,
        anywhere_rules=state.anywhere.prefilter,
        asked=frozenset(contract for contract in fabric.contracts if state.compiled.asks(contract)),
        some_ask=bool(state.anywhere.needs_ext_authz),
        allowed=allowed,
        deny=folded,
        deny_recent=recent,
        boot=state.envoy_boot,
        policy_digest=state.policies.digest if state.policies else "",
        desired=state.desired,
        plan=plan.revision,
        epoch=state.revocations.epoch if state.revocations else 0,
        down=state.down,
        stale_since_s=state.stale_since_s,
        rtt_ms=emulated_rtt_ms(fabric, state.site),
    )


def denied(state: NodeState) -> DenyMap:
    """All that this site refuses because it was revoked."""
    return state.revocations.deny_map(state.registry) if state.revocations and state.registry else {}


def _in_shadow(state: NodeState) -> Shadow | None:
    """The candidate's rules, while what it would change is what is in force."""
    made = state.candidate
    if made is None or made.base != state.desired:
        return None
    return Shadow(made.number, made.here.rules, made.anywhere.rules)


def emulated_rtt_ms(fabric: Fabric, site: str) -> dict[str, float]:
    """Round trips to emulate towards `site` by ingress; empty when the sites really are apart."""
    if fabric.emulate is None:
        return {}

    found = {}
    for other in sorted(set(fabric.sites) - {site}):
        stated = fabric.emulate.rtt_ms.get(f"{other}/{site}", fabric.emulate.rtt_ms.get(f"{site}/{other}"))
        floor_ms = rtt_floor_s(fabric.sites[other].at, fabric.sites[site].at) * 1e3
        found[other] = stated if stated is not None else round(fabric.emulate.stretch * floor_ms, 3)
    return found


def _allowed(state: NodeState, contract: str, site: str) -> bool:
    verdict = state.bounds.get((contract, site))
    return verdict is not None and verdict.allowed


def _external(fabric: Fabric, site: str) -> dict[str, tuple[Address, ...]]:
    found: dict[str, tuple[Address, ...]] = {}
    for name, workload in fabric.workloads.items():
        if isinstance(workload.runtime, External) and site in workload.runtime.at:
            found[name] = (Address.parse(workload.runtime.at[site]),)
    return found
