"""State directories: what the hub keeps, what a site keeps, and enrolment, which makes the second out of the first.

    STATE/hub/          authority, hub key, identities, NATS store and users; whoever has it is the fabric
    STATE/sites/NAME/   certificate, grant key, log key, bus credentials, the hub's public key, journal, log, cache

A site's directory is all that its node needs: it can be moved to another machine.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isochrone.authority.grant import tag
from isochrone.authority.identity import Registry
from isochrone.authority.jose import PrivateKey, PublicKey
from isochrone.errors import InputError
from isochrone.forward.view import site_uri
from isochrone.model.fabric import Fabric
from isochrone.policy.governance import own_policies
from isochrone.serve.files import atomic_write, private_dir
from isochrone.serve.nats_server import NatsUser
from isochrone.serve.people import anchor_digest, registry_from
from isochrone.serve.pki import Authority
from isochrone.serve.process import free_ports
from isochrone.tlog.cosignature import Cosigner
from isochrone.tlog.note import Signer

__all__ = ["HubHome", "SiteHome", "log_origin"]


def log_origin(fabric: str, site: str) -> str:
    """Origin line of a site's main log, also its key name; see `record.shards` for its other logs."""
    return f"isochrone.invalid/{fabric}/{site}"


def witness_name(fabric: str, site: str) -> str:
    """Key name of a site as a witness."""
    return f"isochrone.invalid/{fabric}/{site}/witness"


@dataclass(frozen=True, slots=True)
class HubHome:
    """The hub's directory, made on first use."""

    root: Path
    fabric: str

    @classmethod
    def open(cls, state: Path, fabric: str) -> HubHome:
        """Open or make the hub's secrets.

        Raises:
            InputError: the state directory belongs to another fabric.
            StorageError: it cannot be written.
        """
        home = cls(private_dir(state / "hub"), fabric)
        mark = home.root / "fabric"
        if mark.exists() and mark.read_text() != fabric:
            raise InputError(
                f"{state} holds the state of fabric {mark.read_text()!r}, not {fabric!r}",
                code="state.other-fabric",
                hint="choose another directory with --state, or remove the old one",
            )
        if not mark.exists():
            authority = Authority.create(fabric, dt.datetime.now(dt.UTC))
            atomic_write(home.root / "authority.pem", authority.certificate)
            atomic_write(home.root / "authority.key", authority.key, 0o600)
            atomic_write(home.root / "hub.key", PrivateKey.generate().pem(), 0o600)
            atomic_write(home.root / "api.token", secrets.token_urlsafe(32).encode(), 0o600)
            atomic_write(mark, fabric.encode())
        return home

    @property
    def key(self) -> PrivateKey:
        """Signs documents, the roster and the revocation feed."""
        return PrivateKey.from_pem((self.root / "hub.key").read_bytes())

    @property
    def api_token(self) -> str:
        """What operators' commands on this machine present to the hub's API."""
        return (self.root / "api.token").read_text()

    def people(self) -> Registry:
        """The registry: its anchor and every act since, applied and verified again.

        Raises:
            InputError: nobody is enrolled yet.
            IntegrityError: the acts on disk do not apply.
        """
        path = self.root / "identities.json"
        if not path.exists():
            raise InputError(
                "nobody is enrolled yet",
                code="identity.none",
                hint="run `isochrone up` or `isochrone enrol`: either enrols the first operator",
            )
        return registry_from(self.fabric, json.loads(path.read_bytes()))

    def people_document(self) -> dict[str, Any]:
        """Anchor and acts, as they travel."""
        path = self.root / "identities.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {"anchor": [], "acts": []}

    def save_people(self, document: dict[str, Any]) -> None:
        """Replace anchor and acts."""
        atomic_write(self.root / "identities.json", json.dumps(document, indent=1).encode(), 0o600)

    def bus_users(self, sites: list[str]) -> tuple[NatsUser, ...]:
        """The hub, and one user per site that may write only under its own name."""
        path = self.root / "bus.json"
        known: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
        for name in ("hub", *sites):
            known.setdefault(name, secrets.token_urlsafe(24))
        atomic_write(path, json.dumps(known).encode(), 0o600)
        users = [NatsUser("hub", known["hub"])]
        return (*users, *(NatsUser(f"site-{name}", known[name], permissions=_permissions(name)) for name in sites))

    def enrol(self, fabric: Fabric, site: str, directory: Path, bus_url: str) -> SiteHome:
        """Make a site's directory, or renew its certificate and bus address if it is there."""
        home = SiteHome(private_dir(directory))
        authority = Authority((self.root / "authority.pem").read_bytes(), (self.root / "authority.key").read_bytes())
        issued = authority.issue(site_uri(fabric.name, site), dt.datetime.now(dt.UTC))
        private_dir(home.identity)
        atomic_write(home.identity / "trust.pem", authority.certificate)
        atomic_write(home.identity / "key.pem", issued.key, 0o600)
        atomic_write(home.identity / "certificate.pem", issued.certificate)
        if not (home.root / "grant.key").exists():
            atomic_write(home.root / "grant.key", PrivateKey.generate().pem(), 0o600)
            atomic_write(home.root / "log.seed", secrets.token_bytes(32), 0o600)
        if not (home.root / "witness.seed").exists():
            atomic_write(home.root / "witness.seed", secrets.token_bytes(32), 0o600)
        password = json.loads((self.root / "bus.json").read_bytes())[site]
        people = self.people_document()
        document = {
            "fabric": fabric.name,
            "site": site,
            "hub_key": self.key.public.jwk,
            "anchor": anchor_digest(fabric.name, people) if people["anchor"] else "",
            "bus": {"url": bus_url, "user": f"site-{site}", "password": password},
        }
        atomic_write(home.root / "site.json", json.dumps(document, indent=1).encode(), 0o600)
        roster = self.roster() | {site: home.roster_entry(fabric.name, site)}
        atomic_write(self.root / "roster.json", json.dumps(roster, indent=1, sort_keys=True).encode())
        return home

    def roster(self) -> dict[str, dict[str, Any]]:
        """What every party must know to trust each enrolled site (see `SiteHome.roster_entry`)."""
        path = self.root / "roster.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}


def _permissions(site: str) -> dict[str, Any]:
    read = [
        "$JS.API.STREAM.INFO.>",
        "$JS.API.CONSUMER.>",
        "$JS.API.STREAM.MSG.GET.>",
        "$JS.API.DIRECT.GET.>",
        "$JS.ACK.>",
    ]
    return {
        "publish": {"allow": [f"$KV.sites.{site}", "$KV.budgets.>", "hub.>", "$JS.API.INFO", *read]},
        "subscribe": {"allow": ["_INBOX.>"]},
    }


@dataclass(frozen=True, slots=True)
class SiteHome:
    """A site's directory."""

    root: Path

    @property
    def identity(self) -> Path:
        return self.root / "identity"

    def document(self) -> dict[str, Any]:
        """Fabric, site, the hub's key and the bus.

        Raises:
            InputError: the directory is not that of an enrolled site.
        """
        try:
            document = dict(json.loads((self.root / "site.json").read_bytes()))
            if not document.keys() >= {"fabric", "site", "hub_key", "bus"}:
                raise ValueError("members are missing")
            return document
        except (OSError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.root} is not the directory of an enrolled site",
                code="site.not-enrolled",
                hint="run `isochrone enrol --site NAME` at the hub and bring its directory here",
            ) from error

    def loopback_addresses(self) -> dict[str, str]:
        """Free addresses on this machine for `ingress`, `peer` and `node_api`, the same at every start."""
        path = self.root / "ports.json"
        if not path.exists():
            ports = zip(("ingress", "peer", "node_api"), free_ports(3), strict=True)
            atomic_write(path, json.dumps({name: f"127.0.0.1:{port}" for name, port in ports}).encode())
        return dict(json.loads(path.read_bytes()))

    @property
    def hub_key(self) -> PublicKey:
        return PublicKey.from_jwk(self.document()["hub_key"])

    @property
    def grant_key(self) -> PrivateKey:
        return PrivateKey.from_pem((self.root / "grant.key").read_bytes())

    def log_signer(self, fabric: str, site: str) -> Signer:
        return Signer(log_origin(fabric, site), (self.root / "log.seed").read_bytes())

    @property
    def api_token(self) -> str:
        """What programs on this machine present to the node's own API; made when it is first asked for."""
        path = self.root / "api.token"
        if not path.exists():
            atomic_write(path, secrets.token_urlsafe(32).encode(), 0o600)
        return path.read_text()

    def restrictions(self) -> dict[str, str]:
        """The site's own policies: the Cedar files in its directory ``policies``, which its operator writes.

        Raises:
            PolicyError: one is wrong, or permits.
        """
        files = sorted((self.root / "policies").glob("*.cedar"))
        texts = {file.name: file.read_text(encoding="utf-8") for file in files}
        own_policies(texts, str(self.document()["site"]))
        return texts

    def cosigner(self, fabric: str, site: str) -> Cosigner:
        """The key by which the site cosigns other sites' checkpoints: not the key of its own log."""
        return Cosigner.ed25519(witness_name(fabric, site), (self.root / "witness.seed").read_bytes())

    def roster_entry(self, fabric: str, site: str) -> dict[str, Any]:
        """What others must know to trust this site: the keys of its grants, of its logs, and as a witness."""
        public = self.grant_key.public
        jwk = {**public.jwk, "kid": tag(public.thumbprint), "alg": "ES256", "use": "sig"}
        witness = self.cosigner(fabric, site).vkey
        return {"jwk": jwk, "vkey": self.log_signer(fabric, site).vkey, "witness": witness}
