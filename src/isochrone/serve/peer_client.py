"""Asking another site's node through its peer listener: mutual TLS, and the distances that executions have."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from isochrone.errors import InputError, PeerError
from isochrone.forward.headers import INGRESS, PEER_PREFIX
from isochrone.forward.xds import Address
from isochrone.serve.tls import TlsFiles

__all__ = ["PeerClient", "PeerLog"]

_TIMEOUT_S = 5.0
# Partial tiles of an old checkpoint are removed when they are full; no other answer of a log is 404.
_ABSENT = 404


class PeerClient:
    """Requests below ``/.isochrone/peer/`` of other sites.

    Args:
        tls: this site's credential. Names of sites are URIs, which `ssl` cannot match: what an answer says must prove
            by itself who gave it.
        address_of: where a site's peer listener is, None when that is not known.
    """

    def __init__(self, site: str, tls: TlsFiles, address_of: Callable[[str], Address | None]) -> None:
        self._site, self._tls, self._address_of = site, tls, address_of
        self._client: httpx.AsyncClient | None = None

    async def ask(self, site: str, method: str, path: str, content: bytes = b"") -> httpx.Response:
        """The site's answer, whatever its status.

        Raises:
            PeerError: it cannot be reached.
        """
        try:
            if self._client is None:
                self._client = httpx.AsyncClient(
                    verify=self._tls.client(names=False), timeout=_TIMEOUT_S, headers={INGRESS: self._site}
                )
            return await self._client.request(method, self._url(site, path), content=content)
        except (httpx.HTTPError, OSError, RuntimeError, InputError) as error:
            await self.close()  # the next one is made with the certificate of then: this one's may have ended
            raise PeerError(f"{site} does not answer: {error!r}", code="peer.silent") from error

    def log(self, site: str, shard: str) -> PeerLog:
        """The public files of one of a site's logs, for a worker thread; close it."""
        context = self._tls.client(names=False)
        client = httpx.Client(verify=context, timeout=_TIMEOUT_S, headers={INGRESS: self._site})
        return PeerLog(client, self._url(site, f"log/{shard}/" if shard else "log/"), site)

    def _url(self, site: str, path: str) -> str:
        address = self._address_of(site)
        if address is None:
            raise PeerError(f"the address of {site} is not known", code="peer.unknown")
        return f"https://{address}{PEER_PREFIX}{path}"

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class PeerLog:
    """`tlog.store.LogReadStore` over another site's peer listener."""

    def __init__(self, client: httpx.Client, base: str, site: str) -> None:
        self._client, self._base, self._site = client, base, site

    def read(self, path: str) -> bytes | None:
        """Raises PeerError when the site does not answer, or with anything but the file or 404."""
        try:
            answer = self._client.get(self._base + path)
        except (httpx.HTTPError, OSError) as error:
            raise PeerError(f"{self._site} does not show its log: {error!r}", code="peer.silent") from error
        if answer.status_code not in (200, _ABSENT):
            raise PeerError(f"{self._site} does not show its log: {answer.status_code}", code="peer.log")
        return answer.content if answer.status_code == 200 else None

    def close(self) -> None:
        self._client.close()
