"""The fast way to write a record is RFC 8785's, byte for byte, or is not taken."""

from __future__ import annotations

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import InputError
from isochrone.record.canonical import encode

TEXT = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_a_record_is_written_as_rfc_8785_says_or_refused_where_it_refuses(record: dict[str, object]) -> None:
    try:
        expected = bytes(rfc8785.dumps(record))
    except (rfc8785.CanonicalizationError, ValueError):
        expected = b""
    try:
        written = encode(record)
    except InputError:
        written = b""
    assert written == expected
