"""Verification of a delegation chain: offline, by anyone who holds the registry.

1. It has from 1 to 8 hops and is within its size.
2. Every hop parses: known header, type and claims, one scope of the closed vocabulary.
3. The root's principal is an active person of the registry, and an active key of theirs proves it (key or passkey).
4. The root is of depth 0 and for this fabric.
5. Every other hop is signed by the key that the hop before delegates to, and rests on that hop: linked by digest, same
   principal and fabric, one deeper, within the permitted depth, inside its lifetime, narrower or equal in scope.
6. No agent that the registry knows appears with a key that is not its own, or after it was retired.
7. Now lies in every hop's lifetime.

Steps 1 to 6 depend on the registry and not on the time: their result can be kept (`ChainCache`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from isochrone.authority.delegation import (
    CHAIN_BYTES_MAX,
    HOPS_MAX,
    ChainRejected,
    Delegation,
    VerifiedChain,
    link_faults,
    parse_hop,
)
from isochrone.authority.identity import Registry
from isochrone.authority.proof import EnrolledKey
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import Groups
from isochrone.errors import AuthorityError

__all__ = ["ChainCache", "verify_chain"]

CLOCK_SKEW_S = 5.0


@dataclass(slots=True)
class ChainCache:
    """Prefixes of chains already verified against one registry and one set of groups.

    Bounded without order of use: two generations, the older dropped when the younger is full. A key is the SHA-256 of
    the whole text of a prefix, signatures too, so a hit means that these very bytes were verified. Keep one `Groups`
    object for as long as the groups stay, since another one, even if equal, empties the cache. One thread only.
    """

    entries_max: int = 4096
    _young: dict[bytes, VerifiedChain] = field(default_factory=dict)
    _old: dict[bytes, VerifiedChain] = field(default_factory=dict)
    _against: tuple[object, ...] = ()

    def bind(self, registry: Registry, groups: Groups) -> None:
        """Forget everything unless it was verified against this registry and these groups."""
        against = (registry.fabric, registry.seq, registry.head, groups)
        if self._against != against:
            self._young, self._old, self._against = {}, {}, against

    def get(self, key: bytes) -> VerifiedChain | None:
        """What was verified under `key`."""
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: bytes, chain: VerifiedChain) -> None:
        """Keep a verified prefix."""
        if len(self._young) >= self.entries_max:
            self._old, self._young = self._young, {}
        self._young[key] = chain


def verify_chain(
    chain: Sequence[str],
    registry: Registry,
    groups: Groups,
    *,
    now_s: float,
    skew_s: float = CLOCK_SKEW_S,
    cache: ChainCache | None = None,
) -> VerifiedChain | ChainRejected:
    """Verify a chain by the numbered steps of this module.

    Args:
        chain: compact hops, root first.
        registry: who exists; also names the fabric.
        groups: areas that contain areas, for jurisdictions.
        now_s: seconds since 1970.
        skew_s: how far in the future a hop may begin, for issuers whose clocks run ahead. Expiry gets no such grace: a
            hop never lives longer than it says, so a verifier whose clock is behind by d accepts it for d longer.
        cache: prefixes verified before; updated.

    Returns:
        The verified chain, or the reasons of the first hop at fault.
    """
    if not 1 <= len(chain) <= HOPS_MAX:
        return _rejected("length", f"a chain has from 1 to {HOPS_MAX} hops, not {len(chain)}")
    if sum(map(len, chain)) > CHAIN_BYTES_MAX:
        return _rejected("oversized", f"a chain has at most {CHAIN_BYTES_MAX} bytes")
    keys = _prefix_keys(chain) if cache is not None else []
    verified: VerifiedChain | None = None
    if cache is not None:
        cache.bind(registry, groups)
        for key in reversed(keys):
            if (verified := cache.get(key)) is not None:
                break
    for at in range(len(verified.hops) if verified else 0, len(chain)):
        extended = _extended(verified, chain[at], at, registry, groups)
        if isinstance(extended, ChainRejected):
            return extended
        verified = extended
        if cache is not None:
            cache.put(keys[at], verified)
    assert verified is not None
    untimely = _untimely(verified, now_s, skew_s)
    return ChainRejected(tuple(untimely)) if untimely else verified


def _prefix_keys(chain: Sequence[str]) -> list[bytes]:
    running, keys = hashlib.sha256(), []
    for text in chain:
        running.update(text.encode("utf-8", "surrogatepass"))
        running.update(b"~")
        keys.append(running.digest())
    return keys


def _rejected(code: str, text: str, hop: int | None = None) -> ChainRejected:
    return ChainRejected((Reason(code, text, hop),))


def _extended(
    prefix: VerifiedChain | None, text: str, at: int, registry: Registry, groups: Groups
) -> VerifiedChain | ChainRejected:
    try:
        hop = parse_hop(text)
    except AuthorityError as error:
        return ChainRejected((Reason.of(error, at),))
    reasons = _agent_faults(hop, at, registry)
    if prefix is None:
        human = registry.human(hop.human)
        reasons.extend(_root_faults(hop, registry))
        if reasons or human is None:
            return ChainRejected(tuple(reasons))
        return VerifiedChain(human.id, human.name, (hop,))
    parent = prefix.last
    reasons.extend(link_faults(hop, parent, groups))
    # The cheap checks are made first: forged chains are refused without the cost of a signature.
    if not reasons and (fault := EnrolledKey(parent.key).fault(hop.document)) is not None:
        reasons.append(Reason(fault.code, fault.text, at))
    if reasons:
        return ChainRejected(tuple(reasons))
    return VerifiedChain(prefix.human, prefix.human_name, (*prefix.hops, hop))


def _root_faults(root: Delegation, registry: Registry) -> list[Reason]:
    if root.depth != 0:
        return [Reason("depth", f"the chain begins at depth {root.depth}: hops are missing", 0)]
    if root.fabric != registry.fabric:
        return [Reason("audience", f"is for fabric {root.fabric}, not {registry.fabric}", 0)]
    human = registry.human(root.human)
    if human is None:
        return [Reason("unknown-human", f"{root.human} is not an active person of this fabric", 0)]
    key = human.key(root.iss)
    if key is None:
        return [Reason("unknown-key", f"iss is not an active key of {root.human}", 0)]
    fault = key.fault(root.document)
    return [Reason(fault.code, fault.text, 0)] if fault else []


def _agent_faults(hop: Delegation, at: int, registry: Registry) -> list[Reason]:
    """An enrolled name means its enrolled keys; names that nobody enrolled are only what the parent calls them."""
    known, owner = registry.people.get(hop.agent), registry.owner(hop.key.thumbprint)
    if known is not None and not known.is_active:
        return [Reason("retired", f"{hop.agent} is retired", at)]
    if known is not None and known.key(hop.key.thumbprint) is None:
        return [Reason("impersonation", f"the key delegated to is not an active key of {hop.agent}", at)]
    if owner is not None and owner.id != hop.agent:
        return [Reason("impersonation", f"the key delegated to belongs to {owner.id}, not {hop.agent}", at)]
    return []


def _untimely(chain: VerifiedChain, now_s: float, skew_s: float) -> list[Reason]:
    reasons = []
    for at, hop in enumerate(chain.hops):
        if now_s >= hop.exp_s:
            reasons.append(Reason("expired", f"expired {now_s - hop.exp_s:.0f} s ago", at))
        if max(hop.nbf_s, hop.iat_s) > now_s + skew_s:
            reasons.append(Reason("not-yet", f"begins in {max(hop.nbf_s, hop.iat_s) - now_s:.0f} s", at))
    return reasons
