"""A client's grants: fresh, from the first site that answers, and a refusal told apart from silence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from isochrone.authority.possession import Possession, ReplayWindow, verify_dpop
from isochrone.authority.testing import World
from isochrone.errors import AuthorityError, PeerError
from isochrone.serve.client import GrantAuth, GrantSource
from isochrone.serve.process import free_port

WORLD = World()
Answer = tuple[int, dict[str, Any]]


class Site:
    """A token endpoint that answers what it is told to, and an API that wants the newest grant."""

    def __init__(self) -> None:
        self.forms: list[dict[str, list[str]]] = []
        self.proofs: list[str] = []
        self.expires_s = 60
        self.refusal: Answer | None = None
        self.accepts: Callable[[str], bool] = lambda token: True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
                status, answer = outer._token(body, self.headers) if "token" in self.path else outer._api(self.headers)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def _token(self, body: str, headers: Any) -> Answer:
        self.forms.append(parse_qs(body))
        self.proofs.append(headers["dpop"])
        return self.refusal or (200, {"access_token": f"grant-{len(self.forms)}", "expires_in": self.expires_s})

    def _api(self, headers: Any) -> Answer:
        return (200, {}) if self.accepts(headers["authorization"]) else (401, {})


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def source(*bases: str) -> GrantSource:
    return GrantSource(bases, WORLD.chain(2), WORLD.key("a1"), "ward-chat")


def test_the_exchange_proves_possession_for_this_url(site: Site) -> None:
    assert source(site.base).token() == "grant-1"
    assert site.forms[0]["scope"] == ["contract:ward-chat"]
    url = f"{site.base}/.isochrone/token"
    proven = verify_dpop(site.proofs[0], method="POST", url=url, now_s=time.time(), replay=ReplayWindow())
    assert isinstance(proven, Possession)


def test_a_grant_is_kept_while_it_is_fresh_and_renewed_before_it_ends(site: Site) -> None:
    kept = source(site.base)
    assert [kept.token(), kept.token()] == ["grant-1", "grant-1"]
    site.expires_s = 0
    short = source(site.base)
    assert [short.token(), short.token()] == ["grant-2", "grant-3"]


def test_a_refusal_is_final_and_says_why(site: Site) -> None:
    site.refusal = (400, {"error": "invalid_scope", "error_description": "not yours"})
    with pytest.raises(AuthorityError) as caught:
        source(site.base, site.base).token()
    assert caught.value.code == "grant.invalid_scope"
    assert "not yours" in str(caught.value)
    assert len(site.forms) == 1, "another site is not asked what this one refused"


def test_a_site_that_is_gone_or_cannot_know_is_passed_over(site: Site) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    assert source(dead, site.base).token() == "grant-1"
    site.refusal = (503, {"error": "temporarily_unavailable"})
    with pytest.raises(PeerError) as caught:
        source(dead, site.base).token()
    assert caught.value.code == "client.unreachable"
    assert "temporarily_unavailable" in str(caught.value)


def test_a_401_renews_once(site: Site) -> None:
    site.accepts = lambda token: token == "Bearer grant-2"
    with httpx.Client(auth=GrantAuth(source(site.base))) as client:
        assert client.post(f"{site.base}/infer").status_code == 200
        site.accepts = lambda token: False
        assert client.post(f"{site.base}/infer").status_code == 401
    assert len(site.forms) == 3


def test_many_threads_share_one_exchange(site: Site) -> None:
    shared, found = source(site.base), []
    threads = [threading.Thread(target=lambda: found.append(shared.token())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == ["grant-1"] * 8
