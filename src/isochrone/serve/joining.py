"""The site's side of enrolment: make keys here, ask the hub to be let in, take what it answers; later, renew.

How the hub is asked is a function, so that a fabric in one process does the same without a network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from isochrone.authority.jose import PrivateKey, PublicKey
from isochrone.authority.sites import sign_admission
from isochrone.errors import AuthorityError, InputError, IntegrityError
from isochrone.forward.view import site_uri
from isochrone.serve.enrolment import JoinToken, SiteRequest
from isochrone.serve.home import SiteHome
from isochrone.serve.pki import SigningRequest, fingerprint

__all__ = ["Ask", "join", "renew"]

Ask = Callable[[str], dict[str, Any]]
"""Carries a site request to the hub and brings its answer; raises `InputError` for a refusal."""


def join(home: SiteHome, token: JoinToken, ask: Ask) -> None:
    """Make `home` the directory of the token's site. Keys that are there already are kept: a site may join again.

    Raises:
        InputError: ``join.*`` as the hub refuses; ``join.other-site``, the directory is another site's.
        IntegrityError: ``join.impostor``, ``certificate.wrong``: the answer is not of the hub that the token names.
    """
    _check_free(home, token)
    home.make_keys()
    asked = SigningRequest.make()
    answer = ask(_request(home, token.fabric, token.site, asked, token.key))
    try:
        trust, hub_key = str(answer["trust"]).encode(), PublicKey.from_jwk(answer["hub_key"])
        certificate, anchor = str(answer["certificate"]).encode(), str(answer["anchor"])
        bus, hub = f"tls://{answer['bus']}", str(answer["sites"])
        if fingerprint(trust) != token.authority or hub_key.thumbprint != token.hub_key:
            raise IntegrityError("another hub answered than the one the token names", code="join.impostor")
    except (AuthorityError, KeyError, TypeError, InputError) as error:
        raise IntegrityError(f"what answered is not a hub: {error}", code="join.impostor") from error
    home.save_credential(asked.accept(certificate, trust, site_uri(token.fabric, token.site)), trust)
    home.save_document(
        {
            "fabric": token.fabric,
            "site": token.site,
            "hub_key": hub_key.jwk,
            "anchor": anchor,
            "hub": hub,
            "bus": bus,
        }
    )


def renew(home: SiteHome, ask: Ask) -> None:
    """Take a new key and certificate into use.

    Raises:
        InputError: ``renew.*`` as the hub refuses. IntegrityError: the answer is not what was asked for.
    """
    document, asked = home.document(), SigningRequest.make()
    fabric, site = str(document["fabric"]), str(document["site"])
    answer = ask(_request(home, fabric, site, asked))
    trust = (home.identity / "trust.pem").read_bytes()
    certificate = str(answer.get("certificate", "")).encode()
    home.save_credential(asked.accept(certificate, trust, site_uri(fabric, site)), trust)


def _request(home: SiteHome, fabric: str, site: str, asked: SigningRequest, join_key: PrivateKey | None = None) -> str:
    entry = home.roster_entry(fabric, site)
    admission = sign_admission(join_key, fabric, site, entry) if join_key else ""
    return SiteRequest.sign(home.grant_key, fabric, site, asked.request, entry, time.time(), admission)


def _check_free(home: SiteHome, token: JoinToken) -> None:
    if not (home.root / "site.json").exists():
        return
    document = home.document()
    if (document["fabric"], document["site"]) != (token.fabric, token.site):
        raise InputError(
            f"{home.root} is the directory of {document['site']} in {document['fabric']}, not of {token.site}",
            code="join.other-site",
            hint="name another directory with --home",
        )
