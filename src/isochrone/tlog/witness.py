"""Witnessing (https://c2sp.org/tlog-witness), both sides, and proof that a log forked.

A witness cosigns a log's checkpoint only if it extends the one it cosigned before. `judge` is that rule as a pure
function; `Witness` puts it between the two steps of an atomic check-and-store. `read_response` is the log's side.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isochrone.errors import IntegrityError, StorageError
from isochrone.tlog.checkpoint import Checkpoint, parse_decimal
from isochrone.tlog.cosignature import Cosigner
from isochrone.tlog.merkle import EMPTY_ROOT, HASH_BYTES, consistency_roots, verify_consistency
from isochrone.tlog.note import Note, NoteVerifier, Signature, decode_base64, parse_signature_lines
from isochrone.tlog.store import WitnessStore

__all__ = [
    "AddCheckpointRequest",
    "Conflict",
    "Cosigned",
    "Refused",
    "Response",
    "Witness",
    "judge",
    "proves_fork",
    "read_response",
]

SIZE_CONTENT_TYPE = "text/x.tlog.size"
TEXT_CONTENT_TYPE = "text/plain; charset=utf-8"
PROOF_LINES_MAX = 63
REQUEST_BYTES_MAX = 64 << 10
SWAP_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class AddCheckpointRequest:
    """The body of an add-checkpoint call: consistency `proof` from `old_size` to the signed note `checkpoint`."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        lines = (b"old %d" % self.old_size, *(b64encode(value) for value in self.proof), b"")
        return b"".join(line + b"\n" for line in lines) + self.checkpoint

    @staticmethod
    def parse(body: bytes) -> AddCheckpointRequest:
        """Raises IntegrityError (``tlog.request``) when `body` is malformed; verifies nothing."""
        if len(body) > REQUEST_BYTES_MAX:
            raise _bad_request(f"it is over {REQUEST_BYTES_MAX} bytes")
        head, blank, checkpoint = body.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        old_size = parse_decimal(first.removeprefix(b"old "))
        if not blank or not first.startswith(b"old ") or old_size is None:
            raise _bad_request("it does not begin with an old size line and end its proof with an empty line")
        proof = tuple(decode_base64(line) or b"" for line in lines)
        if len(proof) > PROOF_LINES_MAX or any(len(value) != HASH_BYTES for value in proof):
            raise _bad_request("its proof is not at most 63 lines of 32 bytes in base64")
        return AddCheckpointRequest(old_size, proof, checkpoint)


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response.

    `evidence` is set when the log has signed two trees of one size: the two signed notes that show it, ours first.
    """

    status: int
    body: bytes
    content_type: str = TEXT_CONTENT_TYPE
    evidence: tuple[bytes, bytes] | None = None


def judge(
    request: AddCheckpointRequest, logs: Mapping[str, Sequence[NoteVerifier]], latest: bytes | None
) -> Checkpoint | Response:
    """Whether a witness that last cosigned `latest` (a signed note, None for never) may cosign this request.

    Args:
        logs: for each origin that is witnessed, the log's keys.

    Returns:
        the checkpoint to store and cosign, or the refusal to answer with; checks are in the specification's order.
    """
    try:
        note = Note.parse(request.checkpoint)
        checkpoint = Checkpoint.parse(note.text)
    except IntegrityError as error:
        return _refuse(400, str(error))
    verifiers = logs.get(checkpoint.origin)
    if verifiers is None:
        return _refuse(404, f"the log {checkpoint.origin!r} is not witnessed here")
    try:
        note.verified(verifiers)
    except IntegrityError as error:
        return _refuse(403, str(error))
    if request.old_size > checkpoint.size:
        return _refuse(400, f"the old size {request.old_size} is over the checkpoint's size {checkpoint.size}")
    head = Checkpoint.parse(Note.parse(latest).text) if latest is not None else None
    known = head.size if head else 0
    forked = head is not None and head.size == checkpoint.size and head.root != checkpoint.root
    evidence = (latest, request.checkpoint) if forked and latest is not None else None
    if request.old_size != known:
        return Response(409, b"%d\n" % known, SIZE_CONTENT_TYPE, evidence)
    if evidence:
        return _refuse(409, f"the log {checkpoint.origin!r} signed two trees of {checkpoint.size} entries", evidence)
    try:
        verify_consistency(known, checkpoint.size, head.root if head else EMPTY_ROOT, checkpoint.root, request.proof)
    except IntegrityError as error:
        return _refuse(422, str(error))
    return checkpoint


class Witness:
    """A witness over its memory; any number of them may share one store.

    Args:
        cosigners: the witness's keys; each adds its line to a response.
        logs: for each origin that is witnessed, the log's keys.
    """

    def __init__(
        self, store: WitnessStore, cosigners: Sequence[Cosigner], logs: Mapping[str, Sequence[NoteVerifier]]
    ) -> None:
        self._store, self._cosigners, self._logs = store, tuple(cosigners), logs

    def add_checkpoint(self, body: bytes, now_s: int) -> Response:
        """Answer an add-checkpoint call; what is cosigned was stored durably before.

        Raises:
            StorageError: the store failed (answer 500), or ``tlog.contended``; nothing was cosigned.
        """
        try:
            request = AddCheckpointRequest.parse(body)
            origin = Checkpoint.parse(Note.parse(request.checkpoint).text).origin
        except IntegrityError as error:
            return _refuse(400, str(error))
        for _ in range(SWAP_ATTEMPTS):
            latest = self._store.load(origin) if origin in self._logs else None
            verdict = judge(request, self._logs, latest)
            if isinstance(verdict, Response):
                return verdict
            if self._store.swap(origin, latest, request.checkpoint):
                lines = b"".join(cosigner.sign(verdict.text, now_s).encode() for cosigner in self._cosigners)
                return Response(200, lines)
        raise StorageError(f"too many checkpoints of {origin} at once", code="tlog.contended", hint="Try again.")


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A witness cosigned: its signatures, verified."""

    signatures: tuple[Signature, ...]

    @property
    def lines(self) -> bytes:
        return b"".join(signature.encode() for signature in self.signatures)


@dataclass(frozen=True, slots=True)
class Conflict:
    """The witness has cosigned `size` entries: ask again from there, or raise an alarm if that is more than we have."""

    size: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The witness will not cosign, or did not answer as the specification says."""

    status: int
    reason: str


def read_response(
    status: int, content_type: str, body: bytes, checkpoint: bytes, verifiers: Sequence[NoteVerifier]
) -> Cosigned | Conflict | Refused:
    """What a witness's HTTP response to a request for `checkpoint` (a signed note) means for the log.

    Args:
        verifiers: the witness's keys; lines by others are ignored.
    """
    if status == 200:
        try:
            text = Note.parse(checkpoint).text
            return Cosigned(Note(text, parse_signature_lines(body)).verified(verifiers))
        except IntegrityError as error:
            return Refused(status, str(error))
    if status == 409 and content_type == SIZE_CONTENT_TYPE and body.endswith(b"\n"):
        size = parse_decimal(body[:-1])
        if size is not None:
            return Conflict(size)
    return Refused(status, body[:512].decode(errors="replace").strip())


def proves_fork(first: bytes, second: bytes, proof: Sequence[bytes], verifiers: Sequence[NoteVerifier]) -> bool:
    """Whether two signed checkpoints of one log show that it forked: a proof that anyone can check.

    Args:
        first, second: signed notes, the smaller tree first.
        proof: the explicit consistency proof, in the second tree's history, from the first's size
            (`merkle.consistency_proof(..., explicit=True)`); empty for trees of one size.

    Returns:
        True if the log's key signed both, and the second tree has at the first's size another root than the first.

    Raises:
        IntegrityError: a note is malformed or not signed by the log.
    """
    old = Checkpoint.parse_and_verify(first, *verifiers)
    new = Checkpoint.parse_and_verify(second, *verifiers, origin=old.origin)
    if old.size == new.size:
        return old.root != new.root
    if not 0 < old.size < new.size:
        return False
    try:
        root1, root2 = consistency_roots(old.size, new.size, proof)
    except IntegrityError:  # not a proof for these sizes: it proves nothing
        return False
    return root2 == new.root and root1 != old.root


def _refuse(status: int, reason: str, evidence: tuple[bytes, bytes] | None = None) -> Response:
    return Response(status, reason.encode() + b"\n", evidence=evidence)


def _bad_request(problem: str) -> IntegrityError:
    return IntegrityError(
        f"the request is malformed: {problem}", code="tlog.request", hint="See https://c2sp.org/tlog-witness."
    )
