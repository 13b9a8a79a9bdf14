"""What people are asked to do at a page of the hub, once, by a link that only they were given.

A ceremony is a document to be signed by a passkey, or the registration of one. It is kept in memory until it is done or
its time is over: a hub that restarts forgets it, and whoever asked asks again. The link's secret is kept as a digest.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from isochrone.errors import InputError

__all__ = ["Ceremonies", "Ceremony", "Origin", "Over"]

_OPEN_MAX = 1000
_KEPT_S = 600.0

Kind = Literal["sign", "register"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where people reach the hub's pages, which is what their passkeys are bound to.

    Attributes:
        text: the web origin, e.g. ``https://hub.acme.example``.
        rp_id: the relying party id: the origin's host.
        host: what a request's Host header has to say.
    """

    text: str
    rp_id: str
    host: str

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read ``https://HOST[:PORT]``, or ``http://localhost:PORT``.

        Raises:
            InputError: ``web.origin``: browsers know passkeys in secure contexts, and for names, only.
        """
        parts = urlsplit(text)
        host = parts.hostname or ""
        is_local = host == "localhost" or host.endswith(".localhost")
        is_named = host.replace("-", "").replace(".", "").isalnum() and not host.replace(".", "").isdigit()
        if not (parts.scheme == "https" or (parts.scheme == "http" and is_local)) or not is_named:
            raise InputError(
                f"{text!r} is no origin that passkeys work at", code="web.origin",
                hint="https:// and a name, or http://localhost:PORT",
            )  # fmt: skip
        if text != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc or text != text.lower():
            raise InputError(
                f"{text!r} is more than an origin", code="web.origin", hint="scheme, host and port, in lower case"
            )
        return cls(text, host, parts.netloc)


@dataclass(slots=True)
class Ceremony:
    """One thing that one person is asked to do.

    Attributes:
        id: by which whoever asked hears of the outcome.
        person: who is asked.
        asked: what it is about; its members are those of the kind.
        challenge: what a new passkey is challenged with; signatures are challenged with what is signed.
        outcome: once it is done: what came of it.
    """

    id: str
    kind: Kind
    person: str
    asked: Mapping[str, Any]
    ends_s: float
    challenge: bytes = b""
    outcome: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Over:
    """A link that leads nowhere any more, or never did."""

    why: Literal["unknown", "used", "expired"]


@dataclass(slots=True)
class Ceremonies:
    """Every ceremony that is open, and those that ended lately.

    Args:
        clock: seconds, never going back.
    """

    clock: Callable[[], float] = time.monotonic
    _by_link: dict[str, Ceremony] = field(default_factory=dict)

    def begin(self, kind: Kind, person: str, asked: Mapping[str, Any], *, life_s: float) -> tuple[Ceremony, str]:
        """A ceremony, and the secret of its link.

        Raises:
            InputError: ``web.busy``: too many are open.
        """
        now_s = self.clock()
        self._by_link = {link: each for link, each in self._by_link.items() if each.ends_s + _KEPT_S > now_s}
        if len(self._by_link) >= _OPEN_MAX:
            raise InputError("too many links are open", code="web.busy", hint="wait until some have expired")
        secret = secrets.token_urlsafe(32)
        made = Ceremony(
            secrets.token_urlsafe(12), kind, person, asked, now_s + life_s, challenge=secrets.token_bytes(32)
        )
        self._by_link[_digest(secret)] = made
        return made, secret

    def at(self, kind: Kind, secret: str) -> Ceremony | Over:
        """The ceremony that a link leads to."""
        found = self._by_link.get(_digest(secret))
        if found is None or found.kind != kind:
            return Over("unknown")
        if found.outcome is not None:
            return Over("used")
        return found if self.clock() < found.ends_s else Over("expired")

    def state(self, identifier: str) -> dict[str, Any]:
        """``{"state": "open" | "done" | "expired" | "unknown", "outcome": ...}`` for whoever asked."""
        found = next((each for each in self._by_link.values() if each.id == identifier), None)
        if found is None:
            return {"state": "unknown"}
        if found.outcome is not None:
            return {"state": "done", "outcome": dict(found.outcome)}
        return {"state": "open" if self.clock() < found.ends_s else "expired"}


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
