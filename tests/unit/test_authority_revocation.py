"""Revocation: what stops when each kind of thing is revoked, freshness, pruning, and the stated bound."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.authority.entitlement import RevocationRefused, may_revoke, sign_request
from isochrone.authority.grant import HOP_HEADERS, KEY_HEADERS, Grant, tag
from isochrone.authority.identity import Identity, Registry, sign_act
from isochrone.authority.jose import sign_compact
from isochrone.authority.proof import EnrolledKey
from isochrone.authority.revocation import (
    ENTRY_TYP,
    FeedRejected,
    Revocation,
    RevocationState,
    bound_s,
    is_denied,
    sign_entry,
    sign_heartbeat,
)
from isochrone.authority.testing import NOW_S, World, named_key

WORLD = World()
FEED = named_key("feed")
EMPTY = RevocationState("acme", FEED.public)


def revoked(kind: Any, item: str, state: RevocationState = EMPTY, **members: Any) -> RevocationState:
    entry = Revocation(state.seq + 1, int(NOW_S), kind, item, "lost", "by", "req", **members)
    after = state.apply([sign_entry(entry, state, FEED)])
    assert isinstance(after, RevocationState), after
    return after


def denies(state: RevocationState, grant: Grant, registry: Registry = WORLD.registry) -> bool:
    return is_denied(grant.headers(), state.deny_map(registry))


def grant_of(hops: int) -> Grant:
    grant = WORLD.grant(WORLD.verified(hops))
    assert isinstance(grant, Grant)
    return grant


def test_every_ancestor_can_be_denied_at_the_proxy_and_at_the_exchange() -> None:
    """Any hop, any key and the human of a four-hop chain: each alone denies the grant and the next mint."""
    chain, grant = WORLD.verified(4), grant_of(4)
    assert not denies(EMPTY, grant, WORLD.registry)
    elements = [("hop", hop.id) for hop in chain.hops] + [("key", key) for key in chain.keys] + [("human", chain.human)]
    assert len(elements) == 10
    for kind, item in elements:
        state = revoked(kind, item)
        assert denies(state, grant, WORLD.registry), (kind, item)
        (reason,) = state.chain_refusals(chain)
        assert "lost" in reason.text


def test_an_unrelated_chain_goes_on() -> None:
    other = WORLD.verify([WORLD.root(human="ben", to="b0")])
    state = revoked("human", "human:ada", revoked("hop", WORLD.verified(1).digest))
    assert state.chain_refusals(other) == []  # type: ignore[arg-type]
    grant = WORLD.grant(other)  # type: ignore[arg-type]
    assert isinstance(grant, Grant)
    assert not denies(state, grant, WORLD.registry)


@pytest.mark.parametrize(
    ("kind", "item"), [("grant", "grant-1"), ("contract", "ward-chat"), ("workload", "chat"), ("fabric", "acme")]
)
def test_stops_and_single_grants(kind: str, item: str) -> None:
    state = revoked(kind, item)
    assert denies(state, grant_of(2), WORLD.registry)
    assert not denies(revoked(kind, "another"), grant_of(2))
    assert bool(state.use_refusals("ward-chat", "chat")) == (kind != "grant")


def test_a_stop_is_lifted() -> None:
    stopped = revoked("fabric", "acme")
    lifted = revoked("fabric", "acme", stopped, is_lifted=True)
    assert lifted.epoch == 2
    assert not denies(lifted, grant_of(1), WORLD.registry)


def test_an_enrolled_agent_in_the_middle_is_denied_by_its_keys() -> None:
    agent = Identity("agent:a1", "agent", "a1", (EnrolledKey(WORLD.key("a1").public),))
    act = sign_act(WORLD.registry, "enrol", agent.to_json(), key=WORLD.key("olga"), now_s=NOW_S)
    registry = WORLD.registry.apply(act)
    assert isinstance(registry, Registry)
    state, grant = revoked("agent", "agent:a1"), grant_of(4)
    assert grant.claims["act"] == {"sub": "agent:a3"}
    assert denies(state, grant, registry)
    assert state.chain_refusals(WORLD.verified(4))
    retire = sign_act(registry, "retire", {"id": "agent:a1"}, key=WORLD.key("olga"), now_s=NOW_S)
    retired = registry.apply(retire)
    assert isinstance(retired, Registry)
    assert denies(state, grant, retired), "retiring an agent does not make the proxy forget it"


def test_an_agent_nobody_enrolled_is_denied_by_name_and_at_the_exchange() -> None:
    state = revoked("agent", "agent:a1")
    assert denies(state, grant_of(2), WORLD.registry)
    assert not denies(state, grant_of(3), WORLD.registry), "stated in deny_map: revoke the hop or key"
    assert state.chain_refusals(WORLD.verified(3))


def test_the_deny_map_looks_only_where_a_hop_can_be() -> None:
    chain = WORLD.verified(2)
    assert revoked("hop", chain.digest, depth=1).deny_map(WORLD.registry) == {HOP_HEADERS[1]: {tag(chain.digest)}}
    assert set(revoked("hop", chain.digest).deny_map(WORLD.registry)) == set(HOP_HEADERS)
    assert set(revoked("key", chain.keys[0]).deny_map(WORLD.registry)) == set(KEY_HEADERS)
    assert EMPTY.deny_map(WORLD.registry) == {}


def test_freshness_counts_from_the_signature() -> None:
    assert not EMPTY.is_fresh(NOW_S, 5.0)
    state = EMPTY.hear(sign_heartbeat(EMPTY, FEED, NOW_S), now_s=NOW_S + 3)
    assert isinstance(state, RevocationState)
    assert [state.is_fresh(NOW_S + d, 5.0) for d in (0, 5.0, 5.01)] == [True, True, False]
    assert isinstance(state.hear("junk", now_s=NOW_S), FeedRejected)
    assert isinstance(state.hear(sign_heartbeat(EMPTY, named_key("x"), NOW_S), now_s=NOW_S), FeedRejected)


def test_an_entry_after_a_heartbeat_keeps_what_was_heard() -> None:
    state = EMPTY.hear(sign_heartbeat(EMPTY, FEED, NOW_S), now_s=NOW_S)
    assert isinstance(state, RevocationState)
    assert revoked("agent", "agent:x", state).heard_s == NOW_S


def test_pruning_forgets_what_expired_and_keeps_its_place() -> None:
    state = revoked("hop", "h" * 43, until_s=int(NOW_S) + 10)
    state = revoked("agent", "agent:x", state)
    assert state.prune(NOW_S + 9) is state
    pruned = state.prune(NOW_S + 10)
    assert list(pruned.revoked) == [("agent", "agent:x")]
    assert (pruned.seq, pruned.head) == (state.seq, state.head)


def test_the_newest_entry_may_be_delivered_twice() -> None:
    first = sign_entry(Revocation(1, int(NOW_S), "agent", "agent:x", "lost", "by", "req"), EMPTY, FEED)
    one = EMPTY.apply([first])
    assert isinstance(one, RevocationState)
    assert one.apply([first]) == one == EMPTY.apply([first, first])
    two = revoked("agent", "agent:y", one)
    assert isinstance(two.apply([first]), FeedRejected)


def test_entries_are_applied_all_or_none() -> None:
    first = Revocation(1, int(NOW_S), "agent", "agent:x", "lost", "by", "req")
    text = sign_entry(first, EMPTY, FEED)
    assert isinstance(EMPTY.apply([text, "junk"]), FeedRejected)
    with pytest.raises(ValueError, match="number 1"):
        sign_entry(Revocation(2, 0, "agent", "agent:x", "lost", "by", "req"), EMPTY, FEED)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "planet"},
        {"id": ""},
        {"reason": ""},
        {"until": "x"},
        {"lift": 1},
        {"lift": True},
        {"depth": 8},
        {"by": 1},
    ],
    ids=str,
)
def test_malformed_entries(change: dict[str, Any]) -> None:
    claims = Revocation(1, int(NOW_S), "hop", "h", "lost", "by", "req").claims("acme", "") | change
    assert isinstance(EMPTY.apply([sign_compact(claims, FEED, typ=ENTRY_TYP)]), FeedRejected)


def test_an_entry_survives_its_claims() -> None:
    entry = Revocation(1, int(NOW_S), "hop", "h", "lost", "by", "req", depth=3, until_s=9)
    assert Revocation.from_claims(entry.claims("acme", "")) == entry


def test_the_bound() -> None:
    assert bound_s(stale_after_s=5, grant_life_s=60, is_connected=True) == 1.0
    assert bound_s(stale_after_s=5, grant_life_s=60, is_connected=False) == 66.0


class TestEntitlement:
    """Who may revoke which hop is in the adversarial suite; here is everything else."""

    def ask(self, by: str, kind: Any, item: str, **evidence: Any) -> Revocation | RevocationRefused:
        request = sign_request("acme", kind, item, reason="lost", key=WORLD.key(by), now_s=NOW_S, jti="r")
        return may_revoke(request, WORLD.registry, seq=1, now_s=NOW_S, **evidence)

    def test_evidence_says_where_the_hop_is_and_when_it_ends(self) -> None:
        chain = WORLD.verified(2)
        entry = self.ask("a0", "hop", chain.digest, chain=chain)
        assert isinstance(entry, Revocation)
        assert (entry.depth, entry.until_s) == (1, int(NOW_S) + 1800)
        assert entry.by == WORLD.key("a0").public.thumbprint

    def test_people_revoke_themselves_and_their_keys(self) -> None:
        thumbprint = WORLD.key("ada").public.thumbprint
        assert isinstance(self.ask("ada", "human", "human:ada"), Revocation)
        assert isinstance(self.ask("ada", "key", thumbprint), Revocation)
        assert isinstance(self.ask("ben", "human", "human:ada"), RevocationRefused)
        assert isinstance(self.ask("ben", "key", thumbprint), RevocationRefused)

    def test_grants_of_ones_own_chain(self) -> None:
        chain, grant = WORLD.verified(2), grant_of(2)
        entry = self.ask("ada", "grant", grant.id, chain=chain, grant=grant)
        assert isinstance(entry, Revocation)
        assert entry.until_s == grant.exp_s
        assert isinstance(self.ask("a0", "grant", grant.id, chain=chain, grant=grant), Revocation)
        assert isinstance(self.ask("a0", "grant", "other", chain=chain, grant=grant), RevocationRefused)
        assert isinstance(self.ask("a0", "grant", grant.id, chain=WORLD.verified(3), grant=grant), RevocationRefused)

    @pytest.mark.parametrize("reason", ["", "  "])
    def test_a_reason_is_needed(self, reason: str) -> None:
        request = sign_request("acme", "fabric", "acme", reason=reason, key=WORLD.key("olga"), now_s=NOW_S, jti="r")
        refused = may_revoke(request, WORLD.registry, seq=1, now_s=NOW_S)
        assert isinstance(refused, RevocationRefused)
        assert refused.reasons[0].code == "no-reason"

    def test_requests_for_elsewhere_or_of_no_known_kind(self) -> None:
        key = WORLD.key("olga")
        for fabric, kind in (("umbrella", "agent"), ("acme", "planet")):
            request = sign_request(fabric, kind, "x", reason="y", key=key, now_s=NOW_S, jti="r")  # type: ignore[arg-type]
            assert isinstance(may_revoke(request, WORLD.registry, seq=1, now_s=NOW_S), RevocationRefused)
        assert isinstance(may_revoke("junk", WORLD.registry, seq=1, now_s=NOW_S), RevocationRefused)
