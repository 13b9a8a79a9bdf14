"""Does the Open Inference Protocol parser take what the specification allows and refuse everything else by name?"""

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.serve.models.oip import BINARY_HEADER, ProtocolError, encode, parse


def body(data=(1, 2, 3, 4), shape=(4,), datatype="INT16", parameters=None, **more):
    tensor = {"name": "audio", "shape": list(shape), "datatype": datatype, "data": list(data)}
    return json.dumps({"inputs": [tensor], **({"parameters": parameters} if parameters else {}), **more}).encode()


def binary(payload: bytes, size: int, shape=(2,)):
    tensor = {"name": "audio", "shape": list(shape), "datatype": "INT16", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + payload, str(len(head))


def test_flat_and_nested_data_are_the_same_tensor():
    flat = parse(body(shape=(2, 2)), None).inputs[0]
    nested = parse(body(data=[[1, 2], [3, 4]], shape=(2, 2)), None).inputs[0]
    assert flat == nested
    assert list(flat.data) == [1, 2, 3, 4]


def test_binary_tensor_is_little_endian_and_answered_in_kind():
    asked = parse(*binary(struct.pack("<2h", -2, 300), 4))
    assert list(asked.inputs[0].data) == [-2, 300]
    answer, headers = encode(asked, model="m", version="1", name="p", values=[0.25], shape=[1])
    cut = int(headers[BINARY_HEADER])
    assert struct.unpack("<f", answer[cut:]) == (0.25,)
    assert json.loads(answer[:cut])["outputs"][0]["parameters"] == {"binary_data_size": 4}


def test_id_and_sequence_are_given_back():
    asked = parse(body(id="q7", parameters={"sequence_id": 42, "sequence_start": True}), None)
    assert (asked.sequence.id, asked.sequence.start, asked.sequence.end) == ("42", True, False)
    answer = json.loads(encode(asked, model="m", version="1", name="p", values=[0.5], shape=[1])[0])
    assert answer["id"] == "q7"
    assert answer["parameters"] == {"sequence_id": "42"}
    assert answer["outputs"] == [{"name": "p", "datatype": "FP32", "shape": [1], "data": [0.5]}]


@pytest.mark.parametrize("absent", [0, ""])
def test_zero_and_empty_sequence_ids_mean_no_sequence(absent):
    assert parse(body(parameters={"sequence_id": absent}), None).sequence is None


BAD = {
    "not-json": [b"", b"{", b"\xff", b"[" * 100_000],
    "bad-request": [
        b"[]",
        b"{}",
        b'{"inputs": []}',
        body(id=5),
        body(parameters=[1]),
        body(parameters={"binary_data_output": "yes"}),
    ],
    "bad-tensor": [
        b'{"inputs": [5]}',
        body(data=[1, 2, 3, 1.5]),
        body(data=[1, 2, 3, True]),
        body(data=[1, 2, 3, 40_000]),
        body(data=[1, 2, 3, 10**30]),
        body(data=[[1, 2], [3]]),
        body(data=[[1, 2], 3]),
        b'{"inputs": [{"name": "audio", "datatype": "INT16", "shape": [1], "data": "AAAA"}]}',
    ],
    "bad-datatype": [body(datatype="FP32"), body(datatype=None)],
    "bad-shape": [body(shape=(5,)), body(shape=(-4,)), body(shape=()), body(shape=(4.0,)), body(shape=(2**70, 2))],
    "bad-sequence": [
        body(parameters={"sequence_start": True}),
        body(parameters={"sequence_id": 1, "sequence_end": 1}),
        body(parameters={"sequence_id": 1.5}),
        body(parameters={"sequence_id": "x" * 129}),
    ],
}


@pytest.mark.parametrize(("code", "bad"), [(code, bad) for code, all_ in BAD.items() for bad in all_])
def test_bad_request_is_refused_by_name(code, bad):
    with pytest.raises(ProtocolError) as refused:
        parse(bad, None)
    assert (refused.value.code, refused.value.status) == (code, 400)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("header", ["-1", "x", "99999", "٣", ""])
def test_header_length_that_is_none_is_refused(header):
    with pytest.raises(ProtocolError) as refused:
        parse(body(), header)
    assert refused.value.code == "bad-binary"


@pytest.mark.parametrize(
    ("payload", "size"), [(b"1234", 6), (b"1234", -2), (b"123", 3), (b"123456", 4), (b"1234", "4")]
)
def test_binary_size_that_does_not_fit_is_refused(payload, size):
    with pytest.raises(ProtocolError) as refused:
        parse(*binary(payload, size))
    assert refused.value.code == "bad-binary"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("audio") | json_values,
        "datatype": st.just("INT16") | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data": st.lists(st.integers(-9, 9), max_size=6) | json_values,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9)}) | json_values,
    },
)


@given(st.fixed_dictionaries({"inputs": st.lists(tensors, max_size=2) | json_values}), st.binary(max_size=9))
def test_anything_is_parsed_or_refused_never_a_crash(document, tail):
    head = json.dumps(document).encode()
    try:
        asked = parse(head + tail, str(len(head)))
    except ProtocolError:
        return
    assert all(math.prod(tensor.shape) == len(tensor.data) for tensor in asked.inputs)
