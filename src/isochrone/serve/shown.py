"""What one site shows of itself in TLS: its own credential, and what clients see where an operator brought another."""

from __future__ import annotations

from pathlib import Path

from isochrone.errors import InputError
from isochrone.forward.secrets import CREDENTIAL, INGRESS_CREDENTIAL, secret_file, secret_path
from isochrone.forward.view import SiteView
from isochrone.serve.home import SiteHome
from isochrone.serve.pki import Credential

__all__ = ["shown_files"]


def shown_files(home: SiteHome, view: SiteView) -> dict[str, bytes]:
    """Discovery files of the secrets that the view's listeners and clusters name.

    Raises:
        InputError: ``certificate.form``: a file is missing or unreadable, or the key is not that of the certificate.
    """
    own = home.credential
    files = {secret_path(CREDENTIAL): secret_file(CREDENTIAL, own.certificate, own.key)}
    tls = view.fabric.sites[view.site].tls
    if tls is not None and tls.certificate_file is not None and tls.key_file is not None:
        brought = Credential(_read(tls.certificate_file), _read(tls.key_file)).checked()
        files[secret_path(INGRESS_CREDENTIAL)] = secret_file(INGRESS_CREDENTIAL, brought.certificate, brought.key)
    return files


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", code="certificate.form") from error
