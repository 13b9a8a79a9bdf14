"""The verdict of the node on one request that its Envoy asks about before forwarding it: whole chain, full Cedar.

1. The grant is verified anew; nothing else that came with the request is believed, except what Envoy itself says.
2. For synchronous evidence: the chain behind the grant is verified to its human, is the one that the grant names,
   is not revoked, and covers an execution here.
3. Cedar allows the execution at this site, asked in full, whatever of it is not known for certain.

Each step may refuse; a contract that asks for less is refused for less. Pure: the caller records the verdict, and for
synchronous evidence answers only once the record is durable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isochrone.authority.chain import ChainCache, verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.grant import Grant, tag
from isochrone.authority.scope import Execution, Groups
from isochrone.control.node import NodeState
from isochrone.policy.pdp import PDP, Request, execution_context, hour_and_weekday
from isochrone.policy.verdict import Allow, Deny, Reason, Verdict
from isochrone.policy.vocabulary import AgentFacts, reference

__all__ = ["Asked", "Judge", "is_synchronous"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What Envoy asks about.

    Attributes:
        execution: the request's id, made by the ingress's Envoy.
        role: the listener: ``ingress`` or ``peer``.
        here: whether this site may execute it; else it is handed over, and only its admission matters here.
        ingress, meant: where it entered and which site was meant to execute it; None where not told.
    """

    execution: str
    role: str
    here: bool
    method: str = ""
    path: str = ""
    ingress: str | None = None
    meant: str | None = None


def is_synchronous(state: NodeState, contract: str) -> bool:
    """Whether a contract's admissions must be durable before they are forwarded."""
    terms = state.fabric.contracts.get(contract) if state.fabric else None
    return terms is not None and terms.on_record.is_synchronous


@dataclass(slots=True)
class Judge:
    """Decides for one site. `groups` are jurisdictions and what they contain."""

    groups: Groups
    _chains: ChainCache = field(default_factory=ChainCache)

    def verdict(
        self,
        state: NodeState,
        point: PDP,
        grant: Grant,
        chain: Sequence[str] | None,
        asked: Asked,
        now_s: float,
        measured: Mapping[str, int] | None = None,
    ) -> Verdict:
        """Decide by the numbered steps of this module.

        Args:
            point: of the policies in `state`.
            grant: verified. chain: the compact hops behind it, None where the contract does not ask for them.
            measured: `rtt_us` from the ingress and `utilisation_percent`; None while not known.
        """
        fabric, contract = state.fabric, str(grant.claims["ctr"])
        if fabric is None or contract not in fabric.contracts:
            return _deny("unknown", f"there is no contract {contract}")
        if is_synchronous(state, contract):
            reasons = self._chain_refusals(state, grant, chain, asked, now_s)
            if reasons:
                return Deny(tuple(reasons))
        return _cedar(state, point, grant, asked, now_s, measured) if asked.here else Allow()

    def _chain_refusals(
        self, state: NodeState, grant: Grant, chain: Sequence[str] | None, asked: Asked, now_s: float
    ) -> list[Reason]:
        if state.registry is None or state.revocations is None:
            return [Reason("unknown", text="this site has not heard from the hub yet")]
        if chain is None:
            return [Reason("chain", text="the chain behind this grant is not known")]
        verified = verify_chain(chain, state.registry, self.groups, now_s=now_s, cache=self._chains)
        if isinstance(verified, ChainRejected):
            return [Reason(f"chain-{each.code}", text=str(each)) for each in verified.reasons]
        if not _is_behind(verified, grant):
            return [Reason("chain", text="the grant does not say what its chain says")]
        claims = grant.claims
        refused = state.revocations.chain_refusals(verified)
        refused += state.revocations.use_refusals(str(claims["ctr"]), str(claims["wl"]))
        if asked.here:
            for execution in _executions(state, claims, now_s):
                refused += verified.refusals(execution, self.groups)
        return [Reason(each.code, text=str(each)) for each in dict.fromkeys(refused)]


def _is_behind(chain: VerifiedChain, grant: Grant) -> bool:
    """Whether the grant was minted from this chain and says of it what it says itself."""
    claims = grant.claims
    return (
        claims["chd"] == chain.digest
        and claims["sub"] == chain.human
        and claims["act"]["sub"] == chain.last.agent
        and claims["dep"] == len(chain.hops)
        and all(claims.get(f"h{at}") == tag(hop.id) for at, hop in enumerate(chain.hops, start=1))
        and all(claims.get(f"k{at}") == tag(key) for at, key in enumerate(chain.keys))
    )


def _executions(state: NodeState, claims: Mapping[str, Any], now_s: float) -> list[Execution]:
    """The execution on each hardware class of this site that can run it: which it will be, no grant can say."""
    assert state.fabric is not None
    site, contract = state.fabric.sites[state.site], str(claims["ctr"])
    workload = state.fabric.contracts[contract].workload
    return [
        Execution(
            str(claims["wl"]), contract, state.site, site.jurisdiction, site.vendor, hardware, str(claims["dc"]), now_s
        )
        for hardware in site.hardware
        if hardware in state.fabric.workloads[workload].service
    ]


def _cedar(
    state: NodeState, point: PDP, grant: Grant, asked: Asked, now_s: float, measured: Mapping[str, int] | None
) -> Verdict:
    """Cedar's verdict, the first denial of all that may be the case."""
    claims = grant.claims
    agent = AgentFacts(str(claims["act"]["sub"]), str(claims["sub"]), int(claims["dep"]))
    optional: dict[str, Any] = {"ingress": reference("Site", asked.ingress)} if asked.ingress else {}
    if measured is not None:
        optional["measured"] = dict(measured)
    verdict: Verdict = Deny()
    for failover in _failovers(state, asked, str(claims["ctr"])):
        context = execution_context(
            str(claims["ctr"]), str(claims["wl"]), str(claims["dc"]), *hour_and_weekday(now_s),
            failover=failover, **optional,
        )  # fmt: skip
        request = Request(("Agent", agent.id), "execute", ("Site", state.site), context, (agent,))
        verdict = point.verdict(request)
        if isinstance(verdict, Deny):
            return verdict
    return verdict


def _failovers(state: NodeState, asked: Asked, contract: str) -> list[bool]:
    """Whether the execution here is a failover: both, where that is not known before it is forwarded."""
    if asked.role == "peer":
        return [False, True] if asked.meant is None else [asked.meant != state.site]
    rungs = state.plan.routes.get(state.site, {}).get(contract, ()) if state.plan else ()
    others = any({share.site for share in rung.shares} != {state.site} for rung in rungs)
    return [False, True] if others else [False]


def _deny(code: str, text: str) -> Deny:
    return Deny((Reason(code, text=text),))
