"""Signing with keys that are on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from isochrone.authority.identity import Registry, sign_act
from isochrone.serve.keyring import Holder, Keyring

__all__ = ["ActSigner", "act_signer", "local_operator"]

ActSigner = Callable[[Registry, str, Mapping[str, Any]], str]
"""Signs the next act on a registry, of a kind, with a subject; empty when it cannot."""


def local_operator(ring: Keyring, registry: Registry) -> Holder | None:
    """An active operator whose active key is on this machine; the first by name."""
    for holder in ring.all():
        known = registry.people.get(holder.id)
        if known and known.is_operator and known.is_active and known.key(holder.key.public.thumbprint):
            return holder
    return None


def act_signer(ring: Keyring) -> ActSigner:
    """Signs as whatever operator has a key here."""

    def sign(registry: Registry, kind: str, subject: Mapping[str, Any]) -> str:
        holder = local_operator(ring, registry)
        return sign_act(registry, kind, subject, key=holder.key, now_s=time.time()) if holder else ""

    return sign
