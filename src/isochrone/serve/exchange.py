"""The token endpoint's decision: chain and proof of possession in, a grant or an OAuth error out, recorded either way.

It needs nobody else: chain, registry, policies and revocations are all held here. Numbered as they are done:
1 the form; 2 possession of the last key (DPoP); 3 freshness of the revocation feed; 4 the chain; 5 revocations;
6 Cedar at every site the contract allows; 7 the grant; 8 the record, durable before the answer.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from isochrone.authority.chain import ChainCache, verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.exchange import ExchangeRequest, OAuthError, parse_exchange, response
from isochrone.authority.grant import Binding, GrantRefused, mint
from isochrone.authority.jose import PrivateKey
from isochrone.authority.possession import ProofRejected, ReplayWindow, verify_dpop
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import Execution, Groups
from isochrone.control.node import NodeState
from isochrone.policy import PDP, AgentFacts, Allow, Request
from isochrone.policy.bounds import world_of
from isochrone.policy.pdp import execution_context
from isochrone.policy.vocabulary import jurisdiction_groups
from isochrone.record.records import SiteIdentity
from isochrone.record.records import exchange as exchange_record
from isochrone.serve.logbook import Logbook

__all__ = ["STALE_AFTER_S", "Exchanger"]

# A site that has not heard the revocation feed's heartbeat for this long mints no grants.
STALE_AFTER_S = 10.0


@dataclass(slots=True)
class Exchanger:
    """One site's token endpoint, without HTTP."""

    key: PrivateKey
    here: SiteIdentity
    logbook: Logbook
    groups: Groups = field(default_factory=lambda: Groups({g.id: g.members for g in jurisdiction_groups()}))
    _replay: ReplayWindow = field(default_factory=ReplayWindow)
    _cache: ChainCache = field(default_factory=ChainCache)
    _pdp: tuple[str, int, PDP] | None = None

    async def exchange(self, state: NodeState, form: bytes, dpop: str | None, url: str) -> dict[str, Any] | OAuthError:
        """Answer one request.

        Args:
            state: what the site knows now.
            dpop: the DPoP header, None when there is none.
            url: the endpoint's URL as the client sees it.

        Returns:
            The success body of RFC 8693, or the error.

        Raises:
            StorageError: the exchange could not be recorded; then there is no grant.
        """
        if state.fabric is None or state.registry is None or state.policies is None:
            return OAuthError("temporarily_unavailable", "this site has not heard of the fabric yet", 503)
        asked = parse_exchange(form, fabric=state.fabric.name)
        if isinstance(asked, OAuthError):
            return asked
        now_s = time.time()
        decided = self._decide(state, asked, dpop, url, now_s)
        minted = None if isinstance(decided, tuple) else decided
        reasons = [str(reason) for reason in decided] if isinstance(decided, tuple) else []
        claims = minted.claims if minted else None
        record = exchange_record(self.here, int(now_s * 1e6), asked.chain, asked.contract, claims, reasons)
        await self.logbook.record(record)
        return response(minted) if minted else OAuthError.refusing(decided if isinstance(decided, tuple) else ())

    def _decide(self, state: NodeState, asked: ExchangeRequest, dpop: str | None, url: str, now_s: float) -> Any:
        """The grant, or the reasons against it as a tuple."""
        assert state.fabric is not None
        assert state.registry is not None
        if dpop is None:
            return (Reason("possession", "no DPoP header: prove that you hold the chain's last key"),)
        if state.revocations is None or not state.revocations.is_fresh(now_s, STALE_AFTER_S):
            return (Reason("stale", f"no revocation heartbeat for {STALE_AFTER_S:g} s: no grants until it is back"),)
        contract = state.fabric.contracts.get(asked.contract)
        if contract is None:
            return (Reason("scope-unknown", f"there is no contract {asked.contract}"),)
        chain = verify_chain(asked.chain, state.registry, self.groups, now_s=now_s, cache=self._cache)
        if isinstance(chain, ChainRejected):
            return chain.reasons
        # Last of the cheap checks, so that a request refused for another reason does not use up its proof.
        proof = verify_dpop(dpop, method="POST", url=url, now_s=now_s, replay=self._replay)
        if isinstance(proof, ProofRejected):
            return proof.reasons
        if proof.jkt != chain.last.key.thumbprint:
            return (Reason("possession", "the proof is by another key than the chain's last one"),)
        revoked = [*state.revocations.chain_refusals(chain)]
        revoked += state.revocations.use_refusals(asked.contract, contract.workload)
        if revoked:
            return tuple(revoked)
        return self._mint(state, chain, asked.contract, proof.jkt, now_s)

    def _mint(self, state: NodeState, chain: VerifiedChain, name: str, jkt: str, now_s: float) -> Any:
        fabric = state.fabric
        assert fabric is not None
        assert state.policies is not None
        assert state.revocations is not None
        contract = fabric.contracts[name]
        in_bounds = [site for site in sorted(fabric.sites) if (v := state.bounds.get((name, site))) and v.allowed]
        allowed, denials = self._sites_allowed(state, chain, name, in_bounds, now_s)
        if not allowed:
            return tuple(denials) or (Reason("no-site", f"no site is in bounds for {name}"),)
        asked = Execution(
            workload=contract.workload, contract=name, data_class=contract.in_bounds.data_class, at_s=now_s
        )
        candidates = [
            Execution(
                asked.workload, name, site, fabric.sites[site].jurisdiction, fabric.sites[site].vendor, hardware,
                asked.data_class, now_s,
            )
            for site in allowed
            for hardware in fabric.sites[site].hardware
            if hardware in fabric.workloads[contract.workload].service
        ]  # fmt: skip
        minted = mint(
            chain, self.key, self.groups, asked=asked, candidates=candidates, binding=Binding(jkt=jkt),
            policy=state.policies.digest[:16], epoch=state.revocations.epoch, fabric=fabric.name, now_s=now_s,
            jti=secrets.token_urlsafe(12),
        )  # fmt: skip
        return tuple(minted.reasons) if isinstance(minted, GrantRefused) else minted

    def _sites_allowed(
        self, state: NodeState, chain: VerifiedChain, name: str, sites: list[str], now_s: float
    ) -> tuple[list[str], list[Reason]]:
        """The sites at which Cedar, asked in full, lets this agent execute; and why not at the others."""
        assert state.fabric is not None
        contract = state.fabric.contracts[name]
        moment = time.gmtime(now_s)
        context = execution_context(
            name, contract.workload, contract.in_bounds.data_class, moment.tm_hour, moment.tm_wday + 1
        )
        agents = (AgentFacts(chain.last.agent, chain.human, len(chain.hops)),)
        allowed, denials = [], []
        pdp = self._decision_point(state)
        for site in sites:
            stages = ("exchange", "execute")
            requests = [
                Request(("Agent", chain.last.agent), stage, ("Site", site), context, agents) for stage in stages
            ]
            verdicts = [pdp.verdict(request) for request in requests]
            if all(isinstance(verdict, Allow) for verdict in verdicts):
                allowed.append(site)
            else:
                denials += [Reason("policy", f"{site}: {why}") for v in verdicts if not v for why in v.reasons]
        return allowed, denials

    def _decision_point(self, state: NodeState) -> PDP:
        """Prepared once per revision of desired state."""
        assert state.policies is not None
        assert state.fabric is not None
        if self._pdp is None or self._pdp[:2] != (state.policies.digest, state.desired):
            self._pdp = (state.policies.digest, state.desired, PDP(state.policies, world_of(state.fabric)))
        return self._pdp[2]
