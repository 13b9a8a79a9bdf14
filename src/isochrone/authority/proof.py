"""How a key proves a document of ours: by a JWS signature, or through a passkey's assertion. The door to `webauthn`.

A signed document is three parts of base64url: header, claims, proof. The proof is a tagged union and `alg` is its tag:

- ``ES256``, ``Ed25519``, ``EdDSA``: the part is the signature, and the document is an ordinary compact JWS (RFC 7515);
- ``WebAuthn``: the part is a JSON WebAuthn assertion (W3C Web Authentication Level 3, section 7.2) whose challenge is
  the SHA-256 of the signing input, with user presence and user verification. The name is ours, so that no JOSE library
  mistakes such a document for one that it can check.

A passkey is only ever used through an assertion, and a plain key only through a signature: the enrolment says which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isochrone.authority.jose import (
    Compact,
    PublicKey,
    b64u_decode,
    b64u_encode,
    load_json_object,
    parse_compact,
    signing_input,
)
from isochrone.authority.reasons import Reason
from isochrone.errors import AuthorityError

__all__ = [
    "EnrolledKey",
    "Passkey",
    "attach_assertion",
    "challenge",
    "comparison_code",
    "parse_signed",
    "registered_key",
    "unsigned_for_passkey",
]

WEBAUTHN_ALG = "WebAuthn"
_ASSERTION_MEMBERS = ("clientDataJSON", "authenticatorData", "signature")


@dataclass(frozen=True, slots=True)
class Passkey:
    """Where a passkey may be used.

    Attributes:
        credential_id: base64url, as registered.
        rp_id: the relying party id: a domain.
        origins: the web origins an assertion may come from.
    """

    credential_id: str
    rp_id: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EnrolledKey:
    """A public key that the registry binds to a person or agent; with `passkey`, held by an authenticator."""

    key: PublicKey
    passkey: Passkey | None = None
    is_active: bool = True

    def fault(self, document: Compact) -> Reason | None:
        """Why `document` is not proven by this key; None when it is."""
        if self.passkey is None:
            if document.header.get("alg") == WEBAUTHN_ALG:
                return Reason("proof-kind", "a passkey assertion stands where this key signs by itself")
            return None if document.is_signed_by(self.key) else Reason("signature", "the signature is not of this key")
        if document.header.get("alg") != WEBAUTHN_ALG:
            return Reason("proof-kind", "this key is a passkey and signs only through a WebAuthn assertion")
        return _assertion_fault(document, self.key, self.passkey)

    def to_json(self) -> dict[str, Any]:
        """The enrolment as a JSON object."""
        shown: dict[str, Any] = {"jwk": self.key.jwk}
        if self.passkey:
            shown["passkey"] = {
                "credential_id": self.passkey.credential_id,
                "rp_id": self.passkey.rp_id,
                "origins": list(self.passkey.origins),
            }
        return shown

    @classmethod
    def from_json(cls, value: object) -> EnrolledKey:
        """Read an enrolment.

        Raises:
            AuthorityError: it is malformed.
        """
        if not isinstance(value, dict) or not isinstance(value.get("jwk"), dict) or value.keys() - {"jwk", "passkey"}:
            raise AuthorityError("an enrolled key is an object of jwk and, maybe, passkey", code="authority.malformed")
        return cls(PublicKey.from_jwk(value["jwk"]), _read_passkey(value["passkey"]) if "passkey" in value else None)


def _read_passkey(value: object) -> Passkey:
    match value:
        case {"credential_id": str(credential), "rp_id": str(rp_id), "origins": [*origins]} if origins and all(
            isinstance(origin, str) for origin in origins
        ):
            return Passkey(credential, rp_id, tuple(origins))
    raise AuthorityError("a passkey has a credential_id, an rp_id and origins", code="authority.malformed")


def parse_signed(token: str, *, typ: str, bytes_max: int) -> Compact:
    """Parse a signed document of either kind of proof; nothing is verified yet. Raises as `parse_compact` does."""
    return parse_compact(token, typ=typ, bytes_max=bytes_max)


def unsigned_for_passkey(claims: Mapping[str, Any], *, typ: str) -> bytes:
    """The signing input that a passkey is to approve; show the person what it says, then ask for `challenge` of it."""
    return signing_input({"alg": WEBAUTHN_ALG, "typ": typ}, claims)


def challenge(signed: bytes) -> bytes:
    """The 32 bytes that the authenticator is challenged with."""
    return hashlib.sha256(signed).digest()


def comparison_code(typ: str, claims: Mapping[str, Any]) -> str:
    """Eight characters by which a person tells that two screens speak of the same document, whatever key signs it."""
    without = {name: value for name, value in claims.items() if name != "iss"}
    digest = hashlib.sha256(signing_input({"typ": typ}, without)).hexdigest().upper()
    return f"{digest[:4]}-{digest[4:8]}"


def attach_assertion(signed: bytes, assertion: Mapping[str, Any]) -> str:
    """The signed document: `signed` and the assertion that a browser returned (``PublicKeyCredential.toJSON()``).

    Raises:
        AuthorityError: members of the assertion are missing.
    """
    response = assertion.get("response")
    if not isinstance(assertion.get("id"), str) or not isinstance(response, Mapping):
        raise AuthorityError("not a WebAuthn assertion", code="authority.malformed")
    kept = {name: response.get(name) for name in _ASSERTION_MEMBERS}
    if not all(isinstance(value, str) for value in kept.values()):
        raise AuthorityError("the WebAuthn assertion lacks members", code="authority.malformed")
    # Written by the encoder of every other part; the last part of a signing input is never a full stop.
    proof = signing_input({}, {"id": assertion["id"], **kept}).split(b".")[1]
    return f"{signed.decode('ascii')}.{proof.decode('ascii')}"


def _assertion_fault(document: Compact, key: PublicKey, passkey: Passkey) -> Reason | None:
    from webauthn import verify_authentication_response
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        assertion = load_json_object(document.proof)
    except AuthorityError as error:
        return Reason.of(error)
    if assertion.get("id") != passkey.credential_id:
        return Reason("passkey", "the assertion is of another credential")
    credential = {
        "id": passkey.credential_id,
        "rawId": passkey.credential_id,
        "type": "public-key",
        "response": {name: assertion.get(name) for name in _ASSERTION_MEMBERS},
    }
    try:
        # The sign count is not followed: sites that cannot talk cannot agree on one, and passkeys that sync leave it 0.
        verify_authentication_response(
            credential=credential,
            expected_challenge=challenge(document.signed),
            expected_rp_id=passkey.rp_id,
            expected_origin=list(passkey.origins),
            credential_public_key=_cose(key),
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        return Reason("passkey", f"the passkey's assertion does not verify: {error}")
    return None


def _cose(key: PublicKey) -> bytes:
    """The key as COSE_Key (RFC 9053 section 7): EC2 with ES256, or OKP with EdDSA."""
    from webauthn.helpers import encode_cbor

    if key.kty == "OKP":
        return encode_cbor({1: 1, 3: -8, -1: 6, -2: b64u_decode(key.x)})
    return encode_cbor({1: 2, 3: -7, -1: 1, -2: b64u_decode(key.x), -3: b64u_decode(key.y or "")})


def registered_key(credential: Mapping[str, Any], wanted: bytes, rp_id: str, origin: str) -> EnrolledKey:
    """The key of a new passkey, from what ``navigator.credentials.create`` returned (W3C section 7.1).

    No attestation is asked for: who makes authenticators is not what a person is known by.

    Args:
        wanted: the challenge that was given.

    Raises:
        AuthorityError: it does not verify, or its key is neither ES256 nor EdDSA.
    """
    from webauthn import verify_registration_response
    from webauthn.helpers.cose import COSEAlgorithmIdentifier
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        verified = verify_registration_response(
            credential=dict(credential),
            expected_challenge=wanted,
            expected_rp_id=rp_id,
            expected_origin=origin,
            require_user_verification=True,
            supported_pub_key_algs=[COSEAlgorithmIdentifier.ECDSA_SHA_256, COSEAlgorithmIdentifier.EDDSA],
        )
    except (WebAuthnException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuthorityError(f"the new passkey does not verify: {error}", code="authority.passkey") from error
    passkey = Passkey(b64u_encode(verified.credential_id), rp_id, (origin,))
    return EnrolledKey(passkey_key(verified.credential_public_key), passkey)


def passkey_key(cose: bytes) -> PublicKey:
    """The public key of a registered credential, from the COSE_Key that registration verified.

    Raises:
        AuthorityError: neither ES256 nor EdDSA.
    """
    from webauthn.helpers.parse_cbor import parse_cbor

    try:
        decoded = parse_cbor(cose)
        crv, x = ("P-256", decoded[-2]) if decoded[1] == 2 else ("Ed25519", decoded[-2])
        jwk = {"kty": "EC" if decoded[1] == 2 else "OKP", "crv": crv, "x": b64u_encode(x)}
        if decoded[1] == 2:
            jwk["y"] = b64u_encode(decoded[-3])
        if decoded[3] != (-7 if decoded[1] == 2 else -8):
            raise KeyError(3)
    except Exception as error:
        raise AuthorityError("the passkey's key is neither ES256 nor EdDSA", code="authority.key-type") from error
    return PublicKey.from_jwk(jwk)
