"""The hub's API for operators' commands: on loopback, with the token that stands in the hub's directory."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from isochrone.authority.grant import issuer_name
from isochrone.errors import AuthorityError, InputError
from isochrone.model.document import DocumentError
from isochrone.serve.authzen import authzen_routes
from isochrone.serve.http import application, guarded, json_of, problem, serve
from isochrone.serve.rollout_api import rollout_endpoints

if TYPE_CHECKING:
    from isochrone.serve.hub import Hub

__all__ = ["serve_hub_api"]


async def serve_hub_api(hub: Hub) -> None:
    """Serve until cancelled."""
    endpoints, token = _Endpoints(hub), hub.home.api_token
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/status", endpoints.status),
        ("GET", "/known", endpoints.known),
        ("GET", "/plan", endpoints.plan),
        ("POST", "/apply", endpoints.apply),
        ("GET", "/people", endpoints.people),
        ("POST", "/people", endpoints.act),
        ("GET", "/revocations", endpoints.revocations),
        ("POST", "/revocations", endpoints.revoke),
        *rollout_endpoints(hub),
        ("POST", "/signings", hub.web.begin_signing),
        ("POST", "/invitations", hub.web.begin_invitation),
        ("GET", "/ceremonies/{identifier}", hub.web.outcome),
        ("POST", "/roster", endpoints.roster),
    ]
    routes = [Route(path, guarded(token, endpoint), methods=[method]) for method, path, endpoint in table]
    base = f"http://{hub.api}"
    routes += authzen_routes(issuer_name(hub.home.fabric), base, token, hub.point)
    routes += hub.web.routes()
    await serve(application(routes), hub.api)


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
        body = await json_of(request)
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
        """``{"act": signed act}`` about people, approvals or sites: taken if it verifies and comes next."""
        try:
            registry = await self._hub.enter_act(str((await json_of(request)).get("act", "")))
        except AuthorityError as error:
            return JSONResponse({"refused": [str(error)]}, 422)
        return JSONResponse({"seq": registry.seq})

    async def revocations(self, _: Request) -> Response:
        return JSONResponse({"revocations": self._hub.feed.listed(self._hub.registry(), time.time())})

    async def revoke(self, request: Request) -> Response:
        answer = await self._hub.revoke(await json_of(request))
        return JSONResponse(answer, 422 if "refused" in answer else 200)

    async def roster(self, _: Request) -> Response:
        """The roster on disk has changed."""
        await self._hub.sites.follow()
        return JSONResponse({"sites": sorted(self._hub.home.roster())})
