"""Receipts: the record of an execution with what proves it, from the site's log to the client that asked for it.

A receipt holds the record's text, a C2SP tlog-proof (with the cosignatures that its checkpoint has by then), and a COSE
receipt (RFC 9942) of the same entry. The id of an execution has 122 random bits and is told to its client alone: who
names it may have its receipt.
"""

from __future__ import annotations

import json
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from isochrone.errors import IntegrityError, PeerError
from isochrone.forward.headers import NODE_PREFIX
from isochrone.record.canonical import Record, decode
from isochrone.record.shards import SHARDS, trust_policy, verifiers_of
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cose import CoseReceipt
from isochrone.tlog.note import Note
from isochrone.tlog.proof import Proof

if TYPE_CHECKING:
    from isochrone.serve.logbook import Logbook

__all__ = ["Receipt", "fetch_receipt", "receipt_of"]

_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Receipt:
    """What proves one execution: its `record` (canonical JSON), the tlog-proof and the COSE receipt of it.

    Attributes:
        site, log: whose log, and which of its retention classes; empty for the main log.
    """

    site: str
    log: str
    record: bytes
    proof: bytes
    cose: bytes

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Receipt:
        """Raises IntegrityError (``receipt.form``)."""
        try:
            texts = [str(document[name]) for name in ("site", "log", "record", "proof")]
            cose = b64decode(document["cose"], validate=True)
            return cls(texts[0], texts[1], texts[2].encode(), texts[3].encode(), cose)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"this is not a receipt: {error!r}", code="receipt.form") from error

    def to_json(self) -> dict[str, str]:
        texts = {"record": self.record.decode(), "proof": self.proof.decode(), "cose": b64encode(self.cose).decode()}
        return {"site": self.site, "log": self.log, **texts}

    def verify(self, vkey: str, witnesses: Mapping[str, str] | None = None, quorum: int = 0) -> Record:
        """Check both proofs, offline; returns the record.

        Args:
            vkey: verifier key of the site's main log. witnesses: site to verifier key. quorum: how many of them must
                have cosigned the checkpoint of the tlog-proof.

        Raises:
            IntegrityError: a proof does not hold (``tlog.*``), or the record is not of this site (``receipt.site``).
            InputError: a key is malformed.
        """
        if self.log not in SHARDS:
            raise IntegrityError(f"there is no log {self.log!r}", code="receipt.form")
        verifier = verifiers_of(vkey)[self.log]
        policy = trust_policy(verifier.vkey, quorum, witnesses or {})
        Proof.parse(self.proof).verify(self.record, policy, verifier.name)
        CoseReceipt.parse(self.cose).verify(self.record, verifier)
        record = decode(self.record)
        if record.get("where", {}).get("site") != self.site:
            raise IntegrityError(f"the record is not of {self.site}", code="receipt.site")
        return record


def receipt_of(book: Logbook, identifier: str) -> dict[str, Any] | None:
    """The receipt of an execution's outcome (or refusal) in a site's logs; None while no checkpoint covers one.

    Raises:
        IntegrityError, StorageError: the log's files are damaged.
    """
    for name, entry in book.index.find(identifier, ("outcome", "refusal")):
        shard = book.shards[name]
        proven = shard.prove(entry)
        if proven is None:
            continue
        proof, data = Proof.parse(proven["proof"].encode()), proven["record"].encode()
        size = Checkpoint.parse(Note.parse(proof.checkpoint).text).size
        cose = CoseReceipt.sign(shard.signer, data, entry, size, proof.hashes)
        return {**proven, "cose": b64encode(cose.encode()).decode()}
    return None


def fetch_receipt(
    base: str, execution: str, *, timeout_s: float = 10.0, verify: ssl.SSLContext | bool = True
) -> Receipt:
    """The receipt of an execution, as soon as its site has it: usually within 2 s of the answer. Verify it.

    Args:
        base: URL of the ingress where the request entered.
        execution: the ``x-isochrone-execution`` header of the answer, or the id in it.
        verify: whom to believe in TLS, as `httpx` takes it.

    Raises:
        PeerError: ``receipt.late``, there is none after `timeout_s`; ``client.unreachable``, the site does not answer.
        IntegrityError: what came is not a receipt.
    """
    url = f"{base.rstrip('/')}{NODE_PREFIX}receipts/{execution.rpartition('/')[2]}"
    end_s = time.monotonic() + timeout_s
    with httpx.Client(timeout=5.0, verify=verify) as http:
        while True:
            try:
                answer = http.get(url)
            except httpx.HTTPError as error:
                raise PeerError(f"{base}: {error or type(error).__name__}", code="client.unreachable") from error
            if answer.status_code == 200:
                return Receipt.from_json(json.loads(answer.content))
            if time.monotonic() > end_s:
                raise PeerError(
                    f"no receipt of {execution} after {timeout_s:g} s: HTTP {answer.status_code}", code="receipt.late",
                    hint="ask the site that the execution's name begins with",
                )  # fmt: skip
            time.sleep(_AGAIN_S)
