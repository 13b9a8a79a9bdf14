"""A NATS server with JetStream, to run as a supervised child.

Who may connect stands in its configuration, which it reads anew on a signal without dropping anyone who still may.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isochrone.serve import binaries
from isochrone.serve.child import ChildSpec
from isochrone.serve.files import atomic_write, private_dir, write_if_changed
from isochrone.serve.tls import TlsFiles

__all__ = ["PAYLOAD_BYTES_MAX", "NatsServer", "NatsUser"]

PAYLOAD_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NatsUser:
    """Who may connect: whoever shows a certificate of the fabric's authority for this URI."""

    uri: str
    permissions: Mapping[str, Any] | None = None
    """NATS permissions, e.g. ``{"publish": ["telemetry.>"], "subscribe": [...]}``; None allows everything."""

    def config(self) -> dict[str, Any]:
        """This user as an entry of the server's ``authorization.users``."""
        return {"user": self.uri} | ({} if self.permissions is None else {"permissions": dict(self.permissions)})


@dataclass(frozen=True, slots=True)
class NatsServer:
    """A NATS server with JetStream, its state in `directory`. It speaks mutual TLS and nothing else.

    Args:
        directory: private state directory (made 0700); holds the configuration and the stores.
        port: TCP port, loopback unless `host` says otherwise.
        users: who may connect; empty would let everyone in whom the authority certified, so it is refused.
        tls: what it shows, and the authority of those who connect.
        extra: top-level settings added as they are, e.g. ``cluster`` or ``leafnodes``.
    """

    directory: Path
    port: int
    users: tuple[NatsUser, ...]
    tls: TlsFiles
    name: str = "nats"
    host: str = "127.0.0.1"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.users:
            raise ValueError("a NATS server without users would accept everyone with a certificate")

    @property
    def url(self) -> str:
        """Where clients connect."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tls://{host}:{self.port}"

    def config(self) -> bytes:
        """The configuration file's bytes (JSON is valid NATS configuration); the same inputs give the same bytes."""
        settings: dict[str, Any] = {
            "server_name": self.name,
            "host": self.host,
            "port": self.port,
            "max_payload": PAYLOAD_BYTES_MAX,
            "pid_file": str(self._pid_file),
            "authorization": {"users": [u.config() for u in self.users]},
            "tls": {
                "cert_file": str(self.tls.credential),
                "key_file": str(self.tls.credential),
                "ca_file": str(self.tls.trust),
                # The URI in the certificate is the user; there are no passwords.
                "verify_and_map": True,
                "min_version": "1.3",
                # TLS comes before the first word, so nobody in between can talk anyone out of it.
                "handshake_first": True,
            },
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
        self._pid_file.unlink(missing_ok=True)  # of one that was killed: its number may be another's by now
        return ChildSpec(self.name, [str(binaries.nats_server()), "-c", str(path)], ready=self._ready)

    @property
    def _pid_file(self) -> Path:
        return self.directory / "nats.pid"

    def reload(self) -> bool:
        """Have a running server take over users and certificates: connections of users that are gone end, others stay.

        Returns:
            Whether a server was told. One that starts later reads the new configuration by itself.

        Raises:
            StorageError: the configuration cannot be written.
        """
        if not self.directory.is_dir():
            return False
        atomic_write(self.directory / "nats.conf", self.config(), 0o600)
        try:
            os.kill(int(self._pid_file.read_text()), signal.SIGHUP)
        except (OSError, ValueError):
            return False
        return True

    async def _ready(self) -> bool:
        """Whether *this* server answers on the port: its banner bears our name, and JetStream is on."""
        reader, writer = await asyncio.open_connection(
            self.host, self.port, ssl=self.tls.client(), server_hostname=self.tls.server_name
        )
        try:
            banner = await asyncio.wait_for(reader.readline(), 2.0)
        finally:
            writer.close()
        info = json.loads(banner.removeprefix(b"INFO "))
        return info.get("server_name") == self.name and bool(info.get("jetstream"))
