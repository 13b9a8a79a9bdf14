"""Every attack on authority that we know, by name: tried with real keys, and refused for its own reason."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from isochrone.authority.chain import ChainCache, verify_chain
from isochrone.authority.delegation import (
    HOP_TYP,
    ChainRejected,
    DelegationRefused,
    VerifiedChain,
    parse_hop,
)
from isochrone.authority.entitlement import RevocationRefused, may_revoke, sign_request
from isochrone.authority.grant import Binding, Grant, GrantRefused, is_bound_to, verify_grant
from isochrone.authority.identity import Identity, Registry
from isochrone.authority.jose import PrivateKey, b64u_decode, b64u_encode, sign_compact
from isochrone.authority.possession import ProofRejected, ReplayWindow, make_dpop, verify_dpop
from isochrone.authority.proof import EnrolledKey
from isochrone.authority.revocation import (
    Revocation,
    RevocationState,
    sign_entry,
    sign_heartbeat,
)
from isochrone.authority.testing import NOW_S, World, named_key

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture(params=["EC", "OKP"])
def world(request: pytest.FixtureRequest) -> World:
    return World(kty=request.param)


def codes(refused: object) -> set[str]:
    reasons = getattr(refused, "reasons", None)
    assert reasons, f"not refused: {refused}"
    return {reason.code for reason in reasons}


def claims_of(text: str) -> dict[str, Any]:
    return dict(json.loads(b64u_decode(text.split(".")[1])))


def forged(text: str, signer: PrivateKey, **changes: Any) -> str:
    """The hop `text` with claims replaced (None removes one), signed by `signer` whoever that is."""
    claims = {k: v for k, v in {**claims_of(text), **changes}.items() if v is not None}
    return sign_compact(claims, signer, typ=HOP_TYP)


def reheadered(text: str, **header: Any) -> str:
    first, rest = text.split(".", 1)
    return b64u_encode(json.dumps({**json.loads(b64u_decode(first)), **header}).encode()) + "." + rest


class TestDepthEscalation:
    def test_raising_the_permitted_depth(self, world: World) -> None:
        root = world.root(del_max_depth=1)
        two = world.child([root], by="a0", to="a1")
        assert isinstance(two, list)
        bad = forged(two[1], world.key("a0"), del_max_depth=5)
        assert codes(world.verify([root, bad])) == {"depth"}

    def test_going_deeper_than_permitted(self, world: World) -> None:
        root = world.root(del_max_depth=1)
        two = world.child([root], by="a0", to="a1")
        assert isinstance(two, list)
        assert "depth" in codes(world.child(two, by="a1", to="a2"))
        three = world.chain(3)[2]
        bad = forged(three, world.key("a1"), del_max_depth=2, par_hash=parse_hop(two[1]).id)
        assert "depth" in codes(world.verify([*two, bad]))

    def test_skipping_a_depth(self, world: World) -> None:
        chain = world.chain(2)
        bad = forged(chain[1], world.key("a0"), del_depth=3)
        assert codes(world.verify([chain[0], bad])) == {"depth"}

    def test_delegating_what_may_not_be_delegated(self, world: World) -> None:
        root = world.root(scope=world.scope(may_delegate=False))
        refused = world.child([root], by="a0", to="a1", scope=world.scope(may_delegate=False))
        assert codes(refused) == {"may-not-delegate"}
        child = forged(
            world.chain(2)[1],
            world.key("a0"),
            par_hash=parse_hop(root).id,
            authorization_details=[world.scope(may_delegate=False).details],
        )
        assert codes(world.verify([root, child])) == {"may-not-delegate"}

    def test_more_than_eight_hops(self, world: World) -> None:
        chain = world.chain(8)
        assert isinstance(world.verify(chain), VerifiedChain)
        assert isinstance(world.child(chain, by="a7", to="a8"), DelegationRefused)
        assert codes(world.verify([*chain, chain[-1]])) == {"length"}


class TestWidenedScope:
    @pytest.mark.parametrize(
        "wider",
        [
            {"workloads": frozenset({"chat", "trade"})},
            {"workloads": None},
            {"jurisdictions": frozenset({"EU", "CH"})},
            {"jurisdictions": frozenset({"EEA"})},
            {"jurisdictions": None},
            {"tokens_max": 100_001},
            {"tokens_max": None},
            {"data_classes": frozenset({"finance"})},
        ],
        ids=lambda wider: "-".join(
            f"{name}={'+'.join(sorted(to)) if isinstance(to, frozenset) else to}" for name, to in wider.items()
        ),
    )
    def test_widening_is_refused_when_issued_and_when_verified(self, world: World, wider: dict[str, Any]) -> None:
        chain = world.chain(2)
        scope = world.scope(**wider)
        assert codes(world.child(chain[:1], by="a0", to="a1", scope=scope)) == {"scope-widened"}
        bad = forged(chain[1], world.key("a0"), authorization_details=[scope.details])
        assert codes(world.verify([chain[0], bad])) == {"scope-widened"}

    def test_siblings_do_not_recombine(self, world: World) -> None:
        """Two halves of one authority, held by two agents, never make a whole again."""
        root = world.root()
        left = world.child([root], by="a0", to="a1", scope=world.scope(sites=frozenset({"vie"})))
        right = world.child([root], by="a0", to="a2", scope=world.scope(sites=frozenset({"ber"})))
        assert isinstance(left, list)
        assert isinstance(right, list)
        whole = world.child(left, by="a1", to="a2", scope=world.scope())
        assert codes(whole) == {"scope-widened"}
        assert {"spliced", "issuer", "depth"} <= codes(world.verify([root, left[1], right[1]]))
        both = [claims_of(left[1])["authorization_details"][0], claims_of(right[1])["authorization_details"][0]]
        union = forged(left[1], world.key("a0"), authorization_details=both)
        assert codes(world.verify([root, union])) == {"claim"}

    def test_an_unknown_restriction_is_not_ignored(self, world: World) -> None:
        chain = world.chain(2)
        details = world.scope().details | {"only_on_sundays": True}
        bad = forged(chain[1], world.key("a0"), authorization_details=[details])
        assert codes(world.verify([chain[0], bad])) == {"scope"}


class TestWrongKey:
    def test_a_hop_signed_by_a_stranger(self, world: World) -> None:
        chain = world.chain(2)
        assert codes(world.verify([chain[0], forged(chain[1], world.key("mallory"))])) == {"signature"}

    def test_a_stranger_who_names_their_own_key(self, world: World) -> None:
        chain, mallory = world.chain(2), world.key("mallory")
        bad = forged(chain[1], mallory, iss=mallory.public.thumbprint)
        assert codes(world.verify([chain[0], bad])) == {"issuer"}

    def test_a_root_signed_by_the_agent_itself(self, world: World) -> None:
        root, agent = world.root(), world.key("a0")
        assert codes(world.verify([forged(root, agent)])) == {"signature"}
        assert codes(world.verify([forged(root, agent, iss=agent.public.thumbprint)])) == {"unknown-key"}

    def test_a_root_in_the_name_of_another_person(self, world: World) -> None:
        assert codes(world.verify([forged(world.root(), world.key("ada"), sub="human:ben")])) == {"unknown-key"}

    def test_an_agent_as_the_root_principal(self, world: World) -> None:
        agent = Identity("agent:a0", "agent", "triage", (EnrolledKey(world.key("a0").public),))
        registry = Registry.anchored("acme", [*world.registry.people.values(), agent])
        key = world.key("a0")
        bad = forged(world.root(to="a1"), key, sub="agent:a0", iss=key.public.thumbprint)
        assert codes(verify_chain([bad], registry, world.groups, now_s=NOW_S)) == {"unknown-human"}

    def test_an_enrolled_agents_name_with_a_foreign_key(self, world: World) -> None:
        payments = Identity("agent:payments", "agent", "pays", (EnrolledKey(world.key("payments").public),))
        registry = Registry.anchored("acme", [*world.registry.people.values(), payments])
        cnf = {"jwk": world.key("mallory").public.jwk}
        bad = forged(world.root(), world.key("ada"), act={"sub": "agent:payments"}, cnf=cnf)
        assert codes(verify_chain([bad], registry, world.groups, now_s=NOW_S)) == {"impersonation"}
        cnf = {"jwk": world.key("payments").public.jwk}
        bad = forged(world.root(), world.key("ada"), act={"sub": "agent:other"}, cnf=cnf)
        assert codes(verify_chain([bad], registry, world.groups, now_s=NOW_S)) == {"impersonation"}

    def test_a_private_key_in_a_hop(self, world: World) -> None:
        bad = forged(world.root(), world.key("ada"), cnf={"jwk": world.key("a0").jwk()})
        assert codes(world.verify([bad])) == {"private-key"}


class TestSplicedParents:
    def test_a_wider_parent_under_the_same_child(self, world: World) -> None:
        narrow, wide = world.root(scope=world.scope(sites=frozenset({"vie"}))), world.root()
        child = world.child([narrow], by="a0", to="a1", scope=world.scope(sites=frozenset({"vie"})))
        assert isinstance(child, list)
        assert codes(world.verify([wide, child[1]])) == {"spliced"}

    def test_hops_left_out_repeated_or_reordered(self, world: World) -> None:
        chain = world.chain(4)
        for order in ([0, 2, 3], [1, 2, 3], [0, 1, 1, 2], [0, 2, 1, 3], [3, 2, 1, 0]):
            assert isinstance(world.verify([chain[at] for at in order]), ChainRejected), order

    def test_another_persons_root_under_the_same_agent(self, world: World) -> None:
        child = world.chain(2)[1]
        assert {"spliced", "principal"} <= codes(world.verify([world.root(human="ben"), child]))

    def test_a_cached_prefix_vouches_for_nothing_else(self, world: World) -> None:
        cache, chain = ChainCache(), world.chain(3)
        assert isinstance(world.verify(chain, cache=cache), VerifiedChain)
        other = world.root(human="ben")
        assert isinstance(world.verify([other, *chain[1:]], cache=cache), ChainRejected)
        body, _, signature = chain[2].rpartition(".")
        flipped = b64u_encode(bytes([b64u_decode(signature)[0] ^ 1]) + b64u_decode(signature)[1:])
        assert codes(world.verify([*chain[:2], f"{body}.{flipped}"], cache=cache)) == {"signature"}


class TestAlgorithms:
    @pytest.mark.parametrize("alg", ["none", "None", "HS256", "RS256", "ES384", "", None, 7, ["ES256"]])
    def test_alg_confusion_and_none(self, world: World, alg: object) -> None:
        assert codes(world.verify([reheadered(world.root(), alg=alg)])) == {"signature"}

    def test_an_empty_signature(self, world: World) -> None:
        unsigned = reheadered(world.root(), alg="none").rpartition(".")[0] + "."
        assert codes(world.verify([unsigned])) == {"signature"}

    def test_the_public_key_as_an_hmac_secret(self, world: World) -> None:
        import hashlib
        import hmac

        body = reheadered(world.root(), alg="HS256").rpartition(".")[0]
        mac = hmac.digest(world.key("ada").public.pem(), body.encode(), hashlib.sha256)
        assert codes(world.verify([f"{body}.{b64u_encode(mac)}"])) == {"signature"}

    def test_the_other_algorithm_of_the_list(self, world: World) -> None:
        other = "EdDSA" if world.kty == "EC" else "ES256"
        assert codes(world.verify([reheadered(world.root(), alg=other)])) == {"signature"}

    @pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c", "kid", "crit", "b64"])
    def test_keys_smuggled_into_the_header(self, world: World, member: str) -> None:
        value = world.key("mallory").public.jwk if member == "jwk" else "https://evil.example/keys"
        assert codes(world.verify([reheadered(world.root(), **{member: value})])) == {"header"}

    def test_all_zero_ecdsa_signature(self) -> None:
        world = World(kty="EC")
        body = world.root().rpartition(".")[0]
        assert codes(world.verify([f"{body}.{b64u_encode(bytes(64))}"])) == {"signature"}

    def test_a_token_of_another_kind(self, world: World) -> None:
        claims = claims_of(world.root())
        for typ in ("at+jwt", "JWT", "act+jwt"):
            assert codes(world.verify([sign_compact(claims, world.key("ada"), typ=typ)])) == {"type"}


class TestMalleability:
    def test_the_mirrored_ecdsa_signature_keeps_the_hops_name(self) -> None:
        """From (r, s) anyone makes (r, n - s). A second name for the same hop would dodge its revocation."""
        world = World(kty="EC")
        root = world.root()
        body, _, signature = root.rpartition(".")
        raw = b64u_decode(signature)
        mirrored = (P256_ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
        twin = f"{body}.{b64u_encode(raw[:32] + mirrored)}"
        assert twin != root
        first, second = world.verify([root]), world.verify([twin])
        assert isinstance(first, VerifiedChain)
        assert isinstance(second, VerifiedChain)
        assert first.digest == second.digest

    def test_another_spelling_of_the_same_base64url(self, world: World) -> None:
        root = world.root()
        for spelling in (root + "=", root + "\n", root.replace(".", "=.", 1), " " + root):
            assert isinstance(world.verify([spelling]), ChainRejected)
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        stray = root[:-1] + alphabet[alphabet.index(root[-1]) | 1]
        assert stray != root
        assert base64.urlsafe_b64decode(stray.split(".")[2] + "==") == b64u_decode(root.split(".")[2])
        assert codes(world.verify([stray])) == {"malformed"}

    def test_a_member_twice(self, world: World) -> None:
        payload = json.dumps(claims_of(world.root()))
        twice = payload[:-1] + ', "sub": "human:ben"}'
        head = world.root().split(".")[0]
        body = f"{head}.{b64u_encode(twice.encode())}"
        token = f"{body}.{b64u_encode(world.key('ada').sign(body.encode()))}"
        assert codes(world.verify([token])) == {"malformed"}


class TestTime:
    def test_clocks_that_run_ahead_and_behind(self, world: World) -> None:
        chain = world.chain(1)

        def at(offset_s: float) -> VerifiedChain | ChainRejected:
            return verify_chain(chain, world.registry, world.groups, now_s=NOW_S + offset_s, skew_s=5.0)

        assert isinstance(at(-5.0), VerifiedChain)
        assert codes(at(-5.1)) == {"not-yet"}
        assert isinstance(at(3599.9), VerifiedChain)
        assert codes(at(3600.0)) == {"expired"}

    def test_a_live_child_of_an_expired_parent(self, world: World) -> None:
        chain = world.chain(2)
        bad = forged(chain[1], world.key("a0"), exp=int(NOW_S) + 9999)
        assert codes(world.verify([chain[0], bad])) == {"outlives"}
        cache = ChainCache()
        long = world.child(chain[:1], by="a0", to="a1", life_s=10**6)
        assert isinstance(long, list)
        assert isinstance(world.verify(long, cache=cache), VerifiedChain)
        world.now_s += 3601
        assert codes(world.verify(long, cache=cache)) == {"expired"}

    def test_a_child_that_begins_before_its_parent(self, world: World) -> None:
        root = world.root(nbf=int(NOW_S) - 10)
        child = world.chain(2)[1]
        bad = forged(child, world.key("a0"), par_hash=parse_hop(root).id, nbf=int(NOW_S) - 20)
        assert codes(world.verify([root, bad])) == {"outlives"}

    def test_a_person_retired_after_the_chain_was_cached(self, world: World) -> None:
        from isochrone.authority.identity import sign_act

        cache, chain = ChainCache(), world.chain(2)
        assert isinstance(world.verify(chain, cache=cache), VerifiedChain)
        act = sign_act(world.registry, "retire", {"id": "human:ada"}, key=world.key("olga"), now_s=NOW_S)
        retired = world.registry.apply(act)
        assert isinstance(retired, Registry)
        world.registry = retired
        assert codes(world.verify(chain, cache=cache)) == {"unknown-human"}


class TestSizeAndShape:
    def test_oversized_tokens(self, world: World) -> None:
        assert codes(world.verify([])) == {"length"}
        assert codes(world.verify(["A" * 8193])) == {"oversized"}
        assert codes(world.verify(["A" * 5000] * 8)) == {"oversized"}

    @pytest.mark.parametrize("claim", sorted(claims_of(World().root())))
    def test_each_claim_missing(self, claim: str) -> None:
        world = World()
        assert isinstance(world.verify([forged(world.root(), world.key("ada"), **{claim: None})]), ChainRejected)

    @pytest.mark.parametrize("claim", sorted(claims_of(World().root())))
    @pytest.mark.parametrize("value", [True, -1, "", [], {}, 1e400, "\n"], ids=str)
    def test_each_claim_of_a_wrong_kind(self, claim: str, value: object) -> None:
        world = World()
        claims = {**claims_of(world.root()), claim: value}
        body = world.root().split(".")[0] + "." + b64u_encode(json.dumps(claims).encode())
        token = f"{body}.{b64u_encode(world.key('ada').sign(body.encode()))}"
        assert isinstance(world.verify([token]), ChainRejected)

    @pytest.mark.parametrize("junk", ["", ".", "..", "...", "a.b.c", "é.é.é", "\ud800", "~", "eyJ9.e30.AA"])
    def test_junk(self, junk: str) -> None:
        assert isinstance(World().verify([junk]), ChainRejected)

    def test_nested_to_death(self, world: World) -> None:
        deep = b64u_encode(b"[" * 5000)
        head = world.root().split(".")[0]
        assert codes(world.verify([f"{head}.{deep}.AAAA"])) == {"malformed"}


class TestOtherFabric:
    def test_a_chain_of_another_fabric(self, world: World) -> None:
        chain = World(fabric="umbrella", kty=world.kty).chain(2)
        assert codes(world.verify(chain)) == {"audience"}

    def test_a_hop_that_changes_fabric(self, world: World) -> None:
        chain = world.chain(2)
        assert codes(world.verify([chain[0], forged(chain[1], world.key("a0"), aud="umbrella")])) == {"audience"}

    def test_a_grant_of_another_fabric(self, world: World) -> None:
        other = World(fabric="umbrella")
        grant = other.grant(other.verified(1))
        assert isinstance(grant, Grant)
        site = named_key("site vie").public
        assert codes(verify_grant(grant.token, [site], fabric="acme", now_s=NOW_S)) == {"audience"}


class TestStolenGrant:
    def test_with_another_certificate(self, world: World) -> None:
        grant = world.grant(world.verified(2), binding=Binding(certificate_sha256=b"a" * 32))
        assert isinstance(grant, Grant)
        assert is_bound_to(grant, Binding(certificate_sha256=b"a" * 32))
        assert not is_bound_to(grant, Binding(certificate_sha256=b"b" * 32))
        assert not is_bound_to(grant, Binding(jkt="a" * 43))
        assert grant.headers()["x-isochrone-certificate"] == (b"a" * 32).hex()

    def test_with_another_key(self, world: World) -> None:
        chain = world.verified(2)
        grant = world.grant(chain)
        assert isinstance(grant, Grant)
        assert is_bound_to(grant, Binding(jkt=chain.last.key.thumbprint))
        assert not is_bound_to(grant, Binding(jkt=world.key("mallory").public.thumbprint))

    def test_minted_by_no_site_of_ours(self, world: World) -> None:
        grant = world.grant(world.verified(1))
        assert isinstance(grant, Grant)
        stranger = named_key("site mallory").public
        assert codes(verify_grant(grant.token, [stranger], fabric="acme", now_s=NOW_S)) == {"signature"}

    def test_stretched(self, world: World) -> None:
        grant = world.grant(world.verified(1))
        assert isinstance(grant, Grant)
        head, _, signature = grant.token.split(".")
        longer = b64u_encode(json.dumps({**grant.claims, "exp": 2**40}).encode())
        site = named_key("site vie").public
        refused = verify_grant(f"{head}.{longer}.{signature}", [site], fabric="acme", now_s=NOW_S)
        assert isinstance(refused, GrantRefused)
        assert codes(refused) == {"signature"}


class TestReplayedDPoP:
    URL = "https://vie.acme.example/token"

    def check(self, world: World, proof: str, replay: ReplayWindow, offset_s: float = 0.0, **other: Any) -> object:
        arguments = {"method": "POST", "url": self.URL} | other
        return verify_dpop(proof, now_s=NOW_S + offset_s, replay=replay, **arguments)

    def test_replayed(self, world: World) -> None:
        replay = ReplayWindow()
        proof = make_dpop(world.key("a0"), method="POST", url=self.URL, now_s=NOW_S, jti="j1")
        assert not isinstance(self.check(world, proof, replay), ProofRejected)
        for offset_s in (0.0, 30.0, 64.0):
            assert codes(self.check(world, proof, replay, offset_s)) == {"replayed"}
        assert codes(self.check(world, proof, replay, 66.0)) == {"expired"}

    def test_for_another_endpoint_method_or_time(self, world: World) -> None:
        proof = make_dpop(world.key("a0"), method="POST", url=self.URL, now_s=NOW_S, jti="j1")
        replay = ReplayWindow()
        assert codes(self.check(world, proof, replay, method="GET")) == {"method"}
        assert codes(self.check(world, proof, replay, url="https://ber.acme.example/token")) == {"target"}
        assert codes(self.check(world, proof, replay, -6.0)) == {"not-yet"}
        assert codes(self.check(world, proof, replay, nonce="n")) == {"nonce"}
        assert codes(self.check(world, proof, replay, access_token="t")) == {"ath"}
        assert not isinstance(self.check(world, proof, replay), ProofRejected), "a refused proof is not used up"


class TestRevocationFeed:
    KEY = named_key("feed")

    def entry(self, state: RevocationState, item: str, at_s: int = int(NOW_S)) -> str:
        revocation = Revocation(state.seq + 1, at_s, "agent", item, "left", "by", "req")
        return sign_entry(revocation, state, self.KEY)

    def followed(self, *items: str) -> tuple[list[RevocationState], list[str]]:
        states, entries = [RevocationState("acme", self.KEY.public)], list[str]()
        for item in items:
            entries.append(self.entry(states[-1], item))
            after = states[-1].apply(entries[-1:])
            assert isinstance(after, RevocationState)
            states.append(after)
        return states, entries

    def test_rolled_back(self) -> None:
        states, entries = self.followed("a", "b", "c")
        assert codes(states[3].apply([entries[0]])) == {"rollback"}
        old = sign_heartbeat(states[1], self.KEY, NOW_S)
        assert codes(states[3].hear(old, now_s=NOW_S)) == {"rollback"}

    def test_with_a_gap(self) -> None:
        states, entries = self.followed("a", "b", "c")
        assert codes(states[1].apply([entries[2]])) == {"gap"}
        assert codes(states[0].apply([entries[0], entries[2]])) == {"gap"}

    def test_a_heartbeat_cannot_hide_a_gap(self) -> None:
        """A node that withholds an entry and forwards the heartbeat makes nobody fresh."""
        states, _ = self.followed("a", "b")
        heartbeat = sign_heartbeat(states[2], self.KEY, NOW_S)
        assert codes(states[1].hear(heartbeat, now_s=NOW_S)) == {"gap"}
        assert not states[1].is_fresh(NOW_S, 5.0)

    def test_forked(self) -> None:
        states, _ = self.followed("a")
        here = states[1].apply([self.entry(states[1], "b")])
        assert isinstance(here, RevocationState)
        there = states[1].apply([self.entry(states[1], "x")])
        assert isinstance(there, RevocationState)
        assert codes(here.apply([self.entry(there, "c")])) == {"fork"}
        assert codes(here.hear(sign_heartbeat(there, self.KEY, NOW_S), now_s=NOW_S)) == {"fork"}

    def test_signed_by_another_key_or_for_another_fabric(self) -> None:
        states, _ = self.followed("a")
        revocation = Revocation(2, int(NOW_S), "agent", "b", "left", "by", "req")
        assert codes(states[1].apply([sign_entry(revocation, states[1], named_key("mallory"))])) == {"signature"}
        other = RevocationState("umbrella", self.KEY.public, states[1].seq, states[1].head)
        assert codes(states[1].apply([sign_entry(revocation, other, self.KEY)])) == {"audience"}
        assert codes(states[1].hear(sign_heartbeat(other, self.KEY, NOW_S), now_s=NOW_S)) == {"audience"}

    def test_a_lie_about_freshness(self) -> None:
        """Heartbeats held back, replayed, or dated ahead do not keep a cut-off site minting."""
        states, _ = self.followed("a")
        state = states[1].hear(sign_heartbeat(states[1], self.KEY, NOW_S), now_s=NOW_S)
        assert isinstance(state, RevocationState)
        replayed = state.hear(sign_heartbeat(states[1], self.KEY, NOW_S), now_s=NOW_S + 9)
        assert isinstance(replayed, RevocationState)
        assert not replayed.is_fresh(NOW_S + 9, 5.0)
        assert codes(state.hear(sign_heartbeat(state, self.KEY, NOW_S - 1), now_s=NOW_S)) == {"rollback"}
        assert codes(state.hear(sign_heartbeat(state, self.KEY, NOW_S + 60), now_s=NOW_S)) == {"future"}


class TestWhoMayRevoke:
    def ask(self, world: World, by: str, kind: Any, item: str, chain: VerifiedChain | None, **other: Any) -> object:
        request = sign_request("acme", kind, item, reason="lost", key=world.key(by), now_s=NOW_S, jti="r", **other)
        return may_revoke(request, world.registry, seq=1, now_s=NOW_S, chain=chain)

    def test_a_hops_signer_cannot_revoke_above_itself(self, world: World) -> None:
        chain = world.verified(3)
        ids = [hop.id for hop in chain.hops]
        verdicts = [
            [isinstance(self.ask(world, by, "hop", item, chain), Revocation) for item in ids]
            for by in ("ada", "a0", "a1", "a2", "ben", "mallory", "olga")
        ]
        assert verdicts == [
            [True, True, True],
            [False, True, True],
            [False, False, True],
            [False, False, False],
            [False, False, False],
            [False, False, False],
            [True, True, True],
        ]

    def test_stops_and_lifts_are_the_operators(self, world: World) -> None:
        for kind in ("contract", "workload", "fabric", "agent"):
            for by in ("ada", "a0", "mallory"):
                assert codes(self.ask(world, by, kind, "acme", world.verified(2))) == {"not-entitled"}
            assert isinstance(self.ask(world, "olga", kind, "acme", None), Revocation)
        assert isinstance(self.ask(world, "olga", "fabric", "acme", None, is_lifted=True), Revocation)
        assert codes(self.ask(world, "olga", "hop", "x", None, is_lifted=True)) == {"final"}

    def test_an_old_request_does_not_lift_a_new_stop(self, world: World) -> None:
        key = world.key("olga")
        lift = sign_request("acme", "fabric", "acme", reason="over", key=key, now_s=NOW_S, jti="r", is_lifted=True)
        refused = may_revoke(lift, world.registry, seq=1, now_s=NOW_S + 301)
        assert isinstance(refused, RevocationRefused)
        assert codes(refused) == {"stale"}
