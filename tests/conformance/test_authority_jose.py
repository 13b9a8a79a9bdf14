"""Keys and tokens against published vectors and against `joserfc`, an implementation that is not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.delegation import HOP_TYP
from isochrone.authority.grant import Grant
from isochrone.authority.jose import (
    PrivateKey,
    PublicKey,
    b64u_decode,
    parse_compact,
    sha256_b64u,
    sign_compact,
)
from isochrone.authority.possession import Possession, ReplayWindow, verify_dpop
from isochrone.authority.testing import World, named_key
from isochrone.errors import AuthorityError

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors"
RFC = VECTORS / "rfc-examples" / "examples.json"
COOKBOOK = VECTORS / "jose-cookbook-rfc7520"

needs_vectors = pytest.mark.skipif(not RFC.exists(), reason="published test vectors are not beside this checkout")


def rfc(name: str) -> dict[str, Any]:
    return dict(json.loads(RFC.read_text("utf-8"))[name])


@needs_vectors
@pytest.mark.parametrize("name", ["RFC8037 A.4 EdDSA JWS", "RFC7515 A.3 ES256 JWS"])
def test_signatures_of_the_rfcs(name: str) -> None:
    vector = rfc(name)
    signed, _, signature = vector["jws"].rpartition(".")
    key = PublicKey.from_jwk(vector["jwk"])
    assert key.verifies(b64u_decode(signature), signed.encode())
    assert not key.verifies(b64u_decode(signature), signed.encode() + b"x")


@needs_vectors
def test_thumbprint_of_rfc_8037() -> None:
    vector = rfc("RFC8037 A.3 thumbprint (RFC7638)")
    assert PublicKey.from_jwk(vector["jwk"]).thumbprint == vector["sha256_thumbprint"]


@needs_vectors
def test_dpop_proof_of_rfc_9449() -> None:
    vector = rfc("RFC9449 s4.1 DPoP proof")
    claims = vector["claims"]
    proof = verify_dpop(
        vector["dpop"], method=claims["htm"], url=claims["htu"], now_s=claims["iat"], replay=ReplayWindow()
    )
    assert isinstance(proof, Possession)
    assert proof.jkt == vector["cnf_jkt"]


@needs_vectors
def test_access_token_hash_of_rfc_9449() -> None:
    vector = rfc("RFC9449 s7.1 ath")
    assert sha256_b64u(vector["access_token"].encode()) == vector["ath"]


@needs_vectors
def test_deterministic_ed25519_of_the_cookbook() -> None:
    vector = json.loads((COOKBOOK / "curve25519" / "jws.json").read_text("utf-8"))
    key = PrivateKey.from_jwk(vector["input"]["key"])
    signature = key.sign(vector["signing"]["sig-input"].encode())
    assert signature == b64u_decode(vector["signing"]["sig"])


@needs_vectors
@pytest.mark.parametrize("name", sorted(p.name for p in (COOKBOOK / "jwk").glob("*.json")))
def test_keys_outside_the_allow_list_are_refused(name: str) -> None:
    """RFC 7520's keys are P-521, RSA and symmetric: none is ours."""
    jwk = json.loads((COOKBOOK / "jwk" / name).read_text("utf-8"))
    with pytest.raises(AuthorityError):
        PublicKey.from_jwk({k: v for k, v in jwk.items() if k not in ("d", "k")})
    with pytest.raises(AuthorityError):
        PrivateKey.from_jwk(jwk)


@needs_vectors
@pytest.mark.parametrize("name", sorted(p.name for p in (COOKBOOK / "jws").glob("*.json")))
def test_tokens_outside_the_allow_list_are_refused(name: str) -> None:
    vector = json.loads((COOKBOOK / "jws" / name).read_text("utf-8"))
    token = vector["output"].get("compact")
    if token is None:
        token = "..".join(("e30", "AA"))
    with pytest.raises(AuthorityError):
        parse_compact(token, typ=HOP_TYP, bytes_max=9999)


@pytest.mark.parametrize("kty", ["EC", "OKP"])
def test_joserfc_verifies_our_hops_and_we_verify_its(kty: str) -> None:
    from joserfc import jws
    from joserfc.jwk import ECKey, OKPKey

    world = World(kty=kty)
    ours, key = world.root(), world.key("ada")
    reader = ECKey if kty == "EC" else OKPKey
    theirs = reader.import_key(key.jwk())
    assert theirs.thumbprint() == key.public.thumbprint
    read = jws.deserialize_compact(ours, theirs, algorithms=["ES256", "Ed25519"])
    assert json.loads(read.payload) == parse_compact(ours, typ=HOP_TYP, bytes_max=9999).claims

    header = {"alg": key.public.alg, "typ": HOP_TYP}
    written = jws.serialize_compact(header, read.payload, theirs, algorithms=["ES256", "Ed25519"])
    assert parse_compact(written, typ=HOP_TYP, bytes_max=9999).is_signed_by(key.public)
    assert type(world.verify([written])).__name__ == "VerifiedChain"


def test_joserfc_verifies_our_grants() -> None:
    from joserfc import jwt
    from joserfc.jwk import ECKey

    world = World()
    grant = world.grant(world.verified(4))
    assert isinstance(grant, Grant)
    key = ECKey.import_key(named_key("site vie").public.jwk)
    token = jwt.decode(grant.token, key, algorithms=["ES256"])
    assert token.claims == grant.claims
    jwt.JWTClaimsRegistry(now=int(world.now_s), aud={"essential": True, "value": "acme"}).validate(token.claims)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
def test_both_names_of_ed25519_verify_and_the_specified_one_is_written() -> None:
    key = named_key("x", "OKP")
    token = sign_compact({"a": 1}, key, typ="t")
    assert parse_compact(token, typ="t", bytes_max=999).header["alg"] == "Ed25519"
    from joserfc import jws
    from joserfc.jwk import OKPKey

    old = jws.serialize_compact({"alg": "EdDSA", "typ": "t"}, b"{}", OKPKey.import_key(key.jwk()), algorithms=["EdDSA"])
    assert parse_compact(old, typ="t", bytes_max=999).is_signed_by(key.public)
