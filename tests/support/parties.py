"""Parties with certificates, for tests of what they may do to each other."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from isochrone.serve.enrolment import hub_name
from isochrone.serve.pki import Authority
from isochrone.serve.tls import TlsFiles

FABRIC = "pair"


class Parties:
    """An authority, and whoever it certifies; files lie below `folder`."""

    def __init__(self, folder: Path, fabric: str = FABRIC) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.fabric = folder, fabric
        self.authority = Authority.create(fabric, dt.datetime.now(dt.UTC))
        self.trust = folder / "trust.pem"
        self.trust.write_bytes(self.authority.certificate)

    def party(self, uri: str, authority: Authority | None = None, *, life_s: float = 3600) -> TlsFiles:
        """Files of a party named `uri`; certified by another authority where asked."""
        path = self.folder / f"{uri.rpartition('/')[2]}{'-other' if authority else ''}.pem"
        issued = (authority or self.authority).issue(
            uri, dt.datetime.now(dt.UTC), names=[hub_name(self.fabric)], life_s=life_s
        )
        path.write_bytes(issued.pem)
        return TlsFiles(path, self.trust, hub_name(self.fabric))
