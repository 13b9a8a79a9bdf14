"""Canonical form of a record: RFC 8785 JSON, at most 65,535 bytes, so that equal records have equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import rfc8785

from isochrone.errors import InputError, IntegrityError

__all__ = ["RECORD_BYTES_MAX", "Record", "decode", "encode"]

RECORD_BYTES_MAX = 65_535

Record = dict[str, Any]


def encode(record: Mapping[str, Any]) -> bytes:
    """The record's bytes, as they are hashed and stored.

    Raises:
        InputError: ``record.size``, or ``record.value`` for what JSON cannot carry exactly (NaN, integers over 2^53).
    """
    try:
        data = bytes(rfc8785.dumps(dict(record)))
    except (rfc8785.CanonicalizationError, ValueError, TypeError) as error:
        raise InputError(f"a record cannot carry this: {error}", code="record.value") from error
    if len(data) > RECORD_BYTES_MAX:
        raise InputError(f"a record of {len(data)} bytes is over {RECORD_BYTES_MAX}", code="record.size")
    return data


def decode(data: bytes) -> Record:
    """The record that `encode` wrote.

    Raises:
        IntegrityError: not canonical JSON of an object: it was not written by this program, or was altered.
    """
    try:
        value = json.loads(data)
        is_canonical = isinstance(value, dict) and bytes(rfc8785.dumps(value)) == data
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise IntegrityError(f"not a record: {error}", code="record.form") from error
    if not is_canonical:
        raise IntegrityError("not a record in canonical form", code="record.form")
    return dict(value)
