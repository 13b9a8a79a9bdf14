"""Roots approved by a passkey: a software authenticator signs as the W3C document says a real one does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from isochrone.authority.chain import verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain, root_claims, root_for_passkey
from isochrone.authority.identity import Identity, Registry
from isochrone.authority.jose import b64u_encode, sign_compact
from isochrone.authority.proof import EnrolledKey, attach_assertion, challenge, passkey_key
from isochrone.authority.testing import NOW_S, World, named_key
from isochrone.errors import AuthorityError
from support.authenticator import UP, UV, Authenticator


@pytest.fixture(params=["EC", "OKP"])
def authenticator(request: pytest.FixtureRequest) -> Authenticator:
    return Authenticator(kty=request.param)


def registry(authenticator: Authenticator) -> Registry:
    ada = Identity(
        "human:ada", "human", "Ada", (EnrolledKey(authenticator.public, authenticator.passkey()),), is_operator=True
    )
    return Registry.anchored("acme", [ada])


def claims(authenticator: Authenticator) -> dict[str, Any]:
    world = World()
    return root_claims(
        registry(authenticator),
        "human:ada",
        authenticator.public.thumbprint,
        agent="agent:a0",
        agent_key=world.key("a0").public,
        scope=world.scope(),
        depth_max=3,
        now_s=NOW_S,
        life_s=3600,
        jti="j",
    )


def verdict(root: str, authenticator: Authenticator) -> VerifiedChain | ChainRejected:
    return verify_chain([root], registry(authenticator), World().groups, now_s=NOW_S)


def test_a_chain_rooted_in_a_passkey(authenticator: Authenticator) -> None:
    signed = root_for_passkey(claims(authenticator))
    root = attach_assertion(signed, authenticator.get(challenge(signed)))
    world = World()
    chain = world.child([root], by="a0", to="a1")
    assert isinstance(chain, list)
    verified = verify_chain(chain, registry(authenticator), world.groups, now_s=NOW_S)
    assert isinstance(verified, VerifiedChain)
    assert verified.human_name == "Ada"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"origin": "https://evil.example"}, "origin"),
        ({"rp_id": "evil.example"}, "RP ID"),
        ({"flags": UP}, "User verification"),
        ({"flags": UV}, "present"),
        ({"wanted": b"x" * 32}, "challenge"),
    ],
    ids=lambda value: str(value),
)
def test_an_assertion_made_elsewhere_or_for_something_else(
    authenticator: Authenticator, change: dict[str, Any], said: str
) -> None:
    signed = root_for_passkey(claims(authenticator))
    arguments = {"wanted": challenge(signed)} | change
    refused = verdict(attach_assertion(signed, authenticator.get(**arguments)), authenticator)
    assert isinstance(refused, ChainRejected)
    assert refused.reasons[0].code == "passkey"
    assert said in refused.reasons[0].text


def test_the_assertion_of_another_authenticator(authenticator: Authenticator) -> None:
    signed = root_for_passkey(claims(authenticator))
    stranger = replace(authenticator, name="mallory's phone")
    assertion = stranger.get(challenge(signed))
    assert isinstance(verdict(attach_assertion(signed, assertion), authenticator), ChainRejected)
    assertion["id"] = authenticator.passkey().credential_id
    refused = verdict(attach_assertion(signed, assertion), authenticator)
    assert isinstance(refused, ChainRejected)
    assert "signature" in refused.reasons[0].text


def test_claims_changed_after_approval(authenticator: Authenticator) -> None:
    signed = root_for_passkey(claims(authenticator))
    assertion = authenticator.get(challenge(signed))
    other = root_for_passkey({**claims(authenticator), "del_max_depth": 7})
    assert isinstance(verdict(attach_assertion(other, assertion), authenticator), ChainRejected)


def test_a_passkey_does_not_sign_by_itself_and_a_key_not_through_an_assertion(authenticator: Authenticator) -> None:
    key = named_key(authenticator.name, authenticator.kty)
    refused = verdict(sign_compact(claims(authenticator), key, typ="delegation+jwt"), authenticator)
    assert isinstance(refused, ChainRejected)
    assert refused.reasons[0].code == "proof-kind"

    world = World(kty=authenticator.kty)
    plain = {**claims(authenticator), "iss": world.key("ada").public.thumbprint}
    signed = root_for_passkey(plain)
    refused = world.verify([attach_assertion(signed, authenticator.get(challenge(signed)))])
    assert isinstance(refused, ChainRejected)
    assert refused.reasons[0].code == "proof-kind"


def test_an_assertion_in_a_later_hop_is_refused(authenticator: Authenticator) -> None:
    """Only the root may be approved by a passkey: agents have keys."""
    world = World()
    chain = world.chain(2)
    child = json.loads(__import__("base64").urlsafe_b64decode(chain[1].split(".")[1] + "=="))
    signed = root_for_passkey(child)
    refused = world.verify([chain[0], attach_assertion(signed, authenticator.get(challenge(signed)))])
    assert isinstance(refused, ChainRejected)
    assert refused.reasons[0].code == "proof-kind"


@pytest.mark.parametrize("proof", ["", "AAAA", b64u_encode(b"{}"), b64u_encode(b'{"id":1}'), b64u_encode(b"[]")])
def test_junk_for_an_assertion(authenticator: Authenticator, proof: str) -> None:
    signed = root_for_passkey(claims(authenticator)).decode()
    assert isinstance(verdict(f"{signed}.{proof}", authenticator), ChainRejected)
    whole = authenticator.get(challenge(signed.encode()))
    for member in ("clientDataJSON", "authenticatorData", "signature"):
        for junk in ("", "AA", "%%%"):
            assertion = {**whole, "response": {**whole["response"], member: junk}}
            assert isinstance(verdict(attach_assertion(signed.encode(), assertion), authenticator), ChainRejected)


def test_an_incomplete_assertion_is_not_attached(authenticator: Authenticator) -> None:
    for junk in ({}, {"id": "x"}, {"id": "x", "response": {}}, {"response": {"signature": "x"}}):
        with pytest.raises(AuthorityError):
            attach_assertion(b"a.b", junk)


def test_the_key_of_a_registration(authenticator: Authenticator) -> None:
    from isochrone.authority.proof import _cose

    assert passkey_key(_cose(authenticator.public)) == authenticator.public
    for junk in (b"", b"\xa0", b"\xff" * 9):
        with pytest.raises(AuthorityError):
            passkey_key(junk)


def test_enrolled_keys_survive_json(authenticator: Authenticator) -> None:
    enrolled = EnrolledKey(authenticator.public, authenticator.passkey())
    assert EnrolledKey.from_json(json.loads(json.dumps(enrolled.to_json()))) == enrolled
    for junk in (None, {}, {"jwk": 1}, {**enrolled.to_json(), "x": 1}, {"jwk": enrolled.key.jwk, "passkey": {}}):
        with pytest.raises(AuthorityError):
            EnrolledKey.from_json(junk)
