"""Sites and whoever poses as one: what a token, a certificate and a place on the roster are good for, and for how long.

One fabric of roles started apart, whose sites' certificates live for eight seconds, so that every test runs through
renewals. What is refused is refused by the real hub, bus and Envoys.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from isochrone.authority.delegation import CHAIN_TOKEN_TYPE, join_chain
from isochrone.authority.exchange import GRANT_TYPE
from isochrone.authority.jose import PrivateKey, b64u_decode, b64u_encode
from isochrone.errors import AuthorityError, InputError, IsochroneError, PeerError
from isochrone.serve import mailbox
from isochrone.serve.admission import Admission
from isochrone.serve.bus import Bus
from isochrone.serve.client import GrantSource
from isochrone.serve.enrolment import JoinToken, hub_name
from isochrone.serve.envoy import socket_dir
from isochrone.serve.home import HubHome, SiteHome, bus_name
from isochrone.serve.hub_link import ask_to_join, ask_to_renew
from isochrone.serve.joining import join, renew
from isochrone.serve.keyring import Keyring
from isochrone.serve.pki import Authority, agent_certificate
from isochrone.serve.tls import TlsFiles
from support.fabric import PATH, SITES, RunningFabric, free_ports, until

pytestmark = pytest.mark.timeout(180)

KONSTANZ, FRANKFURT = SITES
LIFE_S = 8


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    made = RunningFabric.make(tmp_path_factory.mktemp("sites"))
    # Clients reach Frankfurt by TLS, and Konstanz, on loopback, without.
    made.secure = frozenset({FRANKFURT})
    text = made.path.read_text()
    made.path.write_text(text.replace("frankfurt: {tier", "frankfurt: {tls: {names: [localhost]}, tier"))
    try:
        bus, sites, api = free_ports(3)
        where = ["--bus", f"127.0.0.1:{bus}", "--hub", f"127.0.0.1:{sites}", "--state", str(made.state)]
        enrolled = made.run("enrol", str(made.path), *where)
        assert enrolled.returncode == 0, enrolled.stderr
        life = ["--certificate-life-s", str(LIFE_S)]
        made.spawn("hub", str(made.path), "--state", str(made.state), "--api", f"127.0.0.1:{api}", *life)
        until(made.status, f"the hub answers\n{made.output}")
        for line in enrolled.stdout.splitlines():
            words = line.split()[1:-1]
            assert made.run(*words, str(made.state / "sites" / line.split()[-1])).returncode == 0, made.output
        for site in SITES:
            made.spawn("node", "--site", site, "--state", str(made.state))
        until(lambda: len(made.status()["sites"]) == 2, f"both sites report\n{made.output}")
        made.wait_up()
        yield made
    finally:
        made.close()


def hub_of(fabric: RunningFabric) -> HubHome:
    return HubHome(fabric.state / "hub", "pair")


def site_of(fabric: RunningFabric, site: str) -> SiteHome:
    return SiteHome(fabric.state / "sites" / site)


def refused(token: JoinToken, home: Path) -> str:
    """The code with which joining by `token` is refused; the directory is then no site's."""
    with pytest.raises(IsochroneError) as caught:
        join(SiteHome(home), token, partial(ask_to_join, token))
    assert not (home / "site.json").exists()
    return caught.value.code


@contextlib.contextmanager
def relay_with_own_certificate(folder: Path, authority: bytes, heard: list[bytes]) -> Iterator[int]:
    """A server that shows a certificate of its own making and answers every request with `authority`."""
    made = Authority.create("relay", dt.datetime.now(dt.UTC)).issue(
        "spiffe://pair/hub", dt.datetime.now(dt.UTC), names=[hub_name("pair")]
    )
    (folder / "relay.pem").write_bytes(made.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "relay.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                with context.wrap_socket(plain, server_side=True) as connection:
                    heard.append(connection.recv(65536))
                    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(authority)}\r\nconnection: close\r\n\r\n"
                    connection.sendall(head.encode() + authority)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def on_the_bus(fabric: RunningFabric, name: str, tls: TlsFiles, scene: Callable[[Bus], Awaitable[None]]) -> None:
    """Run a scene as a party of the fabric's bus, which must let it in within a second."""

    async def main() -> None:
        async with Bus(f"tls://{hub_of(fabric).addresses()['bus']}", name=name, tls=tls, timeout_s=1.0) as bus:
            await bus.wait_connected(1.5)
            await scene(bus)

    asyncio.run(main())


def reported_again(fabric: RunningFabric) -> None:
    """Wait until every site has used the bus, to write and to hear, more than once."""
    before = {site: report["at_s"] for site, report in fabric.status()["sites"].items()}

    def newer() -> bool:
        return all(fabric.status()["sites"][site]["at_s"] > at_s + 1 for site, at_s in before.items())

    until(newer, "every site reports again")


async def nothing(_: Bus) -> None:
    return None


def peer_address(fabric: RunningFabric, site: str) -> tuple[str, int]:
    host, _, port = json.loads((site_of(fabric, site).root / "ports.json").read_bytes())["peer"].partition(":")
    return host, int(port)


def hands_over(fabric: RunningFabric, site: str, tls: TlsFiles) -> bytes | None:
    """The certificate (DER) of a site's handover listener, when it takes a connection that shows `tls`."""
    try:
        with socket.create_connection(peer_address(fabric, site), timeout=5) as plain:
            with tls.client(names=False).wrap_socket(plain) as connection:
                connection.sendall(b"GET /.isochrone/probe HTTP/1.1\r\nhost: a\r\n\r\n")
                return connection.getpeercert(binary_form=True) if connection.recv(9) == b"HTTP/1.1 " else None
    except (ssl.SSLError, ConnectionError):
        return None


def peer_certificate(fabric: RunningFabric, site: str) -> bytes:
    """The certificate that a site's Envoy shows to other sites now."""
    shown = hands_over(fabric, site, site_of(fabric, site).tls)
    assert shown is not None
    return shown


def connections_opened(fabric: RunningFabric, site: str, to: str) -> int:
    """How many connections a site's Envoy has opened to another site since it started."""
    admin = httpx.HTTPTransport(uds=str(socket_dir(site_of(fabric, site).root.absolute() / "envoy") / "admin.sock"))
    with httpx.Client(transport=admin, base_url="http://envoy") as client:
        name = f"cluster.peer/{to}.upstream_cx_total"
        stats = client.get("/stats", params={"filter": f"^{name}$"}).text
    return int(stats.partition(": ")[2])


# --- join tokens --------------------------------------------------------------------------------------------------


def test_a_join_token_used_twice_lets_in_the_first_only(fabric: RunningFabric, tmp_path: Path) -> None:
    token = Admission(hub_of(fabric)).invite("nowhere")
    first = SiteHome(tmp_path / "first")
    join(first, token, partial(ask_to_join, token))
    assert refused(token, tmp_path / "second") == "join.used"
    assert hub_of(fabric).roster()["nowhere"].items() >= first.roster_entry("pair", "nowhere").items()
    assert "nowhere" not in fabric.status()["vkeys"], "no act admits it, so nobody believes it"
    # An answer that was lost can be asked for again, with the same keys.
    join(first, token, partial(ask_to_join, token))
    assert fabric.run("enrol", "--remove", "nowhere", "--state", str(fabric.state)).returncode == 0
    assert refused(token, tmp_path / "third") == "join.unknown"


def test_a_stale_join_token_is_refused_here_and_at_the_hub(fabric: RunningFabric, tmp_path: Path) -> None:
    stale = Admission(hub_of(fabric)).invite("nowhere", life_s=-5)
    late = fabric.run("join", stale.encode(), "--home", str(tmp_path / "late"))
    assert (late.returncode, "lapsed" in late.stderr) == (1, True)
    assert refused(replace(stale, exp_s=int(time.time()) + 60), tmp_path / "altered") == "join.expired"


def test_a_join_token_replaced_by_a_newer_one_is_refused(fabric: RunningFabric, tmp_path: Path) -> None:
    older, _ = Admission(hub_of(fabric)).invite("nowhere"), Admission(hub_of(fabric)).invite("nowhere")
    assert refused(older, tmp_path / "older") == "join.unknown"


def test_a_tampered_join_token_opens_nothing(fabric: RunningFabric, tmp_path: Path) -> None:
    token = Admission(hub_of(fabric)).invite("nowhere")
    before = hub_of(fabric).roster()
    tampered = {
        "the site": (replace(token, site=FRANKFURT), "join.unknown"),
        "the fabric": (replace(token, fabric="other"), "join.unreachable"),  # the hub is not called hub.other...
        "the authority": (replace(token, authority="0" * 64), "join.impostor"),
        "the hub's key": (replace(token, hub_key="A" * 43), "join.impostor"),
        "the secret": (replace(token, secret="A" * 43), "join.unknown"),
    }
    for number, (what, (each, code)) in enumerate(tampered.items()):
        if what != "the hub's key":
            assert refused(each, tmp_path / str(number)) == code, what
    assert hub_of(fabric).roster() == before
    assert refused(tampered["the hub's key"][0], tmp_path / "last") == "join.impostor"
    Admission(hub_of(fabric)).remove("nowhere")


def test_a_join_token_that_was_cut_or_mistyped_is_no_token(fabric: RunningFabric, tmp_path: Path) -> None:
    word = Admission(hub_of(fabric)).invite("nowhere").encode()
    answer = fabric.run("join", word[:-1], "--home", str(tmp_path / "cut"))
    assert (answer.returncode, "not a join token" in answer.stderr) == (1, True), answer.stderr
    for wrong in (word[1:], word.replace("a", "b", 3), "", "isochrone-join-", "eyJhbGciOi", "x" * 5000):
        with pytest.raises(InputError, match="not a join token"):
            JoinToken.parse(wrong, time.time())


def test_a_join_token_of_another_fabric_does_not_open_this_one(fabric: RunningFabric, tmp_path: Path) -> None:
    other = HubHome.open(tmp_path / "other", "pair")
    other.save_addresses(**hub_of(fabric).addresses())
    foreign = Admission(other).invite("nowhere")
    assert foreign.hub == Admission(hub_of(fabric)).invite("nowhere").hub
    assert refused(foreign, tmp_path / "foreign") == "join.impostor"


def test_the_secret_goes_to_nobody_but_the_hub(fabric: RunningFabric, tmp_path: Path) -> None:
    """Somebody in between relays the authority's certificate, and has none of it: no secret is sent."""
    heard: list[bytes] = []
    token = Admission(hub_of(fabric)).invite("nowhere")
    with relay_with_own_certificate(tmp_path, hub_of(fabric).authority.certificate, heard) as port:
        assert refused(replace(token, hub=f"127.0.0.1:{port}"), tmp_path / "site") == "join.unreachable"
    assert any(b"GET /authority" in each for each in heard)
    assert not any(b"POST" in each for each in heard)


def test_a_sites_request_signed_by_nobody_known_renews_nothing(fabric: RunningFabric, tmp_path: Path) -> None:
    """Whoever learned a site's name, or made a directory like its own, has none of its keys."""
    posing = SiteHome(tmp_path / "posing")
    posing.make_keys()
    posing.save_document(site_of(fabric, FRANKFURT).document())
    (posing.identity / "trust.pem").write_bytes((site_of(fabric, FRANKFURT).identity / "trust.pem").read_bytes())
    with pytest.raises(IsochroneError) as caught:
        renew(posing, partial(ask_to_renew, posing))
    assert caught.value.code == "renew.unknown"


def test_an_altered_request_is_refused(fabric: RunningFabric) -> None:
    address, trust = hub_of(fabric).addresses()["sites"], hub_of(fabric).tls.trust
    sent: list[str] = []

    def ask(text: str) -> dict[str, Any]:
        sent.append(text)
        return ask_to_renew(site_of(fabric, KONSTANZ), text)

    renew(site_of(fabric, KONSTANZ), ask)
    header, body, signature = sent[0].split(".")
    claims = json.loads(b64u_decode(body))
    other = Authority.create("x", dt.datetime.now(dt.UTC)).issue("spiffe://x", dt.datetime.now(dt.UTC))
    changes = ({"site": FRANKFURT}, {"csr": other.certificate.decode()}, {"iat": 0}, {"fabric": "other"})
    forged = [b64u_encode(json.dumps(claims | change).encode()) for change in changes]
    with httpx.Client(verify=ssl.create_default_context(cafile=str(trust)), timeout=5) as client:
        for text in (*(f"{header}.{body}.{signature}" for body in forged), "no request", "é", "x" * 20_000):
            known = {"sni_hostname": hub_name("pair")}
            answer = client.send(
                client.build_request("POST", f"https://{address}/renew", content=text, extensions=known)
            )
            assert answer.status_code == 400, (text, answer.text)


# --- certificates -------------------------------------------------------------------------------------------------


def test_nothing_is_lost_while_certificates_are_renewed(fabric: RunningFabric) -> None:
    """Both sites renew twice while requests are handed over, on kept and on new connections."""
    seen = {site: {site_of(fabric, site).credential.certificate} for site in SITES}
    answers: list[tuple[int, str]] = []
    stop, opened = threading.Event(), None
    token = fabric.source(KONSTANZ, "lakeside")  # may run at Konstanz alone: entering at Frankfurt, it is handed over

    def load(keep: bool) -> None:
        with httpx.Client(timeout=15.0, verify=fabric.verify) as client:
            while not stop.is_set():
                headers = {"authorization": f"Bearer {token.token()}"} | ({} if keep else {"connection": "close"})
                answer = client.post(f"{fabric.base(FRANKFURT)}{PATH}", json={"x": 1}, headers=headers)
                answers.append((answer.status_code, answer.text))
                time.sleep(0.005)

    threads = [threading.Thread(target=load, args=(keep,)) for keep in (True, False)]
    for thread in threads:
        thread.start()

    def renewed() -> bool:
        for site in SITES:
            seen[site].add(site_of(fabric, site).credential.certificate)
        return all(len(certificates) > 2 for certificates in seen.values())

    try:
        until(lambda: len(answers) > 10, "requests are handed over")
        opened = connections_opened(fabric, FRANKFURT, KONSTANZ)
        until(renewed, "both sites have renewed twice", 10 * LIFE_S, every_s=0.1)
        enough = len(answers) + 100
        until(lambda: len(answers) > enough, "requests are handed over after it")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [answer for answer in answers if answer[0] != 200] == []
    assert connections_opened(fabric, FRANKFURT, KONSTANZ) == opened, "connections between the sites were not kept"
    alarms = [alarm for report in fabric.status()["sites"].values() for alarm in report["alarms"]]
    assert [alarm for alarm in alarms if "certificate" in alarm] == []


def test_envoy_shows_the_certificate_that_the_site_holds(fabric: RunningFabric) -> None:

    def shown() -> bool:
        held = site_of(fabric, KONSTANZ).credential.certificate.decode()
        return peer_certificate(fabric, KONSTANZ) == ssl.PEM_cert_to_DER_cert(held)

    before = peer_certificate(fabric, KONSTANZ)
    until(lambda: peer_certificate(fabric, KONSTANZ) != before, "another certificate is shown")
    until(shown, "the one that is held is shown")


# --- clients ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bound(fabric: RunningFabric, tmp_path_factory: pytest.TempPathFactory) -> tuple[GrantSource, Path]:
    """An agent whose grants are bound to a certificate that it made for its own key, and that certificate's file."""
    fabric.delegate("agent:careful")
    holder = Keyring(fabric.state).get("agent:careful")
    path = tmp_path_factory.mktemp("agent") / "agent.pem"
    path.write_bytes(agent_certificate(holder.id, holder.key.pem(), dt.datetime.now(dt.UTC)).pem)
    verify = fabric.state / "hub" / "authority.pem"
    return GrantSource([fabric.base(FRANKFURT)], holder.chain, holder.key, "anywhere", verify=verify, cert=path), path


def call_with(fabric: RunningFabric, site: str, token: str, context: ssl.SSLContext | bool) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.post(f"{fabric.base(site)}{PATH}", json={"x": 1}, headers=headers, verify=context, timeout=15.0)


def test_a_stolen_grant_is_of_no_use_with_another_certificate_or_none(
    fabric: RunningFabric, bound: tuple[GrantSource, Path], tmp_path: Path
) -> None:
    source, _ = bound
    token = source.token()
    claims = json.loads(b64u_decode(token.split(".")[1]))
    assert set(claims["cnf"]) == {"x5t#S256"}
    assert call_with(fabric, FRANKFURT, token, source.tls).status_code == 200

    other = tmp_path / "other.pem"
    other.write_bytes(agent_certificate("thief", PrivateKey.generate().pem(), dt.datetime.now(dt.UTC)).pem)
    context = ssl.create_default_context(cafile=str(hub_of(fabric).tls.trust))
    assert call_with(fabric, FRANKFURT, token, context).status_code == 403
    context.load_cert_chain(other)
    assert call_with(fabric, FRANKFURT, token, context).status_code == 403
    # Where TLS does not end, nobody can show what the grant is bound to: also not by saying so in a header.
    assert call_with(fabric, KONSTANZ, token, True).status_code == 403
    headers = {"authorization": f"Bearer {token}", "x-isochrone-certificate": claims["x5h"]}
    assert httpx.post(f"{fabric.base(KONSTANZ)}{PATH}", headers=headers, json={}).status_code == 403


def test_a_bound_grant_is_handed_over_once_its_ingress_has_seen_the_certificate(
    fabric: RunningFabric, bound: tuple[GrantSource, Path]
) -> None:
    source, path = bound
    holder = Keyring(fabric.state).get("agent:careful")
    lakeside = GrantSource(
        [fabric.base(FRANKFURT)], holder.chain, holder.key, "lakeside", verify=hub_of(fabric).tls.trust, cert=path
    )
    answer = call_with(fabric, FRANKFURT, lakeside.token(), source.tls)
    assert (answer.status_code, answer.json()) == (200, {"answer": KONSTANZ})


def test_a_certificate_of_another_key_than_the_chains_last_gets_no_grant(fabric: RunningFabric, tmp_path: Path) -> None:
    holder = Keyring(fabric.state).get("agent:caller")
    path = tmp_path / "other.pem"
    path.write_bytes(agent_certificate("thief", PrivateKey.generate().pem(), dt.datetime.now(dt.UTC)).pem)
    thief = GrantSource(
        [fabric.base(FRANKFURT)], holder.chain, holder.key, "anywhere", verify=hub_of(fabric).tls.trust, cert=path
    )
    with pytest.raises(AuthorityError, match="key proven is not the one"):
        thief.token()


def test_a_certificate_named_in_a_header_is_not_one_shown(
    fabric: RunningFabric, bound: tuple[GrantSource, Path]
) -> None:
    """Konstanz ends no TLS: what a client writes about certificates is taken away before the node sees it."""
    _, path = bound
    holder = Keyring(fabric.state).get("agent:careful")
    form = {
        "grant_type": GRANT_TYPE, "subject_token": join_chain(holder.chain), "subject_token_type": CHAIN_TOKEN_TYPE,
        "scope": "contract:anywhere",
    }  # fmt: skip
    said = {"x-isochrone-client-certificate": quote(path.read_text())}
    answer = httpx.post(f"{fabric.base(KONSTANZ)}/.isochrone/token", data=form, headers=said)
    assert answer.status_code == 400
    assert "is needed" in answer.text


def test_a_site_that_ends_tls_answers_nobody_in_the_clear(fabric: RunningFabric) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(fabric.base(FRANKFURT).replace("https", "http") + "/.isochrone/jwks", timeout=5)
    by_name = fabric.base(FRANKFURT).replace("127.0.0.1", "localhost")
    verify = ssl.create_default_context(cafile=str(hub_of(fabric).tls.trust))
    metadata = httpx.get(f"{by_name}/.isochrone/metadata", verify=verify, timeout=5).json()
    assert metadata["token_endpoint"] == f"{by_name}/.isochrone/token"


# --- the bus ------------------------------------------------------------------------------------------------------


def test_a_site_publishing_as_another_or_as_the_hub_changes_nothing(fabric: RunningFabric) -> None:
    hostile = site_of(fabric, KONSTANZ)

    async def attack(bus: Bus) -> None:
        for bucket, key in ((mailbox.SITES, FRANKFURT), (mailbox.DESIRED, "plan"), (mailbox.REVOCATIONS, "heartbeat")):
            with pytest.raises(PeerError):
                await bus.put(bucket, key, b"forged")
            entry = await bus.get(bucket, key)
            assert entry is not None
            assert entry.value != b"forged"

    on_the_bus(fabric, bus_name(KONSTANZ), hostile.tls, attack)


def test_a_site_does_not_hear_the_answers_to_others(fabric: RunningFabric) -> None:
    heard: list[str] = []

    async def attack(bus: Bus) -> None:
        async def listen(subject: str, _: bytes) -> None:
            heard.append(subject)

        for subject in (">", "_INBOX.>", f"_INBOX.{bus_name(FRANKFURT)}.>", "hub.>", "$KV.>"):
            await bus.subscribe(subject, listen)
        await asyncio.to_thread(reported_again, fabric)

    on_the_bus(fabric, bus_name(KONSTANZ), site_of(fabric, KONSTANZ).tls, attack)
    assert heard == []


def test_an_unenrolled_node_with_a_certificate_it_made_is_nobody(fabric: RunningFabric, tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    made = Authority.create("pair", now).issue(f"spiffe://pair/site/{FRANKFURT}", now)
    path = tmp_path / "made.pem"
    path.write_bytes(made.pem)
    posing = replace(site_of(fabric, FRANKFURT).tls, credential=path)
    with pytest.raises(PeerError):
        on_the_bus(fabric, bus_name(FRANKFURT), posing, nothing)
    assert hands_over(fabric, KONSTANZ, posing) is None


# --- removal: the last, since the fabric is smaller afterwards ----------------------------------------------------


def test_a_removed_site_is_refused_everywhere(fabric: RunningFabric) -> None:
    gone = site_of(fabric, FRANKFURT)
    source = fabric.source(FRANKFURT)
    minted = source.token()
    assert fabric.call(KONSTANZ, token=minted).status_code == 200
    assert hands_over(fabric, KONSTANZ, gone.tls) is not None
    bus_before = sorted(fabric.status()["sites"])
    assert bus_before == sorted(SITES)

    removed = fabric.run("enrol", "--remove", FRANKFURT, "--state", str(fabric.state))
    assert removed.returncode == 0, removed.stderr
    until(lambda: fabric.call(KONSTANZ, token=minted).status_code == 401, "grants that it minted are refused")
    until(lambda: hands_over(fabric, KONSTANZ, gone.tls) is None, "its certificate is refused")
    until(lambda: FRANKFURT not in fabric.status()["sites"], "its reports are gone")
    with pytest.raises(PeerError):
        on_the_bus(fabric, bus_name(FRANKFURT), gone.tls, nothing)
    with pytest.raises(IsochroneError) as caught:
        renew(gone, partial(ask_to_renew, gone))
    assert caught.value.code == "renew.unknown"
    assert fabric.call(KONSTANZ).json() == {"answer": KONSTANZ}
    again = fabric.run("enrol", "--remove", FRANKFURT, "--state", str(fabric.state))
    assert (again.returncode, "not enrolled" in again.stderr) == (1, True)
