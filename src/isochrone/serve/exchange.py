"""The token endpoint of a site: Cedar at every site a contract allows, then the exchange desk, then the record.

It needs nobody else: registry, policies and revocations are all held here. Granted or refused, the exchange is durable
in the site's log, with the chain itself, before it is answered.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from isochrone.authority.approval import Overseen, overseen
from isochrone.authority.budget import Limits, Toll, limits_of
from isochrone.authority.delegation import VerifiedChain, parse_hop
from isochrone.authority.desk import Desk, ExchangeGranted, ExchangeRefused
from isochrone.authority.exchange import ExchangeRequest, OAuthError, parse_exchange, response
from isochrone.authority.grant import Allowance
from isochrone.authority.jose import PrivateKey, b64u_decode, b64u_encode
from isochrone.authority.known_groups import known_groups
from isochrone.authority.possession import (
    DPOP_AGE_S_MAX,
    Possession,
    ProofRejected,
    ReplayWindow,
    verify_certificate,
    verify_dpop,
)
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import Execution, Groups, Money
from isochrone.control.delegating import delegate_refusals
from isochrone.control.node import NodeState
from isochrone.errors import IsochroneError
from isochrone.model.fabric import Fabric
from isochrone.policy import AgentFacts, Allow, Request
from isochrone.policy.pdp import execution_context, hour_and_weekday
from isochrone.record.records import SiteIdentity
from isochrone.record.records import exchange as exchange_record
from isochrone.serve.budgets import Meter
from isochrone.serve.chains import Chains
from isochrone.serve.decisions import DecisionPoint
from isochrone.serve.logbook import Logbook

__all__ = ["STALE_AFTER_S", "Exchanger"]

# A site that has not heard the revocation feed's heartbeat for this long mints no grants.
STALE_AFTER_S = 5.0
# Longer than a proof of possession is taken after it was first shown, clocks that run ahead included.
PROOF_LIFE_S = 2 * DPOP_AGE_S_MAX
# A reservation that nobody settled by then, after its grant's end, counts as taken: streams end within 600 s.
_SETTLED_WITHIN_S = 660.0


def toll_of(fabric: Fabric, contract: str) -> Toll:
    """What one request of a contract can take: the most tokens its workload states, and exactly its price; twice where
    the contract lets it execute twice."""
    terms = fabric.contracts[contract]
    executions = 2 if terms.hedge else 1
    tokens = fabric.workloads[terms.workload].tokens_per_request_max
    micros = math.ceil(terms.price_per_1k * 1000) * executions
    return Toll(tokens * executions if tokens else None, Money(fabric.currency, micros))


@dataclass(slots=True)
class Exchanger:
    """One site's token endpoint, without HTTP.

    Attributes:
        meter: what this site took under budgets and rates, and where they are reserved.
        counted_at: names the counters of this site's proxy that are in force, None while none are.
    """

    key: PrivateKey
    here: SiteIdentity
    logbook: Logbook
    chains: Chains
    point: DecisionPoint
    meter: Meter
    counted_at: Callable[[], str | None]
    _groups: Groups = field(default_factory=known_groups)
    _replay: ReplayWindow = field(default_factory=ReplayWindow)
    _desk: Desk | None = None

    def remember_proofs(self, now_s: float) -> None:
        """Take from the log which proofs of possession were used: none is taken twice, also across a restart."""
        for record in self.logbook.since("exchange", int((now_s - PROOF_LIFE_S) * 1e6)):
            if record.get("proof"):
                until_s = record["start_us"] / 1e6 + PROOF_LIFE_S
                self._replay.is_new(b64u_decode(str(record["proof"])), now_s=now_s, until_s=until_s)

    async def exchange(
        self, state: NodeState, form: bytes, dpop: str | None, url: str, certificate: bytes | None = None
    ) -> dict[str, Any] | OAuthError:
        """Answer one request.

        Args:
            state: what the site knows now.
            dpop: the DPoP header, None when there is not exactly one.
            url: the endpoint's URL as the client sees it.
            certificate: what the client showed in TLS (DER), whose key the handshake proved.

        Returns:
            The success body of RFC 8693, or the error.

        Raises:
            StorageError: the exchange could not be recorded; then there is no grant.
        """
        if state.fabric is None or state.registry is None or state.revocations is None:
            return OAuthError("temporarily_unavailable", "this site has not heard from the hub yet", 503)
        asked = parse_exchange(form, fabric=state.fabric.name)
        if isinstance(asked, OAuthError):
            return asked
        now_s = time.time()
        possession = self._possession(dpop, url, certificate, now_s)
        answer = possession if isinstance(possession, tuple) else await self._decide(state, asked, possession, now_s)
        granted = answer if isinstance(answer, ExchangeGranted) else None
        reasons = () if isinstance(answer, ExchangeGranted) else answer
        used = None if isinstance(possession, tuple) or possession.proof is None else b64u_encode(possession.proof[0])
        record = exchange_record(
            self.here, int(now_s * 1e6), asked.chain, asked.contract,
            granted.grant.claims if granted else None, [str(reason) for reason in reasons], used,
            self._overseen(state, asked.contract, granted.chain, now_s).to_json() if granted else None,
        )  # fmt: skip
        await self.logbook.record(record | {"policy": state.policies.digest if state.policies else ""})
        if granted:
            self.chains.keep(asked.chain)
        return response(granted.grant) if granted else OAuthError.refusing(reasons)

    def _possession(
        self, dpop: str | None, url: str, certificate: bytes | None, now_s: float
    ) -> Possession | tuple[Reason, ...]:
        """What the grant is to be bound to: the key of a DPoP proof, or else the certificate that was shown."""
        if dpop is not None:
            proven = verify_dpop(dpop, method="POST", url=url, now_s=now_s, replay=self._replay)
        elif certificate is not None:
            proven = verify_certificate(certificate)
        else:
            needed = "one DPoP header, or a TLS client certificate, is needed: prove that you hold the chain's last key"
            return (Reason("possession", needed),)
        return proven.reasons if isinstance(proven, ProofRejected) else proven

    async def _decide(
        self, state: NodeState, asked: ExchangeRequest, possession: Possession, now_s: float
    ) -> ExchangeGranted | tuple[Reason, ...]:
        assert state.fabric is not None
        contract = state.fabric.contracts.get(asked.contract)
        if contract is None:
            return (Reason("scope-unknown", f"there is no contract {asked.contract}"),)
        wanted = Execution(
            workload=contract.workload, contract=asked.contract, data_class=contract.in_bounds.data_class, at_s=now_s
        )
        desk = self._desk_for(state)
        admitted = desk.admit(asked, possession, asked=wanted, now_s=now_s, when_unheard=contract.when_unheard)
        if isinstance(admitted, ExchangeRefused):
            return admitted.reasons
        if (unapproved := self._overseen(state, asked.contract, admitted, now_s).refusal) is not None:
            return (unapproved,)
        point = self.point(state.fabric, state.policies)
        if refused := delegate_refusals(point, state.fabric, admitted.hops):
            return tuple(Reason("policy", text) for text in refused)
        jti, denials = secrets.token_urlsafe(12), list[Reason]()
        limits, toll = limits_of(admitted), toll_of(state.fabric, asked.contract)
        until_s = now_s + desk.life_s(admitted, now_s) + _SETTLED_WITHIN_S
        allowance = await self._reserve(jti, limits, toll, now_s, until_s) if limits else None
        if isinstance(allowance, tuple):
            return allowance
        answer = desk.mint(
            admitted, possession, asked=wanted, candidates=self._candidates(state, asked, wanted, denials),
            policy=state.policies.digest[:24] if state.policies else "", now_s=now_s, jti=jti, allowance=allowance,
        )  # fmt: skip
        if limits:
            # Counted as nothing executed, if there is no grant.
            self.meter.count(jti, limits, toll, answer.grant.exp_s if isinstance(answer, ExchangeGranted) else now_s)
        return answer if isinstance(answer, ExchangeGranted) else (*answer.reasons, *denials)

    async def _reserve(
        self, jti: str, limits: Mapping[str, Limits], toll: Toll, now_s: float, until_s: float
    ) -> Allowance | tuple[Reason, ...]:
        """What a grant under a limited delegation may be used for, taken out of the accounts."""
        unheld = [reason for each in limits.values() for reason in each.unheld(toll)]
        at = self.counted_at()
        if at is None or self.meter.is_full:
            unheld.append(Reason("unheld", "this site cannot count more limited grants now: ask at another"))
        if unheld or at is None:
            return tuple(dict.fromkeys(unheld))
        try:
            requests = await self.meter.accounts.reserve(jti, limits, toll, now_s=now_s, until_s=until_s)
        except IsochroneError as error:
            return (Reason("unreserved", f"the delegation is limited, and nothing can be reserved now: {error}"),)
        return (requests,) if isinstance(requests, Reason) else Allowance(requests, at)

    def _overseen(self, state: NodeState, name: str, chain: VerifiedChain, now_s: float) -> Overseen:
        assert state.fabric is not None
        assert state.registry is not None
        assert state.revocations is not None
        contract = state.fabric.contracts[name]
        return overseen(
            name,
            contract,
            chain.last.scope,
            state.registry,
            state.revocations,
            currency=state.fabric.currency,
            now_s=now_s,
        )

    def _candidates(
        self, state: NodeState, asked: ExchangeRequest, wanted: Execution, denials: list[Reason]
    ) -> Iterator[Execution]:
        """The execution at every site and hardware class where contract and Cedar, asked in full, allow it.

        Lazy: the desk asks only once the chain is verified, so its last hop may be read here.
        """
        fabric, contract = state.fabric, asked.contract
        assert fabric is not None
        hop = parse_hop(asked.chain[-1])
        agent = AgentFacts(hop.agent, hop.human, len(asked.chain))
        for name, site in sorted(fabric.sites.items()):
            verdict = state.bounds.get((contract, name))
            if verdict is None or not verdict.allowed:
                continue
            refused = self._refusals(state, agent, wanted, name)
            denials += [Reason("policy", f"{name}: {reason}") for reason in refused]
            for hardware in () if refused else site.hardware:
                if hardware in fabric.workloads[fabric.contracts[contract].workload].service:
                    yield Execution(
                        wanted.workload, contract, name, site.jurisdiction, site.vendor, hardware,
                        wanted.data_class, wanted.at_s,
                    )  # fmt: skip

    def _refusals(self, state: NodeState, agent: AgentFacts, wanted: Execution, site: str) -> list[str]:
        """Why Cedar refuses the agent's exchange for, or execution at, a site; empty when it refuses neither."""
        when = hour_and_weekday(wanted.at_s or 0.0)
        context = execution_context(str(wanted.contract), str(wanted.workload), str(wanted.data_class), *when)
        found = []
        # Where the node of an executing site decides, with what only it knows, nobody can say so beforehand.
        decided_there = state.anywhere is not None and state.anywhere.asks(str(wanted.contract))
        for stage in ("exchange",) if decided_there else ("exchange", "execute"):
            request = Request(("Agent", agent.id), stage, ("Site", site), context, (agent,))
            verdict = self.point(state.fabric, state.policies).verdict(request)
            if not isinstance(verdict, Allow):
                found += [str(reason) for reason in verdict.reasons]
        return found

    def _desk_for(self, state: NodeState) -> Desk:
        assert state.registry is not None
        assert state.revocations is not None
        if self._desk is None:
            self._desk = Desk(self.key, state.registry, self._groups, state.revocations, stale_after_s=STALE_AFTER_S)
        self._desk.registry, self._desk.revocations = state.registry, state.revocations
        return self._desk
