"""Signed notes and verifier keys (https://c2sp.org/signed-note), with Ed25519 signatures (type 0x01).

A note is text that ends in a newline, a blank line, and one line per signature:
``— <key name> base64(4-byte key ID || signature)``. A verifier key string ("vkey") is
``<key name>+<key ID in hex>+base64(type || public key)``.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from isochrone.errors import InputError, IntegrityError
from isochrone.tlog.keys import Ed25519PrivateKey, PublicKey, ed25519_key

__all__ = [
    "Note",
    "NoteSigner",
    "NoteVerifier",
    "Signature",
    "Signer",
    "Verifier",
    "decode_base64",
    "encode_vkey",
    "key_id",
    "parse_signature_lines",
    "parse_vkey",
]

ED25519_TYPE = 0x01
SIGNATURES_MAX = 64
NOTE_BYTES_MAX = 1 << 20
_DASH = "— ".encode()
_NOT_IN_NAMES = re.compile(r"[\s+\x00-\x1f]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class NoteVerifier(Protocol):
    """Whoever can verify one key's signatures on a note."""

    @property
    def name(self) -> str: ...
    @property
    def key_id(self) -> bytes: ...
    def verify(self, text: bytes, signature: bytes) -> bool:
        """Whether `signature` (without key ID) is this key's over the note `text`."""
        ...


class NoteSigner(Protocol):
    """Whoever can sign notes; `now_s` (POSIX seconds) is used by signatures that carry a time."""

    @property
    def verifier(self) -> NoteVerifier: ...
    def sign(self, text: bytes, now_s: int) -> Signature: ...


def check_name(name: str) -> str:
    """A key name: not empty, no Unicode space, no plus, no control character."""
    if not name or _NOT_IN_NAMES.search(name):
        raise InputError(f"{name!r} is not a key name", code="tlog.key-name", hint="Use a URL without its scheme.")
    return name


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """The 4-byte key ID: SHA-256(name || newline || type || public key)[:4]."""
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def encode_vkey(name: str, kind: int, public: bytes) -> str:
    return f"{name}+{key_id(name, kind, public).hex()}+{b64encode(bytes([kind]) + public).decode()}"


def parse_vkey(vkey: str) -> tuple[str, int, bytes]:
    """Key name, signature type and public key of a verifier key string.

    Raises:
        InputError: ``tlog.key``, malformed, or the key ID is not the key's.
    """
    name, _, rest = vkey.partition("+")
    identifier, _, encoded = rest.partition("+")
    material = decode_base64(encoded)
    if not material:
        raise InputError(f"{vkey!r} is not a verifier key", code="tlog.key", hint="Expected <name>+<key ID>+<base64>.")
    check_name(name)
    if identifier != key_id(name, material[0], material[1:]).hex():
        raise InputError(f"the key ID of {vkey!r} does not match its key", code="tlog.key", hint="Copy the key again.")
    return name, material[0], material[1:]


def decode_base64(text: str | bytes) -> bytes | None:
    """Canonical standard base64, or None: other spellings of the same bytes are refused (RFC 4648 section 3.5)."""
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if b64encode(data) == (text.encode() if isinstance(text, str) else text) else None


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: key `name`, 4-byte `key_id`, and the algorithm's `value`."""

    name: str
    key_id: bytes
    value: bytes

    def encode(self) -> bytes:
        return b"%s%s %s\n" % (_DASH, self.name.encode(), b64encode(self.key_id + self.value))

    @staticmethod
    def parse(line: bytes) -> Signature:
        """Raises IntegrityError (``tlog.note``) when `line` (without newline) is no signature line."""
        name, _, encoded = line[len(_DASH) :].partition(b" ")
        blob = decode_base64(encoded)
        if not line.startswith(_DASH) or blob is None or len(blob) < 5:
            raise _bad_note("a signature line is malformed")
        try:
            return Signature(check_name(name.decode()), blob[:4], blob[4:])
        except (UnicodeDecodeError, InputError) as error:
            raise _bad_note("a signature line has a malformed key name") from error


@dataclass(frozen=True, slots=True)
class Note:
    """A note's `text` (with its final newline) and its signatures, none of them verified yet."""

    text: bytes
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        return self.text + b"\n" + b"".join(signature.encode() for signature in self.signatures)

    @staticmethod
    def parse(data: bytes) -> Note:
        """Raises IntegrityError (``tlog.note``) when `data` is not a well-formed signed note."""
        if len(data) > NOTE_BYTES_MAX:
            raise _bad_note(f"a note of {len(data)} bytes is over the limit of {NOTE_BYTES_MAX}")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise _bad_note("the note is not UTF-8") from error
        if _CONTROL.search(text):
            raise _bad_note("the note has a control character")
        body, blank, signatures = data.rpartition(b"\n\n")
        if not blank:
            raise _bad_note("the note has no blank line before its signatures")
        return Note(body + b"\n", parse_signature_lines(signatures))

    def verified(self, verifiers: Iterable[NoteVerifier]) -> tuple[Signature, ...]:
        """As `valid`, and at least one.

        Raises:
            IntegrityError: ``tlog.signature``, a known key's signature is wrong, or no known key has signed.
        """
        good = self.valid(verifiers)
        if not good:
            raise _bad_signature("no key that is trusted here has signed this note")
        return good

    def valid(self, verifiers: Iterable[NoteVerifier]) -> tuple[Signature, ...]:
        """The signatures made by keys in `verifiers`, one for each key; those by unknown keys are ignored.

        Raises:
            IntegrityError: ``tlog.signature``, a known key's signature is wrong.
        """
        known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
        good: dict[tuple[str, bytes], Signature] = {}
        for signature in self.signatures:
            verifier = known.get((signature.name, signature.key_id))
            if verifier is None:
                continue
            if not verifier.verify(self.text, signature.value):
                raise _bad_signature(f"the signature of {signature.name} does not verify")
            good.setdefault((signature.name, signature.key_id), signature)
        return tuple(good.values())

    def merged(self, signatures: Iterable[Signature]) -> Note:
        """This note with `signatures` added; a key that has already signed keeps its place and gets its newer line."""
        lines = {(s.name, s.key_id): s for s in (*self.signatures, *signatures)}
        return Note(self.text, tuple(lines.values()))


def parse_signature_lines(data: bytes) -> tuple[Signature, ...]:
    """One or more signature lines, each ended by a newline; raises IntegrityError (``tlog.note``)."""
    lines = data.split(b"\n")
    if lines.pop() or not lines or len(lines) > SIGNATURES_MAX:
        raise _bad_note(f"expected 1 to {SIGNATURES_MAX} signature lines, each ended by a newline")
    return tuple(Signature.parse(line) for line in lines)


class Verifier:
    """Verifies Ed25519 note signatures (type 0x01)."""

    def __init__(self, name: str, public: bytes) -> None:
        self._key = PublicKey.ed25519(public)
        self.name = check_name(name)
        self.key_id = key_id(name, ED25519_TYPE, public)
        self.vkey = encode_vkey(name, ED25519_TYPE, public)

    @classmethod
    def from_vkey(cls, vkey: str) -> Verifier:
        """Raises InputError (``tlog.key``) when `vkey` is not an Ed25519 verifier key."""
        name, kind, public = parse_vkey(vkey)
        if kind != ED25519_TYPE:
            raise InputError(f"{name} has a key of type {kind:#04x}, not Ed25519 (0x01)", code="tlog.key")
        return cls(name, public)

    def named(self, name: str) -> Verifier:
        """The same key under the name of another log; what a note says names its log."""
        return Verifier(name, self._key.raw)

    def verify(self, text: bytes, signature: bytes) -> bool:
        return self._key.verify(signature, text)


class Signer:
    """Signs notes with an Ed25519 key (type 0x01), given as a `cryptography` key or its 32-byte seed."""

    def __init__(self, name: str, key: Ed25519PrivateKey | bytes) -> None:
        self._key, public = ed25519_key(key)
        self.verifier = Verifier(name, public.raw)

    @property
    def name(self) -> str:
        return self.verifier.name

    @property
    def vkey(self) -> str:
        return self.verifier.vkey

    def named(self, name: str) -> Signer:
        """The same key as the key of another log."""
        return Signer(name, self._key)

    def sign(self, text: bytes, now_s: int = 0) -> Signature:
        """Sign `text`; `now_s` is not used, this signature type carries no time."""
        return Signature(self.name, self.verifier.key_id, self._key.sign(text))


def _bad_note(message: str) -> IntegrityError:
    return IntegrityError(message, code="tlog.note", hint="See https://c2sp.org/signed-note for the format.")


def _bad_signature(message: str) -> IntegrityError:
    return IntegrityError(
        message, code="tlog.signature", hint="Do not trust the note's text; check which keys are configured for it."
    )
