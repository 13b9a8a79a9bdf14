"""Does a passkey in a real browser carry authority through a real fabric, and does every attack on the pages fail?

Chromium with virtual authenticators; `isochrone up` with NATS, hub, nodes and Envoys; the openai client.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from isochrone.authority.delegation import issue_child
from isochrone.authority.jose import PrivateKey
from isochrone.authority.known_groups import known_groups
from isochrone.authority.scope import Scope
from isochrone.errors import AuthorityError
from isochrone.serve.client import GrantAuth, GrantSource
from isochrone.serve.keyring import Keyring
from support.browser import Browser, Page, chromium, running_browser
from support.fabric import CLI, RunningFabric, until

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs Chromium, which is not here")
SITE, OTHER = "konstanz", "frankfurt"
CHAT = """
  chat:
    protocol: openai
    model: {{name: echo}}
    runtime: {{kind: external, at: {{konstanz: "127.0.0.1:{konstanz}", frankfurt: "127.0.0.1:{frankfurt}"}}}}
    service: {{cpu: {{duration: {{p50_ms: 1, p99_ms: 4}}, concurrency: 8, rps_max: 200}}}}
"""
CONTRACTS = """
  assistant:
    workload: chat
    in_time: {quantile: 0.9, objective_ms: 500}
    demand_rps: {konstanz: 1}
  diagnosis:
    workload: echo
    in_time: {quantile: 0.9, objective_ms: 500}
    demand_rps: {konstanz: 1}
    oversight: {approvals: 1, by: ["human:grace"]}
"""


@dataclass
class Asking:
    """A command that waits for a person."""

    process: subprocess.Popen[str]
    link: str
    told: str

    def done(self, code: int = 0) -> str:
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == code, out + err
        return out + err


@dataclass
class World:
    fabric: RunningFabric
    browser: Browser
    grace: Page

    def command(self, *words: str, answer: str = "") -> Asking:
        """Run a command up to the link that it prints."""
        process = subprocess.Popen(
            [*CLI, *words, "--state", str(self.fabric.state)], text=True, cwd=self.fabric.directory,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "ISOCHRONE_TEST_MARK": str(self.fabric.directory)},
        )  # fmt: skip
        assert process.stderr is not None
        assert process.stdin is not None
        process.stdin.write(answer)
        process.stdin.flush()
        told = ""
        for line in process.stderr:
            told += line
            if line.strip().startswith("http"):
                return Asking(process, line.strip(), told)
        raise AssertionError(told + process.communicate()[0])

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.fabric.run(*words, "--state", str(self.fabric.state))

    def signed(self, *words: str) -> str:
        """A command that Grace signs at the page."""
        asking = self.command(*words)
        self.grace.goto(asking.link)
        self.grace.click("#go")
        assert self.grace.said().startswith("Signed")
        return asking.done()

    def invited(self, page: Page, person: str) -> str:
        asking = self.command("identity", "invite", person, "--name", "Grace Hopper", answer="y\n")
        page.goto(asking.link)
        page.click("#go")
        code = page.said().rpartition(" ")[2]
        out = asking.done()
        assert code in out, "operator and person compare the same"
        return out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("people")
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        with contextlib.closing(RunningFabric.make(directory)) as fabric:
            ports = {site: model.port for site, model in fabric.models.items()}
            fabric.path.write_text(fabric.text(CHAT.format(**ports), CONTRACTS))
            fabric.up()
            page = browser.page()
            page.own_authenticator()
            world = World(fabric, browser, page)
            world.invited(page, "human:grace")
            yield world


def text(answer: Any) -> str:
    return json.dumps(answer.json())


def test_from_a_passkey_to_an_execution_and_back_to_the_person(world: World) -> None:
    fabric = world.fabric
    assert world.grace.credentials()[0]["rpId"] == "localhost"
    shown = world.run("identity", "show", "human:grace").stdout
    assert "Grace Hopper" in shown
    assert "passkey for http://localhost:" in shown

    # Delegated by passkey: the page says what, and the command goes on with what was signed.
    asking = world.command(
        "delegate", "agent:planner", "--from", "human:grace", "--contract", "assistant", "--may-delegate", "1"
    )
    world.grace.goto(asking.link)
    for said in ("Delegate to agent:planner", "only contract assistant", "any jurisdiction", "at most 1 more hop"):
        assert said in world.grace.text
    code = asking.told.partition("compare ")[2].partition(".")[0]
    assert code in world.grace.text
    world.grace.click("#go")
    assert world.grace.said().startswith("Signed")
    assert "agent:planner" in asking.done()

    # Delegated further in process, offline: no server is asked.
    planner, key = Keyring(fabric.state).get("agent:planner"), PrivateKey.generate()
    chain = issue_child(
        planner.chain, planner.key, known_groups(), agent="agent:writer", agent_key=key.public,
        scope=Scope(contracts=frozenset({"assistant"}), jurisdictions=frozenset({"EU"})),
        now_s=time.time(), life_s=600, jti=secrets.token_urlsafe(9), depth_max=1,
    )  # fmt: skip
    assert isinstance(chain, list)

    # Used through the openai client, at both sites once it is known there.
    openai = pytest.importorskip("openai")
    source = GrantSource([fabric.base(SITE)], chain, key, "assistant")
    client = openai.OpenAI(
        base_url=f"{fabric.base(SITE)}/v1",
        api_key="none",
        http_client=httpx.Client(auth=GrantAuth(source)),
        max_retries=0,
    )

    def ask() -> Any:
        return client.chat.completions.with_raw_response.create(
            model="echo", messages=[{"role": "user", "content": "hello"}]
        )

    raw = until(ask, "the assistant answers")
    execution = raw.headers["x-isochrone-execution"]

    fabric.wait_recorded(execution)
    traced = world.run("trace", execution)
    assert traced.returncode == 0, traced.stdout
    assert "Grace Hopper" in traced.stdout
    assert (
        traced.stdout.index("human:grace") < traced.stdout.index("agent:planner") < traced.stdout.index("agent:writer")
    )

    # Every act is on record at every site, in order and from the anchor on.
    for site in (SITE, OTHER):
        acts = until(lambda site=site: [r for r in fabric.entries(site) if r["kind"] == "act"], "acts are on record")
        assert [record["seq"] for record in acts] == list(range(len(acts)))
        assert len(acts) >= 3

    # Taken back by the same passkey: the grant in hand stops, and there is no other.
    revoked = world.signed("revoke", "delegation", "agent:planner", "--by", "human:grace", "--reason", "job done")
    assert "in force at 2 sites" in revoked
    with pytest.raises(openai.PermissionDeniedError):
        ask()
    source.forget()
    with pytest.raises(AuthorityError, match="revoked"):
        source.token()


def test_a_contract_waits_for_the_approval_of_the_person_it_names(world: World) -> None:
    fabric = world.fabric
    fabric.delegate("agent:doctor", contracts=["diagnosis"])
    source = fabric.source(SITE, "diagnosis", "agent:doctor")
    with pytest.raises(AuthorityError, match=r"needs the approval of 1 \(human:grace\), and has 0"):
        source.token()
    # An operator signs one too, and is not who was named.
    assert world.run("approve", "diagnosis", "--reason", "looks fine").returncode == 0
    with pytest.raises(AuthorityError, match="unapproved"):
        source.token()

    asking = world.command("approve", "diagnosis", "--by", "human:grace", "--reason", "assessment 12 is done")
    world.grace.goto(asking.link)
    assert "reason: assessment 12 is done" in world.grace.text
    assert "in_time.objective_ms: 500" in world.grace.text
    world.grace.click("#go")
    asking.done()
    token = until(source.token, "the approval counts at the site")

    answer = fabric.call(SITE, "diagnosis", token)
    execution = answer.headers["x-isochrone-execution"]
    fabric.wait_recorded(execution)
    traced = world.run("trace", execution).stdout
    assert "the people required approved it: held" in traced
    assert "Grace Hopper (human:grace): assessment 12 is done" in traced

    listed = json.loads(world.run("approvals", "list", "--json").stdout)
    mine = next(each for each in listed if each["by"] == "human:grace")
    world.signed("approvals", "withdraw", mine["id"], "--by", "human:grace", "--reason", "of another model")

    def refused() -> bool:
        source.forget()
        with pytest.raises(AuthorityError, match="unapproved"):
            source.token()
        return True

    until(refused, "the withdrawal counts at the site")
    # What ran before stays approved.
    assert "the people required approved it: held" in world.run("trace", execution).stdout


def test_a_passkey_changes_the_fabric_when_its_person_is_an_operator_and_not_otherwise(world: World) -> None:
    changed = world.fabric.directory / "changed.yaml"
    changed.write_text(world.fabric.path.read_text().replace("objective_ms: 500", "objective_ms: 450", 1))
    asking = world.command("apply", str(changed), "--yes", "--by", "human:grace")
    world.grace.goto(asking.link)
    assert "objective_ms: 500.0 -> 450.0" in world.grace.text
    world.grace.click("#go")
    assert "no active operator signed this act" in asking.done(1)

    page = world.browser.page()
    page.own_authenticator()
    operator = world.command("identity", "invite", "human:olga", "--name", "Olga", "--operator", "--yes")
    page.goto(operator.link)
    page.click("#go")
    operator.done()
    asking = world.command("apply", str(changed), "--yes", "--by", "human:olga")
    page.goto(asking.link)
    page.click("#go")
    assert "in force" in asking.done()


# --- attacks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(world: World) -> Iterator[Asking]:
    """A signature is asked of Grace."""
    made = world.command("identity", "retire", "human:nobody", "--by", "human:grace", "--passkey")
    yield made
    made.process.kill()
    made.process.communicate()


ASSERT = """(async ([challenge, rp, id]) => {
  const bytes = t => Uint8Array.from(atob(t.replaceAll("-", "+").replaceAll("_", "/")), c => c.charCodeAt(0));
  const text = b => btoa(String.fromCharCode(...new Uint8Array(b)))
    .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const made = await navigator.credentials.get({publicKey: {challenge: bytes(challenge), rpId: rp,
    allowCredentials: [{type: "public-key", id: bytes(id)}], userVerification: "required"}});
  const r = made.response;
  return {id: text(made.rawId), response: {clientDataJSON: text(r.clientDataJSON),
    authenticatorData: text(r.authenticatorData), signature: text(r.signature)}};
})"""


def task(page: Page) -> dict[str, Any]:
    return dict(page.js("JSON.parse(document.getElementById('task').textContent)"))


def asserted(page: Page, challenge: str, rp_id: str, credential: str) -> dict[str, Any]:
    """An assertion that this page's browser and authenticator make, for whatever they are asked."""
    return dict(page.js(f"{ASSERT}({json.dumps([challenge, rp_id, credential])})"))


def post(link: str, key: str, assertion: dict[str, Any]) -> httpx.Response:
    """As the page posts it, with all the headers that a browser would not let another site forge."""
    origin = link.rpartition("/sign/")[0]
    headers = {"origin": origin, "sec-fetch-site": "same-origin"}
    return httpx.post(link, json={"key": key, "assertion": assertion}, headers=headers)


def still_open(asking: Asking) -> bool:
    return asking.process.poll() is None and httpx.get(asking.link).status_code == 200


class Elsewhere(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>elsewhere</title><p>elsewhere"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """Another web site on this machine: the same rp id is open to it, the same origin is not."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_challenge_is_good_for_its_own_document(world: World, asking: Asking) -> None:
    world.grace.goto(asking.link)
    first = task(world.grace)
    passkey = first["passkeys"][0]
    old = asserted(world.grace, passkey["challenge"], "localhost", passkey["credential_id"])
    other = world.command("identity", "retire", "human:olga", "--by", "human:grace", "--passkey")
    try:
        refused = post(other.link, passkey["key"], old)
        assert (refused.status_code, "challenge" in text(refused)) == (422, True)
        assert still_open(other)
    finally:
        other.process.kill()
        other.process.communicate()


def test_a_page_of_another_origin_gets_an_assertion_that_does_not_count(
    world: World, asking: Asking, elsewhere: int
) -> None:
    world.grace.goto(asking.link)
    passkey = task(world.grace)["passkeys"][0]
    world.grace.goto(f"http://localhost:{elsewhere}/")
    stolen = asserted(world.grace, passkey["challenge"], "localhost", passkey["credential_id"])
    refused = post(asking.link, passkey["key"], stolen)
    assert (refused.status_code, "origin" in text(refused)) == (422, True)
    assert still_open(asking)


def test_a_page_of_another_rp_id_gets_one_that_does_not_count(world: World, asking: Asking, elsewhere: int) -> None:
    """The worst case: the very key, in an authenticator that was made to hold it for another relying party."""
    world.grace.goto(asking.link)
    passkey = task(world.grace)["passkeys"][0]
    stolen = world.grace.credentials()[0]
    page = world.browser.page()
    page.own_authenticator()
    page.add_credential({**stolen, "rpId": "evil.localhost"})
    page.goto(f"http://evil.localhost:{elsewhere}/")
    assertion = asserted(page, passkey["challenge"], "evil.localhost", passkey["credential_id"])
    assert post(asking.link, passkey["key"], assertion).status_code == 422
    with pytest.raises(AssertionError):  # a browser does not let a site use a relying party that it is not of
        asserted(page, passkey["challenge"], "localhost", passkey["credential_id"])
    assert still_open(asking)


def test_another_person_cannot_sign_it(world: World, asking: Asking) -> None:
    bob = world.browser.page()
    bob.own_authenticator()
    world.invited(bob, f"human:bob-{secrets.token_hex(3)}")
    bob.goto(asking.link)
    graces = task(bob)["passkeys"][0]
    bob.click("#go")
    assert "not used" in bob.said(), "the page asks for Grace's passkeys only"
    import base64

    mine = base64.urlsafe_b64encode(base64.b64decode(bob.credentials()[0]["credentialId"])).decode().rstrip("=")
    assertion = asserted(bob, graces["challenge"], "localhost", mine)
    assert post(asking.link, graces["key"], assertion).status_code == 422
    assert still_open(asking)


def test_a_link_works_once_and_not_for_ever(world: World) -> None:
    asking = world.command("approve", "assistant", "--by", "human:grace", "--reason", "once")
    world.grace.goto(asking.link)
    passkey = task(world.grace)["passkeys"][0]
    assertion = asserted(world.grace, passkey["challenge"], "localhost", passkey["credential_id"])
    assert post(asking.link, passkey["key"], assertion).status_code == 200
    asking.done()
    assert post(asking.link, passkey["key"], assertion).status_code == 410
    world.grace.goto(asking.link)
    assert "This link was used" in world.grace.text

    body = {"person": "human:late", "name": "Late", "operator": False, "by": "human:operator", "life_s": 0.2}
    link = world.fabric.ask_hub("POST", "/invitations", body)["link"]
    time.sleep(0.3)
    page = world.browser.page()
    page.goto(link)
    assert "This link has expired" in page.text


def test_another_site_cannot_post_to_a_page_nor_frame_it(world: World, asking: Asking, elsewhere: int) -> None:
    page = world.browser.page()
    page.goto(f"http://localhost:{elsewhere}/")
    for kind in ("text/plain", "application/json"):
        page.js(
            f"fetch({json.dumps(asking.link)}, {{method: 'POST', mode: 'no-cors', body: '{{\"declined\": true}}',"
            f" headers: {{'content-type': '{kind}'}}}}).then(() => 1, () => 0)"
        )
    page.js(
        "(() => { const f = document.createElement('form'); f.method = 'POST'; f.enctype = 'text/plain';"
        f"f.action = {json.dumps(asking.link)}; const i = document.createElement('input');"
        """i.name = '{"declined": true, "x": "'; i.value = '"}';"""
        "f.append(i); document.body.append(f); f.submit(); })()"
    )
    page.wait("location.href.includes('/sign/') && document.readyState === 'complete'")
    assert "only the hub's own pages" in page.text
    assert still_open(asking)

    page.goto(f"http://localhost:{elsewhere}/")
    page.js(
        f"new Promise(done => {{ const f = document.createElement('iframe'); f.src = {json.dumps(asking.link)};"
        "f.onload = done; document.body.append(f); })"
    )
    assert (
        page.js("frames[0].length === 0 && (() => { try { return frames[0].document.title } catch { return '' } })()")
        == ""
    )
    assert still_open(asking)


def test_the_pages_work_under_their_own_policy(world: World, asking: Asking) -> None:
    """Script and style load, nothing is blocked, and there is one heading and a labelled action, as in every size."""
    world.grace.goto(asking.link)
    assert world.grace.js("getComputedStyle(document.querySelector('#go')).cursor") == "pointer"
    assert world.grace.js("document.querySelectorAll('h1').length") == 1
    assert world.grace.js("document.querySelector('#said').getAttribute('aria-live')") == "polite"
    world.grace.call("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=1, mobile=True)
    assert world.grace.js("document.documentElement.scrollWidth <= innerWidth")
    world.grace.call("Emulation.clearDeviceMetricsOverride")
