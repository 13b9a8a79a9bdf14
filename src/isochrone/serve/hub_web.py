"""The hub's pages: where a person registers a passkey, and signs with it what is shown.

A page is reached by a link that works once and not for long. What a browser sends counts only when it comes from the
page itself: JSON, from the configured origin (so no other site can post it), to the configured host (so no name that
somebody points here can), and an assertion or attestation bound to this origin by the browser. What is challenged is
the digest of what is signed: the signature is good for that document and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from isochrone.authority.identity import Identity
from isochrone.authority.jose import b64u_encode
from isochrone.authority.proof import (
    EnrolledKey,
    attach_assertion,
    challenge,
    comparison_code,
    parse_signed,
    registered_key,
    unsigned_for_passkey,
)
from isochrone.authority.scope import check_name
from isochrone.errors import InputError
from isochrone.serve.ceremonies import Ceremonies, Ceremony, Kind, Origin, Over
from isochrone.serve.http import json_of, problem
from isochrone.serve.signing_facts import facts_about

if TYPE_CHECKING:
    from isochrone.serve.hub import Hub

__all__ = ["HubWeb", "Views"]

SIGN_LIFE_S = 300.0
INVITE_LIFE_S = 3600.0
_INVITE_LIFE_S_MAX = 7 * 86400.0
_SENT_BYTES_MAX = 64 * 1024
_DOCUMENT_BYTES_MAX = 8192
_OVER = {"unknown": 404, "used": 410, "expired": 410}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "publickey-credentials-get=(self), publickey-credentials-create=(self)",
    # The address is the secret: it must not leave with a link or a request.
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Views(Protocol):
    """What the pages look like (`console.hub_pages`); handed in, since what people see is above this package."""

    def words(self, typ: str, claims: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
        """A document in words. Raises AuthorityError when there are none."""

    def sign(self, person: str, said: Any, code: str, task: Mapping[str, Any]) -> str: ...
    def register(self, person: str, name: str, by: str, is_operator: bool, task: Mapping[str, Any]) -> str: ...
    def over(self, why: str) -> str: ...
    def asset(self, name: str) -> tuple[bytes, str] | None: ...


class HubWeb:
    """Pages, and the calls by which commands ask for them."""

    def __init__(self, hub: Hub, origin: Origin, views: Views) -> None:
        self._hub, self._origin, self._views = hub, origin, views
        self._ceremonies = Ceremonies()

    def routes(self) -> list[Route]:
        """For browsers: without the API's token."""
        return [
            Route("/pages/{name}", self._asset),
            Route("/sign/{secret}", self._sign_page, methods=["GET"]),
            Route("/sign/{secret}", self._signed, methods=["POST"]),
            Route("/register/{secret}", self._register_page, methods=["GET"]),
            Route("/register/{secret}", self._registered, methods=["POST"]),
        ]

    # --- asked by commands ----------------------------------------------------------------------------------------

    async def begin_signing(self, request: Request) -> Response:
        """``{"person", "typ", "claims", "documents"?}``: a link at which that person can sign, with any passkey."""
        match await json_of(request):
            case {"person": str(person), "typ": str(typ), "claims": dict(claims), **rest}:
                claims = {name: value for name, value in claims.items() if name != "iss"}
            case _:
                raise InputError("a signing names person, typ and claims", code="sign.form")
        if not self._passkeys(person):
            raise InputError(
                f"{person} has no passkey for {self._origin.text}", code="sign.no-passkey",
                hint=f"an operator invites: isochrone identity invite {person}",
            )  # fmt: skip
        facts = facts_about(self._hub, claims, rest.get("documents"))
        self._views.words(typ, claims, facts)  # refused now, rather than before the person
        asked = {"typ": typ, "claims": claims, "facts": facts}
        return self._begun("sign", person, asked, SIGN_LIFE_S, {"code": comparison_code(typ, claims)})

    async def begin_invitation(self, request: Request) -> Response:
        """``{"person", "name", "operator", "by", "life_s"?}``: a link at which that person can make a passkey."""
        match await json_of(request):
            case {"person": str(person), "name": str(name), "operator": bool(), "by": str()} as asked if name.strip():
                if not check_name(person, "person").startswith("human:"):
                    raise InputError("only people are invited", code="invite.form", hint="name them human:NAME")
                life_s = asked.get("life_s", INVITE_LIFE_S)
            case _:
                raise InputError("an invitation names person, name, operator and by", code="invite.form")
        if type(life_s) not in (int, float) or not 0 < life_s <= _INVITE_LIFE_S_MAX:
            raise InputError("an invitation lasts a week at most", code="invite.life")
        return self._begun("register", person, asked, life_s, {})

    async def outcome(self, request: Request) -> Response:
        """What came of a ceremony so far."""
        return JSONResponse(self._ceremonies.state(request.path_params["identifier"]))

    def _begun(
        self, kind: Kind, person: str, asked: Mapping[str, Any], life_s: float, more: dict[str, str]
    ) -> Response:
        made, secret = self._ceremonies.begin(kind, person, asked, life_s=life_s)
        link = f"{self._origin.text}/{kind}/{secret}"
        return JSONResponse({"id": made.id, "link": link, "life_s": life_s, **more})

    # --- pages ----------------------------------------------------------------------------------------------------

    async def _asset(self, request: Request) -> Response:
        found = self._views.asset(request.path_params["name"])
        if found is None:
            return problem(404, "unknown", "there is no such file")
        return Response(found[0], media_type=found[1], headers={**_HEADERS, "cache-control": "no-cache"})

    async def _sign_page(self, request: Request) -> Response:
        ceremony = self._at(request, "sign")
        if isinstance(ceremony, Over):
            return self._over(ceremony)
        asked = ceremony.asked
        passkeys = [
            {
                "key": thumbprint,
                "credential_id": key.passkey.credential_id,
                "challenge": b64u_encode(challenge(_unsigned(asked, thumbprint))),
                "label": thumbprint[:8],
            }
            for thumbprint, key in self._passkeys(ceremony.person).items()
            if key.passkey is not None
        ]
        said = self._views.words(asked["typ"], asked["claims"], asked["facts"])
        code = comparison_code(asked["typ"], asked["claims"])
        task = {"rp_id": self._origin.rp_id, "passkeys": passkeys}
        return HTMLResponse(self._views.sign(ceremony.person, said, code, task), headers=_HEADERS)

    async def _register_page(self, request: Request) -> Response:
        ceremony = self._at(request, "register")
        if isinstance(ceremony, Over):
            return self._over(ceremony)
        person, asked = ceremony.person, ceremony.asked
        task = {
            "rp_id": self._origin.rp_id, "origin": self._origin.text, "fabric": self._hub.home.fabric,
            "person": person, "name": asked["name"], "user_id": b64u_encode(person.encode()),
            "challenge": b64u_encode(ceremony.challenge),
            "held": [key.passkey.credential_id for key in self._passkeys(person).values() if key.passkey],
        }  # fmt: skip
        page = self._views.register(person, asked["name"], asked["by"], asked["operator"], task)
        return HTMLResponse(page, headers=_HEADERS)

    # --- sent by pages --------------------------------------------------------------------------------------------

    async def _signed(self, request: Request) -> Response:
        """The assertion of one of the person's passkeys."""
        sent = await self._sent(request)
        ceremony = self._at(request, "sign")
        if isinstance(ceremony, Over):
            return _problem(_OVER[ceremony.why], ceremony.why, "this link leads nowhere any more: nothing was signed")
        if sent.get("declined") is True:
            return _finished(ceremony, {"declined": True}, {})
        thumbprint, assertion = sent.get("key"), sent.get("assertion")
        key = self._passkeys(ceremony.person).get(str(thumbprint))
        if key is None or not isinstance(assertion, dict):
            return _problem(422, "passkey", f"that is no passkey of {ceremony.person}")
        document = attach_assertion(_unsigned(ceremony.asked, str(thumbprint)), assertion)
        parsed = parse_signed(document, typ=ceremony.asked["typ"], bytes_max=_DOCUMENT_BYTES_MAX)
        if (fault := key.fault(parsed)) is not None:
            return _problem(422, fault.code, fault.text)
        return _finished(ceremony, {"document": document}, {"digest": parsed.digest})

    async def _registered(self, request: Request) -> Response:
        """The attestation of a new passkey. It counts for nothing until an operator enrols its key."""
        sent = await self._sent(request)
        ceremony = self._at(request, "register")
        if isinstance(ceremony, Over):
            return _problem(_OVER[ceremony.why], ceremony.why, "this link leads nowhere any more: ask for a new one")
        if sent.get("declined") is True:
            return _finished(ceremony, {"declined": True}, {})
        credential = sent.get("credential")
        if not isinstance(credential, dict):
            return _problem(422, "passkey", "that is no new passkey")
        key = registered_key(credential, ceremony.challenge, self._origin.rp_id, self._origin.text)
        code = comparison_code("passkey", {"key": key.key.thumbprint})
        return _finished(ceremony, {"key": key.to_json()}, {"code": code})

    async def _sent(self, request: Request) -> dict[str, Any]:
        """What a page sent, if a page of ours did.

        Raises:
            InputError: ``web.origin`` or ``web.form``.
        """
        self._check_host(request)
        site = request.headers.get("sec-fetch-site", "same-origin")
        if request.headers.get("origin") != self._origin.text or site != "same-origin":
            raise InputError("only the hub's own pages may send this", code="web.origin")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise InputError("a page sends JSON", code="web.form")
        return await json_of(request, _SENT_BYTES_MAX)

    def _at(self, request: Request, kind: Kind) -> Ceremony | Over:
        self._check_host(request)
        return self._ceremonies.at(kind, request.path_params["secret"])

    def _check_host(self, request: Request) -> None:
        if request.headers.get("host") != self._origin.host:
            raise InputError(
                "the hub's pages are not served under this name", code="web.host", hint=f"use {self._origin.text}"
            )

    def _over(self, over: Over) -> Response:
        return HTMLResponse(self._views.over(over.why), _OVER[over.why], headers=_HEADERS)

    def _passkeys(self, person: str) -> dict[str, EnrolledKey]:
        """Active passkeys of an active person that work at this origin, by thumbprint."""
        known: Identity | None = self._hub.registry().human(person)
        return {
            key.key.thumbprint: key
            for key in (known.keys if known else ())
            if key.is_active and key.passkey and self._origin.text in key.passkey.origins
        }


def _unsigned(asked: Mapping[str, Any], thumbprint: str) -> bytes:
    return unsigned_for_passkey({"iss": thumbprint, **asked["claims"]}, typ=asked["typ"])


def _finished(ceremony: Ceremony, outcome: dict[str, Any], told: dict[str, Any]) -> Response:
    ceremony.outcome = outcome
    return JSONResponse({"done": True, **told}, headers=_HEADERS)


def _problem(status: int, kind: str, title: str) -> Response:
    answer = problem(status, kind, title)
    answer.headers.update(_HEADERS)
    return answer
