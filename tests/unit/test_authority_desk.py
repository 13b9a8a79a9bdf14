"""The exchange desk: a whole exchange, and each step that can refuse it."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.authority.delegation import CHAIN_TOKEN_TYPE, join_chain
from isochrone.authority.desk import Desk, ExchangeGranted, ExchangeRefused
from isochrone.authority.exchange import GRANT_TYPE, ExchangeRequest, parse_exchange
from isochrone.authority.grant import Allowance, Binding
from isochrone.authority.possession import Possession, ReplayWindow, make_dpop, verify_dpop
from isochrone.authority.revocation import (
    DEGRADED_LIFE_S,
    DEGRADED_S,
    Revocation,
    RevocationState,
    bound_s,
    sign_entry,
    sign_heartbeat,
)
from isochrone.authority.testing import NOW_S, World, named_key
from isochrone.model.contract import WhenUnheard

WORLD = World()
FEED = named_key("feed")
URL = "https://vie.acme.example/token"


def fresh(state: RevocationState, now_s: float = NOW_S) -> RevocationState:
    heard = state.hear(sign_heartbeat(state, FEED, now_s), now_s=now_s)
    assert isinstance(heard, RevocationState)
    return heard


@pytest.fixture
def desk() -> Desk:
    state = fresh(RevocationState("acme", FEED.public))
    return Desk(named_key("site vie"), WORLD.registry, WORLD.groups, state)


def held_by(name: str) -> Possession:
    key = WORLD.key(name)
    proof = make_dpop(key, method="POST", url=URL, now_s=NOW_S, jti="j")
    verified = verify_dpop(proof, method="POST", url=URL, now_s=NOW_S, replay=ReplayWindow())
    assert isinstance(verified, Possession)
    return verified


def exchanged(desk: Desk, *, hops: int = 3, by: str = "a2", **options: Any) -> ExchangeGranted | ExchangeRefused:
    arguments: dict[str, Any] = {
        "asked": WORLD.execution(),
        "candidates": [WORLD.execution()],
        "policy": "p" * 43,
        "now_s": NOW_S,
        "jti": "g1",
        "allowance": Allowance(8, "c0ffee"),
    }
    request = ExchangeRequest(tuple(WORLD.chain(hops)), "ward-chat")
    return desk.exchange(request, held_by(by), **(arguments | options))


def code(answer: ExchangeGranted | ExchangeRefused) -> str:
    assert isinstance(answer, ExchangeRefused)
    return answer.reasons[0].code


def test_from_form_to_grant(desk: Desk) -> None:
    form = f"grant_type={GRANT_TYPE}&subject_token={join_chain(WORLD.chain(3))}"
    form += f"&subject_token_type={CHAIN_TOKEN_TYPE}&scope=contract:ward-chat"
    assert parse_exchange(form.encode(), fabric="acme") == ExchangeRequest(tuple(WORLD.chain(3)), "ward-chat")
    answer = exchanged(desk)
    assert isinstance(answer, ExchangeGranted)
    assert answer.chain.human_name == "Ada"
    assert answer.grant.claims["cnf"] == {"jkt": WORLD.key("a2").public.thumbprint}


def test_a_stolen_chain_is_worth_nothing_without_its_last_key(desk: Desk) -> None:
    for thief in ("mallory", "a1", "ada"):
        answer = exchanged(desk, by=thief)
        assert code(answer) == "possession"
        assert isinstance(answer, ExchangeRefused)
        assert answer.chain is not None, "the refusal can be recorded against its human"


def test_a_site_that_hears_nothing_mints_nothing(desk: Desk) -> None:
    assert isinstance(exchanged(desk, now_s=NOW_S + 5.0), ExchangeGranted)
    assert code(exchanged(desk, now_s=NOW_S + 5.1)) == "stale"


def life_s(answer: ExchangeGranted | ExchangeRefused) -> int:
    assert isinstance(answer, ExchangeGranted), answer
    return answer.grant.exp_s - int(answer.grant.claims["iat"])


def test_a_contract_may_degrade_or_continue_while_nothing_is_heard(desk: Desk) -> None:
    for when in (WhenUnheard.DEGRADE, WhenUnheard.CONTINUE):
        assert life_s(exchanged(desk, when_unheard=when)) == 60, "nothing is degraded while the feed is heard"
        assert life_s(exchanged(desk, now_s=NOW_S + 5.1, when_unheard=when)) == DEGRADED_LIFE_S
    assert life_s(exchanged(desk, now_s=NOW_S + DEGRADED_S, when_unheard=WhenUnheard.DEGRADE)) == DEGRADED_LIFE_S
    assert code(exchanged(desk, now_s=NOW_S + DEGRADED_S + 1, when_unheard=WhenUnheard.DEGRADE)) == "stale"
    assert life_s(exchanged(desk, now_s=NOW_S + 1700, when_unheard=WhenUnheard.CONTINUE)) == DEGRADED_LIFE_S
    desk.revocations = RevocationState("acme", FEED.public)
    assert code(exchanged(desk, when_unheard=WhenUnheard.DEGRADE)) == "stale", "how long ago is not known"
    assert isinstance(exchanged(desk, when_unheard=WhenUnheard.CONTINUE), ExchangeGranted)


def test_the_bound_of_each_choice() -> None:
    figures = {"stale_after_s": 5.0, "grant_life_s": 60.0}
    assert bound_s(**figures, is_connected=True, when_unheard=WhenUnheard.CONTINUE) == 1.0
    assert bound_s(**figures, is_connected=False) == 66.0
    assert bound_s(**figures, is_connected=False, when_unheard=WhenUnheard.DEGRADE) == 616.0
    assert bound_s(**figures, is_connected=False, when_unheard=WhenUnheard.CONTINUE) == float("inf")


def test_nothing_is_minted_before_the_first_heartbeat(desk: Desk) -> None:
    desk.revocations = RevocationState("acme", FEED.public)
    assert code(exchanged(desk)) == "stale"


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("agent", "agent:a1"),
        ("human", "human:ada"),
        ("contract", "ward-chat"),
        ("workload", "chat"),
        ("fabric", "acme"),
    ],
)
def test_what_is_revoked_is_not_minted_though_its_chain_was_seen(desk: Desk, kind: Any, item: str) -> None:
    assert isinstance(exchanged(desk), ExchangeGranted)
    entry = Revocation(1, int(NOW_S), kind, item, "lost", "by", "req")
    state = desk.revocations.apply([sign_entry(entry, desk.revocations, FEED)])
    assert isinstance(state, RevocationState)
    desk.revocations = state
    answer = exchanged(desk)
    assert code(answer) == "revoked"
    assert isinstance(answer, ExchangeRefused)
    assert len(answer.reasons) == 1


def test_outside_the_scope_and_bad_chains(desk: Desk) -> None:
    assert code(exchanged(desk, candidates=[WORLD.execution(data_class="finance")])) == "scope-outside"
    request = ExchangeRequest(tuple(WORLD.chain(3)[1:]), "ward-chat")
    possession = Possession(WORLD.key("a2").public.thumbprint, Binding(certificate_sha256=b"c" * 32))
    arguments: dict[str, Any] = {"asked": WORLD.execution(), "candidates": None, "policy": "p", "jti": "g"}
    assert code(desk.exchange(request, possession, now_s=NOW_S, **arguments)) == "depth"
    with pytest.raises(ValueError, match="not the contract"):
        exchanged(desk, asked=WORLD.execution(contract="other"))
