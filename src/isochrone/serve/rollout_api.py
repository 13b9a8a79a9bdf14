"""The hub's endpoints for roll-outs: revisions as they were, and the candidate that sites run in shadow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from isochrone.model.document import DocumentError
from isochrone.serve.http import json_of

if TYPE_CHECKING:
    from isochrone.serve.hub import Hub

__all__ = ["rollout_endpoints"]

Endpoint = Callable[[Request], Awaitable[Response]]


def rollout_endpoints(hub: Hub) -> list[tuple[str, str, Endpoint]]:
    """Method, path and endpoint of each."""

    async def revisions(_: Request) -> Response:
        return JSONResponse({"revisions": hub.rollouts.history(), "rollout": hub.status()["rollout"]})

    async def revision(request: Request) -> Response:
        return JSONResponse(hub.rollouts.kept(request.path_params["number"]))

    async def shadow(_: Request) -> Response:
        return JSONResponse(hub.shadow.candidate or {})

    async def set_shadow(request: Request) -> Response:
        """``{"fabric": text, "policies": {file: text}}``, or ``{}`` to end it."""
        body = await json_of(request)
        try:
            return JSONResponse(await hub.shadow.put(body or None))
        except DocumentError as error:
            return JSONResponse({"findings": [str(finding) for finding in error.findings]}, 422)

    return [
        ("GET", "/revisions", revisions),
        ("GET", "/revisions/{number:int}", revision),
        ("GET", "/shadow", shadow),
        ("PUT", "/shadow", set_shadow),
    ]
