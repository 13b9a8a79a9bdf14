"""State directories: what the hub keeps, and what a site keeps.

    STATE/hub/          authority, hub key, identities, roster, invitations, NATS store; whoever has it is the fabric
    STATE/sites/NAME/   credential, grant key, log key, the hub's public key and addresses, journal, log, cache

A site's directory is all that its node needs. It is made on the site's own machine, which its keys never leave.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isochrone.authority.identity import Registry
from isochrone.authority.jose import PrivateKey, PublicKey
from isochrone.errors import InputError
from isochrone.forward.view import site_uri
from isochrone.forward.xds import Address
from isochrone.policy.governance import own_policies
from isochrone.serve.enrolment import hub_name, hub_uri, log_origin, roster_entry, witness_name
from isochrone.serve.files import atomic_write, private_dir
from isochrone.serve.nats_server import NatsServer, NatsUser
from isochrone.serve.people import registry_from
from isochrone.serve.pki import Authority, Credential, fingerprint
from isochrone.serve.process import free_ports
from isochrone.serve.tls import TlsFiles
from isochrone.tlog.cosignature import Cosigner
from isochrone.tlog.note import Signer

__all__ = ["HubHome", "SiteHome", "bus_name"]

_HUB_LIFE_S = 30 * 24 * 3600


def bus_name(site: str) -> str:
    """What a site calls itself on the bus."""
    return f"site-{site}"


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
    def authority(self) -> Authority:
        """Certifies the hub and its sites."""
        return Authority((self.root / "authority.pem").read_bytes(), (self.root / "authority.key").read_bytes())

    @property
    def api_token(self) -> str:
        """What operators' commands on this machine present to the hub's API."""
        return (self.root / "api.token").read_text()

    # --- people ---------------------------------------------------------------------------------------------------

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

    # --- sites ----------------------------------------------------------------------------------------------------

    def roster(self) -> dict[str, dict[str, Any]]:
        """What every party must know to trust each site that has joined (see `enrolment.roster_entry`)."""
        path = self.root / "roster.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    def save_roster(self, roster: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the roster."""
        atomic_write(self.root / "roster.json", json.dumps(roster, indent=1, sort_keys=True).encode())

    def addresses(self) -> dict[str, str]:
        """Where sites reach this hub, host:port: ``bus``, and ``sites``, its endpoint for joining and renewing.

        Raises:
            InputError: ``hub.no-address``: nobody has said yet.
        """
        try:
            return dict(json.loads((self.root / "addresses.json").read_bytes()))
        except FileNotFoundError:
            raise InputError(
                "nobody has said where sites reach this hub",
                code="hub.no-address",
                hint="run `isochrone enrol FABRIC --bus HOST:PORT --hub HOST:PORT`",
            ) from None

    def save_addresses(self, bus: str, sites: str) -> None:
        """Say where sites reach this hub."""
        atomic_write(self.root / "addresses.json", json.dumps({"bus": bus, "sites": sites}).encode())

    # --- the bus --------------------------------------------------------------------------------------------------

    @property
    def tls(self) -> TlsFiles:
        """What the hub shows, to sites and on the bus, and whom it believes."""
        root = self.root.absolute()
        return TlsFiles(root / "credential.pem", root / "authority.pem", hub_name(self.fabric))

    def renew_credential(self, now: dt.datetime) -> bool:
        """Make the hub's own certificate anew where it is missing or due; whether it was."""
        path = self.root / "credential.pem"
        if path.exists() and not Credential.parse(path.read_bytes()).is_due(now):
            return False
        made = self.authority.issue(
            hub_uri(self.fabric), now, names=[hub_name(self.fabric)], life_s=_HUB_LIFE_S
        )  # fmt: skip
        atomic_write(path, made.pem, 0o600)
        return True

    def bus_server(self) -> NatsServer:
        """The bus: the hub, and one user per site of the roster that may write only under its own name."""
        self.renew_credential(dt.datetime.now(dt.UTC))
        address = Address.parse(self.addresses()["bus"])
        sites = [
            NatsUser(site_uri(self.fabric, name), permissions=_permissions(name)) for name in sorted(self.roster())
        ]
        users = (NatsUser(hub_uri(self.fabric)), *sites)
        return NatsServer(self.root.parent.absolute() / "bus", address.port, users, self.tls, host=address.host)


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
        "subscribe": {"allow": [f"_INBOX.{bus_name(site)}.>"]},
    }


@dataclass(frozen=True, slots=True)
class SiteHome:
    """A site's directory."""

    root: Path

    @property
    def identity(self) -> Path:
        """The directory of `credential.pem` (certificate and key) and `trust.pem` (the fabric's authority)."""
        return self.root / "identity"

    @property
    def credential(self) -> Credential:
        """Certificate and key in use."""
        return Credential.parse((self.identity / "credential.pem").read_bytes())

    @property
    def tls(self) -> TlsFiles:
        """What this site shows to the hub and on the bus, and whom it believes."""
        name = hub_name(str(self.document()["fabric"]))
        return TlsFiles(self.identity / "credential.pem", self.identity / "trust.pem", name)

    def document(self) -> dict[str, Any]:
        """Fabric, site, the hub's key, and where hub and bus are.

        Raises:
            InputError: the directory is not that of an enrolled site.
        """
        try:
            document = dict(json.loads((self.root / "site.json").read_bytes()))
            if not document.keys() >= {"fabric", "site", "hub_key", "hub", "bus"}:
                raise ValueError("members are missing")
            return document
        except (OSError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.root} is not the directory of an enrolled site",
                code="site.not-enrolled",
                hint="run `isochrone enrol --site NAME` at the hub, and here `isochrone join TOKEN --home DIR`",
            ) from error

    def make_keys(self) -> None:
        """The keys of grants and log, unless they are here; made here, and staying here."""
        private_dir(self.root)
        private_dir(self.identity)
        if not (self.root / "grant.key").exists():
            atomic_write(self.root / "log.seed", secrets.token_bytes(32), 0o600)
            atomic_write(self.root / "grant.key", PrivateKey.generate().pem(), 0o600)
        if not (self.root / "witness.seed").exists():
            atomic_write(self.root / "witness.seed", secrets.token_bytes(32), 0o600)

    def save_credential(self, credential: Credential, trust: bytes) -> None:
        """Take a new certificate with its key into use."""
        atomic_write(self.identity / "trust.pem", trust)
        atomic_write(self.identity / "credential.pem", credential.pem, 0o600)

    def save_document(self, document: Mapping[str, Any]) -> None:
        """From now on this is the directory of an enrolled site."""
        atomic_write(self.root / "site.json", json.dumps(document, indent=1).encode(), 0o600)

    def authority_fingerprint(self) -> str:
        """Of the authority that this site believes."""
        return fingerprint((self.identity / "trust.pem").read_bytes())

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
        vkey, witness = self.log_signer(fabric, site).vkey, self.cosigner(fabric, site).vkey
        return roster_entry(self.grant_key.public, vkey, witness)
