"""AuthZEN endpoints of node and hub, for programs that ask before they act. On loopback, with the API token."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from isochrone.policy.authzen import Clock, configuration, evaluate, evaluate_all
from isochrone.policy.pdp import PDP
from isochrone.serve.http import guarded, json_of

__all__ = ["authzen_routes"]


def authzen_routes(issuer: str, base: str, token: str, point: Callable[[], PDP]) -> list[Route]:
    """The routes.

    Args:
        base: URL of the server they are added to.
        token: what a caller must present as its bearer token.
        point: the decision point in force; raises InputError while there is none.
    """

    def answering(answer: Callable[[PDP, Any, Clock], dict[str, Any]]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            now = time.gmtime()
            found = answer(point(), await json_of(request), Clock(now.tm_hour, now.tm_wday + 1))
            # Section 10.1.3: a caller finds its own request in its log by this.
            known = request.headers.get("x-request-id")
            return JSONResponse(found, headers={"x-request-id": known} if known else {})

        return guarded(token, endpoint)

    async def metadata(_: Request) -> Response:
        return JSONResponse(configuration(issuer, base))

    return [
        Route("/access/v1/evaluation", answering(evaluate), methods=["POST"]),
        Route("/access/v1/evaluations", answering(evaluate_all), methods=["POST"]),
        Route("/.well-known/authzen-configuration", metadata),
    ]
