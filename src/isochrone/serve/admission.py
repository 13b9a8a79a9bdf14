"""The hub's side of enrolment: tokens given out, sites let in, certificates renewed, sites removed. All of it durable.

The roster is the list of sites that are believed: what it does not name is refused on the bus, by every other site, and
here. What a certificate says of a site (its URI, its DNS names) is taken from the fabric document, not from the site.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from isochrone.authority.jose import PrivateKey
from isochrone.errors import InputError
from isochrone.forward.view import site_uri
from isochrone.serve.enrolment import TOKEN_LIFE_S, Invitations, JoinToken, SiteRequest
from isochrone.serve.files import atomic_write, lock
from isochrone.serve.home import HubHome
from isochrone.serve.people import anchor_digest
from isochrone.serve.pki import SITE_LIFE_S, fingerprint

__all__ = ["Admission", "new_join_key"]

NamesOf = Callable[[str], Sequence[str]]


def new_join_key() -> PrivateKey:
    """Good for one site, once; see `authority.sites`."""
    return PrivateKey.generate("OKP")


def _nobody(_: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Admission:
    """Enrolment over one hub's directory; the running hub and operators' commands may use it at the same time.

    Args:
        certificate_life_s: of the certificates it issues.
    """

    home: HubHome
    certificate_life_s: float = SITE_LIFE_S

    def invite(self, site: str, life_s: float = TOKEN_LIFE_S, key: PrivateKey | None = None) -> JoinToken:
        """A token for a site, in place of any earlier one.

        Args:
            key: the join key, Ed25519; a new one when left out. Nobody believes the site until an act admits it by it.

        Raises:
            InputError: ``hub.no-address``. StorageError: it could not be made durable.
        """
        address, key = self.home.addresses()["sites"], key or new_join_key()
        secret, exp_s = key.jwk()["d"], int(_now().timestamp() + life_s)
        with self._changing():
            invitations = self._invitations()
            invitations.invite(site, key.public, exp_s)
            self._save(invitations)
        authority = fingerprint(self.home.authority.certificate)
        hub_key = self.home.key.public.thumbprint
        return JoinToken(self.home.fabric, site, address, authority, hub_key, exp_s, secret)

    def invited(self) -> frozenset[str]:
        """Sites that a token was given out for, whether they have joined or not."""
        return frozenset(self._invitations().by_site)

    def admit(self, text: str, names_of: NamesOf = _nobody) -> dict[str, Any]:
        """Let a site in on the strength of its token: from now on the roster names it.

        Args:
            text: a `SiteRequest` as it came. names_of: by what DNS names and IP addresses clients know a site.

        Returns:
            What the site needs: certificate, authority, the hub's key, the bus.

        Raises:
            InputError: ``join.*``, ``certificate.request``; nothing changes then. StorageError: it is not durable.
        """
        now = _now()
        request = SiteRequest.parse(text, self.home.fabric, now.timestamp())
        with self._changing():
            invitations = self._invitations()
            invitations.use(request, now.timestamp())
            entry = {**request.entry, "admission": request.admission}
            answer = self._answer(request, names_of, now)
            # In this order: after a crash in between, the same keys may ask again, and nobody else.
            self._save(invitations)
            self.home.save_roster(self.home.roster() | {request.site: entry})
        return answer

    def renew(self, text: str, names_of: NamesOf = _nobody) -> dict[str, Any]:
        """A new certificate for a site of the roster, asked for with the grant key that stands there.

        Raises:
            InputError: ``join.*``; ``renew.unknown``, the roster does not name it with these keys.
        """
        now = _now()
        request = SiteRequest.parse(text, self.home.fabric, now.timestamp())
        held = self.home.roster().get(request.site, {})
        if {name: value for name, value in held.items() if name != "admission"} != request.entry:
            hint = "was it removed, or has it joined again elsewhere? Ask an operator for a token"
            raise InputError(f"{request.site} is not enrolled with these keys", code="renew.unknown", hint=hint)
        return self._answer(request, names_of, now)

    def remove(self, site: str) -> bool:
        """Take a site out of the roster, and its token with it; False when it was in neither.

        Whoever follows the roster refuses it from then on; a running hub has to be told (`HubSites.follow`).
        """
        with self._changing():
            invitations, roster = self._invitations(), self.home.roster()
            known = site in roster or site in invitations.by_site
            invitations.by_site.pop(site, None)
            self._save(invitations)
            self.home.save_roster({name: entry for name, entry in roster.items() if name != site})
        return known

    def _answer(self, request: SiteRequest, names_of: NamesOf, now: dt.datetime) -> dict[str, Any]:
        authority, uri = self.home.authority, site_uri(self.home.fabric, request.site)
        issued = authority.certify(request.csr, uri, now, names=names_of(request.site), life_s=self.certificate_life_s)
        people = self.home.people_document()
        return {
            "certificate": issued.decode(),
            "trust": authority.certificate.decode(),
            "hub_key": self.home.key.public.jwk,
            "anchor": anchor_digest(self.home.fabric, people) if people["anchor"] else "",
            **self.home.addresses(),
        }

    def _invitations(self) -> Invitations:
        path = self.home.root / "invitations.json"
        return Invitations(dict(json.loads(path.read_bytes())) if path.exists() else {})

    def _save(self, invitations: Invitations) -> None:
        atomic_write(self.home.root / "invitations.json", json.dumps(invitations.by_site, indent=1).encode(), 0o600)

    def _changing(self) -> AbstractContextManager[None]:
        return lock(self.home.root / "enrolment.lock")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
