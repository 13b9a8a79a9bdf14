"""Documents the hub sends over the bus: signed by the hub's key, so that the bus carries them and cannot write them.

Whoever controls the bus can hold documents back or repeat old ones: each bears a number, and nobody goes back.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from isochrone.authority.jose import PrivateKey, PublicKey, parse_compact, sign_compact
from isochrone.errors import AuthorityError, IntegrityError

__all__ = ["DOCUMENT_BYTES_MAX", "open_sealed", "seal"]

DOCUMENT_BYTES_MAX = 8 * 1024 * 1024
_PLAIN_BYTES_MAX = 64 * 1024 * 1024


def seal(kind: str, number: int, body: Mapping[str, Any], key: PrivateKey) -> bytes:
    """A signed document; `number` rises with every one of its kind."""
    packed = base64.b64encode(zlib.compress(json.dumps(body, separators=(",", ":")).encode())).decode()
    return sign_compact({"number": number, "body": packed}, key, typ=f"isochrone-{kind}+jwt").encode()


def open_sealed(kind: str, data: bytes, key: PublicKey, *, after: int = 0) -> tuple[int, dict[str, Any]]:
    """Number and body of a document.

    Args:
        after: the number of the newest document of this kind already held.

    Raises:
        IntegrityError: ``sealed.signature``, ``sealed.form``, or ``sealed.rollback`` when it is older than `after`.
    """
    try:
        document = parse_compact(data.decode("ascii"), typ=f"isochrone-{kind}+jwt", bytes_max=DOCUMENT_BYTES_MAX)
        if not document.is_signed_by(key):
            raise IntegrityError(f"the hub's key did not sign this {kind}", code="sealed.signature")
        number, packed = document.claims["number"], document.claims["body"]
        inflating = zlib.decompressobj()
        plain = inflating.decompress(base64.b64decode(packed, validate=True), _PLAIN_BYTES_MAX)
        if not inflating.eof:
            raise ValueError("its body is cut short or too large")
        body = json.loads(plain)
    except (AuthorityError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise IntegrityError(f"not a {kind} of the hub: {error}", code="sealed.form") from error
    if type(number) is not int or not isinstance(body, dict):
        raise IntegrityError(f"not a {kind} of the hub", code="sealed.form")
    if number < after:
        raise IntegrityError(f"{kind} number {number} is older than {after}, held already", code="sealed.rollback")
    return number, body
