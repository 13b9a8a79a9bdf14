"""A site's own endpoints, reached through its Envoy below ``/.isochrone/``: tokens, keys, log files, evidence."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from isochrone.authority.exchange import OAuthError, metadata
from isochrone.authority.grant import issuer_name
from isochrone.errors import IsochroneError
from isochrone.forward.headers import CHAINS_PATH, NODE_PREFIX
from isochrone.forward.xds import Address
from isochrone.serve import mailbox
from isochrone.serve.authzen import authzen_routes
from isochrone.serve.http import application, body_of, problem, serve
from isochrone.serve.logbook import proof_of

if TYPE_CHECKING:
    from isochrone.serve.node import Node

__all__ = ["serve_api"]

PREFIX = NODE_PREFIX.rstrip("/")
_FORM_BYTES_MAX = 128 * 1024


async def serve_api(node: Node, address: Address) -> None:
    """Serve until cancelled."""
    endpoints = _Endpoints(node)
    routes = [
        Route(f"{PREFIX}/token", endpoints.token, methods=["POST"]),
        Route(f"{PREFIX}/revocations", endpoints.revoke, methods=["POST"]),
        Route(f"{PREFIX}/jwks", endpoints.jwks),
        Route(f"{PREFIX}/metadata", endpoints.metadata),
        Route(f"{PREFIX}/status", endpoints.status),
        Route(f"{PREFIX}/people", endpoints.people),
        Route(f"{CHAINS_PATH}{{digest}}/{{grant}}", endpoints.chain),
        Route(f"{PREFIX}/evidence/{{identifier}}", endpoints.evidence),
        Route(f"{PREFIX}/log/{{path:path}}", endpoints.log),
    ]
    # Beside the prefix that Envoy forwards, so that only programs on this machine reach them.
    routes += authzen_routes(
        issuer_name(node.fabric_name), f"http://{address}", node.home.api_token,
        lambda: node.point(node.state.fabric, node.state.policies),
    )  # fmt: skip
    await serve(application(routes), address)


class _Endpoints:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def token(self, request: Request) -> Response:
        """RFC 8693 token exchange, proof of possession by DPoP (RFC 9449)."""
        form = await body_of(request, _FORM_BYTES_MAX)
        proofs = request.headers.getlist("dpop")
        # This site's own address, not what the request says: a proof for another site is of no use here.
        url = f"http://{self._node.state.listening.ingress}{request.url.path}"
        answer = await self._node.exchanger.exchange(
            self._node.state, form, proofs[0] if len(proofs) == 1 else None, url
        )
        headers = {"cache-control": "no-store"}
        if isinstance(answer, OAuthError):
            return JSONResponse(answer.body(), answer.status, headers)
        return JSONResponse(answer, 200, headers)

    async def revoke(self, request: Request) -> Response:
        """Hand a signed revocation request to the hub, which numbers it."""
        document = await body_of(request, _FORM_BYTES_MAX)
        answer = await self._node.bus.request(mailbox.REVOKE, document, timeout_s=5.0)
        return Response(answer, media_type="application/json")

    async def jwks(self, _: Request) -> Response:
        return JSONResponse(self._node.state.jwks)

    async def metadata(self, request: Request) -> Response:
        """RFC 8414."""
        base = f"http://{request.headers.get('host', '')}{PREFIX}"
        return JSONResponse(metadata(issuer_name(self._node.fabric_name), f"{base}/token", f"{base}/jwks"))

    async def status(self, _: Request) -> Response:
        return JSONResponse(self._node.report().to_json())

    async def people(self, _: Request) -> Response:
        """The identity registry as the hub sealed it, whose key is in this site's enrolment."""
        path = self._node.learned.cache.sealed_path(mailbox.PEOPLE_KEY)
        return FileResponse(path, media_type="application/jwt") if path.exists() else _unknown("people")

    async def chain(self, request: Request) -> Response:
        """The chain behind a grant that was minted here: for other sites, which verify it."""
        digest, grant = request.path_params["digest"], request.path_params["grant"]
        chain = await asyncio.to_thread(self._node.chains.held, digest, grant)
        return JSONResponse({"chain": chain}) if chain else _unknown("chain of that digest")

    async def evidence(self, request: Request) -> Response:
        """Records about an execution or grant id at this site, each with its proof, and what they rest on here."""
        book, identifier = self._node.logbook, request.path_params["identifier"]
        kinds = ("admission", "authorization", "attempt", "outcome", "refusal", "exchange")
        found = book.index.find(identifier, kinds)
        reader = book.reader()
        try:
            size = reader.checkpoint().size
            entries = [entry for entry in found[:16] if entry < size]
            activation = book.index.last("activation", entries[0]) if entries else None
            proven = [
                proof_of(reader, entry) for entry in [*entries, *([activation] if activation is not None else [])]
            ]
        except IsochroneError as error:
            return problem(500, error.code, str(error), error.hint)
        if not entries:
            waits = "its record is not covered by a checkpoint yet: ask again in a second" if found else ""
            return problem(404, "unknown", f"nothing about {identifier} is recorded at {self._node.site}", waits)
        vkey = self._node.home.log_signer(self._node.fabric_name, self._node.site).vkey
        return JSONResponse({"site": self._node.site, "vkey": vkey, "records": proven})

    async def log(self, request: Request) -> Response:
        """The log's public files (C2SP tlog-tiles)."""
        path = PurePosixPath(request.path_params["path"])
        if path.is_absolute() or ".." in path.parts:
            return _unknown(str(path))
        file = self._node.logbook.public_directory / path
        return FileResponse(file) if file.is_file() else _unknown(str(path))


def _unknown(what: str) -> Response:
    return problem(404, "unknown", f"there is no {what} here")
