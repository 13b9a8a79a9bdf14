"""A site's own endpoints, reached through its Envoy below ``/.isochrone/``: tokens, keys, log files, evidence."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from isochrone.authority.exchange import OAuthError, metadata
from isochrone.authority.grant import issuer_name
from isochrone.errors import IsochroneError
from isochrone.forward.headers import CHAINS_PATH, CLIENT_CERTIFICATE, NODE_PREFIX, PEER_PREFIX
from isochrone.forward.xds import Address
from isochrone.record.shards import MAIN, SHARDS
from isochrone.serve import mailbox
from isochrone.serve.authzen import authzen_routes
from isochrone.serve.handovers import HANDOVERS, unknown_of
from isochrone.serve.http import application, body_of, problem, serve
from isochrone.serve.receipts import receipt_of
from isochrone.serve.shard import shard_directory
from isochrone.serve.witnessing import ADD_CHECKPOINT, CHECKPOINTS
from isochrone.tlog.cose import MEDIA_TYPE as COSE_TYPE
from isochrone.tlog.tiles import CHECKPOINT_PATH
from isochrone.tlog.witness import REQUEST_BYTES_MAX

if TYPE_CHECKING:
    from isochrone.serve.node import Node

__all__ = ["serve_api"]

PREFIX = NODE_PREFIX.rstrip("/")
_FORM_BYTES_MAX = 128 * 1024
_IDS_BYTES_MAX = 1024 * 1024


async def serve_api(node: Node, address: Address) -> None:
    """Serve until cancelled."""
    endpoints = _Endpoints(node)
    routes = [
        Route(f"{PREFIX}/token", endpoints.token, methods=["POST"]),
        Route(f"{PREFIX}/revocations", endpoints.revoke, methods=["POST"]),
        Route(f"{PREFIX}/revocations", endpoints.revocations),
        Route(f"{PREFIX}/jwks", endpoints.jwks),
        Route(f"{PREFIX}/metadata", endpoints.metadata),
        Route(f"{PREFIX}/status", endpoints.status),
        Route(f"{PREFIX}/people", endpoints.people),
        Route(f"{CHAINS_PATH}{{digest}}/{{grant}}", endpoints.chain),
        Route(f"{PREFIX}/evidence/{{identifier}}", endpoints.evidence),
        Route(f"{PREFIX}/receipts/{{execution}}", endpoints.receipt),
        Route(f"{PREFIX}/log/{{path:path}}", endpoints.log),
        # On the peer listener only.
        Route(f"{PEER_PREFIX}log/{{path:path}}", endpoints.log),
        Route(f"{PEER_PREFIX}{ADD_CHECKPOINT}", endpoints.add_checkpoint, methods=["POST"]),
        Route(f"{PEER_PREFIX}{CHECKPOINTS}", endpoints.checkpoints),
        Route(f"{PEER_PREFIX}{HANDOVERS}", endpoints.handovers, methods=["POST"]),
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
        """RFC 8693 token exchange, proof of possession by DPoP (RFC 9449) or TLS client certificate (RFC 8705)."""
        form = await body_of(request, _FORM_BYTES_MAX)
        proofs = request.headers.getlist("dpop")
        url = f"{self._base(request)}{request.url.path}"
        answer = await self._node.exchanger.exchange(
            self._node.state, form, proofs[0] if len(proofs) == 1 else None, url, _shown(request)
        )
        headers = {"cache-control": "no-store"}
        if isinstance(answer, OAuthError):
            return JSONResponse(answer.body(), answer.status, headers)
        return JSONResponse(answer, 200, headers)

    def _base(self, request: Request) -> str:
        """This site as clients know it: by a name that the fabric document gives it, or else by its own address, and by
        nothing else that a request may say: a proof that was made for another site is of no use here."""
        fabric, host = self._node.state.fabric, request.headers.get("host", "")
        tls = fabric.sites[self._node.site].tls if fabric else None
        known = tls is not None and host.rpartition(":")[0 if ":" in host else 2].strip("[]") in tls.names
        return f"{'https' if tls else 'http'}://{host if known else self._node.state.listening.ingress}"

    async def revoke(self, request: Request) -> Response:
        """Hand a signed revocation request to the hub, which numbers it."""
        document = await body_of(request, _FORM_BYTES_MAX)
        answer = await self._node.bus.request(mailbox.REVOKE, document, timeout_s=5.0)
        return Response(answer, media_type="application/json")

    async def revocations(self, _: Request) -> Response:
        """The revocation feed as followed here, an entry on each line; whoever reads it holds it to the hub's key."""
        entries = await asyncio.to_thread(self._node.learned.cache.feed.read)
        return PlainTextResponse("".join(f"{entry}\n" for entry in entries))

    async def jwks(self, _: Request) -> Response:
        return JSONResponse(self._node.state.jwks)

    async def metadata(self, request: Request) -> Response:
        """RFC 8414."""
        base = f"{self._base(request)}{PREFIX}"
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
        in_main = [place.entry for place in found if place.log == MAIN]
        activation = book.index.last("activation", in_main[0]) if in_main else None
        try:
            proven = [book.shards[log].prove(entry) for log, entry in found[:16]]
            covered = [each for each in proven if each is not None]
            if covered and activation is not None:
                covered += [each for each in (book.main.prove(activation),) if each is not None]
        except IsochroneError as error:
            return problem(500, error.code, str(error), error.hint)
        if not covered:
            waits = "its record is not covered by a checkpoint yet: ask again in a second" if found else ""
            return problem(404, "unknown", f"nothing about {identifier} is recorded at {self._node.site}", waits)
        vkey = self._node.home.log_signer(self._node.fabric_name, self._node.site).vkey
        return JSONResponse({"site": self._node.site, "vkey": vkey, "records": covered})

    async def receipt(self, request: Request) -> Response:
        """The record of an execution that was answered here, with its proofs: for whoever knows its id."""
        made = await asyncio.to_thread(receipt_of, self._node.logbook, request.path_params["execution"])
        if made is None:
            return _unknown("record of that execution, or none that a checkpoint covers yet: ask again within a second")
        if request.headers.get("accept") == COSE_TYPE:
            return Response(b64decode(made["cose"]), media_type=COSE_TYPE)
        return JSONResponse({"site": self._node.site, **made})

    async def add_checkpoint(self, request: Request) -> Response:
        """C2SP tlog-witness: cosign another site's checkpoint."""
        answer = await self._node.desk.add_checkpoint(await body_of(request, REQUEST_BYTES_MAX))
        # The specification's content type, to the letter: a media type of text would get a character set.
        return Response(answer.body, answer.status, {"content-type": answer.content_type})

    async def checkpoints(self, _: Request) -> Response:
        """What this site has cosigned last of each log."""
        return JSONResponse(self._node.desk.checkpoints())

    async def handovers(self, request: Request) -> Response:
        """Which of another site's executions, shared with this one, no record here has."""
        try:
            unknown = await asyncio.to_thread(unknown_of, self._node.logbook, await body_of(request, _IDS_BYTES_MAX))
        except ValueError as error:
            return problem(400, "malformed", str(error))
        return JSONResponse(unknown)

    async def log(self, request: Request) -> Response:
        """The logs' public files (C2SP tlog-tiles): the main log's, and below their names those of the others."""
        path = PurePosixPath(request.path_params["path"])
        if path.is_absolute() or ".." in path.parts:
            return _unknown(str(path))
        shard = path.parts[0] if path.parts and path.parts[0] in SHARDS else MAIN
        file = shard_directory(self._node.home.root, shard) / "public" / path.relative_to(shard)
        try:
            # Read whole: a checkpoint is replaced every second, and must not change between its length and its bytes.
            data = await asyncio.to_thread(file.read_bytes)
        except OSError:
            return _unknown(str(path))
        kind = "text/plain; charset=utf-8" if file.name == CHECKPOINT_PATH else "application/octet-stream"
        return Response(data, media_type=kind)


def _shown(request: Request) -> bytes | None:
    """The certificate that the client showed to Envoy, DER. Who reaches the node past its Envoy could say anything
    here, and would gain nothing: the grant is then bound to a certificate whose key is needed to use it."""
    pem = unquote(request.headers.get(CLIENT_CERTIFICATE, ""))
    try:
        return ssl.PEM_cert_to_DER_cert(pem) if pem else None
    except ValueError:
        return None


def _unknown(what: str) -> Response:
    return problem(404, "unknown", f"there is no {what} here")
