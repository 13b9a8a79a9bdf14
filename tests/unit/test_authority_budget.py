"""Accounts of limited delegations: what can be reserved, what is settled, what lapses, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.authority.budget import (
    RATE_LEASE_S,
    REQUESTS_MAX,
    RESERVATIONS_MAX,
    Account,
    Limits,
    Reservation,
    Toll,
    limits_of,
)
from isochrone.authority.desk import Desk
from isochrone.authority.grant import Allowance, Grant, GrantRefused
from isochrone.authority.reasons import Reason
from isochrone.authority.revocation import RevocationState
from isochrone.authority.scope import Money
from isochrone.authority.testing import NOW_S, World, named_key
from isochrone.errors import AuthorityError

EUR = Money("EUR", 5_000)
TOLL = Toll(100, EUR)


def reserved(account: Account, grant: str, requests: int, limits: Limits, now_s: float = NOW_S) -> Account:
    after = account.reserve(grant, requests, limits, TOLL, now_s=now_s, until_s=now_s + 700)
    assert isinstance(after, Account), after
    return after


def refusal(value: object) -> Reason:
    assert isinstance(value, Reason), value
    return value


def test_at_most_half_of_what_is_left_is_reserved_at_once() -> None:
    limits, account = Limits(tokens=1000), Account()
    taken = []
    while not isinstance(affordable := account.affordable(limits, TOLL, NOW_S), Reason):
        account = reserved(account, f"g{len(taken)}", affordable, limits)
        taken.append(affordable)
    assert taken == [4, 2, 2, 1, 1]
    assert (affordable.code, "0 of 1000 tokens are left" in affordable.text) == ("budget", True)


def test_the_tightest_limit_decides() -> None:
    assert Account().affordable(Limits(rate_rps=100.0), TOLL, NOW_S) == 256
    assert Account().affordable(Limits(rate_rps=100.0, tokens=1000), TOLL, NOW_S) == 4
    assert Account().affordable(Limits(rate_rps=100.0, tokens=1000, cost=Money("EUR", 10_000)), TOLL, NOW_S) == 1
    assert Account().affordable(Limits(tokens=10**12), TOLL, NOW_S) == REQUESTS_MAX
    short = Account().affordable(Limits(cost=Money("EUR", 4_999)), TOLL, NOW_S)
    assert "one request costs EUR 0.01" in refusal(short).text


def test_what_is_free_or_not_limited_is_not_counted() -> None:
    assert Account().affordable(Limits(cost=Money("EUR", 0)), Toll(None, Money("EUR", 0)), NOW_S) == REQUESTS_MAX


def test_settled_once_and_in_full_and_lapsed_in_full() -> None:
    limits = Limits(tokens=1000)
    account = reserved(Account(), "g", 4, limits)
    assert account.open == {"g": Reservation(400, 4 * 5_000, NOW_S + 700)}
    assert reserved(account, "g", 4, limits) is account, "asking again changes nothing"
    settled = account.settle("g", tokens=100, micros=5_000)
    assert (settled.tokens, settled.micros, settled.open) == (100, 5_000, {})
    assert settled.settle("g", tokens=100, micros=0) is settled
    assert account.settle("g", tokens=2000, micros=0).tokens == 2000, "what was taken beyond is not hidden"
    assert account.lapse(NOW_S + 699) is account
    assert account.lapse(NOW_S + 700).tokens == 400


def test_a_rate_refills_and_says_when_the_next_may_begin() -> None:
    limits = Limits(rate_rps=0.5)
    account = reserved(Account(), "a", 2, limits)
    assert not account.open, "a rate needs no settling"
    account = reserved(reserved(account, "b", 1, limits), "c", 1, limits)
    account = reserved(account, "d", 1, limits)
    assert "next in 2.0 s" in refusal(account.affordable(limits, TOLL, NOW_S)).text
    assert account.affordable(limits, TOLL, NOW_S + 2.0) == 1
    assert refusal(account.affordable(limits, TOLL, NOW_S - 1000)).code == "rate", "a clock that went back adds nothing"
    assert account.affordable(limits, TOLL, NOW_S + 1e6) == 2, "a bucket is no deeper than one lease"
    never = Limits(rate_rps=0.0)
    assert "next in inf s" in refusal(reserved(Account(), "a", 1, never).affordable(never, TOLL, NOW_S + 1e9)).text


def test_more_than_is_affordable_and_too_many_open_are_refused() -> None:
    limits = Limits(tokens=1000)
    assert refusal(Account().reserve("g", 8, limits, TOLL, now_s=NOW_S, until_s=NOW_S)).code == "rate"
    full = Account(open={str(n): Reservation(0, 0, NOW_S) for n in range(RESERVATIONS_MAX)})
    assert refusal(full.affordable(limits, TOLL, NOW_S)).code == "budget"


def test_what_cannot_be_held_is_named() -> None:
    assert [r.code for r in Limits(tokens=5).unheld(Toll(None, EUR))] == ["unheld"]
    assert "in USD" in Limits(cost=Money("USD", 1)).unheld(TOLL)[0].text
    assert Limits(rate_rps=1.0, tokens=1, cost=EUR).unheld(TOLL) == []


def test_an_account_is_read_back_as_it_was_written() -> None:
    limits = Limits(rate_rps=2.0, tokens=1000)
    account = reserved(Account(), "g", 4, limits).settle("other", tokens=1, micros=1)
    assert Account.from_json(account.to_json()) == account
    assert Account.from_json(Account().to_json()) == Account()


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": -1}, {"tokens": "1"}, {"micros": None}, {"level": "full"}, {"at_s": None}, {"open": []},
        {"open": {"g": [1, 2]}}, {"open": {"g": [-1, 0, 0]}}, {"open": {"g": [1, 1, "x"]}},
    ],
)  # fmt: skip
def test_a_damaged_account_is_not_read(change: dict[str, Any]) -> None:
    with pytest.raises(AuthorityError) as caught:
        Account.from_json(Account().to_json() | change)
    assert caught.value.code == "authority.account"


def test_every_limited_hop_has_an_account_of_its_own() -> None:
    world = World()
    first = world.scope(tokens_max=None, rate_rps_max=None)
    chain = [world.root(scope=first)]
    narrower = world.child(chain, by="a0", to="a1", scope=world.scope(tokens_max=50, rate_rps_max=2.0))
    assert isinstance(narrower, list)
    verified = world.verify(narrower)
    assert limits_of(verified) == {verified.last.id: Limits(2.0, 50)}  # type: ignore[arg-type, union-attr]
    assert limits_of(world.verified(1, scope=first)) == {}


def test_no_grant_without_an_allowance_and_a_short_one_under_a_rate() -> None:
    world = World()
    limited = world.verified(2, scope=world.scope(rate_rps_max=2.0))
    refused = world.grant(limited, allowance=None)
    assert isinstance(refused, GrantRefused)
    assert [reason.code for reason in refused.reasons] == ["unheld"]
    granted = world.grant(limited, allowance=Allowance(8, "c0ffee"))
    assert isinstance(granted, Grant)
    assert (granted.claims["n"], granted.claims["at"]) == (8, "c0ffee")
    assert granted.headers()["x-isochrone-counted-at"] == "c0ffee"
    feed = RevocationState("acme", named_key("feed").public, heard_s=NOW_S)
    desk = Desk(named_key("site vie"), world.registry, world.groups, feed)
    assert desk.life_s(limited, NOW_S) == RATE_LEASE_S
    assert desk.life_s(world.verified(2), NOW_S) == 60
