"""The signed bundle that travels with a workload: policies, their vocabulary and the contract terms, bound to digests.

A DSSE envelope (https://github.com/secure-systems-lab/dsse, protocol.md and envelope.md) around an in-toto Statement v1
whose subjects are the workload's digests. Signatures are Ed25519 (RFC 8032). `verify` checks in this order, and the
first failure refuses: envelope form, signature by an accepted key, statement form, subject, vocabulary, engine, expiry,
revision, policies (which must parse and have the digest stated).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from isochrone.policy.policies import PolicySet, PolicyTextError, schema_digest
from isochrone.policy.verdict import Deny, Reason

__all__ = ["PAYLOAD_TYPE", "PREDICATE_TYPE", "STATEMENT_TYPE", "Bundle", "pae", "refusal", "sign", "verify"]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:isochrone:policy-bundle:v1"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is signed.

    Attributes:
        subjects: artifact name -> lower-case hex SHA-256 of the workload's files.
        policies: file name -> Cedar text.
        terms: contract terms, by contract id; any JSON.
        revision: grows with every change; a site never goes back.
        expires_s: seconds since 1970, after which no site serves under it.
        engine_min: lowest version of the policy engine that understands it, as numbers.
    """

    subjects: Mapping[str, str]
    policies: Mapping[str, str]
    terms: Mapping[str, Any]
    revision: int
    expires_s: int
    engine_min: tuple[int, ...] = (0, 1, 0)

    def statement(self) -> dict[str, Any]:
        """The in-toto statement. Raises PolicyTextError when the policies are not valid."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": n, "digest": {"sha256": d}} for n, d in sorted(self.subjects.items())],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "engineMin": ".".join(map(str, self.engine_min)),
                "expires": self.expires_s,
                "policies": dict(sorted(self.policies.items())),
                "policyDigest": PolicySet.parse(self.policies).digest,
                "revision": self.revision,
                "schemaDigest": schema_digest(),
                "terms": dict(self.terms),
            },
        }


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is actually signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(bundle: Bundle, keys: Mapping[str, bytes]) -> bytes:
    """The envelope as JSON bytes, signed by each key: key id -> 32-byte Ed25519 seed. Deterministic."""
    statement = bundle.statement()
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    signed = pae(PAYLOAD_TYPE, payload)
    signatures = [
        {"keyid": name, "sig": _encode(Ed25519PrivateKey.from_private_bytes(seed).sign(signed))}
        for name, seed in sorted(keys.items())
    ]
    envelope = {"payload": _encode(payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
    return json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()


def verify(
    envelope: bytes,
    keys: Mapping[str, bytes],
    *,
    now_s: int,
    digests: frozenset[str],
    revision_min: int = 0,
    engine: tuple[int, ...] = (0, 1, 0),
) -> Bundle | Deny:
    """The bundle, or why it must not be used.

    Args:
        keys: accepted keys: key id -> 32-byte Ed25519 public key. One good signature by any of them suffices.
        digests: hex SHA-256 of the workload's files here; every one must be a subject.
        revision_min: the revision in force; a lower one is a downgrade.
        engine: version of the engine here.
    """
    try:
        document = json.loads(envelope)
        payload = base64.b64decode(document["payload"], validate=True)
        kind, signatures = document["payloadType"], list(document["signatures"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        return refusal("bundle-form", f"not a DSSE envelope: {error}")
    if kind != PAYLOAD_TYPE:
        return refusal("bundle-form", f"payload type {kind!r} is not {PAYLOAD_TYPE}")
    if not any(_signed(signature, keys, pae(kind, payload)) for signature in signatures):
        return refusal("bundle-signature", "no good signature by an accepted key")
    try:
        return _checked(json.loads(payload), now_s, digests, revision_min, engine)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return refusal("bundle-form", f"not a policy bundle statement: {error!r}")


def _checked(
    statement: Any, now_s: int, digests: frozenset[str], revision_min: int, engine: tuple[int, ...]
) -> Bundle | Deny:
    predicate = statement["predicate"]
    bundle = Bundle(
        subjects={subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]},
        policies=dict(predicate["policies"]),
        terms=dict(predicate["terms"]),
        revision=_whole(predicate["revision"]),
        expires_s=_whole(predicate["expires"]),
        engine_min=tuple(int(part) for part in predicate["engineMin"].split(".")),
    )
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != PREDICATE_TYPE:
        return refusal("bundle-form", "not a policy bundle statement of a known version")
    if not digests or not digests <= set(bundle.subjects.values()):
        return refusal("bundle-subject", "the workload here is not a subject of this bundle")
    if predicate["schemaDigest"] != schema_digest():
        return refusal("bundle-schema", "written for another vocabulary")
    if bundle.engine_min > engine:
        return refusal("bundle-engine", f"needs engine {predicate['engineMin']} or later")
    if now_s >= bundle.expires_s:
        return refusal("bundle-expired", f"expired at {bundle.expires_s}")
    if bundle.revision < revision_min:
        return refusal("bundle-downgrade", f"revision {bundle.revision} is older than {revision_min}, in force here")
    try:
        digest = PolicySet.parse(bundle.policies).digest
    except PolicyTextError as error:
        return refusal("bundle-policies", str(error))
    if digest != predicate["policyDigest"]:
        return refusal("bundle-policies", "the policies do not have the digest stated")
    return bundle


def _signed(signature: Any, keys: Mapping[str, bytes], signed: bytes) -> bool:
    if not isinstance(signature, Mapping):
        return False
    # The key id is a hint that anyone can write (DSSE protocol.md), so it only picks which accepted key to try.
    key = keys.get(str(signature.get("keyid")))
    if key is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(str(signature["sig"]), validate=True), signed)
    except (InvalidSignature, KeyError, ValueError):
        return False
    return True


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def refusal(code: str, text: str) -> Deny:
    """Why a bundle must not be used."""
    return Deny((Reason(code, text=text),))
