"""The exchange desk: every step from a token request to a grant, in the one order that is safe.

1. The revocation feed is fresh; else the contract says whether minting stops or goes on, degraded.
2. The chain verifies, to a named human (`chain`).
3. The client holds the key that the last hop delegates to (`possession`).
4. No hop, key, agent or person of the chain is revoked, and neither contract, workload nor fabric is stopped.
5. Chain and policy allow the contract somewhere, and a grant is minted (`grant`).

Policy is decided by the caller, who passes the executions that it permits as `candidates`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from isochrone.authority.chain import CLOCK_SKEW_S, ChainCache, verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.exchange import ExchangeRequest
from isochrone.authority.grant import GRANT_LIFE_S, Grant, GrantRefused, mint
from isochrone.authority.identity import Registry
from isochrone.authority.jose import PrivateKey
from isochrone.authority.possession import Possession
from isochrone.authority.reasons import Reason
from isochrone.authority.revocation import RevocationState
from isochrone.authority.scope import Execution, Groups

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
        mints_when_stale: bool = False,
    ) -> ExchangeGranted | ExchangeRefused:
        """Decide one request by the numbered steps of this module.

        Args:
            asked: the contract's workload and data class; `contract` is that of the request.
            candidates, policy, jti: see `grant.mint`.
            mints_when_stale: the contract prefers to go on while revocations cannot be heard; its bound is then void.
        """
        if asked.contract != request.contract:
            raise ValueError("what is asked for is not the contract of the request")
        if not mints_when_stale and not self.revocations.is_fresh(now_s, self.stale_after_s):
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
        grant = mint(
            chain,
            self.site_key,
            groups,
            asked=asked,
            candidates=candidates,
            binding=possession.binding,
            policy=policy,
            epoch=self.revocations.epoch,
            fabric=registry.fabric,
            now_s=now_s,
            jti=jti,
            life_s=self.grant_life_s,
        )
        if isinstance(grant, GrantRefused):
            return ExchangeRefused(grant.reasons, chain)
        return ExchangeGranted(grant, chain)
