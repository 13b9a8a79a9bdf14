"""Keys and compact JWS: the one door to `cryptography` and `joserfc`.

Two algorithms, each fixed by the key and never by the token: ECDSA P-256 (``ES256``, RFC 7518 section 3.4) and Ed25519
(``Ed25519``, RFC 9864; ``EdDSA`` of RFC 8037 is its older name and is accepted with the same key). Signatures are
checked with `cryptography` itself: a chain is verified per exchange, and a JOSE framework costs as much as the curve.
`joserfc` reads and writes key files, where breadth matters and speed does not, and is the oracle of the interop tests.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from isochrone.errors import AuthorityError

__all__ = [
    "Compact",
    "PrivateKey",
    "PublicKey",
    "b64u_decode",
    "b64u_encode",
    "load_json_object",
    "parse_compact",
    "sha256_b64u",
    "sign_compact",
    "signing_input",
]

ALGS: Mapping[str, tuple[str, ...]] = {"EC": ("ES256",), "OKP": ("Ed25519", "EdDSA")}
"""The allow-list: key type to the names its one algorithm goes by, the name we write first."""

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_ES256 = ec.ECDSA(hashes.SHA256())
# RFC 6979: signing draws no randomness, so it stays pure, and a bad generator cannot leak the key.
_ES256_SIGNING = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_P256 = ec.SECP256R1()
_CURVES = {"EC": "P-256", "OKP": "Ed25519"}


def b64u_encode(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode("ascii")


def b64u_decode(text: str) -> bytes:
    """Decode base64url without padding, canonical form only: two texts never decode to the same bytes.

    Raises:
        AuthorityError: other characters, padding, or stray bits in the last character.
    """
    try:
        data = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"==")
    except ValueError:
        data = b""
    # Decoders forgive; that the same text comes back is the whole of the canonical form.
    if b64u_encode(data) != text:
        raise AuthorityError("not canonical base64url without padding", code="authority.malformed")
    return data


def sha256_b64u(data: bytes) -> str:
    """SHA-256 as 43 characters of base64url."""
    return b64u_encode(hashlib.sha256(data).digest())


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def load_json_object(data: bytes) -> dict[str, Any]:
    """Parse one JSON object strictly: UTF-8, no member twice (RFC 8725 section 2.4), no NaN.

    Raises:
        AuthorityError: anything else.
    """
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AuthorityError(f"not a JSON object: {error}", code="authority.malformed") from None
    if not isinstance(value, dict):
        raise AuthorityError("not a JSON object", code="authority.malformed")
    return value


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of the allow-list; equality is that of the RFC 7638 thumbprint."""

    kty: str = field(compare=False)
    x: str = field(compare=False)
    y: str | None = field(compare=False)
    thumbprint: str
    _handle: Any = field(compare=False, repr=False)

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> PublicKey:
        """Read a public JWK (RFC 7517, RFC 8037); members beside the key itself are ignored.

        Raises:
            AuthorityError: another type or curve, a point not on the curve, or a private key in a public place.
        """
        kty, crv, x, y = jwk.get("kty"), jwk.get("crv"), jwk.get("x"), jwk.get("y")
        if "d" in jwk or "k" in jwk:
            raise AuthorityError(
                "a private key stands where a public key belongs",
                code="authority.private-key",
                hint="send the public JWK, and treat this private key as exposed",
            )
        if not isinstance(kty, str) or _CURVES.get(kty) != crv or not isinstance(x, str):
            raise AuthorityError(
                "key is neither P-256 nor Ed25519", code="authority.key-type", hint="create an ES256 or Ed25519 key"
            )
        try:
            if kty == "OKP":
                return cls._of("OKP", ed25519.Ed25519PublicKey.from_public_bytes(b64u_decode(x)), x, None)
            if not isinstance(y, str) or len(x) != 43 or len(y) != 43:
                raise ValueError("a P-256 coordinate has 32 bytes")
            point = b"\x04" + b64u_decode(x) + b64u_decode(y)
            return cls._of("EC", ec.EllipticCurvePublicKey.from_encoded_point(_P256, point), x, y)
        except ValueError as error:
            raise AuthorityError(f"not a public key: {error}", code="authority.malformed") from None

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """Read a SubjectPublicKeyInfo in PEM."""
        return cls._of_handle(_imported(pem).public_key)

    @classmethod
    def from_certificate(cls, der: bytes) -> PublicKey:
        """The subject's key of an X.509 certificate in DER, which somebody else has verified (the TLS stack)."""
        from cryptography.x509 import load_der_x509_certificate

        try:
            return cls._of_handle(load_der_x509_certificate(der).public_key())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise AuthorityError(f"not a certificate: {error}", code="authority.malformed") from None

    @classmethod
    def _of_handle(cls, handle: object) -> PublicKey:
        if isinstance(handle, ed25519.Ed25519PublicKey):
            return cls._of("OKP", handle, b64u_encode(handle.public_bytes_raw()), None)
        if isinstance(handle, ec.EllipticCurvePublicKey) and isinstance(handle.curve, ec.SECP256R1):
            point = handle.public_numbers()
            return cls._of("EC", handle, *(b64u_encode(n.to_bytes(32, "big")) for n in (point.x, point.y)))
        raise AuthorityError("key is neither P-256 nor Ed25519", code="authority.key-type")

    @classmethod
    def _of(cls, kty: str, handle: Any, x: str, y: str | None) -> PublicKey:
        # RFC 7638 section 3.2 and RFC 8037 section 2: the required members, in lexical order, without white space.
        tail = f',"y":"{y}"' if y else ""
        thumbprint = sha256_b64u(f'{{"crv":"{_CURVES[kty]}","kty":"{kty}","x":"{x}"{tail}}}'.encode())
        return cls(kty, x, y, thumbprint, handle)

    @property
    def jwk(self) -> dict[str, str]:
        """The public JWK: exactly the members that the thumbprint covers."""
        jwk = {"kty": self.kty, "crv": _CURVES[self.kty], "x": self.x}
        return jwk | {"y": self.y} if self.y else jwk

    @property
    def alg(self) -> str:
        """The `alg` name written for this key."""
        return ALGS[self.kty][0]

    def pem(self) -> bytes:
        """SubjectPublicKeyInfo in PEM."""
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return bytes(self._handle.public_bytes(encoding, form))

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` (ES256: r||s, RFC 7518 section 3.4; Ed25519: 64 bytes) is this key's over `data`."""
        if len(signature) != 64:
            return False
        try:
            if self.kty == "OKP":
                self._handle.verify(signature, data)
            else:
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                self._handle.verify(encode_dss_signature(r, s), data, _ES256)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A signing key and its public half."""

    public: PublicKey
    _handle: Any = field(compare=False, repr=False)

    @classmethod
    def generate(cls, kty: str = "EC") -> PrivateKey:
        """A new key from the operating system's generator: for people's tools, never called by the core itself."""
        return cls._of(ec.generate_private_key(_P256) if kty == "EC" else ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes, kty: str = "EC") -> PrivateKey:
        """The key that a 32-byte secret names: reproducible in simulations and tests.

        Raises:
            ValueError: the seed is not 32 bytes, or is no scalar of the curve.
        """
        if len(seed) != 32:
            raise ValueError("a seed has 32 bytes")
        if kty == "OKP":
            return cls._of(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
        return cls._of(ec.derive_private_key(int.from_bytes(seed, "big"), _P256))

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> PrivateKey:
        """Read a private JWK."""
        return cls._of(_imported(dict(jwk)).private_key)

    @classmethod
    def from_pem(cls, pem: bytes) -> PrivateKey:
        """Read an unencrypted PKCS#8 (or SEC 1) private key in PEM."""
        return cls._of(_imported(pem).private_key)

    @classmethod
    def _of(cls, handle: Any) -> PrivateKey:
        if handle is None:
            raise AuthorityError("a public key stands where a private key belongs", code="authority.key-type")
        return cls(PublicKey._of_handle(handle.public_key()), handle)

    def jwk(self) -> dict[str, str]:
        """The private JWK: a secret."""
        return self.public.jwk | {"d": b64u_encode(self._secret())}

    def pem(self) -> bytes:
        """PKCS#8 in PEM, not encrypted: a secret."""
        form = serialization.PrivateFormat.PKCS8
        return bytes(self._handle.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))

    def sign(self, data: bytes) -> bytes:
        """64 bytes of signature over `data`, in JOSE form."""
        if self.public.kty == "OKP":
            return bytes(self._handle.sign(data))
        r, s = decode_dss_signature(self._handle.sign(data, _ES256_SIGNING))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def _secret(self) -> bytes:
        if self.public.kty == "OKP":
            return bytes(self._handle.private_bytes_raw())
        return int(self._handle.private_numbers().private_value).to_bytes(32, "big")


def _imported(source: bytes | dict[str, Any]) -> Any:
    """A key of the allow-list's types as `joserfc` reads it from a JWK or PEM."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey

    readers: list[Callable[[Any], Any]] = [ECKey.import_key, OKPKey.import_key]
    if isinstance(source, dict):
        readers = [OKPKey.import_key if source.get("kty") == "OKP" else ECKey.import_key]
    for reader in readers:
        try:
            return reader(source)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            continue
    raise AuthorityError(
        "not a P-256 or Ed25519 key", code="authority.key-type", hint="give a JWK or an unencrypted PEM"
    )


@dataclass(frozen=True, slots=True)
class Compact:
    """A compact JWS that has been parsed and **not** yet verified."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    proof: bytes

    @property
    def digest(self) -> str:
        """SHA-256 (base64url) of the signing input: what was signed, whatever the signature's own bytes are.

        ECDSA and WebAuthn signatures are malleable by whoever holds them: from (r, s) anyone makes (r, -s). A digest
        over the whole token would give the holder of a revoked token a second name for it; this one does not.
        """
        return sha256_b64u(self.signed)

    def is_signed_by(self, key: PublicKey) -> bool:
        """Whether `key` signed this, by the algorithm of the key."""
        return self.header.get("alg") in ALGS[key.kty] and key.verifies(self.proof, self.signed)


def parse_compact(token: str, *, typ: str, bytes_max: int, members: frozenset[str] = frozenset()) -> Compact:
    """Take a compact JWS apart, strictly (RFC 7515 section 5.2, RFC 8725).

    Args:
        token: three parts of base64url.
        typ: the `typ` it must carry (RFC 8725 section 3.11), so that no token of ours passes for another kind.
        bytes_max: longest text accepted, checked before anything else.
        members: header members understood beside `alg` and `typ`; any other refuses the token (so does `crit`).

    Raises:
        AuthorityError: oversized, malformed, of another type, or with a header we do not understand.
    """
    if len(token) > bytes_max:
        raise AuthorityError(f"token of {len(token)} bytes; at most {bytes_max} are read", code="authority.oversized")
    parts = token.split(".")
    if len(parts) != 3:
        raise AuthorityError("not a compact JWS of three parts", code="authority.malformed")
    header = load_json_object(b64u_decode(parts[0]))
    unknown = header.keys() - members - {"alg", "typ"}
    if unknown:
        raise AuthorityError(f"header members not understood: {', '.join(sorted(unknown))}", code="authority.header")
    if header.get("typ") != typ:
        raise AuthorityError(f"token type is {header.get('typ')!r}, not {typ!r}", code="authority.type")
    claims = load_json_object(b64u_decode(parts[1]))
    return Compact(header, claims, token[: -len(parts[2]) - 1].encode("ascii"), b64u_decode(parts[2]))


def signing_input(header: Mapping[str, Any], claims: Mapping[str, Any]) -> bytes:
    """What is signed: base64url header, a full stop, base64url payload (RFC 7515 section 5.1)."""
    parts = (b64u_encode(_ENCODER.encode(part).encode("utf-8")) for part in (header, claims))
    return ".".join(parts).encode("ascii")


def sign_compact(claims: Mapping[str, Any], key: PrivateKey, *, typ: str, **header: Any) -> str:
    """A compact JWS over `claims`, by the algorithm of `key`."""
    signed = signing_input({"alg": key.public.alg, "typ": typ, **header}, claims)
    return f"{signed.decode('ascii')}.{b64u_encode(key.sign(signed))}"
