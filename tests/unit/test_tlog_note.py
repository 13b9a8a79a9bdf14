"""Keys, signed notes, checkpoints and cosignatures: what is accepted, and above all what is not."""

from __future__ import annotations

from base64 import b64encode

import pytest

from isochrone.errors import InputError, IntegrityError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import CosignatureVerifier, Cosigner, cosignature_time_s, note_verifier
from isochrone.tlog.note import Note, Signature, Signer, Verifier, encode_vkey

LOG = Signer("example.com/log", b"L" * 32)
OTHER = Signer("example.com/log", b"O" * 32)
HEAD = Checkpoint("example.com/log", 20852163, bytes(range(32)))
MLDSA = Cosigner.mldsa44("witness.example/pq", b"P" * 32)
ED25519 = Cosigner.ed25519("witness.example/w", b"W" * 32)


def test_sign_and_verify() -> None:
    signed = HEAD.sign(LOG)
    assert Checkpoint.parse_and_verify(signed, LOG.verifier, origin="example.com/log") == HEAD
    assert Note.parse(signed).encode() == signed


def test_signatures_of_unknown_keys_are_ignored_but_one_known_key_must_have_signed() -> None:
    both = HEAD.sign(OTHER, LOG)
    assert Checkpoint.parse_and_verify(both, LOG.verifier) == HEAD
    with pytest.raises(IntegrityError, match="no key that is trusted") as caught:
        Checkpoint.parse_and_verify(HEAD.sign(OTHER), LOG.verifier)
    assert caught.value.code == "tlog.signature"


def test_one_wrong_signature_of_a_known_key_rejects_the_note() -> None:
    note = Note.parse(HEAD.sign(LOG, ED25519, now_s=5))
    forged = Signature(LOG.name, LOG.verifier.key_id, bytes(64))
    with pytest.raises(IntegrityError, match="does not verify"):
        Note(note.text, (note.signatures[1], forged)).verified([LOG.verifier, ED25519.verifier])


def test_a_checkpoint_of_another_log_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        Checkpoint.parse_and_verify(HEAD.sign(LOG), LOG.verifier, origin="example.com/another")
    assert caught.value.code == "tlog.origin"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda d: d.replace(b"\n\n", b"\n", 1), id="no blank line"),
        pytest.param(lambda d: d[:-1], id="no final newline"),
        pytest.param(lambda d: d + b"\n", id="an empty signature line"),
        pytest.param(lambda d: d.replace("—".encode(), b"-"), id="a hyphen for the dash"),
        pytest.param(lambda d: d.replace(b"\n", b"\r\n", 1), id="a control character"),
        pytest.param(lambda d: b"\xff" + d, id="not UTF-8"),
        pytest.param(lambda d: d[:-3] + b"\n", id="base64 cut short"),
        pytest.param(lambda d: d.replace(b" example.com/log ", b" example.com+log "), id="plus in name"),
        pytest.param(lambda d: d.replace(b" example.com/log ", b"  "), id="empty name"),
        pytest.param(lambda d: d[: d.index(b"\n\n") + 2], id="no signatures"),
        pytest.param(lambda d: d + d[d.index("—".encode()) :] * 64, id="more than 64 signatures"),
        pytest.param(lambda d: b"x" * (1 << 20) + d, id="over a megabyte"),
    ],
)
def test_malformed_notes_are_refused(damage: object) -> None:
    with pytest.raises(IntegrityError) as caught:
        Note.parse(damage(HEAD.sign(LOG)))  # type: ignore[operator]
    assert caught.value.code == "tlog.note"


def test_base64_has_one_spelling_only() -> None:
    line = Signature("n", b"1234", b"5").encode()
    assert line.endswith(b"MTIzNDU=\n")
    with pytest.raises(IntegrityError):
        Signature.parse(line.replace(b"NDU=", b"NDV=")[:-1])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"o\n1\n",
        b"o\n1\n" + b64encode(bytes(32)),
        b"o\n01\n" + b64encode(bytes(32)) + b"\n",
        b"o\n-1\n" + b64encode(bytes(32)) + b"\n",
        b"o\n%d\n" % (1 << 63) + b64encode(bytes(32)) + b"\n",
        "o\n１\n".encode() + b64encode(bytes(32)) + b"\n",
        b"o\n1\n" + b64encode(bytes(31)) + b"\n",
        b"o\n1\nnot base64\n",
        b"\n1\n" + b64encode(bytes(32)) + b"\n",
        b"o\n1\n" + b64encode(bytes(32)) + b"\n\n",
        b"\xff\n1\n" + b64encode(bytes(32)) + b"\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        Checkpoint.parse(text)
    assert caught.value.code == "tlog.checkpoint"


def test_extension_lines_are_kept() -> None:
    text = HEAD.text + b"extension 1\n"
    assert Checkpoint.parse(text).extensions == ("extension 1",)
    assert Checkpoint.parse(text).text == text


@pytest.mark.parametrize(
    ("origin", "size", "root"), [("", 1, bytes(32)), ("a\nb", 1, bytes(32)), ("a", -1, bytes(32)), ("a", 1, b"")]
)
def test_a_checkpoint_that_cannot_be_is_a_programmers_mistake(origin: str, size: int, root: bytes) -> None:
    with pytest.raises(ValueError, match=r"origin|checkpoint"):
        Checkpoint(origin, size, root)


def test_verifier_keys_round_trip() -> None:
    assert Verifier.from_vkey(LOG.vkey).vkey == LOG.vkey
    for cosigner in (ED25519, MLDSA):
        verifier = note_verifier(cosigner.vkey)
        assert isinstance(verifier, CosignatureVerifier)
        assert verifier.key_id == cosigner.verifier.key_id
    assert isinstance(note_verifier(LOG.vkey), Verifier)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+12345678",
        "name+12345678+????",
        LOG.vkey.replace("+", "+0", 1),
        LOG.vkey.replace("example.com/log", "example.com/lag"),
        encode_vkey("a b", 1, bytes(32)),
        encode_vkey("short", 1, bytes(31)),
        encode_vkey("short", 6, bytes(31)),
        encode_vkey("unknown", 0x02, bytes(32)),
    ],
)
def test_bad_verifier_keys_are_refused(vkey: str) -> None:
    with pytest.raises(InputError):
        note_verifier(vkey)


def test_a_log_key_is_not_a_cosigner_key() -> None:
    with pytest.raises(InputError, match="0x04"):
        Verifier.from_vkey(ED25519.vkey)


@pytest.mark.parametrize("seed", [b"", b"x" * 31, b"x" * 64])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    with pytest.raises(InputError, match="32 bytes"):
        Signer("example.com/log", seed)


@pytest.mark.parametrize("cosigner", [ED25519, MLDSA], ids=["ed25519", "ml-dsa-44"])
def test_cosignatures_cover_time_and_checkpoint(cosigner: Cosigner) -> None:
    signature = cosigner.sign(HEAD.text, 1679315147)
    verify = cosigner.verifier.verify
    assert cosignature_time_s(signature) == 1679315147
    assert verify(HEAD.text, signature.value)
    later = (1679315148).to_bytes(8, "big") + signature.value[8:]
    assert not verify(HEAD.text, later)
    assert not verify(Checkpoint(HEAD.origin, HEAD.size + 1, HEAD.root).text, signature.value)
    assert not verify(Checkpoint("example.com/lag", HEAD.size, HEAD.root).text, signature.value)
    assert not verify(HEAD.text, signature.value[:7])
    assert not verify(HEAD.text, signature.value[:-1])


def test_only_the_ed25519_cosignature_covers_extension_lines() -> None:
    extended = HEAD.text + b"extension\n"
    assert not ED25519.verifier.verify(extended, ED25519.sign(HEAD.text, 1).value)
    assert MLDSA.verifier.verify(extended, MLDSA.sign(HEAD.text, 1).value)


def test_an_mldsa_cosignature_covers_the_cosigners_name() -> None:
    renamed = Cosigner.mldsa44("witness.example/other", b"P" * 32)
    assert not renamed.verifier.verify(HEAD.text, MLDSA.sign(HEAD.text, 1).value)


def test_the_mldsa_message_is_the_documented_structure() -> None:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

    name, origin = b"witness.example/pq", b"example.com/log"
    message = (
        b"subtree/v1\n\0"
        + bytes([len(name)])
        + name
        + (7).to_bytes(8, "big")
        + bytes([len(origin)])
        + origin
        + bytes(8)
        + (20852163).to_bytes(8, "big")
        + bytes(range(32))
    )
    MLDSA44PrivateKey.from_seed_bytes(b"P" * 32).public_key().verify(MLDSA.sign(HEAD.text, 7).value[8:], message)


def test_merging_keeps_one_line_for_each_key() -> None:
    note = Note.parse(HEAD.sign(LOG, ED25519, now_s=1))
    merged = note.merged([ED25519.sign(HEAD.text, 2), MLDSA.sign(HEAD.text, 2)])
    assert [s.name for s in merged.signatures] == [LOG.name, ED25519.name, MLDSA.name]
    assert cosignature_time_s(merged.signatures[1]) == 2
