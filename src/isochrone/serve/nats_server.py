"""A NATS server with JetStream, to run as a supervised child."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isochrone.serve import binaries
from isochrone.serve.child import ChildSpec
from isochrone.serve.files import private_dir, write_if_changed

__all__ = ["PAYLOAD_BYTES_MAX", "NatsServer", "NatsUser"]

PAYLOAD_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NatsUser:
    """Who may connect: a name with a password (plain or bcrypt), or the public half of an nkey."""

    name: str = ""
    password: str = field(default="", repr=False)
    nkey: str = ""
    permissions: Mapping[str, Any] | None = None
    """NATS permissions, e.g. ``{"publish": ["telemetry.>"], "subscribe": [...]}``; None allows everything."""

    def config(self) -> dict[str, Any]:
        """This user as an entry of the server's ``authorization.users``."""
        who = {"nkey": self.nkey} if self.nkey else {"user": self.name, "password": self.password}
        return who if self.permissions is None else {**who, "permissions": dict(self.permissions)}


@dataclass(frozen=True, slots=True)
class NatsServer:
    """A NATS server with JetStream on loopback, its state in `directory`.

    Args:
        directory: private state directory (made 0700); holds the configuration and the stores.
        port: TCP port, loopback unless `host` says otherwise.
        users: who may connect; empty would let every local process in, so it is refused.
        extra: top-level settings added as they are, e.g. ``cluster`` or ``leafnodes``.
    """

    directory: Path
    port: int
    users: tuple[NatsUser, ...]
    name: str = "nats"
    host: str = "127.0.0.1"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.users:
            raise ValueError("a NATS server without users would accept every local process")

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self.port}"

    def config(self) -> bytes:
        """The configuration file's bytes (JSON is valid NATS configuration); the same inputs give the same bytes."""
        settings: dict[str, Any] = {
            "server_name": self.name,
            "host": self.host,
            "port": self.port,
            "max_payload": PAYLOAD_BYTES_MAX,
            "authorization": {"users": [u.config() for u in self.users]},
            # The server's default syncs every two minutes; a revocation or a plan must survive a power cut.
            "jetstream": {"store_dir": str(self.directory / "store"), "sync_interval": "always"},
            **self.extra,
        }
        return json.dumps(settings, indent=1, sort_keys=True).encode()

    def spec(self) -> ChildSpec:
        """Write the configuration (0600) and say how to run it.

        Raises:
            ProcessError: no nats-server executable.
            StorageError: the directory cannot be written.
        """
        private_dir(self.directory)
        path = self.directory / "nats.conf"
        write_if_changed(path, self.config(), 0o600)
        return ChildSpec(self.name, [str(binaries.nats_server()), "-c", str(path)], ready=self._ready)

    async def _ready(self) -> bool:
        """Whether *this* server answers on the port: its banner bears our name, and JetStream is on."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            banner = await asyncio.wait_for(reader.readline(), 2.0)
        finally:
            writer.close()
        info = json.loads(banner.removeprefix(b"INFO "))
        return info.get("server_name") == self.name and bool(info.get("jetstream"))
