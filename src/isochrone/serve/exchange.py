"""The token endpoint of a site: Cedar at every site a contract allows, then the exchange desk, then the record.

It needs nobody else: registry, policies and revocations are all held here. Granted or refused, the exchange is durable
in the site's log, with the chain itself, before it is answered.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from isochrone.authority.delegation import parse_hop
from isochrone.authority.desk import Desk, ExchangeGranted
from isochrone.authority.exchange import ExchangeRequest, OAuthError, parse_exchange, response
from isochrone.authority.jose import PrivateKey
from isochrone.authority.possession import ProofRejected, ReplayWindow, verify_dpop
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import Execution, Groups, Scope
from isochrone.control.node import NodeState
from isochrone.policy import AgentFacts, Allow, Request
from isochrone.policy.pdp import execution_context, hour_and_weekday
from isochrone.policy.vocabulary import jurisdiction_groups
from isochrone.record.records import SiteIdentity
from isochrone.record.records import exchange as exchange_record
from isochrone.serve.chains import Chains
from isochrone.serve.decisions import DecisionPoint
from isochrone.serve.logbook import Logbook

__all__ = ["STALE_AFTER_S", "Exchanger", "known_groups"]

# A site that has not heard the revocation feed's heartbeat for this long mints no grants.
STALE_AFTER_S = 5.0


def known_groups() -> Groups:
    """Jurisdictions and the groups they are in."""
    return Groups({group.id: group.members for group in jurisdiction_groups()})


def _unheld(scope: Scope) -> tuple[Reason, ...]:
    """Limits that no site counts yet: a grant under one would promise its giver what nothing keeps."""
    limits = {"a rate": scope.rate_rps_max, "a token budget": scope.tokens_max, "a money budget": scope.cost_max}
    return tuple(
        Reason("unheld", f"the delegation sets {name}, which this version cannot hold: delegate without it")
        for name, limit in limits.items()
        if limit is not None
    )


@dataclass(slots=True)
class Exchanger:
    """One site's token endpoint, without HTTP."""

    key: PrivateKey
    here: SiteIdentity
    logbook: Logbook
    chains: Chains
    point: DecisionPoint
    _groups: Groups = field(default_factory=known_groups)
    _replay: ReplayWindow = field(default_factory=ReplayWindow)
    _desk: Desk | None = None

    async def exchange(self, state: NodeState, form: bytes, dpop: str | None, url: str) -> dict[str, Any] | OAuthError:
        """Answer one request.

        Args:
            state: what the site knows now.
            dpop: the DPoP header, None when there is not exactly one.
            url: the endpoint's URL as the client sees it.

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
        answer = self._decide(state, asked, dpop, url, now_s)
        granted = answer if isinstance(answer, ExchangeGranted) else None
        reasons = () if isinstance(answer, ExchangeGranted) else answer
        record = exchange_record(
            self.here, int(now_s * 1e6), asked.chain, asked.contract,
            granted.grant.claims if granted else None, [str(reason) for reason in reasons],
        )  # fmt: skip
        await self.logbook.record(record)
        if granted:
            self.chains.keep(asked.chain)
        return response(granted.grant) if granted else OAuthError.refusing(reasons)

    def _decide(
        self, state: NodeState, asked: ExchangeRequest, dpop: str | None, url: str, now_s: float
    ) -> ExchangeGranted | tuple[Reason, ...]:
        assert state.fabric is not None
        contract = state.fabric.contracts.get(asked.contract)
        if contract is None:
            return (Reason("scope-unknown", f"there is no contract {asked.contract}"),)
        if dpop is None:
            return (Reason("possession", "one DPoP header is needed: prove that you hold the chain's last key"),)
        possession = verify_dpop(dpop, method="POST", url=url, now_s=now_s, replay=self._replay)
        if isinstance(possession, ProofRejected):
            return possession.reasons
        wanted = Execution(
            workload=contract.workload, contract=asked.contract, data_class=contract.in_bounds.data_class, at_s=now_s
        )
        denials: list[Reason] = []
        answer = self._desk_for(state).exchange(
            asked, possession, asked=wanted, candidates=self._candidates(state, asked, wanted, denials),
            policy=state.policies.digest[:24] if state.policies else "", now_s=now_s, jti=secrets.token_urlsafe(12),
        )  # fmt: skip
        if not isinstance(answer, ExchangeGranted):
            return (*answer.reasons, *denials)
        unheld = _unheld(answer.chain.last.scope)
        return unheld or answer

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
        for stage in ("exchange", "execute"):
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
