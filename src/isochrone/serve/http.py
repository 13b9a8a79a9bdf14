"""HTTP endpoints of node and hub: the door to uvicorn and what both share."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from isochrone.errors import AuthorityError, InputError, IsochroneError, PeerError, ProcessError
from isochrone.forward.problem import MEDIA_TYPE, problem_type
from isochrone.forward.xds import Address

__all__ = ["BODY_BYTES_MAX", "application", "body_of", "guarded", "json_of", "problem", "serve"]

BODY_BYTES_MAX = 8 * 1024 * 1024

Endpoint = Callable[[Request], Awaitable[Response]]


def application(routes: list[Route]) -> Starlette:
    """An application whose operating errors become problem documents."""
    return Starlette(routes=routes, exception_handlers={IsochroneError: _answer_error})


async def _answer_error(_: Request, error: Exception) -> Response:
    status = 400 if isinstance(error, InputError | AuthorityError) else 503 if isinstance(error, PeerError) else 500
    code = getattr(error, "code", "error")
    return problem(status, code, str(error), getattr(error, "hint", ""))


def problem(status: int, kind: str, title: str, detail: str = "") -> JSONResponse:
    """An RFC 9457 problem document."""
    body = {"type": problem_type(kind), "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type=MEDIA_TYPE)


async def body_of(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The request's body.

    Raises:
        InputError: it is longer than `bytes_max`; the rest is not read.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bytes_max:
            raise InputError(f"the body is over {bytes_max:,} bytes", code="http.body")
        chunks.append(chunk)
    return b"".join(chunks)


async def json_of(request: Request, bytes_max: int = BODY_BYTES_MAX) -> dict[str, Any]:
    """The request's body as a JSON object.

    Raises:
        InputError: it is none, or too long.
    """
    try:
        value = json.loads(await body_of(request, bytes_max))
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}", code="http.json") from error
    if not isinstance(value, dict):
        raise InputError("the body is not a JSON object", code="http.json")
    return value


def guarded(token: str, endpoint: Endpoint) -> Endpoint:
    """The endpoint, for callers that present the bearer token only."""
    expected = f"Bearer {token}".encode()

    async def checked(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            return problem(401, "token", "the API token is missing or wrong")
        return await endpoint(request)

    return checked


async def serve(app: ASGIApp, at: Address | Path, tls: ssl.SSLContext | None = None) -> None:
    """Serve until cancelled, on a TCP address or on a Unix socket that only this user opens.

    Args:
        tls: speak TLS with this context; without it, plain HTTP.

    Raises:
        ProcessError: ``process.port-in-use`` or ``process.listen``: the address cannot be listened on.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=2, server_header=False, date_header=False,
    )  # fmt: skip
    config.load()
    config.ssl = tls
    server = uvicorn.Server(config)
    # Signals are this program's own affair.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    # Bound here: uvicorn would end the whole process when it cannot.
    with _bound(at) if isinstance(at, Address) else _bound_socket(at) as listener:
        task = asyncio.create_task(server.serve([listener]))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            server.should_exit = True
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 3.0)
            raise


def _bound_socket(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        hint = "check the site's directory"
        raise ProcessError(f"cannot listen on {path}: {error}", code="process.listen", hint=hint) from error
    return listener


def _bound(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise ProcessError(
            f"cannot listen on {address}: {error.strerror or error}",
            code="process.port-in-use" if in_use else "process.listen",
            hint="another program has the port: stop it, or choose another" if in_use else "check the address",
        ) from error
