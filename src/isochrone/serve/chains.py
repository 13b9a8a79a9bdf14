"""The chains behind grants: kept as they are exchanged, read from this site's log, or asked of the site that minted.

A chain proves itself: whoever hands it over can withhold it and cannot forge it, since the grant names its digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from collections.abc import Sequence

import httpx

from isochrone.authority.delegation import parse_hop
from isochrone.authority.grant import Grant
from isochrone.control.node import NodeState
from isochrone.errors import AuthorityError, InputError, PeerError
from isochrone.forward.headers import CHAINS_PATH
from isochrone.record.canonical import decode
from isochrone.serve.logbook import Logbook
from isochrone.serve.tls import TlsFiles

__all__ = ["Chains"]

_KEPT_MAX = 10_000
_ASK_S_MAX = 0.8


class Chains:
    """One site's chains, by digest.

    Args:
        tls: this site's credential, which peers ask for.
    """

    def __init__(self, site: str, logbook: Logbook, tls: TlsFiles) -> None:
        self._site, self._logbook, self._tls = site, logbook, tls
        self._kept: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._client: httpx.AsyncClient | None = None

    def keep(self, chain: Sequence[str]) -> None:
        """Remember a chain under its digest, which is the id of its last hop."""
        digest = parse_hop(chain[-1]).id
        self._kept[digest] = tuple(chain)
        self._kept.move_to_end(digest)
        if len(self._kept) > _KEPT_MAX:
            self._kept.popitem(last=False)

    def held(self, digest: str, grant_id: str) -> tuple[str, ...] | None:
        """The chain of that digest: as kept, or as this site's log has it for a grant minted here."""
        if digest not in self._kept:
            entries = self._logbook.index.find(grant_id, ("exchange",))
            reader = self._logbook.reader()
            if entries and entries[0].entry < reader.checkpoint().size:
                self._keep_if(digest, decode(reader.entry(entries[0].entry)).get("chain"))
        return self._kept.get(digest)

    async def behind(self, state: NodeState, grant: Grant, minted_by: str) -> tuple[str, ...] | None:
        """The chain with the digest that the grant names; None where the site that minted the grant has none.

        Raises:
            PeerError: that site does not answer, or is not known here.
        """
        digest = str(grant.claims["chd"])
        if digest not in self._kept and minted_by == self._site:
            return await asyncio.to_thread(self.held, digest, grant.id)
        if digest not in self._kept:
            address = state.peers.get(minted_by)
            if address is None:
                raise PeerError(f"the site that minted this grant is not known here: {minted_by}", code="chains.site")
            self._keep_if(digest, await self._ask(f"https://{address}{CHAINS_PATH}{digest}/{grant.id}"))
        return self._kept.get(digest)

    def _keep_if(self, digest: str, chain: object) -> None:
        """Keep what was read or given, if it is what the digest commits to."""
        with contextlib.suppress(AuthorityError):
            if isinstance(chain, list) and chain and parse_hop(str(chain[-1])).id == digest:
                self.keep([str(hop) for hop in chain])

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(self, url: str) -> object:
        try:
            if self._client is None:
                self._client = httpx.AsyncClient(verify=self._tls.client(names=False), timeout=_ASK_S_MAX)
            answer = await self._client.get(url)
            if answer.status_code == 404:
                return None
            return json.loads(answer.raise_for_status().content)["chain"]
        except (httpx.HTTPError, OSError, KeyError, TypeError, ValueError, InputError) as error:
            await self.close()  # the next one is made with the certificate of then: this one's may have ended
            raise PeerError(f"the chain behind this grant cannot be asked for: {error}", code="chains.peer") from error
