"""A bundle verifies only whole, signed, fresh, in order, and for the workload it names."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from isochrone.policy import Deny
from isochrone.policy.bundle import Bundle, pae, sign, verify

SEED, OTHER = bytes(range(32)), bytes(32)
PUBLIC = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
DIGEST = "ab" * 32
BUNDLE = Bundle(
    subjects={"model.gguf": DIGEST},
    policies={"p.cedar": '@id("p") permit(principal, action == Action::"execute", resource);'},
    terms={"c": {"objective_ms": 10}},
    revision=7,
    expires_s=2_000,
)


def check(envelope: bytes, **changes: Any) -> Any:
    defaults: dict[str, Any] = {"now_s": 1_000, "digests": frozenset({DIGEST}), "revision_min": 7}
    return verify(envelope, {"k": PUBLIC}, **{**defaults, **changes})


def code(outcome: Any) -> str:
    assert isinstance(outcome, Deny)
    return outcome.reasons[0].code


def test_pae_is_that_of_the_dsse_protocol_document() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_round_trip_and_determinism() -> None:
    envelope = sign(BUNDLE, {"k": SEED})
    assert check(envelope) == BUNDLE
    assert sign(BUNDLE, {"k": SEED}) == envelope


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"now_s": 2_000}, "bundle-expired"),
        ({"revision_min": 8}, "bundle-downgrade"),
        ({"digests": frozenset({"cd" * 32})}, "bundle-subject"),
        ({"digests": frozenset({DIGEST, "cd" * 32})}, "bundle-subject"),
        ({"digests": frozenset()}, "bundle-subject"),
        ({"engine": (0, 0, 9)}, "bundle-engine"),
    ],
)
def test_refusals(changes: dict[str, Any], expected: str) -> None:
    assert code(check(sign(BUNDLE, {"k": SEED}), **changes)) == expected


def test_another_key_and_a_borrowed_key_id_are_refused() -> None:
    assert code(check(sign(BUNDLE, {"stranger": SEED}))) == "bundle-signature"
    assert code(check(sign(BUNDLE, {"k": OTHER}))) == "bundle-signature"
    assert check(sign(BUNDLE, {"a": OTHER, "k": SEED})) == BUNDLE


def resigned(change: Any) -> bytes:
    """A bundle changed after its statement was made, with a good signature."""
    statement = BUNDLE.statement()
    change(statement)
    payload = json.dumps(statement).encode()
    signature = Ed25519PrivateKey.from_private_bytes(SEED).sign(pae("application/vnd.in-toto+json", payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"keyid": "k", "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope).encode()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s["predicate"].update(policyDigest="sha256:00"), "bundle-policies"),
        (lambda s: s["predicate"].update(policies={"p": "permit(;"}), "bundle-policies"),
        (lambda s: s["predicate"].update(schemaDigest="sha256:00"), "bundle-schema"),
        (lambda s: s["predicate"].update(revision=True), "bundle-form"),
        (lambda s: s["predicate"].update(expires="never"), "bundle-form"),
        (lambda s: s["predicate"].pop("terms"), "bundle-form"),
        (lambda s: s.update(predicateType="urn:other"), "bundle-form"),
        (lambda s: s.update(subject="x"), "bundle-form"),
    ],
)
def test_signed_nonsense_is_refused(change: Any, expected: str) -> None:
    assert code(check(resigned(change))) == expected


@pytest.mark.parametrize("position", range(0, 900, 41))
def test_any_flipped_byte_is_refused(position: int) -> None:
    envelope = bytearray(sign(BUNDLE, {"k": SEED}))
    envelope[position % len(envelope)] ^= 1
    assert isinstance(check(bytes(envelope)), Deny)


@pytest.mark.parametrize(
    "envelope", [b"", b"[]", b"null", b"{}", b"\xff", b'{"payload":"*","payloadType":"x","signatures":[]}']
)
def test_no_envelope(envelope: bytes) -> None:
    assert code(check(envelope)) == "bundle-form"


def test_unsigned_envelope() -> None:
    document = json.loads(sign(BUNDLE, {"k": SEED}))
    for signatures in ([], [None], ["x"], [{"keyid": "k"}], [{"keyid": "k", "sig": "!"}]):
        assert code(check(json.dumps({**document, "signatures": signatures}).encode())) == "bundle-signature"


def test_signing_invalid_policies_is_an_error() -> None:
    with pytest.raises(Exception, match=r"p\.cedar:1"):
        sign(dataclasses.replace(BUNDLE, policies={"p.cedar": "permit(;"}), {"k": SEED})
