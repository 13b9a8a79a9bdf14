"""The hub's API for operators' commands: on loopback, with the token that stands in the hub's directory."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from isochrone.errors import AuthorityError, InputError
from isochrone.model.document import DocumentError
from isochrone.serve.http import application, body_of, problem, serve

if TYPE_CHECKING:
    from isochrone.serve.hub import Hub

__all__ = ["serve_hub_api"]


async def serve_hub_api(hub: Hub) -> None:
    """Serve until cancelled."""
    endpoints = _Endpoints(hub)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/status", endpoints.status),
        ("GET", "/known", endpoints.known),
        ("GET", "/plan", endpoints.plan),
        ("POST", "/apply", endpoints.apply),
        ("GET", "/people", endpoints.people),
        ("POST", "/people", endpoints.act),
        ("POST", "/revocations", endpoints.revoke),
    ]
    routes = [Route(path, _guarded(hub, endpoint), methods=[method]) for method, path, endpoint in table]
    await serve(application(routes), hub.api)


def _guarded(hub: Hub, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    token = f"Bearer {hub.home.api_token}".encode()

    async def guarded(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, token):
            return problem(401, "token", "the hub's API token is missing or wrong")
        return await endpoint(request)

    return guarded


class _Endpoints:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def status(self, _: Request) -> Response:
        return JSONResponse(self._hub.status())

    async def known(self, _: Request) -> Response:
        return JSONResponse(self._hub.known())

    async def plan(self, _: Request) -> Response:
        plan = self._hub.state.plan
        return problem(404, "plan", "there is no plan yet") if plan is None else JSONResponse(plan.to_json())

    async def apply(self, request: Request) -> Response:
        """``{"fabric": text, "policies": {file: text}, "act": signed act, "dry_run": bool}``."""
        body = await _json(request)
        policies = body.get("policies", {})
        texts = [body.get("fabric"), *policies.values()] if isinstance(policies, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise InputError("apply needs fabric (text) and policies (file to text)", code="apply.form")
        try:
            expected = body.get("expected") if type(body.get("expected")) is int else None
            dry_run = bool(body.get("dry_run"))
            act = str(body.get("act", ""))
            answer = await self._hub.apply(body["fabric"], policies, act=act, dry_run=dry_run, expected=expected)
        except DocumentError as error:
            return JSONResponse({"findings": [str(finding) for finding in error.findings]}, 422)
        except AuthorityError as error:
            return JSONResponse({"refused": [str(error)]}, 422)
        return JSONResponse(answer)

    async def people(self, _: Request) -> Response:
        return JSONResponse(self._hub.book.document)

    async def act(self, request: Request) -> Response:
        """``{"act": signed act}`` about people or approvals: taken if it verifies and comes next."""
        try:
            registry = await self._hub.enter_act(str((await _json(request)).get("act", "")))
        except AuthorityError as error:
            return JSONResponse({"refused": [str(error)]}, 422)
        return JSONResponse({"seq": registry.seq})

    async def revoke(self, request: Request) -> Response:
        answer = await self._hub.revoke(await _json(request))
        return JSONResponse(answer, 422 if "refused" in answer else 200)


async def _json(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await body_of(request))
    except ValueError as error:
        raise InputError(f"the body is not JSON: {error}", code="http.json") from error
    if not isinstance(value, dict):
        raise InputError("the body is not a JSON object", code="http.json")
    return value
