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

_INT_MAX = 2**53 - 1
# For text, integers, booleans and null under ASCII keys this writes what RFC 8785 asks for, in C and ten times as fast.
_PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, check_circular=False)


def encode(record: Mapping[str, Any]) -> bytes:
    """The record's bytes, as they are hashed and stored.

    Raises:
        InputError: ``record.size``, or ``record.value`` for what JSON cannot carry exactly (NaN, integers over 2^53).
    """
    try:
        data = _canonical(dict(record))
    except (rfc8785.CanonicalizationError, ValueError, TypeError, RecursionError) as error:
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
        is_canonical = isinstance(value, dict) and _canonical(value) == data
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise IntegrityError(f"not a record: {error}", code="record.form") from error
    if not is_canonical:
        raise IntegrityError("not a record in canonical form", code="record.form")
    return dict(value)


def _canonical(value: Any) -> bytes:
    return _PLAIN.encode(value).encode() if _is_plain(value) else bytes(rfc8785.dumps(value))


def _is_plain(value: Any) -> bool:
    """Whether Python's own encoder writes this as RFC 8785 does: no floats, no large integers, no exotic keys."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-_INT_MAX <= value <= _INT_MAX)
    if kind is dict:
        return all(type(key) is str and key.isascii() and _is_plain(each) for key, each in value.items())
    return kind is list and all(map(_is_plain, value))
