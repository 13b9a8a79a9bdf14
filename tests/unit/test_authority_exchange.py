"""The exchange's parameters, errors and metadata; DPoP proofs; budgets; key files."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from isochrone.authority.delegation import CHAIN_TOKEN_TYPE, join_chain
from isochrone.authority.exchange import (
    ACCESS_TOKEN_TYPE,
    FORM_BYTES_MAX,
    GRANT_TYPE,
    ExchangeRequest,
    OAuthError,
    metadata,
    parse_exchange,
    response,
)
from isochrone.authority.grant import Binding, Grant
from isochrone.authority.jose import PrivateKey, PublicKey
from isochrone.authority.possession import (
    Possession,
    ProofRejected,
    ReplayWindow,
    make_dpop,
    verify_certificate,
    verify_dpop,
)
from isochrone.authority.reasons import Reason
from isochrone.authority.testing import NOW_S, World, named_key
from isochrone.errors import AuthorityError

WORLD = World()
FORM = {
    "grant_type": GRANT_TYPE,
    "subject_token": join_chain(WORLD.chain(2)),
    "subject_token_type": CHAIN_TOKEN_TYPE,
    "scope": "contract:ward-chat",
}


def parsed(**changes: Any) -> ExchangeRequest | OAuthError:
    form = {name: value for name, value in {**FORM, **changes}.items() if value is not None}
    return parse_exchange(urlencode(form).encode(), fabric="acme")


def test_a_request_carries_chain_and_contract() -> None:
    request = parsed(audience="acme", requested_token_type=ACCESS_TOKEN_TYPE, unknown="ignored")
    assert request == ExchangeRequest(tuple(WORLD.chain(2)), "ward-chat")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"grant_type": None}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"subject_token": None}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
        ({"audience": "umbrella"}, "invalid_target"),
        ({"resource": "https://x.example"}, "invalid_target"),
        ({"scope": None}, "invalid_scope"),
        ({"scope": "openid"}, "invalid_scope"),
        ({"scope": "contract:"}, "invalid_scope"),
        ({"scope": "contract:a contract:b"}, "invalid_scope"),
        ({"scope": 'contract:"x"\\'}, "invalid_scope"),
    ],
    ids=str,
)
def test_oauth_errors(changes: dict[str, Any], error: str) -> None:
    answer = parsed(**changes)
    assert isinstance(answer, OAuthError)
    assert answer.error == error
    assert answer.status == 400
    assert all(" " <= c <= "~" and c not in '"\\' for c in answer.body()["error_description"])


def test_forms_that_are_none() -> None:
    for body in (b"\xff", b"a", b"a=1&a=2", b"&".join(b"a%d=1" % at for at in range(99))):
        answer = parse_exchange(body, fabric="acme")
        assert isinstance(answer, OAuthError)
        assert answer.error == "invalid_request"
    answer = parse_exchange(b"a" * (FORM_BYTES_MAX + 1), fabric="acme")
    assert isinstance(answer, OAuthError)
    assert answer.status == 413


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("expired", "invalid_grant"),
        ("revoked", "invalid_grant"),
        ("scope-outside", "invalid_scope"),
        ("replayed", "invalid_dpop_proof"),
        ("nonce", "use_dpop_nonce"),
        ("stale", "temporarily_unavailable"),
    ],
)
def test_reasons_become_oauth_errors(code: str, error: str) -> None:
    answer = OAuthError.refusing([Reason(code, 'said "so"\n', 1)])
    assert answer.error == error
    assert answer.description == f"hop 1: said 'so'? ({code})"


def test_the_answer() -> None:
    grant = WORLD.grant(WORLD.verified(1))
    assert isinstance(grant, Grant)
    answer = response(grant)
    assert answer["expires_in"] == 60
    assert answer["issued_token_type"] == ACCESS_TOKEN_TYPE
    assert answer["scope"] == "contract:ward-chat"
    assert metadata("https://a", "https://a/token", "https://a/jwks")["grant_types_supported"] == [GRANT_TYPE]


URL = "https://vie.acme.example/token"


@pytest.mark.parametrize("kty", ["EC", "OKP"])
@pytest.mark.parametrize(
    "url",
    [URL, "HTTPS://VIE.acme.example:443/token", URL + "?a=b", URL + "#f"],
    ids=["same", "spelt", "query", "fragment"],
)
def test_a_dpop_proof_for_the_same_target_however_spelt(kty: str, url: str) -> None:
    key = named_key("client", kty)
    proof = make_dpop(key, method="POST", url=URL, now_s=NOW_S, jti="j", nonce="n", access_token="t")
    verified = verify_dpop(
        proof, method="POST", url=url, now_s=NOW_S, replay=ReplayWindow(), nonce="n", access_token="t"
    )
    assert isinstance(verified, Possession)
    assert (verified.jkt, verified.binding) == (key.public.thumbprint, Binding(jkt=key.public.thumbprint))


def test_a_nonce_is_asked_for() -> None:
    proof = make_dpop(named_key("client"), method="POST", url=URL, now_s=NOW_S, jti="j")
    refused = verify_dpop(proof, method="POST", url=URL, now_s=NOW_S, replay=ReplayWindow(), nonce="n")
    assert isinstance(refused, ProofRejected)
    assert refused.needs_nonce


def test_a_full_replay_window_fails_closed_and_recovers() -> None:
    window = ReplayWindow(entries_max=2)
    assert [window.is_new(bytes([at]), now_s=0.0, until_s=10.0) for at in range(3)] == [True, True, False]
    assert not window.is_new(b"\0", now_s=9.9, until_s=20.0)
    assert window.is_new(b"\3", now_s=11.0, until_s=20.0)


def certificate(kty: str) -> bytes:
    """A self-signed certificate over the client's key."""
    key = serialization.load_pem_private_key(named_key("client", kty).pem(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")])
    begin = datetime.fromtimestamp(NOW_S, UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + timedelta(days=1))
    return builder.sign(key, hashes.SHA256() if kty == "EC" else None).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("kty", ["EC", "OKP"])
def test_a_certificate_names_its_key(kty: str) -> None:
    der = certificate(kty)
    verified = verify_certificate(der)
    assert isinstance(verified, Possession)
    assert verified.jkt == named_key("client", kty).public.thumbprint
    assert verified.binding == Binding(certificate_sha256=hashlib.sha256(der).digest())
    assert isinstance(verify_certificate(der[:-9]), ProofRejected)
    assert isinstance(verify_certificate(b""), ProofRejected)


@pytest.mark.parametrize("kty", ["EC", "OKP"])
def test_key_files(kty: str) -> None:
    key = PrivateKey.generate(kty)
    for again in (PrivateKey.from_pem(key.pem()), PrivateKey.from_jwk(key.jwk())):
        assert again.public == key.public
        assert key.public.verifies(again.sign(b"x"), b"x")
    assert PublicKey.from_pem(key.public.pem()) == PublicKey.from_jwk(key.public.jwk) == key.public
    assert "d" not in key.public.jwk
    assert key.jwk()["d"] not in repr(key)


@pytest.mark.parametrize("read", [PrivateKey.from_pem, PublicKey.from_pem])
def test_files_that_hold_no_key(read: Any) -> None:
    for junk in (b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(AuthorityError):
            read(junk)


def test_a_public_key_is_no_private_key() -> None:
    with pytest.raises(AuthorityError):
        PrivateKey.from_pem(named_key("x").public.pem())
    with pytest.raises(AuthorityError):
        PrivateKey.from_jwk(named_key("x").public.jwk)
    with pytest.raises(ValueError, match="32 bytes"):
        PrivateKey.from_seed(b"short")


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43},
        {"kty": "EC", "crv": "Ed25519", "x": "A" * 43},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
        {"kty": "oct", "k": "AA"},
        {"kty": ["EC"], "crv": "P-256"},
    ],
    ids=str,
)
def test_what_is_no_public_key(jwk: dict[str, Any]) -> None:
    with pytest.raises(AuthorityError):
        PublicKey.from_jwk(jwk)
