"""The local forwarder: for programs that hold a base URL and a static key, it speaks to the fabric with fresh grants.

It listens on loopback and takes requests that show the local key. Each goes to the first site that can be reached, as
it came, with a grant instead of the key; answers and refusals come back as they are, a chunk at a time. A site that
does not answer is passed over for the next, unless the answer has begun: then the program sees it break off.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping, Sequence

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from isochrone.errors import AuthorityError, IsochroneError
from isochrone.forward.headers import NODE_PREFIX
from isochrone.serve.client import GrantSource, needs_new_grant
from isochrone.serve.http import BODY_BYTES_MAX, problem

__all__ = ["Connector"]

_KEY_HEADERS = ("authorization", "api-key", "x-api-key")
# RFC 9110 section 7.6.1, and what is this connection's own.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "host", "expect")
)  # fmt: skip
# A site cuts what is idle for 60 s by itself.
_TIMEOUT = httpx.Timeout(120.0, connect=2.0)
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Connector:
    """One forwarder.

    Args:
        sources: base URL of a site to the source of its grants, nearest first. A grant may be good only where it was
            minted, so each site has its own.
        key: what local programs must show, as ``authorization: Bearer KEY``, ``api-key`` or ``x-api-key``.
        client: makes the requests.
    """

    def __init__(self, sources: Mapping[str, GrantSource], key: str, client: httpx.AsyncClient) -> None:
        self._sources, self._key, self._client = dict(sources), key.encode(), client
        self._first = next(iter(self._sources))

    def application(self) -> Starlette:
        """To be served on loopback."""
        return Starlette(routes=[Route("/{path:path}", self._forward, methods=_METHODS)])

    async def _forward(self, request: Request) -> Response:
        if not self._is_ours(request):
            return problem(401, "key", "the local key is missing or wrong", "isochrone connect printed it at its start")
        if request.url.path.startswith(NODE_PREFIX):
            return problem(404, "unknown", "the sites' own endpoints are not forwarded")
        body, problems = _Body(request), []
        for base in self._in_order():
            try:
                answer = await self._send(base, request, body)
            except AuthorityError as error:
                return JSONResponse({"error": {"message": str(error), "code": error.code}}, 403)
            except (httpx.TransportError, IsochroneError) as error:
                problems.append(f"{base}: {error or type(error).__name__}")
                if body.is_lost:
                    break
                continue
            self._first = base
            return _passed_on(answer)
        return problem(503, "unreachable", "no site can be reached", "; ".join(problems))

    def _is_ours(self, request: Request) -> bool:
        shown = [request.headers.get(name, "").removeprefix("Bearer ").encode() for name in _KEY_HEADERS]
        return any(hmac.compare_digest(each, self._key) for each in shown)

    def _in_order(self) -> Sequence[str]:
        """The site that answered last, then the others, nearest first."""
        return [self._first, *(base for base in self._sources if base != self._first)]

    async def _send(self, base: str, request: Request, body: _Body) -> httpx.Response:
        """The site's answer to the request; once more with a new grant if it says that this would help."""
        source = self._sources[base]
        for again in (True, False):
            token = await asyncio.to_thread(source.token)
            headers = [
                (name, value)
                for name, value in request.headers.items()
                if name not in _HOP_BY_HOP and name not in _KEY_HEADERS
            ]
            url = f"{base.rstrip('/')}{request.url.path}{'?' + request.url.query if request.url.query else ''}"
            # Made without the client's own headers: the program's go through as they are.
            made = httpx.Request(
                request.method, url, headers=[*headers, ("authorization", f"Bearer {token}")],
                content=body.chunks() if body.is_there else None, extensions={"timeout": _TIMEOUT.as_dict()},
            )  # fmt: skip
            answer = await self._client.send(made, stream=True)
            if not (again and needs_new_grant(answer.status_code, answer.headers)) or body.is_lost:
                return answer
            await answer.aclose()
            source.forget()
        raise AssertionError("the second answer is the answer")


class _Body:
    """A request's body that can be sent more than once: what was read is kept, up to what a site would take."""

    def __init__(self, request: Request) -> None:
        self.is_there = "content-length" in request.headers or "transfer-encoding" in request.headers
        self.is_lost = False
        self._incoming = request.stream()
        self._kept: list[bytes] = []
        self._size = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in tuple(self._kept):
            yield chunk
        async for chunk in self._incoming:
            self._size += len(chunk)
            self._kept.append(chunk)
            if self._size > BODY_BYTES_MAX:
                self.is_lost, self._kept = True, []
            yield chunk


def _passed_on(answer: httpx.Response) -> Response:
    headers = [(name, value) for name, value in answer.headers.multi_items() if name.lower() not in _HOP_BY_HOP]

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        finally:
            await answer.aclose()

    made = StreamingResponse(chunks(), answer.status_code)
    made.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return made
