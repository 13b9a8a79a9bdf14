"""Do the hub's pages take a signature from the person asked, at the page, once, for what is shown, and nothing else?"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from isochrone.authority.acts import apply_subject
from isochrone.authority.delegation import HOP_TYP, root_claims
from isochrone.authority.entitlement import REQUEST_TYP, request_claims
from isochrone.authority.identity import ACT_TYP, Identity, Registry, act_claims
from isochrone.authority.jose import b64u_decode
from isochrone.authority.proof import EnrolledKey, Passkey, comparison_code, parse_signed
from isochrone.authority.scope import Scope
from isochrone.authority.testing import NOW_S, named_key
from isochrone.console.hub_pages import HubPages
from isochrone.errors import InputError
from isochrone.serve.ceremonies import Ceremonies, Origin, Over
from isochrone.serve.http import application
from isochrone.serve.hub_web import HubWeb
from support.authenticator import ORIGIN, RP_ID, UP, Authenticator

ADA, BOB = Authenticator("ada's phone"), Authenticator("bob's phone")


def person(name: str, *authenticators: Authenticator, origins: tuple[str, ...] = (ORIGIN,)) -> Identity:
    keys = tuple(
        EnrolledKey(each.public, Passkey(each.passkey().credential_id, RP_ID, origins)) for each in authenticators
    )
    return Identity(f"human:{name}", "human", name.title(), keys, is_operator=name == "ada")


REGISTRY = Registry.anchored(
    "acme", [person("ada", ADA), person("bob", BOB), person("eve", Authenticator("e"), origins=("https://x.example",))]
)


@dataclass
class Site:
    """The hub's web part, without a hub; every call a request as a browser or a command makes it."""

    now_s: float = 0.0
    registry: Registry = REGISTRY
    web: HubWeb = field(init=False)
    app: Starlette = field(init=False)

    def __post_init__(self) -> None:
        state = SimpleNamespace(desired=None)
        hub: Any = SimpleNamespace(
            registry=lambda: self.registry, home=SimpleNamespace(fabric="acme"), state=state, texts=None
        )
        self.web = HubWeb(hub, Origin.parse(ORIGIN), HubPages("acme"))
        self.web._ceremonies = Ceremonies(clock=lambda: self.now_s)
        table: list[tuple[str, str, Callable[..., Any]]] = [
            ("/signings", "POST", self.web.begin_signing),
            ("/invitations", "POST", self.web.begin_invitation),
            ("/ceremonies/{identifier}", "GET", self.web.outcome),
        ]
        self.app = application([*(Route(p, e, methods=[m]) for p, m, e in table), *self.web.routes()])

    def ask(self, method: str, path: str, body: object = None, **headers: str | None) -> httpx.Response:
        given = {"origin": ORIGIN, "sec-fetch-site": "same-origin", "content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        content = body if isinstance(body, bytes) else json.dumps(body).encode()

        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=ORIGIN) as client:
                sent = {name: value for name, value in given.items() if value is not None}
                return await client.request(method, path, content=content if method == "POST" else None, headers=sent)

        return asyncio.run(call())

    def signing(self, who: str = "human:ada", **changed: Any) -> tuple[str, str, dict[str, Any]]:
        """A link's path, its ceremony's id, and the page's task."""
        body = {"person": who, "typ": HOP_TYP, "claims": delegation(), **changed}
        begun = self.ask("POST", "/signings", body)
        assert begun.status_code == 200, begun.text
        link = begun.json()["link"]
        assert link.startswith(f"{ORIGIN}/sign/")
        path = link.removeprefix(ORIGIN)
        return path, begun.json()["id"], task(self.ask("GET", path))

    def state(self, identifier: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/ceremonies/{identifier}").json())


def task(page: httpx.Response) -> dict[str, Any]:
    found = re.search(r'id="task">(.*?)</script>', page.text)
    assert found, page.text
    return dict(json.loads(found[1]))


def delegation(agent: str = "agent:a0") -> dict[str, Any]:
    return root_claims(
        REGISTRY, "human:ada", "", agent=agent, agent_key=named_key(agent).public,
        scope=Scope(contracts=frozenset({"chat"}), may_delegate=True), depth_max=2, now_s=NOW_S, life_s=3600, jti="j",
    )  # fmt: skip


def answer(shown: dict[str, Any], by: Authenticator = ADA, **how: Any) -> dict[str, Any]:
    """What the page sends when `by` is touched."""
    wanted = how.pop("wanted", b64u_decode(shown["passkeys"][0]["challenge"]))
    return {"key": shown["passkeys"][0]["key"], "assertion": by.get(wanted, **how)}


def test_signs_exactly_what_was_asked_for_once() -> None:
    site = Site()
    path, identifier, shown = site.signing()
    assert site.state(identifier) == {"state": "open"}
    done = site.ask("POST", path, answer(shown))
    assert done.status_code == 200
    told = site.state(identifier)
    document = parse_signed(told["outcome"]["document"], typ=HOP_TYP, bytes_max=8192)
    assert {**document.claims, "iss": ""} == delegation()
    assert REGISTRY.signer_of(document, document.claims["iss"]) == REGISTRY.people["human:ada"]

    again = site.ask("POST", path, answer(shown))
    assert (again.status_code, again.json()["type"].rpartition(":")[2]) == (410, "used")
    assert site.ask("GET", path).status_code == 410
    assert site.state(identifier) == told


def test_the_page_says_it_in_words_and_shows_the_code_of_the_command() -> None:
    site = Site()
    path, _, _ = site.signing()
    page = site.ask("GET", path).text
    for words in ("Delegate to agent:a0", "only contract chat", "any site", "may be delegated further", "2 more hops"):
        assert words in page
    assert comparison_code(HOP_TYP, delegation()) in page


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"origin": "https://evil.example"}, "origin"),
        ({"rp_id": "evil.example"}, "RP ID"),
        ({"flags": UP}, "User verification"),
        ({"wanted": b"x" * 32}, "challenge"),
        ({"by": BOB}, "another credential"),
    ],
    ids=["origin", "rp id", "not verified", "challenge", "another's passkey"],
)
def test_an_assertion_made_elsewhere_for_something_else_or_by_somebody_else(how: dict[str, Any], said: str) -> None:
    site = Site()
    path, identifier, shown = site.signing()
    refused = site.ask("POST", path, answer(shown, **how))
    assert (refused.status_code, said in refused.json()["title"]) == (422, True), refused.text
    assert site.state(identifier) == {"state": "open"}


def test_an_assertion_used_before_is_of_no_use_at_another_link() -> None:
    site = Site()
    first, _, shown = site.signing()
    sent = answer(shown)
    assert site.ask("POST", first, sent).status_code == 200
    other = {"claims": delegation("agent:mallory")}
    second, identifier, _ = site.signing(**other)
    assert "challenge" in site.ask("POST", second, sent).json()["title"]
    assert site.state(identifier) == {"state": "open"}


def test_another_persons_key_does_not_sign_though_it_verifies() -> None:
    site = Site()
    path, _, _ = site.signing()
    _, _, bobs = site.signing("human:bob")
    refused = site.ask("POST", path, answer(bobs, BOB))
    assert (refused.status_code, refused.json()["title"]) == (422, "that is no passkey of human:ada")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": f"{ORIGIN}:8443"},
        {"origin": "null"},
        {"origin": None},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": None},
        {"host": "evil.example"},
    ],
    ids=str,
)
def test_what_does_not_come_from_the_page_is_not_read(headers: dict[str, str | None]) -> None:
    site = Site()
    path, identifier, shown = site.signing()
    for body in (answer(shown), {"declined": True}):
        assert site.ask("POST", path, body, **headers).status_code == 400
    assert site.state(identifier) == {"state": "open"}
    assert site.ask("POST", path, answer(shown)).status_code == 200


def test_a_link_expires_and_a_made_up_one_leads_nowhere() -> None:
    site = Site()
    path, identifier, shown = site.signing()
    site.now_s = 299.0
    assert site.ask("GET", path).status_code == 200
    site.now_s = 300.0
    assert site.ask("GET", path).status_code == 410
    assert site.ask("POST", path, answer(shown)).json()["type"].endswith("expired")
    assert site.state(identifier) == {"state": "expired"}
    made_up = path[:-3] + "xyz"
    assert (site.ask("GET", made_up).status_code, site.ask("POST", made_up, {}).status_code) == (404, 404)
    assert site.ask("GET", path.replace("/sign/", "/register/")).status_code == 404
    site.now_s = 1000.0
    site.signing()
    assert site.state(identifier) == {"state": "unknown"}


def test_a_passkey_retired_meanwhile_does_not_sign() -> None:
    site = Site()
    path, _, shown = site.signing()
    site.registry = Registry.anchored("acme", [person("ada", Authenticator("new")), person("bob", BOB)])
    assert site.ask("POST", path, answer(shown)).status_code == 422


def test_a_person_may_decline() -> None:
    site = Site()
    path, identifier, _ = site.signing()
    assert site.ask("POST", path, {"declined": True}).status_code == 200
    assert site.state(identifier) == {"state": "done", "outcome": {"declined": True}}


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"{}", b'{"key":1}', b'{"key":"x","assertion":{}}', b"[" * 30000])
def test_junk_from_a_page(junk: bytes) -> None:
    site = Site()
    path, identifier, shown = site.signing()
    assert site.ask("POST", path, junk).status_code in (400, 422)
    for assertion in ({}, {"id": "x"}, {"id": "x", "response": {}}, {"id": 1, "response": 2}):
        sent = {"key": shown["passkeys"][0]["key"], "assertion": assertion}
        assert site.ask("POST", path, sent).status_code in (400, 422)
    assert site.ask("POST", path, b'{"x":"' + b"y" * 70_000 + b'"}').status_code == 400
    assert site.state(identifier) == {"state": "open"}


def test_every_answer_to_a_browser_is_locked_down() -> None:
    site = Site()
    path, _, _ = site.signing()
    invited = (
        site.ask("POST", "/invitations", {"person": "human:new", "name": "New", "operator": False, "by": "human:ada"})
        .json()["link"]
        .removeprefix(ORIGIN)
    )
    for each in (path, invited, "/sign/nothing", "/pages/page.js", "/pages/page.css"):
        headers = site.ask("GET", each).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
    assert site.ask("GET", path).headers["cache-control"] == "no-store"
    assert "<script src=" in site.ask("GET", path).text
    assert not re.search(r"<script>|\son\w+=|style=|https?://(?!hub\.acme)", site.ask("GET", path).text)
    for wrong in ("../hub_pages.py", "..%2Fwords.py", "nothing"):
        assert site.ask("GET", f"/pages/{wrong}").status_code == 404


def test_names_do_not_break_out_of_the_page() -> None:
    site = Site()
    evil = "</script><script>alert(1)</script>"
    body = {"person": "human:new", "name": evil, "operator": True, "by": "<b>ada</b>"}
    page = site.ask("GET", site.ask("POST", "/invitations", body).json()["link"].removeprefix(ORIGIN))
    assert evil not in page.text
    assert "<b>ada</b>" not in page.text
    assert task(page)["name"] == evil


def test_a_person_with_several_passkeys_chooses() -> None:
    other = Authenticator("ada's key")
    site = Site(registry=Registry.anchored("acme", [person("ada", ADA, other)]))
    path, _, shown = site.signing()
    assert len(shown["passkeys"]) == 2
    assert "Which of your passkeys?" in site.ask("GET", path).text
    assert shown["passkeys"][0]["challenge"] != shown["passkeys"][1]["challenge"]
    assert site.ask("POST", path, answer({"passkeys": shown["passkeys"][1:]}, other)).status_code == 200


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"person": "human:nobody"}, "sign.no-passkey"),
        ({"person": "human:eve"}, "sign.no-passkey"),
        ({"typ": "JWT"}, "words.none"),
        ({"claims": {}}, "words.none"),
        ({"typ": ACT_TYP, "claims": {"act": "apply", "subject": {}}}, "apply.form"),
        ({"typ": ACT_TYP, "claims": {"act": "approve", "subject": {"contract": "c", "terms": "t"}}}, "words.none"),
        ({"typ": ACT_TYP, "claims": {"act": "withdraw", "subject": {"approval": "x", "reason": "r"}}}, "words.none"),
        ({"typ": ACT_TYP, "claims": {"act": "nonsense", "subject": {}}}, "words.none"),
        ({"claims": None}, "sign.form"),
    ],
)
def test_what_cannot_be_shown_is_not_offered(changed: dict[str, Any], code: str) -> None:
    body = {"person": "human:ada", "typ": HOP_TYP, "claims": delegation(), **changed}
    refused = Site().ask("POST", "/signings", body)
    assert refused.status_code == 400
    assert refused.json()["type"].endswith(code), refused.text


def test_a_change_is_shown_only_with_its_own_documents() -> None:
    claims = act_claims(REGISTRY, "apply", apply_subject(1, "a: 1", {}), signer_key="", now_s=NOW_S)
    body = {"person": "human:ada", "typ": ACT_TYP, "claims": claims, "documents": {"fabric": "a: 2", "policies": {}}}
    assert Site().ask("POST", "/signings", body).json()["type"].endswith("sign.documents")


@pytest.mark.parametrize(
    ("claims", "typ", "title"),
    [
        (
            request_claims("acme", "hop", "x", reason="lost", by="", now_s=NOW_S, jti="j"),
            REQUEST_TYP,
            "Revoke delegation",
        ),
        (
            request_claims("acme", "fabric", "acme", reason="r", by="", now_s=1, jti="j"),
            REQUEST_TYP,
            "Revoke fabric acme",
        ),
        (
            request_claims("acme", "contract", "c", reason="r", by="", now_s=1, jti="j", is_lifted=True),
            REQUEST_TYP,
            "Lift the stop",
        ),
        (
            act_claims(REGISTRY, "enrol", person("new", BOB).to_json(), signer_key="", now_s=1),
            ACT_TYP,
            "Enrol human:new",
        ),
        (act_claims(REGISTRY, "retire", {"id": "human:bob"}, signer_key="", now_s=1), ACT_TYP, "Retire human:bob"),
        (
            act_claims(REGISTRY, "enrol-key", {"id": "x", "key": {"jwk": ADA.public.jwk}}, signer_key="", now_s=1),
            ACT_TYP,
            "Enrol a key of x",
        ),
        (
            act_claims(REGISTRY, "retire-key", {"id": "x", "thumbprint": "abc"}, signer_key="", now_s=1),
            ACT_TYP,
            "Retire a key of x",
        ),
        *(
            (act_claims(REGISTRY, kind, {"site": "x", "key": "abc"}, signer_key="", now_s=1), ACT_TYP, title)
            for kind, title in (
                ("admit", "Admit site x"),
                ("remove-site", "Remove site x"),
                ("drain", "Drain site x"),
                ("undrain", "End the drain of site x"),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_document_has_words(claims: dict[str, Any], typ: str, title: str) -> None:
    site = Site()
    path, _, _ = site.signing(typ=typ, claims=claims)
    assert title in site.ask("GET", path).text


class TestInvitation:
    def invite(self, site: Site, **changed: Any) -> httpx.Response:
        return site.ask(
            "POST",
            "/invitations",
            {"person": "human:new", "name": "N", "operator": False, "by": "human:ada", **changed},
        )

    @pytest.mark.parametrize(
        ("changed", "code"),
        [
            ({"person": "agent:a"}, "invite.form"),
            ({"person": "human:a b"}, "authority.name"),
            ({"name": " "}, "invite.form"),
            ({"operator": "yes"}, "invite.form"),
            ({"life_s": 0}, "invite.life"),
            ({"life_s": 8 * 86400}, "invite.life"),
            ({"life_s": "1"}, "invite.life"),
        ],
    )
    def test_malformed(self, changed: dict[str, Any], code: str) -> None:
        assert self.invite(Site(), **changed).json()["type"].endswith(code)

    def test_junk_registers_nothing(self) -> None:
        site = Site()
        begun = self.invite(site).json()
        path = begun["link"].removeprefix(ORIGIN)
        for junk in ({}, {"credential": 1}, {"credential": {}}, {"credential": {"id": "x", "rawId": "x"}}):
            assert site.ask("POST", path, junk).status_code in (400, 422)
        assert site.state(begun["id"]) == {"state": "open"}


@pytest.mark.parametrize(
    "text",
    [
        "http://hub.acme.example", "https://", "https://127.0.0.1", "http://127.0.0.1:7700", "https://a.example/x",
        "https://u@a.example", "https://A.example", "ftp://a.example", "https://[::1]", "localhost:7700",
    ],
)  # fmt: skip
def test_an_origin_that_passkeys_do_not_work_at(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Origin.parse(text)
    assert caught.value.code == "web.origin"


def test_origins_that_they_do_work_at() -> None:
    assert Origin.parse("http://localhost:7700").rp_id == "localhost"
    assert Origin.parse("https://hub.acme.example:8443").host == "hub.acme.example:8443"


def test_there_is_an_end_to_open_links() -> None:
    ceremonies = Ceremonies(clock=lambda: 0.0)
    for _ in range(1000):
        ceremonies.begin("sign", "human:ada", {}, life_s=1)
    with pytest.raises(InputError):
        ceremonies.begin("sign", "human:ada", {}, life_s=1)
    assert ceremonies.at("sign", "nothing") == Over("unknown")
