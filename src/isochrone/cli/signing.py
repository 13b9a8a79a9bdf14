"""How commands get a document signed: with a key on this machine, or with a person's passkey at the hub's page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from isochrone.errors import AuthorityError, InputError

if TYPE_CHECKING:
    from isochrone.authority.identity import Registry
    from isochrone.serve.hub_client import HubClient

__all__ = ["ActDesk", "by_option", "passkey_option"]

_POLL_S = 0.3
F = TypeVar("F", bound=Callable[..., Any])
Claims = Callable[[str], Mapping[str, Any]]
"""Claims of a document, given the thumbprint of the key that signs it."""


def by_option(function: F) -> F:
    """``--by ID``."""
    return click.option("--by", default="", help="Who signs. Default: the operator whose key is on this machine.")(
        function
    )


def passkey_option(function: F) -> F:
    """``--passkey``."""
    what = "Sign with a passkey, at a page of the hub; so, too, when the key of who signs is not here."
    return click.option("--passkey", is_flag=True, help=what)(function)


@dataclass(slots=True)
class ActDesk:
    """Where a command has people's documents signed.

    Args:
        by: who signs; empty for the operator whose key is on this machine.
        passkey: at the hub's page, even if a key is here.
        say: told of the link that a person is to open.
    """

    state: Path
    by: str = ""
    passkey: bool = False
    say: Callable[[str], None] = field(default=lambda line: click.echo(line, err=True))

    @property
    def client(self) -> HubClient:
        from isochrone.serve.hub_client import HubClient

        return HubClient(self.state)

    async def registry(self) -> Registry:
        """The registry as the hub has it, every act verified again."""
        return (await self._verified())[1]

    async def _verified(self) -> tuple[dict[str, Any], Registry]:
        from isochrone.serve.people import registry_from

        document = await self.client.ask("GET", "/people")
        return document, registry_from((self.state / "hub" / "fabric").read_text(), document)

    async def check_applied(self, revision: int, text: str, policies: Mapping[str, str]) -> None:
        """That documents which the hub hands out are those that an operator applied as a revision.

        Raises:
            AuthorityError: ``sign.other``: no act applies them.
        """
        from isochrone.authority.acts import apply_subject
        from isochrone.authority.identity import ACT_BYTES_MAX, ACT_TYP
        from isochrone.authority.proof import parse_signed

        document, _ = await self._verified()
        claims = (parse_signed(act, typ=ACT_TYP, bytes_max=ACT_BYTES_MAX).claims for act in document["acts"])
        subject = apply_subject(revision, text, policies)
        if not any(each["act"] == "apply" and each["subject"] == subject for each in claims):
            raise AuthorityError(
                f"what the hub has for revision {revision} is not what was applied as that", code="sign.other",
                hint="apply the files of that revision themselves: isochrone apply FABRIC",
            )  # fmt: skip

    def signer(self, registry: Registry) -> str:
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
                "no operator's key is on this machine", code="sign.nobody", hint="say who signs: --by human:NAME"
            )
        return holder.id

    async def sign(
        self, registry: Registry, typ: str, claims: Claims, documents: Mapping[str, Any] | None = None
    ) -> str:
        """A signed document of a type: by a key that is here, unless a passkey is asked for, or is all there is.

        Args:
            documents: what an act of the kind ``apply`` applies, to be shown where it is signed.

        Raises:
            AuthorityError: ``sign.declined``, ``sign.expired``, or ``sign.other``: the hub brought something else.
        """
        from isochrone.authority.jose import sign_compact
        from isochrone.serve.keyring import Keyring

        person = self.signer(registry)
        holder = Keyring(self.state).find(person)
        if holder is not None and not self.passkey:
            return sign_compact(claims(holder.key.public.thumbprint), holder.key, typ=typ)
        if registry.human(person) is None:
            raise InputError(
                f"{person} is not an active person here, nor is a key of theirs", code="sign.unknown",
                hint="isochrone identity list",
            )  # fmt: skip
        return await self._at_the_page(registry, person, typ, claims(""), documents)

    async def act(
        self,
        kind: str,
        subject: Mapping[str, Any],
        registry: Registry | None = None,
        documents: Mapping[str, Any] | None = None,
    ) -> str:
        """The next act of the registry, signed."""
        from isochrone.authority.identity import ACT_TYP, act_claims

        at, now_s = registry or await self.registry(), time.time()
        return await self.sign(
            at, ACT_TYP, lambda key: act_claims(at, kind, subject, signer_key=key, now_s=now_s), documents
        )

    async def enter(self, kind: str, subject: Mapping[str, Any]) -> int:
        """Sign an act about people, approvals or sites and hand it to the hub; returns its number.

        Raises:
            AuthorityError: ``act.refused``. PeerError: no hub runs.
        """
        answer = await self.client.ask("POST", "/people", {"act": await self.act(kind, subject)})
        if "refused" in answer:
            raise AuthorityError("; ".join(answer["refused"]), code="act.refused")
        return int(answer["seq"])

    async def enter_here(self, kind: str, subject: Mapping[str, Any]) -> bool:
        """As `enter`; where no hub runs, in its directory, for it to tell once it does. Whether a hub was told.

        Raises:
            AuthorityError: ``act.refused``. PeerError: there is no hub at whose page to sign.
        """
        from isochrone.errors import PeerError
        from isochrone.serve.act_book import ActBook
        from isochrone.serve.home import HubHome

        try:
            await self.enter(kind, subject)
        except PeerError:
            book = ActBook(HubHome(self.state / "hub", (self.state / "hub" / "fabric").read_text()))
            book.enter(await self.act(kind, subject, book.registry), book.in_force)
            return False
        return True

    async def ceremony(self, path: str, body: Mapping[str, Any], asking: str) -> dict[str, Any]:
        """Begin one at the hub, tell the link, and wait for the outcome.

        Args:
            asking: the line that asks a person to open the link.

        Raises:
            InputError: the hub refused to begin.
            AuthorityError: ``sign.declined``, ``sign.expired``.
        """
        begun = await self.client.ask("POST", path, body)
        if begun["status_code"] != 200:
            raise InputError(begun.get("title", "the hub refused"), code="sign.refused", hint=begun.get("detail", ""))
        self.say(asking)
        self.say(f"  {begun['link']}")
        while True:
            told = await self.client.ask("GET", f"/ceremonies/{begun['id']}")
            if told["state"] == "done":
                if told["outcome"].get("declined"):
                    raise AuthorityError("the person declined", code="sign.declined")
                return dict(told["outcome"])
            if told["state"] != "open":
                raise AuthorityError(
                    "nobody signed in time", code="sign.expired", hint="run the command again for a new link"
                )
            await asyncio.sleep(_POLL_S)

    async def _at_the_page(
        self,
        registry: Registry,
        person: str,
        typ: str,
        claims: Mapping[str, Any],
        documents: Mapping[str, Any] | None,
    ) -> str:
        from isochrone.authority.proof import comparison_code, parse_signed

        code = comparison_code(typ, claims)
        body = {"person": person, "typ": typ, "claims": dict(claims), "documents": documents}
        asking = f"{person}: open this and compare {code}. It works once, for 5 minutes."
        outcome = await self.ceremony("/signings", body, asking)
        document = parse_signed(str(outcome["document"]), typ=typ, bytes_max=8192)
        signer = registry.signer_of(document, document.claims.get("iss"))
        if {**document.claims, "iss": ""} != {**claims, "iss": ""} or signer is None or signer.id != person:
            raise AuthorityError(
                f"the hub brought another document than {person} was asked to sign", code="sign.other",
                hint="do not use this hub; retire the passkey that signed (`isochrone identity retire-key`)",
            )  # fmt: skip
        return str(outcome["document"])
