"""What the node is asked before a request is forwarded: full Cedar, whole chains, and records that are there first."""

from __future__ import annotations

import json
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from isochrone.authority.grant import tag
from isochrone.authority.jose import PrivateKey, b64u_decode, sign_compact
from support.fabric import PATH, POLICY, SITES, RunningFabric, running_fabric, until

KONSTANZ, FRANKFURT = SITES
WATCHED = """
  watched:
    workload: echo
    in_time: {quantile: 0.9, objective_ms: 500}
    on_record: {evidence: synchronous}
    demand_rps: {konstanz: 5, frankfurt: 5}
  watched-lakeside:
    workload: echo
    in_time: {quantile: 0.9, objective_ms: 500}
    in_bounds: {sites: [konstanz]}
    on_record: {evidence: synchronous}
    demand_rps: {konstanz: 5}
"""
# No header carries the ingress's vendor: the proxy cannot decide this, for this one contract.
FROM_HERE = """
@id("from-here")
forbid (principal, action == Action::"execute", resource)
when {
  context.contract == Contract::"lakeside" && context has ingress && context.ingress.vendor == "mainkraft"
};
"""


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("a"), contracts=WATCHED, policy=POLICY + FROM_HERE) as running:
        yield running


def authorizations(fabric: RunningFabric, site: str) -> list[dict[str, Any]]:
    return [record for record in fabric.entries(site) if record["kind"] == "authorization"]


def identifier(answer: httpx.Response) -> str:
    return answer.headers["x-isochrone-execution"].rpartition("/")[2]


def served(fabric: RunningFabric) -> dict[str, int]:
    """Executions by site: a refusal adds none, wherever the plan would have sent it."""
    return {site: model.served for site, model in fabric.models.items()}


def recorded(fabric: RunningFabric, site: str, execution: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        return next((each for each in authorizations(fabric, site) if each["id"] == execution), None)

    record = until(found, f"the verdict on {execution} is recorded at {site}")
    assert record is not None
    return record


# --- policies that no proxy can decide ----------------------------------------------------------------------------


def test_what_no_header_says_is_decided_by_the_node_with_its_reason(fabric: RunningFabric) -> None:
    allowed, denied = (fabric.call(site, "lakeside") for site in SITES)
    assert allowed.status_code == 200
    assert (denied.status_code, denied.headers["x-isochrone-refused"]) == (403, "denied")
    assert denied.headers["content-type"] == "application/problem+json"
    assert "from-here" in denied.json()["detail"]
    record = recorded(fabric, KONSTANZ, identifier(denied))
    assert (record["verdict"], record["role"], record["reasons"]) == ("deny", "peer", ["forbid from-here"])
    assert record["under"]["policy"].startswith("sha256:")
    assert record["who"]["human"] == "human:operator"
    assert recorded(fabric, KONSTANZ, identifier(allowed))["verdict"] == "allow"


def test_what_the_proxy_can_decide_does_not_go_to_the_node(fabric: RunningFabric) -> None:
    answer = fabric.call(KONSTANZ)
    assert answer.status_code == 200
    fabric.wait_recorded(answer.headers["x-isochrone-execution"])
    assert identifier(answer) not in {record["id"] for record in authorizations(fabric, KONSTANZ)}


@pytest.mark.parametrize(
    "name", ["x-isochrone-ingress", "x-isochrone-meant", "x-request-id", "x-envoy-auth-partial-body"]
)
def test_a_client_cannot_say_what_the_node_believes(fabric: RunningFabric, name: str) -> None:
    headers = {"authorization": f"Bearer {fabric.token(FRANKFURT, 'lakeside')}", name: KONSTANZ}
    answer = httpx.post(fabric.base(FRANKFURT) + PATH, json={}, headers=headers, timeout=15.0)
    assert answer.status_code == 403, answer.text


def test_a_client_does_not_reach_the_endpoint(fabric: RunningFabric) -> None:
    """Not through Envoy by any path, and not past it: it is a socket that only the site's own user may open."""
    host, port = fabric.base(KONSTANZ).removeprefix("http://").split(":")
    for path in (
        "/ingress/authorize-here/infer", "/peer/authorize-here/infer", "/.isochrone/authorize-here",
        "/.isochrone/../peer/x", "/.isochrone/%2e%2e/ingress/authorize-here/", "//ingress/authorize-there/",
    ):  # fmt: skip
        with socket.create_connection((host, int(port)), 5.0) as raw:
            raw.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            assert int(raw.makefile("rb").readline().split()[1]) in (400, 401, 404), path
    recorded(fabric, KONSTANZ, identifier(fabric.call(FRANKFURT, "lakeside")))  # and whatever was asked before
    assert {record["request"]["path"] for record in authorizations(fabric, KONSTANZ)} <= {PATH}


def test_the_socket_is_the_sites_own(fabric: RunningFabric) -> None:
    found = list((fabric.state / "sites" / KONSTANZ / "envoy").rglob("node.sock"))
    for path in found:  # in a directory of its own where the state's path is too long for a socket
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


# --- records that are there first ---------------------------------------------------------------------------------


def test_the_admission_is_on_disk_before_the_answer(fabric: RunningFabric) -> None:
    answer = fabric.call(FRANKFURT, "watched", fabric.token(KONSTANZ, "watched"))
    assert answer.status_code == 200, answer.text
    record = recorded(fabric, FRANKFURT, identifier(answer))
    assert (record["verdict"], record["evidence"], record["role"]) == ("allow", "synchronous", "ingress")
    assert fabric.run("trace", answer.headers["x-isochrone-execution"], "--state", str(fabric.state)).returncode == 0


def forged(fabric: RunningFabric, contract: str, **claims: Any) -> str:
    """A grant that a hostile site signs with its own enrolled key."""
    token = fabric.token(FRANKFURT, contract)
    key = PrivateKey.from_pem((fabric.state / "sites" / FRANKFURT / "grant.key").read_bytes())
    true = json.loads(b64u_decode(token.split(".")[1]))
    return sign_compact({**true, **claims}, key, typ="at+jwt", kid=tag(key.public.thumbprint))


@pytest.mark.parametrize(
    "claims", [{"chd": "A" * 43, "jti": "none"}, {"sub": "human:somebody"}, {"act": {"sub": "agent:other"}}, {"dep": 2}]
)
def test_a_grant_of_a_hostile_site_has_no_chain_behind_it(fabric: RunningFabric, claims: dict[str, Any]) -> None:
    """Where the contract only streams its evidence this is found later, by tracing; here nothing is executed."""
    assert fabric.call(KONSTANZ, token=forged(fabric, "anywhere", **claims)).status_code == 200
    before = served(fabric)
    answer = fabric.call(KONSTANZ, token=forged(fabric, "watched", **claims))
    assert (answer.status_code, answer.headers["x-isochrone-refused"]) == (403, "denied"), answer.text
    assert served(fabric) == before


def test_while_the_node_does_not_answer_nothing_is_executed_that_needs_it(fabric: RunningFabric) -> None:
    node = fabric.node(KONSTANZ)
    watched, plain = fabric.token(KONSTANZ, "watched"), fabric.token(KONSTANZ)
    node.send_signal(signal.SIGSTOP)
    try:
        before = served(fabric)
        answer = fabric.call(KONSTANZ, token=watched)
        assert (answer.status_code, answer.headers["x-isochrone-refused"]) == (503, "unavailable")
        assert served(fabric) == before
        assert fabric.call(KONSTANZ, token=plain).status_code == 200
    finally:
        node.send_signal(signal.SIGCONT)
    until(lambda: fabric.call(KONSTANZ, token=watched).status_code == 200, "it answers again")


class Callers:
    """Several clients of one contract at once, until stopped."""

    def __init__(self, fabric: RunningFabric, contract: str, count: int) -> None:
        self._end, token = threading.Event(), fabric.token(KONSTANZ, contract)

        def call() -> None:
            while not self._end.is_set():
                try:
                    fabric.call(KONSTANZ, contract, token)
                except httpx.HTTPError:
                    time.sleep(0.01)

        self._threads = [threading.Thread(target=call, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def watched(fabric: RunningFabric) -> httpx.Response | None:
    answer = fabric.call(KONSTANZ, "watched-lakeside")
    return answer if answer.status_code == 200 else None


def test_a_node_that_is_killed_leaves_nothing_executed_without_its_admission(fabric: RunningFabric) -> None:
    """Killed with -9 between admission and outcome, again and again: what the model served is in the log.

    The contract is bound to the site, as its traffic may well stay where it went while the site was away."""
    model = fabric.models[KONSTANZ]
    for _ in range(2):
        first = len(model.ids)
        callers = Callers(fabric, "watched-lakeside", 8)
        try:
            until(lambda first=first: len(model.ids) > first + 30, "requests are served")
            fabric.node(KONSTANZ).kill()
        finally:
            callers.stop()
        answer = until(lambda: watched(fabric), "the site serves again")
        recorded(fabric, KONSTANZ, identifier(answer))  # and all that was durable before
        admitted = {each["id"] for each in authorizations(fabric, KONSTANZ) if each["verdict"] == "allow"}
        executed = set(model.ids[first:])
        assert len(executed) > 30
        assert executed <= admitted, executed - admitted
