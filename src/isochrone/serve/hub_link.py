"""The way from a site to the hub's endpoint for sites: TLS that only this fabric's hub can answer."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import httpx

from isochrone.errors import InputError, IntegrityError, PeerError
from isochrone.serve.enrolment import JoinToken, hub_name
from isochrone.serve.home import SiteHome
from isochrone.serve.pki import fingerprint

__all__ = ["ask_to_join", "ask_to_renew"]

_TIMEOUT_S = 10.0
_CERTIFICATE_BYTES_MAX = 16 * 1024


def ask_to_join(token: JoinToken, request: str) -> dict[str, Any]:
    """Send a site's first request, to the hub that the token pins and to nobody else.

    The authority's certificate is fetched first, over a connection that proves nothing yet; it is believed when it has
    the fingerprint in the token, and the request is sent only over a connection verified against it.

    Raises:
        InputError: as the hub refuses. IntegrityError: ``join.impostor``. PeerError: ``join.unreachable``.
    """
    url = f"https://{token.hub}"
    with _reaching(url):
        answer = httpx.get(f"{url}/authority", verify=_believing_nobody(), timeout=_TIMEOUT_S)
        authority = answer.content[:_CERTIFICATE_BYTES_MAX]
    try:
        pinned = fingerprint(authority) == token.authority
    except InputError:
        pinned = False
    if not pinned:
        raise IntegrityError(
            f"what answers at {token.hub} is not the hub that the token names",
            code="join.impostor",
            hint="the token may have been altered, the address may be another fabric's, or somebody is in between",
        )
    return _post(url, "/join", token.fabric, authority.decode(), request)


def ask_to_renew(home: SiteHome, request: str) -> dict[str, Any]:
    """Send a site's request for a new certificate; its old one is not needed, and may have lapsed.

    Raises:
        InputError: as the hub refuses. PeerError: ``join.unreachable``.
    """
    document = home.document()
    trust = (home.identity / "trust.pem").read_text()
    return _post(f"https://{document['hub']}", "/renew", str(document["fabric"]), trust, request)


def _post(url: str, path: str, fabric: str, authority: str, request: str) -> dict[str, Any]:
    context = ssl.create_default_context(cadata=authority)
    context.hostname_checks_common_name = False
    with _reaching(url), httpx.Client(verify=context, timeout=_TIMEOUT_S) as client:
        # The hub is known by its name in the fabric, whatever address leads to it.
        sent = client.build_request("POST", url + path, content=request, extensions={"sni_hostname": hub_name(fabric)})
        answer = client.send(sent)
        body = answer.json()
    if not isinstance(body, dict):
        raise PeerError(f"{url} did not answer as a hub does", code="join.unreachable")
    if answer.status_code == 200:
        return body
    code = str(body.get("type", "")).rpartition(":")[2] or "join.refused"
    raise InputError(str(body.get("title", answer.status_code)), code=code, hint=str(body.get("detail", "")))


@contextlib.contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the hub into `PeerError`."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, ValueError) as error:
        raise PeerError(
            f"no hub of this fabric answers at {url}: {error or type(error).__name__}",
            code="join.unreachable",
            hint="check the address and that `isochrone hub` runs there; nothing was sent to anybody else",
        ) from error


def _believing_nobody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
