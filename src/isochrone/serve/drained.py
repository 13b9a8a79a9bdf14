"""Which sites operators have drained, kept across restarts of the hub."""

from __future__ import annotations

import json
from pathlib import Path

from isochrone.errors import InputError, StorageError
from isochrone.serve.files import atomic_write

__all__ = ["DrainedSites"]


class DrainedSites:
    """The set, in one file.

    Raises:
        StorageError: ``drained.damaged``: the file is no list of sites.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            held = json.loads(path.read_bytes()) if path.exists() else []
        except ValueError:
            held = None
        if not isinstance(held, list) or not all(isinstance(site, str) for site in held):
            raise StorageError(f"{path} is no list of sites", code="drained.damaged", hint="write `[]` into it")
        self.sites = frozenset(held)

    def change(self, site: str, known: list[str], *, undo: bool) -> frozenset[str]:
        """Drain a site, or let it have executions again.

        Raises:
            InputError: ``drain.site``: it is none of the known.
        """
        if site not in known:
            raise InputError(f"there is no site {site!r}", code="drain.site", hint=f"sites: {', '.join(known)}")
        self.sites = self.sites - {site} if undo else self.sites | {site}
        atomic_write(self._path, json.dumps(sorted(self.sites)).encode())
        return self.sites
