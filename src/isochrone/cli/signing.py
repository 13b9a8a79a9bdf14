"""How commands get a document signed: with a key on this machine, or with a person's passkey at the hub's page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isochrone.errors import AuthorityError, InputError

if TYPE_CHECKING:
    from isochrone.authority.identity import Registry
    from isochrone.serve.hub_client import HubClient

__all__ = ["ActDesk"]

Claims = Callable[[str], Mapping[str, Any]]
"""Claims of a document, given the thumbprint of the key that signs it."""


@dataclass(slots=True)
class ActDesk:
    """Where a command has people's documents signed.

    Args:
        by: who signs; empty for the operator whose key is on this machine.
    """

    state: Path
    by: str = ""

    @property
    def client(self) -> HubClient:
        from isochrone.serve.hub_client import HubClient

        return HubClient(self.state)

    async def registry(self) -> Registry:
        """The registry as the hub has it, every act verified again."""
        from isochrone.serve.people import registry_from

        document = await self.client.ask("GET", "/people")
        return registry_from((self.state / "hub" / "fabric").read_text(), document)

    async def signer(self, registry: Registry) -> str:
        """Id of who signs.

        Raises:
            InputError: nobody was named and no operator's key is here.
        """
        from isochrone.serve.keyring import Keyring
        from isochrone.serve.signing import local_operator

        if self.by:
            return self.by
        holder = local_operator(Keyring(self.state), registry)
        if holder is None:
            raise InputError(
                "no operator's key is on this machine", code="sign.nobody", hint="name who signs with --by"
            )
        return holder.id

    async def sign(self, registry: Registry, typ: str, claims: Claims) -> str:
        """A signed document of a type."""
        from isochrone.authority.jose import sign_compact
        from isochrone.serve.keyring import Keyring

        key = Keyring(self.state).get(await self.signer(registry)).key
        return sign_compact(claims(key.public.thumbprint), key, typ=typ)

    async def act(self, kind: str, subject: Mapping[str, Any], registry: Registry | None = None) -> str:
        """The next act of the registry, signed."""
        from isochrone.authority.identity import ACT_TYP, act_claims

        at = registry or await self.registry()
        return await self.sign(
            at, ACT_TYP, lambda key: act_claims(at, kind, subject, signer_key=key, now_s=time.time())
        )

    async def enter(self, kind: str, subject: Mapping[str, Any]) -> int:
        """Sign an act about people or approvals and hand it to the hub; returns its number.

        Raises:
            AuthorityError: ``act.refused``.
        """
        answer = await self.client.ask("POST", "/people", {"act": await self.act(kind, subject)})
        if "refused" in answer:
            raise AuthorityError("; ".join(answer["refused"]), code="act.refused")
        return int(answer["seq"])
