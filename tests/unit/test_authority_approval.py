"""Does a contract that asks for people's approval get grants with it, and with nothing less?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from isochrone.authority.acts import approve_subject, withdraw_subject
from isochrone.authority.approval import is_live, overseen
from isochrone.authority.identity import ActRejected, Registry, sign_act
from isochrone.authority.jose import PrivateKey
from isochrone.authority.revocation import Revocation, RevocationState
from isochrone.authority.scope import Money, Scope
from isochrone.authority.testing import NOW_S, named_key
from isochrone.model.contract import Contract, InTime, Oversight
from isochrone.serve.keyring import Holder
from isochrone.serve.people import registry_from

OLGA, OTTO, ADA, BOB = (Holder(f"human:{n}", n.title(), PrivateKey.generate()) for n in ("olga", "otto", "ada", "bob"))
EMPTY = registry_from(
    "acme",
    {"anchor": [h.identity(is_operator=h in (OLGA, OTTO)).to_json() for h in (OLGA, OTTO, ADA, BOB)], "acts": []},
)
NOTHING_REVOKED = RevocationState("acme", named_key("feed").public)


def contract(**oversight: object) -> Contract:
    return Contract(workload="w", in_time=InTime(objective_ms=50), oversight=Oversight.model_validate(oversight))


ONE, NAMED = contract(approvals=1), contract(approvals=1, by=["human:ada"])


def act(registry: Registry, by: Holder, kind: str, subject: dict[str, object]) -> Registry:
    following = registry.apply(sign_act(registry, kind, subject, key=by.key, now_s=NOW_S))
    assert isinstance(following, Registry), following
    return following


def approve(registry: Registry, by: Holder, terms: Contract, life_s: int = 3600) -> Registry:
    return act(registry, by, "approve", approve_subject("c", terms.digest, "reviewed", int(NOW_S) + life_s))


def refusal(
    terms: Contract,
    registry: Registry,
    *,
    scope: Scope | None = None,
    now_s: float = NOW_S,
    revoked: RevocationState = NOTHING_REVOKED,
) -> str:
    seen = overseen("c", terms, scope or Scope(), registry, revoked, currency="EUR", now_s=now_s)
    return "" if seen.refusal is None else f"{seen.refusal.code}: {seen.refusal.text}"


def test_who_may_approve() -> None:
    assert "needs the approval of 1 (an operator), and has 0" in refusal(ONE, EMPTY)
    assert not refusal(ONE, approve(EMPTY, OLGA, ONE))
    assert refusal(ONE, approve(EMPTY, ADA, ONE)), "no operator"
    assert not refusal(NAMED, approve(EMPTY, ADA, NAMED))
    assert "(human:ada)" in refusal(NAMED, approve(EMPTY, OLGA, NAMED)), "an operator who is not named"
    assert not refusal(contract(), EMPTY)


def test_two_people_are_two_people() -> None:
    terms = contract(approvals=2)
    once = approve(EMPTY, OLGA, terms)
    assert "has 1" in refusal(terms, once)
    assert "has 1" in refusal(terms, approve(once, OLGA, terms, 7200))
    seen = overseen("c", terms, Scope(), approve(once, OTTO, terms), NOTHING_REVOKED, currency="EUR", now_s=NOW_S)
    assert [each.by for each in seen.approvals] == ["human:olga", "human:otto"]
    assert seen.refusal is None


def test_an_approval_is_of_one_contract_on_its_terms_for_its_time() -> None:
    given = approve(EMPTY, OLGA, ONE)
    other = ONE.model_copy(update={"price_per_1k": 3.0})
    assert "terms have changed" in refusal(other, given)
    elsewhere = act(EMPTY, OLGA, "approve", approve_subject("d", ONE.digest, "r", int(NOW_S) + 9))
    assert refusal(ONE, elsewhere)
    assert not refusal(ONE, given, now_s=NOW_S + 3599)
    assert refusal(ONE, given, now_s=NOW_S + 3600)
    assert refusal(ONE, given, now_s=NOW_S - 60), "given in the future"


def test_taken_back_by_who_gave_it_or_an_operator() -> None:
    given = approve(EMPTY, ADA, NAMED)
    (approval,) = given.approvals.values()
    subject = withdraw_subject(approval.id, "of another model")
    for who in (ADA, OTTO):
        after = act(given, who, "withdraw", subject)
        assert refusal(NAMED, after)
        assert not is_live(after.approvals[approval.id], NOW_S + 1)
        assert is_live(after.approvals[approval.id], NOW_S - 1), "what ran before was approved"
        assert isinstance(after.apply(sign_act(after, "withdraw", subject, key=ADA.key, now_s=NOW_S)), ActRejected)
    for who, wrong in (
        (BOB, subject),
        (ADA, withdraw_subject("nothing", "r")),
        (ADA, withdraw_subject(approval.id, "")),
    ):
        assert isinstance(given.apply(sign_act(given, "withdraw", wrong, key=who.key, now_s=NOW_S)), ActRejected)


def test_nobody_approves_who_is_gone() -> None:
    given = approve(EMPTY, ADA, NAMED)
    assert refusal(NAMED, act(given, OLGA, "retire", {"id": "human:ada"}))
    (approval,) = given.approvals.values()
    for kind, item in (("human", "human:ada"), ("key", approval.key)):
        entry = Revocation(1, 1, kind, item, "gone", "x", "y")  # type: ignore[arg-type]
        assert refusal(NAMED, given, revoked=replace(NOTHING_REVOKED, revoked={(kind, item): entry}))


def test_above_a_cost() -> None:
    terms = contract(approvals=1, above_cost=50)
    for cost, needed in ((None, True), (Money("EUR", 50_000_000), False), (Money("EUR", 50_000_001), True)):
        assert bool(refusal(terms, EMPTY, scope=Scope(cost_max=cost))) is needed
    assert refusal(terms, EMPTY, scope=Scope(cost_max=Money("USD", 1))), "another currency is no bound in this one"


@pytest.mark.parametrize(
    "subject",
    [
        {},
        approve_subject("c", "t", "", int(NOW_S) + 9),
        approve_subject("c", "t", "x" * 1001, int(NOW_S) + 9),
        approve_subject("c", "t", "r", int(NOW_S)),
        approve_subject("c,d", "t", "r", int(NOW_S) + 9),
        {**approve_subject("c", "t", "r", 1), "until": "tomorrow"},
    ],
)
def test_malformed_approvals(subject: dict[str, object]) -> None:
    assert isinstance(EMPTY.apply(sign_act(EMPTY, "approve", subject, key=OLGA.key, now_s=NOW_S)), ActRejected)


def test_only_a_person_approves() -> None:
    signed = sign_act(EMPTY, "approve", approve_subject("c", "t", "r", int(NOW_S) + 9), key=named_key("x"), now_s=NOW_S)
    refused = EMPTY.apply(signed)
    assert isinstance(refused, ActRejected)
    assert refused.reasons[0].code == "signature"
