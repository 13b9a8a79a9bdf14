"""The registry of people and agents: what its acts do, and which acts it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.authority.identity import ACT_TYP, ActRejected, Identity, Registry, act_claims, sign_act
from isochrone.authority.jose import PrivateKey, sign_compact
from isochrone.authority.proof import EnrolledKey
from isochrone.authority.testing import NOW_S, World
from isochrone.errors import AuthorityError

WORLD = World()
OLGA = WORLD.key("olga")


def act(registry: Registry, kind: str, subject: dict[str, Any], key: PrivateKey = OLGA) -> Registry | ActRejected:
    return registry.apply(sign_act(registry, kind, subject, key=key, now_s=NOW_S))


def done(result: Registry | ActRejected) -> Registry:
    assert isinstance(result, Registry), result
    return result


def code(result: Registry | ActRejected) -> str:
    assert isinstance(result, ActRejected)
    return result.reasons[0].code


def agent(name: str = "a0", **members: Any) -> dict[str, Any]:
    return Identity(f"agent:{name}", "agent", name, (EnrolledKey(WORLD.key(name).public),)).to_json() | members


def test_enrol_and_retire_an_agent() -> None:
    enrolled = done(act(WORLD.registry, "enrol", agent(spiffe_id="spiffe://acme.example/a0")))
    assert enrolled.seq == 1
    assert enrolled.people["agent:a0"].spiffe_id == "spiffe://acme.example/a0"
    owner = enrolled.owner(WORLD.key("a0").public.thumbprint)
    assert owner is not None
    assert owner.id == "agent:a0"
    retired = done(act(enrolled, "retire", {"id": "agent:a0"}))
    assert not retired.people["agent:a0"].is_active
    assert retired.owner(WORLD.key("a0").public.thumbprint) is not None, "a retired agent's keys are still known"
    assert code(act(retired, "retire", {"id": "agent:a0"})) == "unknown-identity"
    assert code(act(retired, "enrol", agent())) == "enrolled", "an id is never given out twice"


def test_enrol_and_retire_a_key() -> None:
    new = EnrolledKey(WORLD.key("ada's second").public)
    both = done(act(WORLD.registry, "enrol-key", {"id": "human:ada", "key": new.to_json()}))
    first = WORLD.key("ada").public.thumbprint
    one = done(act(both, "retire-key", {"id": "human:ada", "thumbprint": first}))
    ada = one.human("human:ada")
    assert ada is not None
    assert ada.key(first) is None
    assert ada.key(new.key.thumbprint) == new
    assert code(act(one, "retire-key", {"id": "human:ada", "thumbprint": first})) == "unknown-key"


def test_one_key_has_one_holder() -> None:
    taken = EnrolledKey(WORLD.key("ben").public).to_json()
    assert code(act(WORLD.registry, "enrol-key", {"id": "human:ada", "key": taken})) == "key-owned"
    assert code(act(WORLD.registry, "enrol", agent(keys=[taken]))) == "key-owned"


def test_only_an_active_operator_acts() -> None:
    assert code(act(WORLD.registry, "enrol", agent(), WORLD.key("ada"))) == "signature"
    assert code(act(WORLD.registry, "enrol", agent(), WORLD.key("mallory"))) == "signature"
    claims = act_claims(WORLD.registry, "enrol", agent(), signer_key=OLGA.public.thumbprint, now_s=NOW_S)
    assert code(WORLD.registry.apply(sign_compact(claims, WORLD.key("ada"), typ=ACT_TYP))) == "signature"


def test_acts_cannot_be_skipped_repeated_or_told_differently() -> None:
    first = sign_act(WORLD.registry, "enrol", agent("a0"), key=OLGA, now_s=NOW_S)
    rival = sign_act(WORLD.registry, "enrol", agent("a1"), key=OLGA, now_s=NOW_S)
    one, other = done(WORLD.registry.apply(first)), done(WORLD.registry.apply(rival))
    assert one.apply(first) is one, "a bus may deliver the newest act twice"
    second = sign_act(one, "retire", {"id": "agent:a0"}, key=OLGA, now_s=NOW_S)
    assert code(WORLD.registry.apply(second)) == "sequence"
    assert code(done(one.apply(second)).apply(first)) == "sequence"
    assert code(other.apply(second)) == "fork"
    assert code(World(fabric="umbrella").registry.apply(first)) == "audience"


def test_the_last_operator_cannot_be_removed() -> None:
    assert code(act(WORLD.registry, "retire", {"id": "human:olga"})) == "no-operator"
    with pytest.raises(AuthorityError) as error:
        Registry.anchored("acme", [])
    assert error.value.hint


@pytest.mark.parametrize(
    "subject",
    [
        {},
        agent(id="no blanks"),
        agent(kind="robot"),
        agent(name=""),
        agent(keys=[]),
        agent(keys=[{}]),
        agent(keys=[EnrolledKey(WORLD.key("a0").public).to_json()] * 17),
        agent(operator=True),
        agent(operator="yes"),
        agent(spiffe_id="https://acme.example"),
        agent(unknown=1),
        agent(keys=[{"jwk": WORLD.key("a0").jwk()}]),
    ],
    ids=range(12),
)
def test_malformed_identities(subject: dict[str, Any]) -> None:
    assert isinstance(act(WORLD.registry, "enrol", subject), ActRejected)


@pytest.mark.parametrize("kind", ["promote", "", None, 7])
def test_unknown_acts(kind: Any) -> None:
    assert code(act(WORLD.registry, kind, {"id": "human:ada"})) == "malformed"
    assert isinstance(WORLD.registry.apply("junk"), ActRejected)


def test_an_enrolment_reads_back() -> None:
    olga = WORLD.registry.people["human:olga"]
    assert Identity.from_json(olga.to_json()) == olga
