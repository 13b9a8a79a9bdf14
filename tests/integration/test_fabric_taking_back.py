"""Authority taken back in a running fabric: streams that run, switches, what is listed, and what outlives a restart."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from isochrone.authority.delegation import CHAIN_TOKEN_TYPE, join_chain
from isochrone.authority.exchange import GRANT_TYPE
from isochrone.authority.possession import make_dpop
from isochrone.cli.revoke import revoke_everywhere
from isochrone.errors import AuthorityError
from isochrone.serve.client import RequestsAuth, Token
from isochrone.serve.keyring import Keyring
from isochrone.serve.process import free_port
from support.fabric import PATH, SITES, RunningFabric, running_fabric, until

KONSTANZ, FRANKFURT = SITES


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("t")) as running:
        yield running


class Stream:
    """A client that reads an endless answer until it is cut."""

    def __init__(self, fabric: RunningFabric, site: str, agent: str, contract: str = "anywhere") -> None:
        self.events, self.ended_s, self.status = 0, 0.0, 0
        self._url = f"{fabric.base(site)}/stream"
        self._headers = {"authorization": f"Bearer {fabric.source(site, contract, agent).token()}"}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until(lambda: self.events > 2, f"{agent} streams at {site}")

    def _read(self) -> None:
        try:
            with httpx.stream("POST", self._url, json={}, headers=self._headers, timeout=10.0) as answer:
                self.status = answer.status_code
                for _ in answer.iter_raw():
                    self.events += 1
                    if self._stop.is_set():
                        return
        except httpx.HTTPError:
            pass
        finally:
            self.ended_s = time.monotonic()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


def take_back(fabric: RunningFabric, kind: str, item: str) -> float:
    """Revoke by the command's own code; when it was entered, by this machine's monotonic clock."""
    import asyncio

    begun_s = time.monotonic()
    answer = asyncio.run(revoke_everywhere(fabric.state, kind, item, "human:operator", "test"))
    assert not answer["missing"]
    return begun_s


@pytest.mark.parametrize(
    ("entry", "contract"), [(KONSTANZ, "anywhere"), (FRANKFURT, "lakeside")], ids=["executed here", "handed over"]
)
def test_a_running_stream_ends_when_its_delegation_is_revoked(fabric: RunningFabric, entry: str, contract: str) -> None:
    doomed, other = f"agent:doomed-{entry}", f"agent:other-{entry}"
    cut, kept = Stream(fabric, entry, doomed, contract), Stream(fabric, entry, other, contract)
    begun_s = take_back(fabric, "delegation", doomed)
    until(lambda: cut.ended_s, "the stream is cut", timeout_s=20.0)
    print(f"cut {cut.ended_s - begun_s:.2f} s after the revocation was asked for")
    seen = kept.events
    until(lambda: kept.events > seen + 20, "another agent's stream goes on")
    kept.close()
    assert (cut.status, kept.status) == (200, 200)


def listed(fabric: RunningFabric) -> list[dict[str, Any]]:
    done = fabric.run("revocations", "--json", "--state", str(fabric.state))
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["revocations"])


def test_a_stop_is_a_switch_and_is_listed_with_who_why_and_where(fabric: RunningFabric) -> None:
    token = fabric.token(KONSTANZ, "anywhere")
    assert fabric.call(KONSTANZ, token=token).status_code == 200
    state = ("--state", str(fabric.state))
    stopped = fabric.run("revoke", "--stop", "contract:anywhere", "--reason", "incident 12", *state)
    assert stopped.returncode == 0, stopped.stderr
    assert "in force at 2 sites" in stopped.stdout
    assert "bound: under 1 s at connected sites, 66 s at a site that is cut off" in stopped.stdout
    for site in SITES:
        assert fabric.call(site, token=token).status_code == 403
    assert fabric.call(KONSTANZ, "lakeside").status_code == 200, "another contract goes on"
    refused = fabric.run("token", "--as", "agent:caller", "--contract", "anywhere", *state)
    assert "incident 12" in refused.stderr

    last = listed(fabric)[-1]
    assert (last["kind"], last["id"], last["reason"]) == ("contract", "anywhere", "incident 12")
    assert (last["by"], last["holds"]) == ("human:operator", True)
    assert set(last["in_force"]) == set(SITES)
    assert all(0 <= at_s - last["at_s"] < 20 for at_s in last["in_force"].values())
    shown = fabric.run("revocations", *state).stdout
    assert "stop contract anywhere" in shown
    assert "human:operator" in shown

    resumed = fabric.run("revoke", "--resume", "contract:anywhere", "--reason", "closed", *state)
    assert resumed.returncode == 0, resumed.stderr
    until(lambda: fabric.call(KONSTANZ, token=token).status_code == 200, "it is served again")
    assert not listed(fabric)[-2]["holds"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--stop", "contract:nothing"], "there is no contract nothing"),
        (["--stop", "planet:earth"], "WHAT is"),
        (["--stop", "fabric:pair"], "WHAT is"),
        (["agent"], "name one thing"),
        (["agent", "agent:x", "--stop", "fabric"], "name one thing"),
        (["delegation", "human:operator"], "holds no delegation"),
    ],
)
def test_what_cannot_be_revoked_is_said(fabric: RunningFabric, words: list[str], says: str) -> None:
    done = fabric.run("revoke", *words, "--reason", "test", "--state", str(fabric.state))
    assert done.returncode in (1, 2)
    assert says in done.stderr


def test_an_agent_revokes_what_it_gave_and_nothing_above(fabric: RunningFabric) -> None:
    fabric.delegate("agent:giver", depth=1)
    fabric.delegate("agent:taker", giver="agent:giver")
    state = ("--state", str(fabric.state), "--reason", "test", "--by", "agent:giver")
    above = fabric.run("revoke", "delegation", "agent:giver", *state)
    assert "not-entitled" in above.stderr
    assert fabric.run("revoke", "--stop", "fabric", *state).returncode == 1
    assert fabric.run("revoke", "delegation", "agent:taker", *state).returncode == 0
    assert fabric.source(KONSTANZ, agent="agent:giver").token()
    with pytest.raises(AuthorityError, match="revoked"):
        fabric.source(KONSTANZ, agent="agent:taker").token()


def test_a_proof_of_possession_serves_once_also_across_a_restart_of_the_node(fabric: RunningFabric) -> None:
    holder, url = Keyring(fabric.state).get("agent:caller"), f"{fabric.base(KONSTANZ)}/.isochrone/token"
    proof = make_dpop(holder.key, method="POST", url=url, now_s=time.time(), jti=secrets.token_urlsafe(12))
    form = {
        "grant_type": GRANT_TYPE, "subject_token": join_chain(holder.chain), "subject_token_type": CHAIN_TOKEN_TYPE,
        "scope": "contract:anywhere",
    }  # fmt: skip

    def ask() -> httpx.Response:
        return httpx.post(url, data=form, headers={"dpop": proof}, timeout=5.0)

    assert ask().status_code == 200
    boot = fabric.report(KONSTANZ)["boot"]
    fabric.node(KONSTANZ).kill()
    until(lambda: fabric.report(KONSTANZ)["boot"] != boot, "the node is back")
    answer = until(lambda: found if (found := ask()).status_code < 500 else None, "it exchanges again")
    assert answer is not None
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")


# --- isochrone connect --------------------------------------------------------------------------------------------


class Connected:
    """`isochrone connect` in a process of its own."""

    def __init__(self, fabric: RunningFabric, *sites: str) -> None:
        self.base, self.key = f"http://127.0.0.1:{free_port()}", "local-key"
        fabric.token(KONSTANZ)
        words = [word for site in sites for word in ("--site", fabric.base(site))]
        self.process = fabric.spawn(
            "connect", "--as", "agent:caller", "--contract", "anywhere", "--listen", self.base.removeprefix("http://"),
            "--key", self.key, "--state", str(fabric.state), *words,
        )  # fmt: skip
        until(lambda: httpx.get(self.base, timeout=5.0).status_code == 401, "it listens")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="module")
def connected(fabric: RunningFabric) -> Iterator[Connected]:
    made = Connected(fabric, *SITES)
    yield made
    made.close()


def test_a_program_with_a_static_key_reaches_the_fabric(connected: Connected) -> None:
    for header in ({"authorization": f"Bearer {connected.key}"}, {"api-key": connected.key}):
        answer = httpx.post(f"{connected.base}{PATH}", json={"x": 1}, headers=header, timeout=10.0)
        assert (answer.status_code, answer.json()["answer"] in SITES) == (200, True)
        assert answer.headers["x-isochrone-execution"].count("/") == 1
    wrong = httpx.post(f"{connected.base}{PATH}", json={}, headers={"authorization": "Bearer guess"}, timeout=10.0)
    assert (wrong.status_code, wrong.json()["type"]) == (401, "urn:isochrone:refusal:key")
    assert httpx.get(f"{connected.base}/.isochrone/people", headers=header, timeout=5.0).status_code == 404


def test_streams_go_both_ways_and_refusals_come_through(connected: Connected) -> None:
    header = {"api-key": connected.key}

    def parts() -> Iterator[bytes]:
        for _ in range(5):
            yield b"x" * 1000
            time.sleep(0.02)

    sent = httpx.post(f"{connected.base}{PATH}", content=parts(), headers=header, timeout=10.0)
    assert sent.status_code == 200
    with httpx.stream("POST", f"{connected.base}/stream", json={}, headers=header, timeout=10.0) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        chunks = answer.iter_raw()
        assert [next(chunks) for _ in range(3)]
    refused = httpx.post(
        f"{connected.base}{PATH}", json={}, headers=header | {"x-isochrone-deadline-ms": "1"}, timeout=10.0
    )
    assert (refused.status_code, refused.headers["x-isochrone-refused"]) == (400, "deadline")


def test_a_lost_site_is_passed_over(fabric: RunningFabric) -> None:
    made = Connected(fabric, KONSTANZ, FRANKFURT)
    try:
        header = {"api-key": made.key}
        assert httpx.post(f"{made.base}{PATH}", json={}, headers=header, timeout=10.0).status_code == 200
        # The node would start it again at once.
        fabric.node(KONSTANZ).suspend()
        fabric.envoy(KONSTANZ).kill()
        try:
            answer = httpx.post(f"{made.base}{PATH}", json={}, headers=header, timeout=20.0)
            assert answer.status_code == 200
            assert answer.json()["answer"] in SITES
        finally:
            fabric.node(KONSTANZ).resume()
    finally:
        made.close()


def test_openai_and_requests_get_grants_by_themselves(fabric: RunningFabric, connected: Connected) -> None:
    openai = pytest.importorskip("openai")
    source = fabric.source(KONSTANZ)
    direct = openai.OpenAI(base_url=fabric.base(KONSTANZ), api_key=source.token, max_retries=0)
    local = openai.OpenAI(base_url=connected.base, api_key=connected.key, max_retries=0)
    for client in (direct, local):
        assert client.post(PATH, body={"x": 1}, cast_to=object)["answer"] in SITES


def test_requests_auth_exchanges_again_after_a_401(fabric: RunningFabric) -> None:
    requests = pytest.importorskip("requests", reason="requests is not installed")
    source = fabric.source(KONSTANZ)
    source._token = Token("stale", time.monotonic() + 60)
    answer = requests.post(f"{fabric.base(KONSTANZ)}{PATH}", json={"x": 1}, auth=RequestsAuth(source), timeout=10)
    assert (answer.status_code, [each.status_code for each in answer.history]) == (200, [401])
