"""Checkpoints (https://c2sp.org/tlog-checkpoint): a log's origin, tree size and root hash, as a signed note."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass

from isochrone.errors import IntegrityError
from isochrone.tlog.merkle import HASH_BYTES
from isochrone.tlog.note import Note, NoteSigner, NoteVerifier, decode_base64

__all__ = ["SIZE_MAX", "Checkpoint", "parse_decimal"]

SIZE_MAX = (1 << 63) - 1
_DECIMAL = re.compile(rb"0|[1-9][0-9]{0,18}")


def parse_decimal(text: bytes) -> int | None:
    """A size or index as the C2SP specifications write it: ASCII decimal without leading zeros, below 2^63."""
    if _DECIMAL.fullmatch(text) is None or int(text) > SIZE_MAX:
        return None
    return int(text)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: `origin` names the log, `size` counts its entries, `root` is the RFC 6962 root (32 bytes).

    `extensions` are opaque further lines. Ours has none; another log's are kept, for its signature covers them.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.origin or "\n" in self.origin:
            raise ValueError("an origin is one non-empty line")
        if not 0 <= self.size <= SIZE_MAX or len(self.root) != HASH_BYTES:
            raise ValueError("a checkpoint has a size of 0 to 2^63 - 1 and a root of 32 bytes")

    @property
    def text(self) -> bytes:
        """The note text, with its final newline."""
        lines = (self.origin, str(self.size), b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()

    @staticmethod
    def parse(text: bytes) -> Checkpoint:
        """The checkpoint in a note's text; nothing is verified.

        Raises:
            IntegrityError: ``tlog.checkpoint``, the text is not a checkpoint.
        """
        try:
            lines = text.decode().split("\n")
        except UnicodeDecodeError as error:
            raise _bad_checkpoint("it is not UTF-8") from error
        if lines.pop() or len(lines) < 3 or not all(lines):
            raise _bad_checkpoint("it has not three or more non-empty lines")
        size, root = parse_decimal(lines[1].encode()), decode_base64(lines[2].encode())
        if size is None:
            raise _bad_checkpoint("its size is not a decimal number without leading zeros")
        if root is None or len(root) != HASH_BYTES:
            raise _bad_checkpoint("its root hash is not 32 bytes of base64")
        return Checkpoint(lines[0], size, root, tuple(lines[3:]))

    def sign(self, *signers: NoteSigner, now_s: int = 0) -> bytes:
        """This checkpoint as a signed note; `now_s` is the time in signatures that carry one."""
        return Note(self.text, tuple(signer.sign(self.text, now_s) for signer in signers)).encode()

    @staticmethod
    def parse_and_verify(signed: bytes, *verifiers: NoteVerifier, origin: str | None = None) -> Checkpoint:
        """The checkpoint in a signed note, after at least one of `verifiers` (any of the log's keys) verified it.

        Args:
            origin: the log this must be; None accepts any, and the caller looks.

        Raises:
            IntegrityError: ``tlog.note``, ``tlog.signature``, ``tlog.checkpoint``, or ``tlog.origin`` when it is the
                checkpoint of another log.
        """
        note = Note.parse(signed)
        note.verified(verifiers)
        checkpoint = Checkpoint.parse(note.text)
        if origin is not None and checkpoint.origin != origin:
            raise IntegrityError(
                f"this is a checkpoint of {checkpoint.origin!r}, not of {origin!r}",
                code="tlog.origin",
                hint="Check which log the checkpoint was fetched from.",
            )
        return checkpoint


def _bad_checkpoint(problem: str) -> IntegrityError:
    return IntegrityError(
        f"the text is not a checkpoint: {problem}",
        code="tlog.checkpoint",
        hint="See https://c2sp.org/tlog-checkpoint for the format.",
    )
