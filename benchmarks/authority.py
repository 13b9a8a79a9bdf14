"""What authority costs: chains, grants, proofs and revocations, as ratios to bare signatures measured in the same run.

    python benchmarks/authority.py [--rounds 5] [--json]

One thread, CPU time, best of the rounds, which are interleaved. The peer is `cryptography` itself: one sign or verify
of 1 KiB with a key already loaded and nothing parsed. "seen" means that the same chain was verified before; an exchange
is what a site computes for one token request: form, DPoP proof, chain, revocation, grant. HTTP, Cedar and fsync are not
in.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from urllib.parse import urlencode

from isochrone.authority.chain import ChainCache
from isochrone.authority.delegation import CHAIN_TOKEN_TYPE, VerifiedChain, join_chain
from isochrone.authority.desk import Desk, ExchangeGranted
from isochrone.authority.exchange import GRANT_TYPE, ExchangeRequest, parse_exchange
from isochrone.authority.grant import Allowance, Binding, Grant, mint, verify_grant
from isochrone.authority.jose import PrivateKey
from isochrone.authority.possession import Possession, ReplayWindow, make_dpop, verify_dpop
from isochrone.authority.revocation import Revocation, RevocationState, sign_entry, sign_heartbeat
from isochrone.authority.testing import NOW_S, World, named_key

HOPS = 4
ALLOWANCE = Allowance(8, "c0ffee")  # the chains are limited, as the dearest are; reserving it is the bus's work
URL = "https://vie.acme.example/token"


def raw(kty: str) -> dict[str, Callable[[], object]]:
    """The peer: bare signatures."""
    key, data = PrivateKey.generate(kty), bytes(1024)
    signature, name = key.sign(data), key.public.alg
    return {
        f"raw {name} sign": lambda: key.sign(data),
        f"raw {name} verify": lambda: key.public.verifies(signature, data),
    }


class Minting:
    """A site that mints `ward-chat` grants for one client, at two sites that policy allows."""

    def __init__(self, world: World) -> None:
        self.world, self.key, self.asked = world, named_key("site vie"), world.execution(site=None, jurisdiction=None)
        self.candidates = [world.execution(), world.execution(site="ber", jurisdiction="DE")]

    def __call__(self, chain: VerifiedChain) -> Grant:
        grant = mint(
            chain,
            self.key,
            self.world.groups,
            asked=self.asked,
            candidates=self.candidates,
            binding=Binding(jkt=chain.last.key.thumbprint),
            policy="p" * 43,
            epoch=7,
            fabric="acme",
            now_s=NOW_S,
            jti="g" * 22,
            allowance=ALLOWANCE,
        )
        assert isinstance(grant, Grant)
        return grant


def followed(revocations: int) -> RevocationState:
    """A fresh feed with this many live revocations of other people's hops."""
    feed = named_key("feed")
    state = RevocationState("acme", feed.public)
    for at in range(revocations):
        entry = Revocation(state.seq + 1, int(NOW_S), "hop", f"hop{at:09}", "left", "by", "req", depth=at % 8)
        after = state.apply([sign_entry(entry, state, feed)])
        assert isinstance(after, RevocationState)
        state = after
    heard = state.hear(sign_heartbeat(state, feed, NOW_S), now_s=NOW_S)
    assert isinstance(heard, RevocationState)
    return heard


class Exchange:
    """All that a site computes for one token request."""

    def __init__(self, kty: str, state: RevocationState, *, is_seen: bool) -> None:
        self.world, self.is_seen, self.served = World(kty=kty), is_seen, 0
        self.chain = self.world.chain(HOPS)
        self.client, self.mint = self.world.key(f"a{HOPS - 1}"), Minting(self.world)
        self.desk = Desk(named_key("site vie"), self.world.registry, self.world.groups, state)
        form = {
            "grant_type": GRANT_TYPE,
            "subject_token": join_chain(self.chain),
            "subject_token_type": CHAIN_TOKEN_TYPE,
            "scope": "contract:ward-chat",
        }
        self.form, self.replay = urlencode(form).encode(), ReplayWindow()
        self.jti = itertools.count()
        self.proofs = itertools.cycle([self.proof() for _ in range(2000)])

    def proof(self) -> str:
        """Made by the client, beforehand."""
        return make_dpop(self.client, method="POST", url=URL, now_s=NOW_S, jti=f"jti-{next(self.jti)}")

    def __call__(self) -> object:
        request = parse_exchange(self.form, fabric="acme")
        assert isinstance(request, ExchangeRequest)
        # The proofs repeat after 2,000; a new replay window then keeps them new without timing the client's signature.
        self.served += 1
        if self.served % 2000 == 0:
            self.replay = ReplayWindow()
        proof = verify_dpop(next(self.proofs), method="POST", url=URL, now_s=NOW_S, replay=self.replay)
        assert isinstance(proof, Possession)
        if not self.is_seen:
            self.desk.cache = ChainCache()
        answer = self.desk.exchange(
            request,
            proof,
            asked=self.mint.asked,
            candidates=self.mint.candidates,
            policy="p" * 43,
            now_s=NOW_S,
            jti="g" * 22,
            allowance=ALLOWANCE,
        )
        assert isinstance(answer, ExchangeGranted)
        return answer


def subjects(state: RevocationState) -> dict[str, tuple[str, Callable[[], object]]]:
    """Name -> (the raw operation it is compared with, what is timed)."""
    found: dict[str, tuple[str, Callable[[], object]]] = {}
    for kty, alg in (("EC", "ES256"), ("OKP", "Ed25519")):
        world, cache = World(kty=kty), ChainCache()
        chain = world.chain(HOPS)
        verified = world.verify(chain, cache=cache)
        assert isinstance(verified, VerifiedChain)
        found |= {
            f"verify new chain of {HOPS} ({alg})": (f"raw {alg} verify", lambda w=world, c=chain: w.verify(c)),
            f"verify seen chain of {HOPS} ({alg})": (
                f"raw {alg} verify",
                lambda w=world, c=chain, k=cache: w.verify(c, cache=k),
            ),
            f"exchange, seen chain ({alg})": (f"raw {alg} verify", Exchange(kty, state, is_seen=True)),
            f"exchange, new chain ({alg})": (f"raw {alg} verify", Exchange(kty, state, is_seen=False)),
        }
    world, site = World(), named_key("site vie")
    verified, minting = world.verified(HOPS), Minting(world)
    grant = minting(verified)
    found["mint grant"] = ("raw ES256 sign", lambda: minting(verified))
    found["verify grant"] = (
        "raw ES256 verify",
        lambda: verify_grant(grant.token, [site.public], fabric="acme", now_s=NOW_S),
    )
    heartbeat = sign_heartbeat(state, named_key("feed"), NOW_S)
    found["hear heartbeat"] = ("raw ES256 verify", lambda: state.hear(heartbeat, now_s=NOW_S))
    found[f"deny map of {len(state.revoked):,}"] = ("raw ES256 verify", lambda: state.deny_map(world.registry))
    return found


def timed(subject: Callable[[], object], budget_s: float = 0.1) -> float:
    """CPU seconds of one call, over about `budget_s`."""
    subject()
    begun = time.process_time()
    subject()
    once = max(time.process_time() - begun, 1e-6)
    calls = max(1, int(budget_s / once))
    begun = time.process_time()
    for _ in range(calls):
        subject()
    return (time.process_time() - begun) / calls


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--revocations", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    peers = raw("EC") | raw("OKP")
    measured = subjects(followed(options.revocations))
    best = dict.fromkeys([*peers, *measured], float("inf"))
    for _ in range(options.rounds):
        for name, subject in [*peers.items(), *((name, subject) for name, (_, subject) in measured.items())]:
            best[name] = min(best[name], timed(subject))
    rows = [(name, best[name], best[name] / best[measured[name][0]] if name in measured else 1.0) for name in best]
    if options.json:
        print(json.dumps([{"name": n, "cpu_s": s, "per_s": 1 / s, "ratio": r} for n, s, r in rows], indent=1))
        return
    print(f"{'':36} {'us':>9} {'per s':>9}   ratio to")
    for name, cost_s, ratio in rows:
        peer = f"{ratio:6.2f} x {measured[name][0]}" if name in measured else ""
        print(f"{name:36} {cost_s * 1e6:9.1f} {1 / cost_s:9,.0f}   {peer}")


if __name__ == "__main__":
    main()
