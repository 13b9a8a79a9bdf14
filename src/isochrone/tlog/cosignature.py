"""Timestamped cosignatures of checkpoints (https://c2sp.org/tlog-cosignature): Ed25519 (0x04) and ML-DSA-44 (0x06).

The signature on the note is an 8-byte big-endian POSIX time followed by the algorithm's signature. Ed25519 signs a
``cosignature/v1`` header, the time and the note text; ML-DSA-44 signs a `cosigned_message` structure that also names
the cosigner. `note_verifier` reads a verifier key string of any of the three signature types.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from isochrone.errors import InputError, IntegrityError
from isochrone.tlog.checkpoint import SIZE_MAX, Checkpoint
from isochrone.tlog.keys import Ed25519PrivateKey, MLDSA44PrivateKey, PublicKey, SecretKey, ed25519_key, mldsa44_key
from isochrone.tlog.note import (
    ED25519_TYPE,
    NoteVerifier,
    Signature,
    Verifier,
    check_name,
    encode_vkey,
    key_id,
    parse_vkey,
)

__all__ = ["CosignatureVerifier", "Cosigner", "cosignature_time_s", "note_verifier"]

ED25519_COSIGNATURE_TYPE = 0x04
MLDSA44_COSIGNATURE_TYPE = 0x06
_TIME = struct.Struct(">Q")
_LABEL = b"subtree/v1\n\0"
_NAME_BYTES_MAX = 255


def _ed25519_message(name: str, text: bytes, time_s: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % time_s + text


def _mldsa44_message(name: str, text: bytes, time_s: int) -> bytes:
    """`cosigned_message` of a whole checkpoint: the subtree from leaf 0 to the tree's size."""
    checkpoint = Checkpoint.parse(text)
    cosigner, origin = name.encode(), checkpoint.origin.encode()
    if len(origin) > _NAME_BYTES_MAX:
        raise InputError(f"an origin of {len(origin)} bytes is too long to cosign", code="tlog.origin")
    return b"".join(
        (
            _LABEL,
            bytes([len(cosigner)]) + cosigner,
            _TIME.pack(time_s),
            bytes([len(origin)]) + origin,
            struct.pack(">QQ", 0, checkpoint.size),
            checkpoint.root,
        )
    )


_MESSAGE = {ED25519_COSIGNATURE_TYPE: _ed25519_message, MLDSA44_COSIGNATURE_TYPE: _mldsa44_message}


class CosignatureVerifier:
    """Verifies the cosignatures of one witness key."""

    def __init__(self, name: str, kind: int, public: PublicKey) -> None:
        self.name = check_name(name)
        if len(name.encode()) > _NAME_BYTES_MAX:
            raise InputError(f"a cosigner name of {len(name)} characters is too long", code="tlog.key-name")
        self.key_id = key_id(name, kind, public.raw)
        self.vkey = encode_vkey(name, kind, public.raw)
        self._key, self._message = public, _MESSAGE[kind]

    def verify(self, text: bytes, signature: bytes) -> bool:
        if len(signature) <= _TIME.size:
            return False
        time_s = _TIME.unpack_from(signature)[0]
        try:
            message = self._message(self.name, text, time_s)
        except (IntegrityError, InputError):  # the text is no checkpoint that can be cosigned
            return False
        return time_s <= SIZE_MAX and self._key.verify(signature[_TIME.size :], message)


class Cosigner:
    """Cosigns checkpoints with an Ed25519 or ML-DSA-44 key: the key of a witness, or of a log for its own checkpoints.

    One Ed25519 key must serve one cosigner name only, for that signature does not cover the name.
    """

    def __init__(self, name: str, kind: int, private: SecretKey, public: PublicKey) -> None:
        self.verifier = CosignatureVerifier(name, kind, public)
        self._private, self._message = private, _MESSAGE[kind]

    @classmethod
    def ed25519(cls, name: str, key: Ed25519PrivateKey | bytes) -> Cosigner:
        """From a key or its 32-byte seed."""
        return cls(name, ED25519_COSIGNATURE_TYPE, *ed25519_key(key))

    @classmethod
    def mldsa44(cls, name: str, key: MLDSA44PrivateKey | bytes) -> Cosigner:
        """From a key or its 32-byte seed; needs a `cryptography` built with ML-DSA."""
        return cls(name, MLDSA44_COSIGNATURE_TYPE, *mldsa44_key(key))

    @property
    def name(self) -> str:
        return self.verifier.name

    @property
    def vkey(self) -> str:
        return self.verifier.vkey

    def sign(self, text: bytes, now_s: int) -> Signature:
        """Cosign a checkpoint's note text as of `now_s` (POSIX seconds)."""
        value = _TIME.pack(now_s) + self._private.sign(self._message(self.name, text, now_s))
        return Signature(self.name, self.verifier.key_id, value)


def cosignature_time_s(signature: Signature) -> int:
    """The POSIX time in a cosignature that a `CosignatureVerifier` has verified."""
    time_s: int = _TIME.unpack_from(signature.value)[0]
    return time_s


@lru_cache(maxsize=1024)
def note_verifier(vkey: str) -> NoteVerifier:
    """A verifier for a log key (type 0x01) or a cosigner key (0x04, 0x06).

    Raises:
        InputError: ``tlog.key``, malformed or of a type we do not know.
    """
    name, kind, public = parse_vkey(vkey)
    if kind == ED25519_TYPE:
        return Verifier(name, public)
    if kind == ED25519_COSIGNATURE_TYPE:
        return CosignatureVerifier(name, kind, PublicKey.ed25519(public))
    if kind == MLDSA44_COSIGNATURE_TYPE:
        return CosignatureVerifier(name, kind, PublicKey.mldsa44(public))
    raise InputError(
        f"{name} has a key of unknown type {kind:#04x}", code="tlog.key", hint="Types 0x01, 0x04 and 0x06 are known."
    )
