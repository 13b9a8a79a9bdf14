"""Real Envoys under faults: revocation, full and dead sites, strangers among peers, wrong files, slow clients."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from isochrone.authority.grant import CLAIM_HEADERS, HOP_HEADERS, KEY_HEADERS
from isochrone.forward.snapshot import revocation_file
from isochrone.forward.xds import discovery
from isochrone.plan.plan import Rung, Share
from isochrone.serve.pki import Authority
from support.fabric_of_envoys import (
    FRANKFURT,
    KONSTANZ,
    PATH,
    SITES,
    ZURICH,
    Answer,
    CutShort,
    FabricOfEnvoys,
    even_routes,
    read_answer,
    running,
    until,
)

DEADLINE = "x-isochrone-deadline-ms"
EXECUTION = "x-isochrone-execution"
REFUSED = "x-isochrone-refused"
HERE = {DEADLINE: "12"}  # at this deadline a request runs at its own site


@pytest.fixture(scope="module")
def fabric() -> Iterator[FabricOfEnvoys]:
    with running() as fabric:
        yield fabric


@pytest.fixture
def changed(fabric: FabricOfEnvoys) -> Iterator[FabricOfEnvoys]:
    """The same fabric, to publish other files on: the next test finds the first ones again."""
    yield fabric
    fabric.publish()


def kind_of(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer
    assert answer.json["type"].rpartition(":")[2] == answer.headers[REFUSED]
    return str(answer.headers[REFUSED])


def edited(data: bytes, change: Callable[[list[dict[str, Any]]], None]) -> bytes:
    resources = json.loads(data)["resources"]
    change(resources)
    return discovery(resources)


@contextmanager
def held(fabric: FabricOfEnvoys, *sites: str) -> Iterator[None]:
    """Model servers that keep their answers back."""
    for site in sites:
        fabric.sites[site].model.hold.clear()
    try:
        yield
    finally:
        for site in sites:
            fabric.sites[site].model.hold.set()


# --- revocation ---------------------------------------------------------------------------------------------------

CLAIM_OF = {header: claim for claim, header in CLAIM_HEADERS.items()}


@pytest.fixture(scope="module")
def revoking() -> Iterator[FabricOfEnvoys]:
    """One id revoked in every header that can carry one."""
    deny = {header: frozenset({f"{header}-revoked"}) for header in (*HOP_HEADERS, *KEY_HEADERS)}
    deny |= {CLAIM_HEADERS["sub"]: frozenset({"human:eve"}), CLAIM_HEADERS["jti"]: frozenset({"grant-revoked"})}
    with running(KONSTANZ, deny=deny) as fabric:
        yield fabric


@pytest.mark.parametrize("header", [*HOP_HEADERS, *KEY_HEADERS])
def test_a_revoked_hop_or_key_is_denied_wherever_it_stands_in_the_chain(revoking: FabricOfEnvoys, header: str) -> None:
    claim = CLAIM_OF[header]
    assert revoking.call(headers=HERE, token=revoking.token(**{claim: "live"})).status == 200
    answer = revoking.call(headers=HERE, token=revoking.token(**{claim: f"{header}-revoked"}))
    assert (answer.status, kind_of(answer)) == (403, "denied")
    assert "revoked" in answer.json["detail"]


def test_a_revoked_human_and_a_revoked_grant_are_denied(revoking: FabricOfEnvoys) -> None:
    assert kind_of(revoking.call(headers=HERE, token=revoking.token(sub="human:eve"))) == "denied"
    assert kind_of(revoking.call(headers=HERE, token=revoking.token(jti="grant-revoked"))) == "denied"
    assert revoking.call(headers=HERE, token=revoking.token(sub="human:adam")).status == 200


def test_the_executing_site_denies_what_the_ingress_has_not_heard_of(fabric: FabricOfEnvoys) -> None:
    token = fabric.token(sites=f"|{FRANKFURT}|", h1="told-frankfurt-only")
    assert fabric.call(KONSTANZ, token).status == 200
    site = fabric.sites[FRANKFURT]
    site.put({"ecds/revocation.json": revocation_file({"x-isochrone-h1": frozenset({"told-frankfurt-only"})})})
    fabric.settle(FRANKFURT)
    answer = fabric.call(KONSTANZ, token)
    assert (answer.status, kind_of(answer)) == (403, "denied")
    assert answer.headers[EXECUTION].startswith(f"{FRANKFURT}/")
    site.put({"ecds/revocation.json": revocation_file({})})
    fabric.settle(FRANKFURT)
    assert fabric.call(KONSTANZ, token).status == 200


def test_a_revocation_comes_into_force_on_connections_that_stay_open(fabric: FabricOfEnvoys) -> None:
    token, site = fabric.token(h2="to-be-revoked"), fabric.sites[KONSTANZ]
    head = f"POST {PATH} HTTP/1.1\r\nhost: a\r\n{DEADLINE}: 12\r\ncontent-length: 0\r\n"
    head += f"authorization: Bearer {token}\r\n\r\n"
    counters = r"^http\.ingress\.downstream_cx_(total|destroy)$"
    with fabric.connect(KONSTANZ) as connection:

        def ask() -> int:
            connection.sendall(head.encode())
            return int(read_answer(connection).status)

        assert ask() == 200
        before = site.stats(counters)
        began_s = time.perf_counter()
        site.put({"ecds/revocation.json": revocation_file({"x-isochrone-h2": frozenset({"to-be-revoked"})})})
        asked = 0
        while ask() == 200:
            asked += 1
            assert time.perf_counter() - began_s < 10
        print(f"first 403 {1000 * (time.perf_counter() - began_s):.1f} ms after the write, {asked} requests before it")
        assert site.stats(counters) == before
    site.put({"ecds/revocation.json": revocation_file({})})
    fabric.settle(KONSTANZ)


# --- full sites ---------------------------------------------------------------------------------------------------


def test_a_full_site_refuses_at_once_and_says_that_it_is_full(changed: FabricOfEnvoys) -> None:
    changed.publish(limits={site: {"line-audio": 1} for site in SITES})
    token = changed.token(sites=f"|{KONSTANZ}|")
    with concurrent.futures.ThreadPoolExecutor(1) as pool, held(changed, KONSTANZ):
        seen = len(changed.sites[KONSTANZ].model.seen)
        first = pool.submit(changed.call, KONSTANZ, token)
        until(lambda: len(changed.sites[KONSTANZ].model.seen) > seen, "the first request runs")
        answer = changed.call(KONSTANZ, token)
        assert (answer.status, kind_of(answer)) == (503, "full")
        changed.sites[KONSTANZ].model.hold.set()
        assert first.result().status == 200
    assert changed.call(KONSTANZ, token).status == 200


def test_the_limit_counts_executions_wherever_they_came_in(changed: FabricOfEnvoys) -> None:
    changed.publish(limits={FRANKFURT: {"line-audio": 1}})
    token = changed.token(sites=f"|{FRANKFURT}|")
    with concurrent.futures.ThreadPoolExecutor(1) as pool, held(changed, FRANKFURT):
        seen = len(changed.sites[FRANKFURT].model.seen)
        first = pool.submit(changed.call, FRANKFURT, token)
        until(lambda: len(changed.sites[FRANKFURT].model.seen) > seen, "the first request runs")
        answer = changed.call(KONSTANZ, token)
        assert (answer.status, kind_of(answer)) == (503, "full")
        assert answer.headers[EXECUTION].startswith(f"{FRANKFURT}/")
        changed.sites[FRANKFURT].model.hold.set()
        assert first.result().status == 200


def remote_first(site: str) -> dict[str, tuple[Rung, ...]]:
    """All of 20 ms goes to Frankfurt, then Zurich, then here."""
    return even_routes(site) | {"line-audio": (Rung(20.0, (Share(FRANKFURT, 1.0),), (ZURICH, KONSTANZ), tries=3),)}


def test_what_a_full_peer_refuses_spills_to_the_next_site_of_the_chain(changed: FabricOfEnvoys) -> None:
    changed.publish(routes=remote_first, limits={FRANKFURT: {"line-audio": 1}})
    with concurrent.futures.ThreadPoolExecutor(1) as pool, held(changed, FRANKFURT):
        seen = len(changed.sites[FRANKFURT].model.seen)
        first = pool.submit(changed.call, KONSTANZ)
        until(lambda: len(changed.sites[FRANKFURT].model.seen) > seen, "the first request runs")
        assert [changed.call(KONSTANZ).site for _ in range(5)] == [ZURICH] * 5
        changed.sites[FRANKFURT].model.hold.set()
        assert first.result().site == FRANKFURT


def test_a_body_spills_whole(changed: FabricOfEnvoys) -> None:
    changed.publish(routes=remote_first, limits={FRANKFURT: {"line-audio": 0}, ZURICH: {"line-audio": 0}})
    answer = changed.call(KONSTANZ, body=b"x" * 3_000_000)
    assert answer.site == KONSTANZ
    assert changed.sites[KONSTANZ].model.seen[-1].body_bytes == 3_000_000


def test_a_limit_of_none_at_all_is_a_limit(changed: FabricOfEnvoys) -> None:
    changed.publish(limits={KONSTANZ: {"line-audio": 0}})
    assert kind_of(changed.call(KONSTANZ, changed.token(sites=f"|{KONSTANZ}|"))) == "full"


# --- dead sites ---------------------------------------------------------------------------------------------------


def taken_back(fabric: FabricOfEnvoys) -> None:
    """Wait until Konstanz, which has ejected Frankfurt for a few seconds, tries it again and holds it for healthy."""
    token, gauge = (
        fabric.token(sites=f"|{FRANKFURT}|"),
        r"^cluster\.peer/frankfurt\.outlier_detection\.ejections_active$",
    )

    def settled() -> bool:
        answered = fabric.call(KONSTANZ, token).status == 200
        return answered and not any(fabric.sites[KONSTANZ].stats(gauge).values())

    until(settled, "Frankfurt is taken back", timeout_s=20)


def test_a_killed_peer_loses_no_request_of_the_chain(fabric: FabricOfEnvoys) -> None:
    """Small requests that have not been answered are sent again; what was answered is answered once. Only an answer
    that was being passed on at that moment may be cut short: there is no taking back what the client has."""
    fabric.publish(routes=remote_first)
    stop, answers, cut, lost = threading.Event(), list[Answer](), list[Answer](), list[Exception]()

    def load() -> None:
        token = fabric.token()
        while not stop.is_set():
            try:
                answers.append(fabric.call(KONSTANZ, token))
            except CutShort as short:
                cut.append(short.answer)
            except Exception as error:
                lost.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        until(lambda: len(answers) > 50, "requests run")
        fabric.sites[FRANKFURT].kill()
        at = len(answers)
        until(lambda: len(answers) > at + 100, "requests run on")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        fabric.publish()
        fabric.start(FRANKFURT)
        taken_back(fabric)
    assert lost == []
    assert [(answer.status, answer.headers, answer.body) for answer in answers if answer.status != 200] == []
    assert {FRANKFURT, ZURICH} <= {answer.site for answer in answers}
    # At most what each thread had in flight, once, and of the site that was killed.
    assert len(cut) <= len(threads)
    assert all((answer.status, executing(answer)) == (200, FRANKFURT) for answer in cut), cut


def executing(answer: Answer) -> str:
    return answer.headers[EXECUTION].partition("/")[0]


def test_an_answer_through_a_killed_peer_is_cut_and_seen_to_be(changed: FabricOfEnvoys) -> None:
    """Neither sent again nor ended as if it were whole, and the ingress's journal says that it was not."""
    changed.publish(routes=remote_first)
    model = changed.sites[FRANKFURT].model
    model.hold_rest.clear()
    seen = {name: len(site.model.seen) for name, site in changed.sites.items()}
    try:
        with changed.connect(KONSTANZ) as connection:
            head = f"POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nauthorization: Bearer {changed.token()}"
            connection.sendall(f"{head}\r\n\r\n".encode())
            connection.recv(1, socket.MSG_PEEK)
            changed.sites[FRANKFURT].kill()
            with pytest.raises(CutShort) as cut:
                read_answer(connection)
    finally:
        model.hold_rest.set()
        changed.start(FRANKFURT)
        taken_back(changed)
    answer = cut.value.answer
    assert (answer.status, executing(answer)) == (200, FRANKFURT)
    assert {name: len(site.model.seen) - seen[name] for name, site in changed.sites.items() if name != FRANKFURT} == {
        KONSTANZ: 0,
        ZURICH: 0,
    }
    end = changed.sites[KONSTANZ].journal_end(answer.headers[EXECUTION])
    assert end["detail"].startswith("upstream_reset_after_response_started"), end


def test_a_peer_held_for_down_is_passed_over(changed: FabricOfEnvoys) -> None:
    changed.publish(routes=remote_first, down=frozenset({FRANKFURT}))
    assert {changed.call(KONSTANZ).site for _ in range(5)} == {ZURICH}


def test_no_site_left_is_a_refusal_that_may_be_tried_again(changed: FabricOfEnvoys) -> None:
    changed.publish(KONSTANZ, down=frozenset({FRANKFURT, ZURICH}), replicas={})
    answer = changed.call(KONSTANZ)
    assert (answer.status, kind_of(answer)) == (503, "unavailable")


# --- strangers among peers ----------------------------------------------------------------------------------------


def handover(fabric: FabricOfEnvoys, context: ssl.SSLContext) -> bytes:
    """The first frame a handover listener sends, which is its settings if it accepts the certificate."""
    address = fabric.sites[FRANKFURT].peer
    with socket.create_connection((address.host, address.port), timeout=5) as plain:
        with context.wrap_socket(plain) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            frame = connection.recv(9)
    if not frame:
        raise ConnectionError("closed without a word")
    return frame


def test_a_site_of_the_fabric_may_hand_over(fabric: FabricOfEnvoys) -> None:
    settings = handover(fabric, fabric.client_tls("spiffe://lakeside/site/konstanz"))
    assert settings[3] == 4


@pytest.mark.parametrize(
    "uri", [None, "spiffe://other/site/konstanz", "spiffe://lakeside/hub", "https://lakeside/site/x"]
)
def test_nobody_else_may_hand_over(fabric: FabricOfEnvoys, uri: str | None) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handover(fabric, fabric.client_tls(uri))


def test_a_certificate_of_another_authority_may_not_hand_over(fabric: FabricOfEnvoys) -> None:
    other = Authority.create("lakeside", dt.datetime.now(dt.UTC))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handover(fabric, fabric.client_tls("spiffe://lakeside/site/konstanz", other))


def test_a_handover_listener_speaks_nothing_in_the_clear(fabric: FabricOfEnvoys) -> None:
    address = fabric.sites[FRANKFURT].peer
    with socket.create_connection((address.host, address.port), timeout=5) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        with suppress(ConnectionError):
            assert not connection.recv(100).startswith(b"HTTP")


def impostor(answering: FabricOfEnvoys, **certificate: Any) -> Answer:
    """Frankfurt comes back with another certificate; Konstanz is asked to send it a request."""
    site = answering.sites[FRANKFURT]
    site.kill()
    answering.identify(site, **certificate)
    try:
        answering.start(FRANKFURT)
        seen = len(site.model.seen)
        answer = answering.call(KONSTANZ, answering.token(sites=f"|{FRANKFURT}|"))
        assert len(site.model.seen) == seen
        return answer
    finally:
        site.kill()
        answering.identify(site)
        answering.start(FRANKFURT)
        taken_back(answering)


def test_a_site_with_the_name_of_another_gets_nothing(fabric: FabricOfEnvoys) -> None:
    answer = impostor(fabric, uri=f"spiffe://lakeside/site/{ZURICH}")
    assert (answer.status, kind_of(answer)) == (503, "unavailable")


def test_a_site_of_another_fabric_gets_nothing(fabric: FabricOfEnvoys) -> None:
    answer = impostor(fabric, authority=Authority.create("lakeside", dt.datetime.now(dt.UTC)))
    assert (answer.status, kind_of(answer)) == (503, "unavailable")


# --- wrong files --------------------------------------------------------------------------------------------------


def test_a_route_forced_out_of_bounds_meets_the_lock(fabric: FabricOfEnvoys) -> None:
    """Routes and chain are changed by hand to hand over to Zurich, which the bounds do not allow."""

    def to_zurich(_: str, files: dict[str, bytes]) -> dict[str, bytes]:
        def chain(clusters: list[dict[str, Any]]) -> None:
            for cluster in clusters:
                if cluster["name"].startswith("chain/bounded-audio/"):
                    cluster["cluster_type"]["typed_config"]["clusters"] = [f"peer/{ZURICH}"]

        return files | {"cds/clusters.json": edited(files["cds/clusters.json"], chain)}

    seen = len(fabric.sites[ZURICH].model.seen)
    fabric.publish(KONSTANZ, edit=to_zurich)
    try:
        answer = fabric.call(KONSTANZ, fabric.token(ctr="bounded-audio"))
        assert (answer.status, kind_of(answer)) == (403, "denied")
        assert len(fabric.sites[ZURICH].model.seen) == seen
    finally:
        fabric.publish(KONSTANZ)
    assert fabric.call(KONSTANZ, fabric.token(ctr="bounded-audio")).status == 200


def test_a_chain_of_another_contract_does_not_open_the_bounds(fabric: FabricOfEnvoys) -> None:
    """Even where the route leads to a chain whose lock lets Zurich through, Zurich itself refuses."""

    def mixed(_: str, files: dict[str, bytes]) -> dict[str, bytes]:
        def route(routes: list[dict[str, Any]]) -> None:
            for rule in routes[0]["virtual_hosts"][0]["routes"]:
                if "bounded-audio" in json.dumps(rule["match"]) and "route" in rule:
                    rule["route"].pop("weighted_clusters", None)
                    rule["route"]["cluster"] = f"chain/line-audio/{ZURICH}"

        return files | {"rds/ingress.json": edited(files["rds/ingress.json"], route)}

    seen = len(fabric.sites[ZURICH].model.seen)
    fabric.publish(KONSTANZ, edit=mixed)
    try:
        answer = fabric.call(KONSTANZ, fabric.token(ctr="bounded-audio"))
        assert (answer.status, kind_of(answer)) == (404, "unknown")
        assert len(fabric.sites[ZURICH].model.seen) == seen
    finally:
        fabric.publish(KONSTANZ)


@pytest.mark.parametrize(
    "file", ["rds/ingress.json", "lds/listeners.json", "ecds/revocation.json", "cds/clusters.json"]
)
def test_a_rejected_file_keeps_the_last_good_one(fabric: FabricOfEnvoys, file: str) -> None:
    site = fabric.sites[KONSTANZ]
    good = site.written[file]
    before = site.rejections()

    def spoil(resources: list[dict[str, Any]]) -> None:
        resources[0]["no_such_field"] = 1

    site.put({file: edited(good, spoil)})
    try:
        until(lambda: site.rejections() > before, "the file is rejected")
        assert not site.in_force()
        assert fabric.call(KONSTANZ, headers={DEADLINE: "12"}).site == KONSTANZ
        assert kind_of(fabric.call(KONSTANZ, token=None)) == "grant"
    finally:
        site.put({file: good})
        fabric.settle(KONSTANZ)


# --- model servers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [KONSTANZ, FRANKFURT])
def test_a_model_server_sees_no_grant(fabric: FabricOfEnvoys, target: str) -> None:
    taken_back(fabric)
    assert fabric.call(KONSTANZ, fabric.token(sites=f"|{target}|")).site == target
    assert "authorization" not in fabric.sites[target].model.seen[-1].names()


@pytest.mark.parametrize("target", [KONSTANZ, FRANKFURT])
def test_a_model_server_cannot_speak_for_the_fabric(fabric: FabricOfEnvoys, target: str) -> None:
    taken_back(fabric)
    model = fabric.sites[target].model
    names = (EXECUTION, REFUSED, "x-isochrone-plan")
    model.extra_headers = [(name, "full" if name == REFUSED else "forged") for name in names]
    try:
        answer = fabric.call(KONSTANZ, fabric.token(sites=f"|{target}|"))
    finally:
        model.extra_headers = []
    assert answer.site == target
    assert answer.headers[EXECUTION].startswith(f"{target}/")
    assert answer.headers["x-isochrone-plan"] == "7"
    assert REFUSED not in answer.headers


# --- slow clients -------------------------------------------------------------------------------------------------


def hurried(_: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """The compiled time limits, made short enough for a test."""

    def shorten(listeners: list[dict[str, Any]]) -> None:
        config = listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
        assert {"request_headers_timeout", "request_timeout", "stream_idle_timeout"} <= set(config)
        config |= {"request_headers_timeout": "0.4s", "request_timeout": "0.8s"}

    return files | {"lds/listeners.json": edited(files["lds/listeners.json"], shorten)}


@pytest.mark.parametrize("dribbled", ["head", "body"])
def test_a_client_that_dribbles_is_cut_with_a_reason_and_holds_nothing(fabric: FabricOfEnvoys, dribbled: str) -> None:
    site = fabric.sites[KONSTANZ]
    fabric.publish(KONSTANZ, edit=hurried)
    whole = f"POST {PATH} HTTP/1.1\r\nhost: a\r\n{DEADLINE}: 12\r\nauthorization: Bearer {fabric.token()}\r\n"
    whole += "content-length: 100000\r\n"
    gauges = r"^(http\.ingress\.downstream_rq_active|cluster\.chain/line-audio/.*upstream_rq_active)$"
    try:
        with fabric.connect(KONSTANZ) as connection:
            connection.sendall(whole.encode() + (b"\r\n" if dribbled == "body" else b""))
            connection.settimeout(0.05)
            answer = None
            for _ in range(200):
                connection.sendall(b"x" if dribbled == "body" else b"x: y\r\n")
                try:
                    if connection.recv(1, socket.MSG_PEEK):
                        connection.settimeout(5)
                        answer = read_answer(connection)
                        break
                except TimeoutError:
                    pass
            assert answer is not None
            assert (answer.status, kind_of(answer)) == (408, "slow")
        until(lambda: not any(site.stats(gauges).values()), "no request is held")
    finally:
        fabric.publish(KONSTANZ)
