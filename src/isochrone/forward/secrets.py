"""Secrets: certificates with their keys, which Envoy follows by SDS, so that a new one is shown to new connections
while open ones, and what is in flight on them, are not touched.

A TLS context that names files reads them when its cluster or listener changes, and replacing either ends connections.
One subscription serves every context that names the same secret of the same file (counted: one inotify instance).
"""

from __future__ import annotations

from isochrone.forward.view import Files
from isochrone.forward.xds import Json, any_of, discovery, path_source

__all__ = ["CREDENTIAL", "INGRESS_CREDENTIAL", "followed", "secret_file", "secret_path"]

CREDENTIAL = "credential"  # this site's own, of the fabric's authority
INGRESS_CREDENTIAL = "ingress-credential"  # what clients are shown, where the operator brought a certificate


def secret_path(name: str) -> str:
    """Where the secret's file stands below the xds directory."""
    return f"sds/{name}.json"


def secret_file(name: str, certificate: bytes, key: bytes) -> bytes:
    """A secret's discovery file: PEM texts of a certificate (chain) and its private key, which it then holds."""
    secret = {
        "certificate_chain": {"inline_string": certificate.decode()},
        "private_key": {"inline_string": key.decode()},
    }
    message = "envoy.extensions.transport_sockets.tls.v3.Secret"
    return discovery([any_of(message, name=name, tls_certificate=secret)])


def followed(files: Files, name: str) -> Json:
    """`SdsSecretConfig` of a secret."""
    return {"name": name, "sds_config": path_source(f"{files.xds}/sds", f"{name}.json")}
