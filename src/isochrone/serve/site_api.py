"""The hub's endpoint for sites: to join, and to renew certificates. TLS with the hub's certificate.

Everybody may ask: a site proves who it is by what it signs, and one that joins by its token's join key.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from isochrone.errors import InputError
from isochrone.forward.xds import Address
from isochrone.serve.enrolment import REQUEST_BYTES_MAX
from isochrone.serve.http import application, body_of, serve

if TYPE_CHECKING:
    from isochrone.serve.hub import Hub

__all__ = ["serve_site_api"]

_RENEWAL_LOOK_S = 3600.0


async def serve_site_api(hub: Hub, address: Address) -> None:
    """Serve until cancelled, and keep the hub's own certificate fresh."""
    endpoints = _Endpoints(hub)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/authority", endpoints.authority),
        ("POST", "/join", endpoints.join),
        ("POST", "/renew", endpoints.renew),
    ]
    context = hub.home.tls.server()
    async with asyncio.TaskGroup() as group:
        group.create_task(_stay_certified(hub, context))
        routes = [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]
        await serve(application(routes), address, context)


async def _stay_certified(hub: Hub, context: ssl.SSLContext) -> None:
    while True:
        await asyncio.sleep(_RENEWAL_LOOK_S)
        if hub.home.renew_credential(dt.datetime.now(dt.UTC)):
            context.load_cert_chain(hub.home.tls.credential)
            hub.sites.reload_bus()


class _Endpoints:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def authority(self, _: Request) -> Response:
        """The fabric's authority certificate, PEM; whoever asks compares its fingerprint."""
        return PlainTextResponse(self._hub.home.authority.certificate)

    async def join(self, request: Request) -> Response:
        text = await _text(request)
        answer = self._hub.sites.admission.admit(text, self._hub.sites.names_of)
        await self._hub.sites.follow()
        return _answer(answer)

    async def renew(self, request: Request) -> Response:
        return _answer(self._hub.sites.admission.renew(await _text(request), self._hub.sites.names_of))


async def _text(request: Request) -> str:
    try:
        return (await body_of(request, REQUEST_BYTES_MAX)).decode("ascii")
    except ValueError as error:
        raise InputError("a site's request is ASCII", code="join.request") from error


def _answer(answer: dict[str, Any]) -> Response:
    return JSONResponse(answer, headers={"cache-control": "no-store"})
