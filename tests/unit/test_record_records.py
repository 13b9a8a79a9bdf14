"""What does a journal line become, and is the canonical form one to one with the record?"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import InputError, IntegrityError
from isochrone.forward.journal import end_fields, start_fields
from isochrone.record.canonical import RECORD_BYTES_MAX, decode, encode
from isochrone.record.records import SiteIdentity, activation, exchange, finding, from_journal, revocation

HERE = SiteIdentity("konstanz", "edge", "seewerk", "DE")
CLAIMS: dict[str, Any] = {
    "iss": "isochrone:lakeside", "aud": "lakeside", "sub": "human:ada", "act": {"sub": "agent:caller"}, "jti": "g1",
    "chd": "d1", "ctr": "line", "wl": "voice", "dc": "public", "h1": "h-one", "h2": "h-two", "k0": "k-zero",
    "k1": "k-one", "sites": "*", "pol": "p0", "epo": 3,
}  # fmt: skip


def payload(claims: Any) -> str:
    """As in a JWT: base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


END: dict[str, Any] = {
    "v": 2, "site": "konstanz", "role": "ingress", "policy": "p1", "type": "DownstreamEnd", "id": "r-1",
    "start": "1795436538.362001", "method": "POST", "path": "/infer", "plan": "7", "ingress": "konstanz",
    "client": "127.0.0.1", "status": 200, "flags": "-", "detail": "via_upstream", "upstream": "10.0.0.1:80",
    "attempts": 1, "received_bytes": 9, "sent_bytes": 22, "first_byte_us": 1200, "duration_us": 1300,
    "claims": payload(CLAIMS),
}  # fmt: skip


def made(**changes: Any) -> dict[str, Any]:
    return from_journal(END | changes, HERE, {"10.0.0.1:80": "frankfurt"}.get)


def test_a_start_line_is_an_admission_and_knows_nothing_of_the_end() -> None:
    record = made(type="DownstreamStart")
    assert record == {
        "v": 1, "kind": "admission", "id": "r-1", "role": "ingress", "where": HERE.to_json(),
        "start_us": 1795436538362001, "request": {"method": "POST", "path": "/infer"},
    }  # fmt: skip


def test_the_sites_that_were_tried_are_named_in_order() -> None:
    assert made(attempted="10.0.0.9:1,10.0.0.1:80")["via"]["attempted"] == ["10.0.0.9:1", "frankfurt"]


def test_an_end_line_with_an_upstream_is_an_outcome_at_that_site() -> None:
    record = made()
    assert record["kind"] == "outcome"
    assert record["via"] == {"ingress": "konstanz", "executing_site": "frankfurt", "peer": None, "attempted": []}
    assert record["who"]["hops"] == ["h-one", "h-two"]
    assert record["who"]["keys"] == ["k-zero", "k-one"]
    assert (record["who"]["human"], record["who"]["agent"]) == ("human:ada", "agent:caller")
    assert (record["who"]["grant"], record["who"]["chain"]) == ("g1", "d1")
    assert record["what"] | {"received_bytes": 0, "sent_bytes": 0} == {
        "contract": "line", "workload": "voice", "data_class": "public", "received_bytes": 0, "sent_bytes": 0,
    }  # fmt: skip
    under = {"policy_granted": "p0", "policy_in_force": "p1", "epoch_granted": "3", "sites_granted": "*"}
    assert under.items() <= record["under"].items()
    assert record["result"]["duration_us"] == 1300


@pytest.mark.parametrize("upstream", [None, "", "192.0.2.9:80"])
def test_what_no_known_address_answered_is_a_refusal(upstream: str | None) -> None:
    record = made(upstream=upstream, status=503)
    assert record["kind"] == "refusal"
    assert record["via"]["executing_site"] is None
    assert record["result"]["status"] == 503


def test_every_field_the_proxy_writes_is_known_to_the_reader() -> None:
    assert {name for name in END if name not in end_fields("konstanz", "ingress", "p1")} == set()
    start = start_fields("konstanz", "ingress")
    line = {name: END[name] for name in start} | {"type": start["type"]}
    assert from_journal(line, HERE, lambda _: None) == made(type="DownstreamStart")


@pytest.mark.parametrize("claims", ["", "%%%", "AAAA", payload([1]), payload("text"), "é", 7, None, payload({})])
def test_a_line_without_a_verified_grant_names_nobody(claims: Any) -> None:
    record = made(claims=claims)
    nobody = {"human": None, "agent": None, "grant": None, "chain": None, "hops": [], "keys": []}
    assert record["who"] == nobody | {"client": "127.0.0.1"}
    assert record["what"]["contract"] is None


@pytest.mark.parametrize("value", [["a"], {"a": 1}, None, "", 1.5])
def test_a_claim_that_is_no_name_is_none(value: Any) -> None:
    assert made(claims=payload(CLAIMS | {"ctr": value}))["what"]["contract"] is None
    assert made(claims=payload(CLAIMS | {"act": value}))["who"]["agent"] is None


def test_half_a_character_in_a_claim_does_not_stop_the_log() -> None:
    record = made(claims=payload(CLAIMS | {"sub": "human:\ud800"}))
    assert decode(encode(record)) == record


@pytest.mark.parametrize("start", ["", "x", "12", "12.", "-1.5", "1e3.4", None, 12.5])
def test_a_time_that_is_none_is_zero_not_an_error(start: Any) -> None:
    expected = 12_500_000 if start == 12.5 else 0
    assert made(start=start)["start_us"] == expected


@pytest.mark.parametrize(
    "line", [{}, {"type": 3, "id": 7, "status": "200", "claims": []}, {"start": [], "upstream": {}}]
)
def test_a_line_with_other_types_still_becomes_a_record(line: dict[str, Any]) -> None:
    record = from_journal(line, HERE, lambda _: None)
    assert record["kind"] == "refusal"
    assert decode(encode(record)) == record


def test_records_of_the_node_keep_what_they_are_given() -> None:
    denied = exchange(HERE, 5, ["hop"], "line", None, ["no"])
    assert (denied["verdict"], denied["id"], denied["grant"], denied["chain"]) == ("deny", None, None, ["hop"])
    allowed = exchange(HERE, 5, ["hop"], "line", {"jti": "g1", "sites": "*"}, [])
    assert (allowed["verdict"], allowed["id"]) == ("allow", "g1")
    assert revocation(HERE, 5, 9, "entry")["seq"] == 9
    assert activation(HERE, 5, 1, 2, 3, {"a": "text"})["policies"] == {"a": "text"}
    assert len(finding(HERE, 5, "journal-torn", "x" * 9000)["detail"]) == 4000


# RFC 8785: keys sorted by UTF-16 code units, ECMAScript numbers, minimal escapes.
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": 2}, b'{"a":2,"b":1}'),
        ({"x": 1.0, "y": 1e30, "z": 1e-7}, b'{"x":1,"y":1e+30,"z":1e-7}'),
        ({"\u20ac": "\u20ac", "\r": "\n", "\U0001f600": 1, "\ufb33": 2},
         '{"\\r":"\\n","\u20ac":"\u20ac","\U0001f600":1,"\ufb33":2}'.encode()),
    ],
)  # fmt: skip
def test_canonical_form(value: dict[str, Any], text: bytes) -> None:
    assert encode(value) == text


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), plain, max_size=6))
def test_canonical_form_round_trips_and_does_not_depend_on_order(record: dict[str, Any]) -> None:
    data = encode(record)
    assert decode(data) == record
    assert encode(dict(reversed(record.items()))) == data


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53, -(2**53), "\ud800", b"bytes", {1: 2}, {1, 2}], ids=repr
)
def test_what_json_cannot_carry_exactly_is_refused(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        encode({"x": value})
    assert caught.value.code == "record.value"


def test_a_record_has_a_size_limit_that_is_exact() -> None:
    room = RECORD_BYTES_MAX - len(b'{"x":""}')
    assert len(encode({"x": "a" * room})) == RECORD_BYTES_MAX
    with pytest.raises(InputError) as caught:
        encode({"x": "a" * (room + 1)})
    assert caught.value.code == "record.size"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", b"[]", b"1", b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1}\n', b'{"a":1,"a":1}', b'{"a":1.0}',
        b'{"a":NaN}', b'{"a":"\\u0041"}', b'{"a":9007199254740993}', b"\xff\xfe", b'{"a":"\\ud800"}', b"[" * 200_000,
    ],
    ids=lambda data: repr(data[:20]),
)  # fmt: skip
def test_what_is_not_in_canonical_form_was_not_written_by_us(data: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        decode(data)
    assert caught.value.code == "record.form"


def test_decoding_accepts_exactly_what_encoding_gives() -> None:
    data = encode({"a": [1, {"b": None}]})
    assert json.loads(data) == decode(data)
