"""The two signature algorithms of C2SP logs, as bytes in and bytes out: the door to `cryptography`.

Ed25519 is RFC 8032; ML-DSA-44 is FIPS 204 in its pure form with an empty context. Ed25519 is deterministic; ML-DSA
draws randomness inside the library, so two of its signatures over one message differ.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from isochrone.errors import InputError

__all__ = ["Ed25519PrivateKey", "MLDSA44PrivateKey", "PublicKey", "SecretKey", "ed25519_key", "mldsa44_key"]

ED25519_PUBLIC_BYTES = 32
MLDSA44_PUBLIC_BYTES = 1312


class SecretKey(Protocol):
    """A private key of either algorithm."""

    def sign(self, data: bytes, /) -> bytes: ...


class PublicKey:
    """A public key of either algorithm: `raw` bytes as the C2SP specifications encode it."""

    __slots__ = ("_key", "raw")

    def __init__(self, key: Ed25519PublicKey | MLDSA44PublicKey) -> None:
        self._key = key
        self.raw = key.public_bytes_raw()

    @classmethod
    def ed25519(cls, raw: bytes) -> PublicKey:
        """Raises InputError (``tlog.key``) when `raw` is not a 32-byte Ed25519 key."""
        try:
            return cls(Ed25519PublicKey.from_public_bytes(raw))
        except ValueError as error:
            raise _bad_key(f"an Ed25519 public key has {ED25519_PUBLIC_BYTES} bytes, not {len(raw)}") from error

    @classmethod
    def mldsa44(cls, raw: bytes) -> PublicKey:
        """Raises InputError (``tlog.key``) when `raw` is not a 1,312-byte ML-DSA-44 key."""
        try:
            return cls(MLDSA44PublicKey.from_public_bytes(raw))
        except ValueError as error:
            raise _bad_key(f"an ML-DSA-44 public key has {MLDSA44_PUBLIC_BYTES} bytes, not {len(raw)}") from error

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` over `message` was made by this key's owner."""
        try:
            self._key.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def ed25519_key(key: Ed25519PrivateKey | bytes) -> tuple[Ed25519PrivateKey, PublicKey]:
    """A private key, given as one or as its 32-byte seed, with its public half."""
    private = Ed25519PrivateKey.from_private_bytes(_seed(key)) if isinstance(key, bytes) else key
    return private, PublicKey(private.public_key())


def mldsa44_key(key: MLDSA44PrivateKey | bytes) -> tuple[MLDSA44PrivateKey, PublicKey]:
    """As `ed25519_key`, for ML-DSA-44."""
    private = MLDSA44PrivateKey.from_seed_bytes(_seed(key)) if isinstance(key, bytes) else key
    return private, PublicKey(private.public_key())


def _seed(seed: bytes) -> bytes:
    if len(seed) != 32:
        raise _bad_key(f"a key seed has 32 bytes, not {len(seed)}")
    return seed


def _bad_key(message: str) -> InputError:
    return InputError(message, code="tlog.key", hint="Check that the whole key was copied, and of the right kind.")
