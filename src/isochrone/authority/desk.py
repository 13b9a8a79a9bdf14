"""The exchange desk: every step from a token request to a grant, in the one order that is safe.

1. The revocation feed is fresh; else the contract says whether minting stops, degrades or continues.
2. The chain verifies, to a named human (`chain`).
3. The client holds the key that the last hop delegates to (`possession`).
4. No hop, key, agent or person of the chain is revoked, and neither contract, workload nor fabric is stopped.
5. Chain and policy allow the contract somewhere, and a grant is minted (`grant`).

Policy is decided by the caller, who passes the executions that it permits as `candidates`. Under a limited delegation
the caller also reserves, between the fourth step and the fifth, what the grant may take (`budget`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from isochrone.authority.budget import RATE_LEASE_S
from isochrone.authority.chain import CLOCK_SKEW_S, ChainCache, verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.exchange import ExchangeRequest
from isochrone.authority.grant import GRANT_LIFE_S, Allowance, Grant, GrantRefused, mint
from isochrone.authority.identity import Registry
from isochrone.authority.jose import PrivateKey
from isochrone.authority.possession import Possession
from isochrone.authority.reasons import Reason
from isochrone.authority.revocation import DEGRADED_LIFE_S, DEGRADED_S, RevocationState
from isochrone.authority.scope import Execution, Groups
from isochrone.model.contract import WhenUnheard

__all__ = ["Desk", "ExchangeGranted", "ExchangeRefused"]


@dataclass(frozen=True, slots=True)
class ExchangeGranted:
    """The grant, and the chain that it rests on, which the log is to record."""

    grant: Grant
    chain: VerifiedChain


@dataclass(frozen=True, slots=True)
class ExchangeRefused:
    """No grant. `chain` is set when one was verified, so that the refusal can be recorded against its human."""

    reasons: tuple[Reason, ...]
    chain: VerifiedChain | None = None


@dataclass(slots=True)
class Desk:
    """What one site needs to exchange. Replace `registry` and `revocations` as they change.

    Attributes:
        site_key: the site's ES256 key.
        stale_after_s: a feed not heard for this long is stale.
        grant_life_s: lifetime of grants; with `stale_after_s` it makes the stated bound (`revocation.bound_s`).
    """

    site_key: PrivateKey
    registry: Registry
    groups: Groups
    revocations: RevocationState
    stale_after_s: float = 5.0
    grant_life_s: int = GRANT_LIFE_S
    skew_s: float = CLOCK_SKEW_S
    cache: ChainCache = field(default_factory=ChainCache)

    def exchange(
        self,
        request: ExchangeRequest,
        possession: Possession,
        *,
        asked: Execution,
        candidates: Iterable[Execution] | None,
        policy: str,
        now_s: float,
        jti: str,
        when_unheard: WhenUnheard = WhenUnheard.STOP,
        allowance: Allowance | None = None,
    ) -> ExchangeGranted | ExchangeRefused:
        """Decide one request by the numbered steps of this module.

        Args:
            asked: the contract's workload and data class; `contract` is that of the request.
            candidates, policy, jti, allowance: see `grant.mint`.
            when_unheard: what the contract prefers while revocations cannot be heard.
        """
        admitted = self.admit(request, possession, asked=asked, now_s=now_s, when_unheard=when_unheard)
        if isinstance(admitted, ExchangeRefused):
            return admitted
        return self.mint(
            admitted, possession, asked=asked, candidates=candidates, policy=policy, now_s=now_s, jti=jti,
            allowance=allowance,
        )  # fmt: skip

    def admit(
        self,
        request: ExchangeRequest,
        possession: Possession,
        *,
        asked: Execution,
        now_s: float,
        when_unheard: WhenUnheard = WhenUnheard.STOP,
    ) -> VerifiedChain | ExchangeRefused:
        """Steps 1 to 4: the chain, if this client may act under it now."""
        if asked.contract != request.contract:
            raise ValueError("what is asked for is not the contract of the request")
        if not self._may_mint(now_s, when_unheard):
            text = f"no revocation heartbeat within {self.stale_after_s:g} s: this site mints nothing"
            return ExchangeRefused((Reason("stale", text),))
        registry, groups = self.registry, self.groups
        chain = verify_chain(request.chain, registry, groups, now_s=now_s, skew_s=self.skew_s, cache=self.cache)
        if isinstance(chain, ChainRejected):
            return ExchangeRefused(chain.reasons)
        if possession.jkt != chain.last.key.thumbprint:
            text = f"the key proven is not the one delegated to {chain.last.agent}"
            return ExchangeRefused((Reason("possession", text),), chain)
        revoked = self.revocations.chain_refusals(chain)
        revoked += self.revocations.use_refusals(request.contract, asked.workload or "")
        if revoked:
            return ExchangeRefused(tuple(dict.fromkeys(revoked)), chain)
        return chain

    def mint(
        self,
        chain: VerifiedChain,
        possession: Possession,
        *,
        asked: Execution,
        candidates: Iterable[Execution] | None,
        policy: str,
        now_s: float,
        jti: str,
        allowance: Allowance | None = None,
    ) -> ExchangeGranted | ExchangeRefused:
        """Step 5, for a chain that was admitted now. Grants minted while nothing is heard live short."""
        grant = mint(
            chain,
            self.site_key,
            self.groups,
            asked=asked,
            candidates=candidates,
            binding=possession.binding,
            policy=policy,
            epoch=self.revocations.epoch,
            fabric=self.registry.fabric,
            now_s=now_s,
            jti=jti,
            life_s=self.life_s(chain, now_s),
            allowance=allowance,
        )
        if isinstance(grant, GrantRefused):
            return ExchangeRefused(grant.reasons, chain)
        return ExchangeGranted(grant, chain)

    def life_s(self, chain: VerifiedChain, now_s: float) -> int:
        """How long a grant for this chain lives at most: shorter under a rate, and while nothing is heard."""
        lives = [self.grant_life_s]
        if chain.last.scope.rate_rps_max is not None:
            lives.append(RATE_LEASE_S)
        if not self.revocations.is_fresh(now_s, self.stale_after_s):
            lives.append(DEGRADED_LIFE_S)
        return min(lives)

    def _may_mint(self, now_s: float, when_unheard: WhenUnheard) -> bool:
        if when_unheard is WhenUnheard.CONTINUE:
            return True
        return self.revocations.is_fresh(
            now_s, DEGRADED_S if when_unheard is WhenUnheard.DEGRADE else self.stale_after_s
        )
