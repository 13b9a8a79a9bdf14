"""tlog-proof bundles (https://c2sp.org/tlog-proof): one entry's inclusion in a log, verifiable offline.

c2sp.org/tlog-proof@v1
extra <base64>            (only with extra data, which nothing authenticates)
index <decimal>
<hash, base64>            (one line each, the leaf's sibling first)
<empty line>
<signed checkpoint>
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from isochrone.errors import IntegrityError
from isochrone.tlog.checkpoint import Checkpoint, parse_decimal
from isochrone.tlog.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from isochrone.tlog.note import Note, decode_base64
from isochrone.tlog.quorum import TrustPolicy

__all__ = ["Proof"]

_HEADER = b"c2sp.org/tlog-proof@v1"
HASHES_MAX = 63


@dataclass(frozen=True, slots=True)
class Proof:
    """An inclusion proof: entry `index`, sibling `hashes`, the signed `checkpoint`, and opaque `extra` data or None."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        lines = [_HEADER, b"index %d" % self.index, *(b64encode(value) for value in self.hashes), b""]
        if self.extra is not None:
            lines.insert(1, b"extra " + b64encode(self.extra))
        return b"\n".join(lines) + b"\n" + self.checkpoint

    @staticmethod
    def parse(data: bytes) -> Proof:
        """Raises IntegrityError (``tlog.proof``, ``tlog.note``) when `data` is not a proof bundle; verifies nothing."""
        head, blank, checkpoint = data.partition(b"\n\n")
        lines = head.split(b"\n")
        if not blank or lines[0] != _HEADER:
            raise _bad_proof(f"it does not begin with {_HEADER.decode()}")
        extra: bytes | None = None
        if len(lines) > 1 and lines[1].startswith(b"extra "):
            extra = decode_base64(lines.pop(1)[len(b"extra ") :])
            if extra is None:
                raise _bad_proof("its extra data is not base64")
        prefix, _, number = (lines[1] if len(lines) > 1 else b"").partition(b" ")
        index = parse_decimal(number)
        if prefix != b"index" or index is None:
            raise _bad_proof("it has no index line")
        hashes = tuple(decode_base64(line) or b"" for line in lines[2:])
        if len(hashes) > HASHES_MAX or any(len(value) != HASH_BYTES for value in hashes):
            raise _bad_proof("its hashes are not at most 63 lines of 32 bytes in base64")
        Note.parse(checkpoint)
        return Proof(index, hashes, checkpoint, extra)

    def verify(self, entry: bytes, policy: TrustPolicy, origin: str | None = None) -> Checkpoint:
        """Check that `entry` is in a log that `policy` trusts, in a checkpoint cosigned as it demands.

        Returns:
            the checkpoint, verified.

        Raises:
            IntegrityError: ``tlog.proof``, ``tlog.signature``, ``tlog.quorum``, ``tlog.origin``.
        """
        checkpoint = policy.verify(self.checkpoint, origin)
        verify_inclusion(leaf_hash(entry), self.index, checkpoint.size, self.hashes, checkpoint.root)
        return checkpoint


def _bad_proof(problem: str) -> IntegrityError:
    return IntegrityError(
        f"the text is not a proof: {problem}",
        code="tlog.proof",
        hint="See https://c2sp.org/tlog-proof for the format.",
    )
