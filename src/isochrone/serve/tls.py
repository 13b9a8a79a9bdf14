"""TLS between the fabric's own parties: certificates of the fabric's authority on both ends, TLS 1.3 only."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from isochrone.errors import InputError

__all__ = ["TlsFiles", "trusting", "trusting_nobody"]


def trusting(authority: Path) -> ssl.SSLContext:
    """For a client that believes this authority beside those of the system: an operator may have brought a certificate.

    Raises:
        InputError: ``tls.files``.
    """
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot use {authority}: {error}", code="tls.files") from error
    return context


def trusting_nobody() -> ssl.SSLContext:
    """For a client that speaks plain HTTP on this machine: no TLS server is believed.

    An HTTP client that is told nothing reads all authorities of the system first: tens of milliseconds, at each client.
    """
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where one party's credential lies, and whom it believes. Files are read at each use: they are renewed.

    Attributes:
        credential: certificate and private key, PEM, in one file.
        trust: certificate of the fabric's authority.
        server_name: the DNS name that the hub's certificate must bear, wherever its address may be.
    """

    credential: Path
    trust: Path
    server_name: str

    def server(self) -> ssl.SSLContext:
        """Shows the credential to whoever asks. What is renewed is taken over by `load_cert_chain` on the same context.

        Raises:
            InputError: ``tls.files``.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._show(context)
        return context

    def _show(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self.credential)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"cannot use {self.credential}: {error}", code="tls.files") from error

    def client(self, *, names: bool = True) -> ssl.SSLContext:
        """Shows the credential and verifies the server.

        Args:
            names: whether the server is called by a DNS name; sites are not, their names are URIs.

        Raises:
            InputError: ``tls.files``: a file is missing or is not what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=str(self.trust))
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"cannot use {self.trust}: {error}", code="tls.files") from error
        self._show(context)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.hostname_checks_common_name = False
        context.check_hostname = names
        return context
