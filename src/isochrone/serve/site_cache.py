"""What a site heard last, kept on its disk, so that it starts and serves when it is cut off from everyone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from isochrone.forward.xds import Address
from isochrone.serve import mailbox
from isochrone.serve.files import atomic_write, private_dir
from isochrone.serve.lines import Lines

__all__ = ["SiteCache"]

# People first: what the others say is judged by them.
_KINDS = (mailbox.PEOPLE_KEY, mailbox.FABRIC_KEY, mailbox.PLAN_KEY, mailbox.ROSTER_KEY, mailbox.SHADOW_KEY)


class SiteCache:
    """The directory ``cache``: the hub's documents sealed as they came, peers' addresses, the revocation
    feed, and how far bundles have come."""

    def __init__(self, directory: Path) -> None:
        self._directory = private_dir(directory)

    def sealed_path(self, kind: str) -> Path:
        return self._directory / f"{kind}.jwt"

    def keep_sealed(self, kind: str, data: bytes) -> None:
        atomic_write(self.sealed_path(kind), data, 0o600)

    def sealed(self) -> Iterator[tuple[str, bytes]]:
        """Kind and bytes of every document held; whoever takes it verifies it again."""
        for kind in _KINDS:
            path = self.sealed_path(kind)
            if path.exists():
                yield kind, path.read_bytes()

    def keep_peers(self, peers: Mapping[str, Address]) -> None:
        self._write("peers.json", {name: str(address) for name, address in peers.items()})

    def peers(self) -> dict[str, Address]:
        """Addresses by site.

        Raises:
            ValueError: the file is damaged.
        """
        held = self._read("peers.json")
        if not isinstance(held, dict | None):
            raise ValueError("not an object")
        return {str(name): Address.parse(str(text)) for name, text in (held or {}).items()}

    @property
    def feed(self) -> Lines:
        """The entries of the revocation feed, from the first on."""
        return Lines(self._directory / "revocations")

    def keep_upstreams(self, sites: Mapping[str, str]) -> None:
        self._write("upstreams.json", dict(sites))

    def upstreams(self) -> dict[str, str]:
        """Site by address that was ever forwarded to.

        Raises:
            ValueError: the file is damaged.
        """
        held = self._read("upstreams.json")
        if not isinstance(held, dict | None):
            raise ValueError("not an object")
        return {str(address): str(site) for address, site in (held or {}).items()}

    def keep_bundles(self, revisions: Mapping[str, int]) -> None:
        self._write("bundles.json", dict(revisions))

    def bundles(self) -> dict[str, int]:
        """The highest revision of each workload's bundle ever in force here.

        Raises:
            ValueError: the file is damaged.
        """
        held = self._read("bundles.json")
        if not isinstance(held, dict | None):
            raise ValueError("not an object")
        return {str(name): int(revision) for name, revision in (held or {}).items()}

    def _write(self, name: str, value: object) -> None:
        atomic_write(self._directory / name, json.dumps(value, separators=(",", ":")).encode(), 0o600)

    def _read(self, name: str) -> object:
        path = self._directory / name
        return json.loads(path.read_bytes()) if path.exists() else None
