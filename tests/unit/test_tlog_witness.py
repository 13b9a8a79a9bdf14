"""Witnesses, trust policies and proof bundles; a fork made on purpose, caught and proven."""

from __future__ import annotations

import pytest

from isochrone.errors import InputError, IntegrityError, StorageError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import Cosigner, cosignature_time_s
from isochrone.tlog.note import Note, Signer
from isochrone.tlog.proof import Proof
from isochrone.tlog.quorum import TrustPolicy
from isochrone.tlog.reader import LogReader
from isochrone.tlog.store import MemoryStore
from isochrone.tlog.witness import (
    AddCheckpointRequest,
    Conflict,
    Cosigned,
    Refused,
    Response,
    Witness,
    proves_fork,
    read_response,
)
from isochrone.tlog.writer import LogWriter

ORIGIN = "site-a.example/log"
SIGNER = Signer(ORIGIN, b"A" * 32)
KEYS = [Cosigner.ed25519("w.example", b"W" * 32), Cosigner.mldsa44("w.example", b"W" * 32)]
VERIFIERS = [key.verifier for key in KEYS]


def make_log(*sizes: int, kind: str = "entry") -> tuple[LogWriter, LogReader]:
    store = MemoryStore()
    writer = LogWriter.open(store, SIGNER, ORIGIN)
    for size in sizes:
        writer.append([b"%s %d" % (kind.encode(), i) for i in range(writer.size, size)], b"")
        writer.publish(size)
    return writer, LogReader(store, SIGNER.verifier, ORIGIN)


def make_witness(store: MemoryStore | None = None) -> Witness:
    return Witness(store or MemoryStore(), KEYS, {ORIGIN: [SIGNER.verifier]})


def ask(writer: LogWriter, old_size: int) -> bytes:
    return AddCheckpointRequest(old_size, tuple(writer.consistency_proof(old_size)), writer.publish(0)).encode()


def test_a_log_is_cosigned_as_it_grows() -> None:
    writer, _ = make_log(5)
    witness, old = make_witness(), 0
    for size in (5, 5, 300, 301, 1024):
        writer.append([b"entry %d" % i for i in range(writer.size, size)], b"")
        signed = writer.publish(0)
        response = witness.add_checkpoint(ask(writer, old), now_s=1000 + size)
        assert response.status == 200
        answer = read_response(response.status, response.content_type, response.body, signed, VERIFIERS)
        assert isinstance(answer, Cosigned)
        assert [cosignature_time_s(s) for s in answer.signatures] == [1000 + size] * 2
        assert Note.parse(writer.add_cosignatures(answer.lines, VERIFIERS)).valid(VERIFIERS) == answer.signatures
        old = size


def test_a_wrong_old_size_is_told_the_right_one() -> None:
    writer, _ = make_log(5)
    witness = make_witness()
    witness.add_checkpoint(ask(writer, 0), 1)
    writer.append([b"entry 5"], b"")
    writer.publish(1)
    response = witness.add_checkpoint(ask(writer, 3), 2)
    assert (response.status, response.body, response.content_type) == (409, b"5\n", "text/x.tlog.size")
    assert read_response(409, response.content_type, response.body, b"", VERIFIERS) == Conflict(5)
    assert witness.add_checkpoint(ask(writer, 5), 2).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"old 0\n", 400),
        (b"old 00\n\n" + Checkpoint(ORIGIN, 1, bytes(32)).sign(SIGNER), 400),
        (b"new 0\n\n" + Checkpoint(ORIGIN, 1, bytes(32)).sign(SIGNER), 400),
        (b"old 0\nnot base64\n\n" + Checkpoint(ORIGIN, 1, bytes(32)).sign(SIGNER), 400),
        (b"old 1\n" + b"A" * 43 + b"=\n" * 64 + b"\n" + Checkpoint(ORIGIN, 1, bytes(32)).sign(SIGNER), 400),
        (b"old 0\n\nno note", 400),
        (b"old 0\n" + b"x" * (64 << 10), 400),
        (b"old 2\n\n" + Checkpoint(ORIGIN, 1, bytes(32)).sign(SIGNER), 400),
        (b"old 0\n\n" + Checkpoint("unknown.example", 1, bytes(32)).sign(SIGNER), 404),
        (b"old 0\n\n" + Checkpoint(ORIGIN, 1, bytes(32)).sign(Signer(ORIGIN, b"X" * 32)), 403),
        (b"old 0\n" + b"A" * 43 + b"=\n\n" + Checkpoint(ORIGIN, 1, bytes(32)).sign(SIGNER), 422),
        (b"old 0\n\n" + Checkpoint(ORIGIN, 0, bytes(32)).sign(SIGNER), 422),
    ],
)
def test_refusals_have_the_specified_status(body: bytes, status: int) -> None:
    store = MemoryStore()
    response = make_witness(store).add_checkpoint(body, 1)
    assert response.status == status
    assert store.witnessed == {}
    answer = read_response(response.status, response.content_type, response.body, b"", VERIFIERS)
    assert isinstance(answer, Refused)
    assert answer.status == status


def test_a_fork_is_refused_and_proven() -> None:
    honest, honest_reader = make_log(200, 300)
    forked, forked_reader = make_log(200, 400, kind="forged")
    witness = make_witness()
    assert witness.add_checkpoint(ask(honest, 0), 1).status == 200
    response = witness.add_checkpoint(ask(forked, 300), 2)
    assert response.status == 422

    # Anyone who holds both signed checkpoints can prove it from the second history's own tiles.
    first, second = honest.publish(0), forked.publish(0)
    old = honest_reader.checkpoint()
    proof = forked_reader.fork_proof(old)
    assert proves_fork(first, second, proof, [SIGNER.verifier])
    # An honest log that grew is no fork, and a made-up proof proves nothing.
    honest.append([b"entry %d" % i for i in range(300, 400)], b"")
    grown = honest.publish(3)
    honest_reader.checkpoint()
    assert not proves_fork(first, grown, honest_reader.fork_proof(old), [SIGNER.verifier])
    assert not proves_fork(first, grown, proof, [SIGNER.verifier])
    assert not proves_fork(first, grown, proof[1:], [SIGNER.verifier])
    assert not proves_fork(grown, first, proof, [SIGNER.verifier])
    with pytest.raises(IntegrityError):
        proves_fork(first, Checkpoint(ORIGIN, 400, bytes(32)).sign(Signer(ORIGIN, b"X" * 32)), proof, [SIGNER.verifier])


def test_two_trees_of_one_size_are_evidence_at_once() -> None:
    honest, _ = make_log(300)
    forked, _ = make_log(300, kind="forged")
    store = MemoryStore()
    witness = make_witness(store)
    witness.add_checkpoint(ask(honest, 0), 1)
    for old_size in (300, 0):
        response = witness.add_checkpoint(ask(forked, old_size), 2)
        assert response.status == 409
        assert response.evidence == (honest.publish(0), forked.publish(0))
        assert proves_fork(*response.evidence, (), [SIGNER.verifier])
    assert store.witnessed[ORIGIN] == honest.publish(0)


def test_a_rolled_back_log_is_not_cosigned() -> None:
    long, _ = make_log(300)
    short, _ = make_log(200)
    witness = make_witness()
    witness.add_checkpoint(ask(long, 0), 1)
    for old_size in (0, 200):
        response = witness.add_checkpoint(ask(short, old_size), 2)
        assert (response.status, response.body) == (409, b"300\n")
    with pytest.raises(InputError):
        short.consistency_proof(300)


def test_two_requests_at_once_cannot_roll_the_witness_back() -> None:
    writer, _ = make_log(5)
    small = ask(writer, 0)
    writer.append([b"entry %d" % i for i in range(5, 9)], b"")
    writer.publish(1)
    large = ask(writer, 0)

    class Racing(MemoryStore):
        """Lets the larger checkpoint in between the check and the store of the smaller one."""

        racing = True

        def swap(self, origin: str, old: bytes | None, new: bytes) -> bool:
            if self.racing:
                self.racing = False
                assert make_witness(self).add_checkpoint(large, 1).status == 200
            return super().swap(origin, old, new)

    store = Racing()
    response = make_witness(store).add_checkpoint(small, 2)
    assert (response.status, response.body) == (409, b"9\n")
    assert Checkpoint.parse(Note.parse(store.witnessed[ORIGIN]).text).size == 9


def test_a_store_that_never_lets_go_is_an_error_not_a_cosignature() -> None:
    class Contended(MemoryStore):
        def swap(self, origin: str, old: bytes | None, new: bytes) -> bool:
            return False

    writer, _ = make_log(5)
    with pytest.raises(StorageError) as caught:
        make_witness(Contended()).add_checkpoint(ask(writer, 0), 1)
    assert caught.value.code == "tlog.contended"


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (409, "text/plain", b"5\n"),
        (409, "text/x.tlog.size", b"5"),
        (409, "text/x.tlog.size", b"05\n"),
        (500, "text/plain", b"broken"),
        (200, "text/plain", b""),
        (
            200,
            "text/plain",
            Cosigner.ed25519("else.example", b"E" * 32).sign(b"o\n1\n" + b"A" * 43 + b"=\n", 1).encode(),
        ),
    ],
)
def test_odd_responses_are_refusals(status: int, content_type: str, body: bytes) -> None:
    writer, _ = make_log(5)
    assert isinstance(read_response(status, content_type, body, writer.publish(0), VERIFIERS), Refused)


def test_responses_are_values() -> None:
    assert Response(200, b"x") == Response(200, b"x")


# Trust policies and proofs


def policy_text(quorum: str) -> str:
    witnesses = "".join(
        f"witness X{i} {Cosigner.ed25519(f'x{i}.example', bytes([i]) * 32).vkey}\n" for i in range(1, 4)
    )
    return (
        f"# who is trusted\nlog {SIGNER.vkey} https://site-a.example/log\n{witnesses}"
        f"witness Y {KEYS[1].vkey}\ngroup X 2 X1 X2 X3\n\tgroup both all X Y \nquorum {quorum}\n"
    )


def cosigned(*which: int, pq: bool = False) -> tuple[bytes, Proof]:
    writer, reader = make_log(300)
    text = Note.parse(writer.publish(0)).text
    cosigners = [Cosigner.ed25519(f"x{i}.example", bytes([i]) * 32) for i in which] + ([KEYS[1]] if pq else [])
    if cosigners:
        writer.add_cosignatures(b"".join(c.sign(text, 9).encode() for c in cosigners), [c.verifier for c in cosigners])
    reader.checkpoint()
    return reader.entry(7), reader.prove(7, b"extra")


@pytest.mark.parametrize(
    ("which", "pq", "met"),
    [
        ((), False, {"none"}),
        ((1,), False, {"none", "X1"}),
        ((1, 3), False, {"none", "X1", "X"}),
        ((1, 2, 3), True, {"none", "X1", "X", "Y", "both"}),
        ((2,), True, {"none", "Y"}),
    ],
)
def test_quorums(which: tuple[int, ...], pq: bool, met: set[str]) -> None:
    entry, proof = cosigned(*which, pq=pq)
    proof = Proof.parse(proof.encode())
    for quorum in ("none", "X1", "X", "Y", "both"):
        policy = TrustPolicy.parse(policy_text(quorum))
        if quorum in met:
            assert proof.verify(entry, policy, ORIGIN).size == 300
        else:
            with pytest.raises(IntegrityError) as caught:
                proof.verify(entry, policy)
            assert caught.value.code == "tlog.quorum"


def test_proofs_are_of_one_entry_at_one_place() -> None:
    entry, proof = cosigned()
    policy = TrustPolicy.parse(policy_text("none"))
    assert proof.verify(entry, policy).origin == ORIGIN
    assert (Proof.parse(proof.encode()), proof.extra) == (proof, b"extra")
    for bad_entry, bad_proof in (
        (b"another entry", proof),
        (entry, Proof(8, proof.hashes, proof.checkpoint)),
        (entry, Proof(7, proof.hashes[:-1], proof.checkpoint)),
        (entry, Proof(7, (), proof.checkpoint)),
    ):
        with pytest.raises(IntegrityError) as caught:
            bad_proof.verify(bad_entry, policy)
        assert caught.value.code == "tlog.proof"
    with pytest.raises(IntegrityError) as caught:
        proof.verify(entry, policy, "another.example")
    assert caught.value.code == "tlog.origin"


def test_a_forged_cosignature_rejects_the_checkpoint() -> None:
    entry, proof = cosigned(1, 2, 3)
    note = Note.parse(proof.checkpoint)
    last = note.signatures[-1]
    forged = Note(note.text, (*note.signatures[:-1], type(last)(last.name, last.key_id, bytes(72)))).encode()
    with pytest.raises(IntegrityError) as caught:
        Proof(7, proof.hashes, forged).verify(entry, TrustPolicy.parse(policy_text("X")))
    assert caught.value.code == "tlog.signature"


def test_the_log_key_must_bear_the_origins_name() -> None:
    other = Signer("other.example", b"O" * 32)
    signed = Checkpoint(ORIGIN, 1, bytes(32)).sign(other)
    with pytest.raises(IntegrityError) as caught:
        TrustPolicy((other.verifier,)).verify(signed)
    assert caught.value.code == "tlog.origin"


@pytest.mark.parametrize(
    "change",
    [
        ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
        ("index 7", "index 07"),
        ("index 7", "place 7"),
        ("extra ", "extra !"),
        ("\n\n", "\n"),
    ],
)
def test_malformed_proofs_are_refused(change: tuple[str, str]) -> None:
    text = cosigned()[1].encode().decode()
    assert change[0] in text
    with pytest.raises(IntegrityError):
        Proof.parse(text.replace(*change).encode())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("logg x", "not log"),
        ("log", "expected: log"),
        (f"log {SIGNER.vkey}", "listed twice"),
        ("log broken", "verifier key"),
        ("witness Z", "expected: witness"),
        (f"witness X1 {KEYS[0].vkey}", "taken"),
        (f"witness none {KEYS[0].vkey}", "taken"),
        ("group Z any", "expected: group"),
        ("group Z any nobody", "not defined"),
        ("group Z any X1", "member of a group already"),
        ("group Z 2 both", "threshold"),
        ("group Z 0 both", "threshold"),
        ("group Z ² both", "threshold"),
        ("quorum X", "exactly one"),
    ],
)
def test_bad_policies_name_the_line(line: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        TrustPolicy.parse(policy_text("none") + line)
    assert caught.value.code == "tlog.policy"
    assert "line 10 " in str(caught.value)


def test_a_policy_needs_a_quorum_that_exists() -> None:
    for text in ("", "quorum nobody", "quorum a b"):
        with pytest.raises(InputError):
            TrustPolicy.parse(text)
