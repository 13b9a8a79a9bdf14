"""Keys of people and agents on this machine, and the delegations they hold: one private file each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from isochrone.authority.identity import Identity
from isochrone.authority.jose import PrivateKey
from isochrone.authority.proof import EnrolledKey
from isochrone.errors import InputError
from isochrone.serve.files import atomic_write, private_dir

__all__ = ["Holder", "Keyring"]


@dataclass(frozen=True, slots=True)
class Holder:
    """A person or agent whose private key is on this machine.

    Attributes:
        id: as enrolled, e.g. ``human:ada``.
        chain: the delegation it acts under, root first; empty for people and for agents nobody delegated to yet.
    """

    id: str
    name: str
    key: PrivateKey
    chain: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "human" if self.id.startswith("human:") else "agent"

    def identity(self, *, is_operator: bool = False) -> Identity:
        """The identity to enrol."""
        kind = "human" if self.kind == "human" else "agent"
        return Identity(self.id, kind, self.name, (EnrolledKey(self.key.public),), is_operator=is_operator)  # type: ignore[arg-type]


class Keyring:
    """The private directory ``STATE/keys``."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "keys"

    def find(self, identifier: str) -> Holder | None:
        """The holder of that id, None when its key is not here."""
        return self.get(identifier) if self._path(identifier).exists() else None

    def create(self, identifier: str, name: str) -> Holder:
        """Make a key for a new person or agent.

        Raises:
            InputError: there is one of that id already.
        """
        path = self._path(identifier)
        if path.exists():
            raise InputError(f"{identifier} has a key here already", code="identity.exists", hint="choose another name")
        holder = Holder(identifier, name, PrivateKey.generate())
        self.save(holder)
        return holder

    def save(self, holder: Holder) -> None:
        """Keep a holder, with its chain."""
        private_dir(self._directory)
        document = {"id": holder.id, "name": holder.name, "key": holder.key.jwk(), "chain": list(holder.chain)}
        atomic_write(self._path(holder.id), json.dumps(document, indent=1).encode(), 0o600)

    def get(self, identifier: str) -> Holder:
        """The holder of that id.

        Raises:
            InputError: nobody of that id has a key here.
        """
        try:
            document = json.loads(self._path(identifier).read_bytes())
            key = PrivateKey.from_jwk(document["key"])
            return Holder(document["id"], document["name"], key, tuple(document["chain"]))
        except FileNotFoundError:
            known = ", ".join(holder.id for holder in self.all()) or "none"
            raise InputError(
                f"no key of {identifier} is on this machine", code="identity.unknown", hint=f"keys here: {known}"
            ) from None

    def all(self) -> list[Holder]:
        """Everybody whose key is here."""
        paths = sorted(self._directory.glob("*.json")) if self._directory.is_dir() else []
        return [self.get(json.loads(path.read_bytes())["id"]) for path in paths]

    def _path(self, identifier: str) -> Path:
        kind, separator, name = identifier.partition(":")
        if kind not in ("human", "agent") or not separator or not name.replace("-", "").isalnum():
            raise InputError(
                f"{identifier!r} is no identity",
                code="identity.name",
                hint="human:NAME or agent:NAME, letters, digits, -",
            )
        return self._directory / f"{kind}-{name}.json"
