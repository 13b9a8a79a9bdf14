"""The Open Inference Protocol v2 over HTTP, for one model that takes 16-bit integers: messages in and out, no I/O.

Sources: the KServe "Open Inference Protocol" REST specification (shapes, names, error object), its binary tensor data
extension (header `Inference-Header-Content-Length`), and Triton's sequence extension (`sequence_id`,
`sequence_start`, `sequence_end` among the request's parameters). Every bad input is a `ProtocolError` that says what is
wrong; the error object carries a stable `code` beside the specification's `error`.
"""

from __future__ import annotations

import json
import math
import sys
from array import array
from dataclasses import dataclass
from typing import Any

from isochrone.errors import InputError

__all__ = ["BINARY_HEADER", "InferRequest", "ProtocolError", "Sequence", "Tensor", "encode", "error_body", "parse"]

BINARY_HEADER = "inference-header-content-length"
_INT16_BYTES = 2


class ProtocolError(InputError):
    """A request that cannot be served as it is.

    Args:
        message: what is wrong with it.
        code: stable identifier in kebab case.
        status: HTTP status of the answer.
    """

    def __init__(self, message: str, *, code: str, status: int = 400) -> None:
        super().__init__(message, code=code)
        self.status = status


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input tensor INT16, flattened row by row; `len(data)` is the product of `shape`."""

    name: str
    shape: tuple[int, ...]
    data: array[int]


@dataclass(frozen=True, slots=True)
class Sequence:
    """The stream a request belongs to, and whether it opens and closes it."""

    id: str
    start: bool = False
    end: bool = False


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One parsed inference request; `binary_output` asks for the answer's tensors as bytes."""

    id: str | None
    inputs: tuple[Tensor, ...]
    sequence: Sequence | None
    binary_output: bool


def parse(body: bytes, header_length: str | None) -> InferRequest:
    """An inference request out of an HTTP body.

    Args:
        body: JSON, or JSON followed by raw little-endian tensors in the order of the inputs.
        header_length: value of `Inference-Header-Content-Length`: how many bytes of `body` are JSON; None: all.

    Raises:
        ProtocolError: with status 400 and one of the codes ``not-json``, ``bad-request``, ``bad-tensor``,
            ``bad-datatype``, ``bad-shape``, ``bad-sequence``, ``bad-binary``.
    """
    head, rest = _split(body, header_length)
    try:
        document = json.loads(head)
    except (ValueError, RecursionError) as e:
        raise ProtocolError(f"the body is not JSON: {e}", code="not-json") from e
    if not isinstance(document, dict):
        raise ProtocolError("the body is not a JSON object", code="bad-request")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise ProtocolError("`inputs` must be a list with at least one tensor", code="bad-request")
    request_id = document.get("id")
    if not isinstance(request_id, str | None):
        raise ProtocolError("`id` must be a string", code="bad-request")
    parameters = _parameters(document)
    tensors = []
    for tensor in inputs:
        parsed, rest = _tensor(tensor, rest)
        tensors.append(parsed)
    if rest:
        raise ProtocolError(f"{len(rest)} bytes after the last binary tensor", code="bad-binary")
    return InferRequest(request_id, tuple(tensors), _sequence(parameters), _binary_output(parameters))


def encode(
    request: InferRequest, *, model: str, version: str, name: str, values: list[float], shape: list[int]
) -> tuple[bytes, dict[str, str]]:
    """The answer to `request` with one FP32 tensor: body and HTTP headers."""
    output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": shape}
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": [output]}
    if request.id is not None:
        document["id"] = request.id
    if request.sequence is not None:
        document["parameters"] = {"sequence_id": request.sequence.id}
    if not request.binary_output:
        output["data"] = values
        return json.dumps(document, separators=(",", ":")).encode(), {"content-type": "application/json"}
    raw = _little_endian(array("f", values)).tobytes()
    output["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(document, separators=(",", ":")).encode()
    return head + raw, {"content-type": "application/octet-stream", BINARY_HEADER: str(len(head))}


def error_body(error: ProtocolError) -> bytes:
    """The specification's error object, with the stable code beside the text."""
    return json.dumps({"error": str(error), "code": error.code}).encode()


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdigit()) or int(header_length) > len(body):
        raise ProtocolError(
            f"{BINARY_HEADER} is {header_length[:20]!r}, the body has {len(body)} bytes", code="bad-binary"
        )
    return body[: int(header_length)], body[int(header_length) :]


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ProtocolError("`parameters` must be an object", code="bad-request")
    return parameters


def _tensor(tensor: Any, rest: bytes) -> tuple[Tensor, bytes]:
    """One input; takes its bytes off the front of `rest` when it is a binary one."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise ProtocolError("each of `inputs` must be an object with a `name`", code="bad-tensor")
    name = tensor["name"][:80]
    if tensor.get("datatype") != "INT16":
        raise ProtocolError(
            f"input {name!r} has datatype {str(tensor.get('datatype'))[:20]!r}; this model takes INT16",
            code="bad-datatype",
        )
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise ProtocolError(f"input {name!r} needs a `shape`: a list of non-negative integers", code="bad-shape")
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        data = _numbers(name, tensor.get("data"))
    else:
        if type(size) is not int or not 0 <= size <= len(rest) or size % _INT16_BYTES:
            raise ProtocolError(
                f"input {name!r} declares {str(size)[:20]} binary bytes; {len(rest)} are there", code="bad-binary"
            )
        data, rest = _little_endian(array("h", rest[:size])), rest[size:]
    if math.prod(shape) != len(data):
        raise ProtocolError(f"input {name!r} has shape {shape[:8]} but {len(data)} values", code="bad-shape")
    return Tensor(name, tuple(shape), data), rest


def _numbers(name: str, data: Any) -> array[int]:
    """JSON data, flat or one list per row, as 16-bit integers."""
    if not isinstance(data, list):
        raise ProtocolError(f"input {name!r} needs `data`: a list of integers", code="bad-tensor")
    if data and isinstance(data[0], list):
        if not all(isinstance(row, list) and len(row) == len(data[0]) for row in data):
            raise ProtocolError(f"input {name!r} has rows of different lengths", code="bad-tensor")
        data = [number for row in data for number in row]
    if not set(map(type, data)) <= {int}:  # bool is an int to Python, not to the protocol
        raise ProtocolError(f"input {name!r} holds something other than integers", code="bad-tensor")
    try:
        return array("h", data)
    except OverflowError as e:
        raise ProtocolError(f"input {name!r} holds a number outside INT16, -32768 to 32767", code="bad-tensor") from e


def _sequence(parameters: dict[str, Any]) -> Sequence | None:
    """Triton's sequence extension: an id that is absent, 0 or "" means a request on its own."""
    given = parameters.get("sequence_id", 0)
    start, end = parameters.get("sequence_start", False), parameters.get("sequence_end", False)
    if type(given) not in (int, str) or not isinstance(start, bool) or not isinstance(end, bool):
        raise ProtocolError(
            "`sequence_id` must be an integer or a string, `sequence_start` and `sequence_end` booleans",
            code="bad-sequence",
        )
    if not given:
        if start or end:
            raise ProtocolError("`sequence_start` and `sequence_end` need a `sequence_id`", code="bad-sequence")
        return None
    if len(str(given)) > 128:
        raise ProtocolError("`sequence_id` has more than 128 characters", code="bad-sequence")
    return Sequence(str(given), start, end)


def _binary_output(parameters: dict[str, Any]) -> bool:
    wanted = parameters.get("binary_data_output", False)
    if not isinstance(wanted, bool):
        raise ProtocolError("`binary_data_output` must be a boolean", code="bad-request")
    return wanted


def _little_endian(values: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
