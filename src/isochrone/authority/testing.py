"""Tools for tests and simulations, public like the rest: a small world of people and agents with reproducible keys.

    world = World()
    chain = world.chain(4)
    verified = world.verify(chain)

Nothing here is secret and nothing of it belongs in a running fabric.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, TypeVar

from isochrone.authority.chain import ChainCache, verify_chain
from isochrone.authority.delegation import (
    ChainRejected,
    DelegationRefused,
    VerifiedChain,
    issue_child,
    issue_root,
    root_claims,
)
from isochrone.authority.grant import Allowance, Binding, Grant, GrantRefused, mint
from isochrone.authority.identity import Identity, Registry
from isochrone.authority.jose import PrivateKey
from isochrone.authority.proof import EnrolledKey
from isochrone.authority.scope import Execution, Groups, Scope

__all__ = ["NOW_S", "World", "named_key"]

T = TypeVar("T")

NOW_S = 1_800_000_000.0

EU = Groups({"EU": frozenset({"AT", "DE", "FR"}), "EEA": frozenset({"EU", "NO"})})


def named_key(name: str, kty: str = "EC") -> PrivateKey:
    """The key that belongs to a name: the same in every run."""
    return PrivateKey.from_seed(hashlib.sha256(f"{kty} {name}".encode()).digest(), kty)


@dataclass(slots=True)
class World:
    """Fabric `acme`, its operator Olga, Ada and Ben who delegate, and as many agents as a test names.

    Attributes:
        kty: key type of everyone in it.
        now_s: the one clock.
    """

    fabric: str = "acme"
    kty: str = "EC"
    now_s: float = NOW_S
    groups: Groups = EU
    registry: Registry = field(init=False)

    def __post_init__(self) -> None:
        people = (("olga", True), ("ada", False), ("ben", False))
        identities = (
            Identity(f"human:{name}", "human", name.title(), (EnrolledKey(self.key(name).public),), is_operator)
            for name, is_operator in people
        )
        self.registry = Registry.anchored(self.fabric, identities)

    def key(self, name: str) -> PrivateKey:
        """The key of a person or agent."""
        return named_key(name, self.kty)

    def scope(self, **members: Any) -> Scope:
        """A scope that allows chat with health data within the EU, and may be delegated."""
        usual: dict[str, Any] = {
            "workloads": frozenset({"chat"}),
            "contracts": frozenset({"ward-chat"}),
            "sites": frozenset({"vie", "ber"}),
            "jurisdictions": frozenset({"EU"}),
            "data_classes": frozenset({"health"}),
            "tokens_max": 100_000,
            "may_delegate": True,
        }
        return Scope(**(usual | members))

    def root(self, *, human: str = "ada", to: str = "a0", scope: Scope | None = None, **changes: Any) -> str:
        """A root hop from a person to agent `to`; `changes` replace claims before it is signed."""
        key = self.key(human)
        claims = root_claims(
            self.registry,
            f"human:{human}",
            key.public.thumbprint,
            agent=f"agent:{to}",
            agent_key=self.key(to).public,
            scope=scope or self.scope(),
            depth_max=7,
            now_s=self.now_s,
            life_s=3600,
            jti=f"jti-{human}-{to}",
        )
        return _issued(issue_root({**claims, **changes}, key))

    def child(
        self, chain: list[str], *, by: str, to: str, scope: Scope | None = None, **options: Any
    ) -> list[str] | DelegationRefused:
        """`chain` and one more hop, from agent `by` to agent `to`."""
        arguments: dict[str, Any] = {
            "agent": f"agent:{to}",
            "agent_key": self.key(to).public,
            "scope": scope or self.scope(),
            "now_s": self.now_s,
            "life_s": 1800,
            "jti": f"jti-{by}-{to}",
        }
        return issue_child(chain, self.key(by), self.groups, **(arguments | options))

    def chain(self, hops: int, scope: Scope | None = None) -> list[str]:
        """A chain of this many hops, from Ada by way of agents a0, a1 and so on."""
        chain = [self.root(scope=scope)]
        for at in range(1, hops):
            chain = _issued(self.child(chain, by=f"a{at - 1}", to=f"a{at}", scope=scope))
        return chain

    def verify(self, chain: list[str], *, cache: ChainCache | None = None) -> VerifiedChain | ChainRejected:
        """Verify now, against this world's registry."""
        return verify_chain(chain, self.registry, self.groups, now_s=self.now_s, cache=cache)

    def verified(self, hops: int, scope: Scope | None = None) -> VerifiedChain:
        """A verified chain of this many hops."""
        verified = self.verify(self.chain(hops, scope))
        assert isinstance(verified, VerifiedChain), verified
        return verified

    def execution(self, **facts: Any) -> Execution:
        """An execution that `scope` allows."""
        usual: dict[str, Any] = {
            "workload": "chat",
            "contract": "ward-chat",
            "site": "vie",
            "jurisdiction": "AT",
            "vendor": "acme-metal",
            "hardware_class": "gpu",
            "data_class": "health",
            "at_s": self.now_s,
        }
        return Execution(**(usual | facts))

    def grant(self, chain: VerifiedChain, **options: Any) -> Grant | GrantRefused:
        """A grant minted by site `vie` for `ward-chat`, bound to the key of the chain's last hop."""
        arguments: dict[str, Any] = {
            "asked": self.execution(),
            "candidates": [self.execution()],
            "binding": Binding(jkt=chain.last.key.thumbprint),
            "policy": "p" * 43,
            "epoch": 0,
            "fabric": self.fabric,
            "now_s": self.now_s,
            "jti": "grant-1",
            "allowance": Allowance(8, "c0ffee"),
        }
        return mint(chain, named_key("site vie"), self.groups, **(arguments | options))


def _issued(issued: T | DelegationRefused) -> T:
    if isinstance(issued, DelegationRefused):
        raise AssertionError("; ".join(map(str, issued.reasons)))
    return issued
