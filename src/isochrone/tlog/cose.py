"""COSE receipts (RFC 9942): one entry's inclusion in a log, for verifiers that speak COSE. The door to `cbor2`.

A receipt is a COSE_Sign1 (RFC 9052) whose detached payload is the Merkle root that the inclusion proof leads to:

    18([ << {1: -19 (Ed25519), 4: key ID, 15: {1: origin}, 395: 1 (RFC9162_SHA256)} >>,
         {396: {-1: [ << [tree size, leaf index, [hash, ...]] >> ]}},
         null, signature ])

Encoding is deterministic (RFC 8949 section 4.2), and only that encoding is read: a receipt has one form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cbor2

from isochrone.errors import IntegrityError
from isochrone.tlog.merkle import HASH_BYTES, leaf_hash, root_from_proof
from isochrone.tlog.note import Signer, Verifier
from isochrone.tlog.proof import HASHES_MAX

__all__ = ["MEDIA_TYPE", "CoseReceipt"]

MEDIA_TYPE = "application/cose"
ED25519 = -19
"""Algorithm identifier of RFC 9864; the older EdDSA (-8) says less and is read as well."""

_ALGORITHMS = (ED25519, -8)
_ALG, _KID, _CLAIMS, _ISSUER, _VDS, _VDP, _INCLUSION = 1, 4, 15, 1, 395, 396, -1
_RFC9162_SHA256 = 1
_SIGN1_TAG = 18
_BYTES_MAX = 16_384


@dataclass(frozen=True, slots=True)
class CoseReceipt:
    """Entry `index` of the tree of `size` of the log `origin`, by sibling `hashes`, in a root that `signature` covers.

    `protected` are the bytes of the protected header, as signed.
    """

    origin: str
    size: int
    index: int
    hashes: tuple[bytes, ...]
    protected: bytes
    signature: bytes

    @classmethod
    def sign(cls, signer: Signer, entry: bytes, index: int, size: int, hashes: Sequence[bytes]) -> CoseReceipt:
        """A receipt under the log's own key, whose name is the log's origin.

        Raises:
            IntegrityError: ``tlog.proof``, the proof is not one for this index and size.
        """
        header = {_ALG: ED25519, _KID: signer.verifier.key_id, _CLAIMS: {_ISSUER: signer.name}, _VDS: _RFC9162_SHA256}
        protected = cbor2.dumps(header, canonical=True)
        root = root_from_proof(leaf_hash(entry), index, size, hashes)
        signature = signer.sign(_to_be_signed(protected, root)).value
        return cls(signer.name, size, index, tuple(hashes), protected, signature)

    def encode(self) -> bytes:
        proof = cbor2.dumps([self.size, self.index, list(self.hashes)], canonical=True)
        unprotected = {_VDP: {_INCLUSION: [proof]}}
        return cbor2.dumps(
            cbor2.CBORTag(_SIGN1_TAG, [self.protected, unprotected, None, self.signature]), canonical=True
        )

    @classmethod
    def parse(cls, data: bytes) -> CoseReceipt:
        """Read a receipt; nothing is verified.

        Raises:
            IntegrityError: ``tlog.receipt``, it is not a receipt of one inclusion, or not in its deterministic form.
        """
        if len(data) > _BYTES_MAX:
            raise _bad_receipt(f"{len(data)} bytes are too many")
        try:
            match _load(data):
                case cbor2.CBORTag(tag=18, value=[bytes(protected), unprotected, None, bytes(signature)]):
                    header, proofs = _load(protected), unprotected[_VDP][_INCLUSION]
                case _:
                    raise _bad_receipt("it is not a COSE_Sign1 with a detached payload")
            match [_load(proof) for proof in proofs]:
                case [[int(size), int(index), hashes]]:
                    receipt = cls(str(header[_CLAIMS][_ISSUER]), size, index, tuple(hashes), protected, signature)
                case _:
                    raise _bad_receipt("it does not hold one inclusion proof")
            is_known = header[_ALG] in _ALGORITHMS and header[_VDS] == _RFC9162_SHA256
        except (cbor2.CBORDecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise _bad_receipt(f"{error!r}"[:200]) from error
        if not is_known:
            raise _bad_receipt("its algorithm is not Ed25519, or its data structure not RFC9162_SHA256")
        if len(hashes) > HASHES_MAX or any(not isinstance(h, bytes) or len(h) != HASH_BYTES for h in hashes):
            raise _bad_receipt("its path is not at most 63 hashes of 32 bytes")
        if receipt.encode() != data or cbor2.dumps(header, canonical=True) != protected:
            raise _bad_receipt("it is not in deterministic form")
        return receipt

    def verify(self, entry: bytes, verifier: Verifier) -> bytes:
        """Check that `entry` is in the log whose key `verifier` holds; returns the root it is in.

        A receipt carries no cosignatures: it proves what the log has signed, not that others have seen it. Its `size`
        is not signed, only the root is: another size that calls for the same path leads to the same root.

        Raises:
            IntegrityError: ``tlog.proof``, ``tlog.signature``, or ``tlog.origin`` for a receipt of another log.
        """
        if self.origin != verifier.name:
            raise IntegrityError(f"the receipt is of {self.origin!r}, not of {verifier.name!r}", code="tlog.origin")
        root = root_from_proof(leaf_hash(entry), self.index, self.size, self.hashes)
        if not verifier.verify(_to_be_signed(self.protected, root), self.signature):
            raise IntegrityError(
                f"the log {self.origin} has not signed a tree in which this is entry {self.index}",
                code="tlog.signature",
                hint="Either the record or the receipt was altered, or they do not belong together.",
            )
        return root


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """Sig_structure of RFC 9052 section 4.4, without external data."""
    return cbor2.dumps(["Signature1", protected, b"", payload], canonical=True)


def _load(data: Any) -> Any:
    return cbor2.loads(data)


def _bad_receipt(problem: str) -> IntegrityError:
    return IntegrityError(
        f"the bytes are not a receipt: {problem}", code="tlog.receipt", hint="See RFC 9942 for the format."
    )
