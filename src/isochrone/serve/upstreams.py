"""Which site an upstream address stands for, also after the endpoint is gone and after a restart of the node.

Records name the site that executed. Their lines are read from the journal later than they were written, so what an
address stood for is remembered on disk before Envoy is told to forward to it.
"""

from __future__ import annotations

from isochrone.forward.view import SiteView
from isochrone.serve.site_cache import SiteCache

__all__ = ["Upstreams"]

_KEPT_MAX = 4096


class Upstreams:
    """One site's memory of addresses."""

    def __init__(self, cache: SiteCache) -> None:
        self._cache = cache
        self._sites: dict[str, str] = {}

    def load(self) -> None:
        """Take what was known before the last stop. Raises ValueError when the file is damaged."""
        self._sites = self._cache.upstreams()

    def learn(self, view: SiteView) -> None:
        """Remember every address that a view may forward to."""
        found = {
            **{str(address): site for site, address in view.peers.items()},
            **{str(address): view.site for addresses in view.replicas.values() for address in addresses},
        }
        if found.items() <= self._sites.items():
            return
        # What was learned last stands last, and the oldest goes first.
        kept = {address: site for address, site in self._sites.items() if address not in found} | found
        self._sites = dict(list(kept.items())[-_KEPT_MAX:])
        self._cache.keep_upstreams(self._sites)

    def site_at(self, address: str) -> str | None:
        """The site, None if the address was never forwarded to."""
        return self._sites.get(address)
