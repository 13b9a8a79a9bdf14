"""The life of a request through real Envoys: where it runs, what it carries, what is refused and how."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from isochrone.authority.grant import CLAIM_HEADERS
from isochrone.authority.jose import PrivateKey, b64u_encode, sign_compact
from isochrone.forward.headers import CLAIMS
from isochrone.forward.journal import JOURNAL_VERSION, end_fields, start_fields
from isochrone.forward.routes import BODY_BYTES_MAX
from support.fabric_of_envoys import (
    FRANKFURT,
    KONSTANZ,
    PATH,
    SITES,
    ZURICH,
    Answer,
    FabricOfEnvoys,
    read_answer,
    running,
    until,
)

DEADLINE = "x-isochrone-deadline-ms"
EXECUTION = "x-isochrone-execution"
REFUSED = "x-isochrone-refused"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# RFC 9110 tokens and quoted strings, as the Server-Timing header is made of them (W3C Server Timing).
SERVER_TIMING = r'[a-z]+;desc="[a-z-]+";dur=[0-9]+(\.[0-9]+)?'


@pytest.fixture(scope="module")
def fabric() -> Iterator[FabricOfEnvoys]:
    with running() as fabric:
        yield fabric


def refused(answer: Answer, status: int, kind: str, *, routed: bool = True) -> dict[str, Any]:
    """Every refusal is a problem document with its kind in the header, wherever in Envoy it was made."""
    assert (answer.status, answer.headers.get(REFUSED)) == (status, kind), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert EXECUTION in answer.headers
    body = dict(answer.json)
    assert (body["type"], body["status"]) == (f"urn:isochrone:refusal:{kind}", status)
    assert body["title"]
    assert body["detail"]
    if routed:
        assert re.fullmatch(SERVER_TIMING, answer.headers["server-timing"])
    return body


# --- where it runs ------------------------------------------------------------------------------------------------


def test_a_request_runs_at_its_own_site_and_says_so(fabric: FabricOfEnvoys) -> None:
    answer = fabric.call(KONSTANZ, headers={DEADLINE: "12"})
    assert answer.site == KONSTANZ
    assert re.fullmatch(f"{KONSTANZ}/{UUID}", answer.headers[EXECUTION])
    assert answer.headers["x-isochrone-plan"] == "7"
    assert re.fullmatch(SERVER_TIMING, answer.headers["server-timing"])
    assert REFUSED not in answer.headers


def test_a_request_runs_at_another_site_and_carries_both_timings(fabric: FabricOfEnvoys) -> None:
    answer = fabric.call(KONSTANZ, fabric.token(sites=f"|{FRANKFURT}|"))
    assert answer.site == FRANKFURT
    assert re.fullmatch(f"{FRANKFURT}/{UUID}", answer.headers[EXECUTION])
    timings = [part.strip() for part in answer.headers["server-timing"].split(",")]
    assert [timing.partition(";")[0] for timing in timings] == ["exec", "ingress"]
    assert all(re.fullmatch(SERVER_TIMING, timing) for timing in timings)


def test_a_grant_of_any_site_is_good_at_every_site(fabric: FabricOfEnvoys) -> None:
    answers = [fabric.call(at, fabric.token(signer), headers={DEADLINE: "12"}) for at in SITES for signer in SITES]
    assert [answer.site for answer in answers] == [at for at in SITES for _ in SITES]


def test_requests_are_shared_by_weight(fabric: FabricOfEnvoys) -> None:
    token = fabric.token()
    seen = Counter(fabric.call(KONSTANZ, token).site for _ in range(300))
    # 0.7 of 300 with a standard deviation of 8: five of them on either side.
    assert 170 <= seen[KONSTANZ] <= 250
    assert seen[KONSTANZ] + seen[FRANKFURT] == 300


def test_a_plan_that_names_a_site_out_of_bounds_is_not_followed(fabric: FabricOfEnvoys) -> None:
    token = fabric.token(ctr="bounded-audio")
    seen = Counter(fabric.call(at, token).site for at in SITES for _ in range(20))
    assert seen[ZURICH] == 0
    body = refused(fabric.call(KONSTANZ, fabric.token(ctr="bounded-audio", sites=f"|{ZURICH}|")), 422, "out_of_bounds")
    assert ZURICH not in body["detail"]


def test_the_path_belongs_to_the_protocol_of_the_contract(fabric: FabricOfEnvoys) -> None:
    assert fabric.call(KONSTANZ, fabric.token(ctr="assistant"), path="/v1/chat/completions").site == FRANKFURT
    refused(fabric.call(KONSTANZ, fabric.token(ctr="assistant"), path=PATH), 404, "unknown")
    refused(fabric.call(KONSTANZ, path="/v1/chat/completions"), 404, "unknown")
    refused(fabric.call(KONSTANZ, fabric.token(ctr="nothing")), 404, "unknown")


# --- deadlines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["10", "12", "19", " 15 "])
def test_a_deadline_chooses_the_rung_at_or_below_it(fabric: FabricOfEnvoys, asked: str) -> None:
    assert {fabric.call(ZURICH, headers={DEADLINE: asked}).site for _ in range(5)} == {ZURICH}


@pytest.mark.parametrize("asked", ["20", "21", "5000", "9223372036854775806"])
def test_a_deadline_never_loosens_the_contract(fabric: FabricOfEnvoys, asked: str) -> None:
    assert fabric.call(ZURICH, headers={DEADLINE: asked}).site in (KONSTANZ, FRANKFURT)


@pytest.mark.parametrize("asked", ["5", "9"])
def test_a_deadline_that_no_site_meets_is_refused_with_the_physics(fabric: FabricOfEnvoys, asked: str) -> None:
    body = refused(fabric.call(headers={DEADLINE: asked}), 422, "out_of_time")
    assert (body["nearest_site"], body["needed_ms"], body["floor_ms"], body["deadline_ms"]) == (KONSTANZ, 120, 0, 5)
    # What looks like one of Envoy's command operators is text.
    assert body["detail"].endswith("100% sure, %REQ(:path)% or not")


@pytest.mark.parametrize("asked", ["4", "0", "-12", "12.5", "abc", "", "0x10", "12,15", "99999999999999999999", "٣"])
def test_a_deadline_that_is_no_number_or_too_tight_is_refused(fabric: FabricOfEnvoys, asked: str) -> None:
    raw = asked.encode().decode("latin-1")
    refused(fabric.call(headers={DEADLINE: raw}), 400, "deadline")


@pytest.mark.parametrize("pair", [("12", "5"), ("5", "12")])
def test_of_two_deadlines_the_tighter_counts(fabric: FabricOfEnvoys, pair: tuple[str, str]) -> None:
    refused(fabric.call(headers=[(DEADLINE, pair[0]), (DEADLINE.title(), pair[1])]), 422, "out_of_time")


# --- grants -------------------------------------------------------------------------------------------------------


def unsigned(claims: dict[str, Any]) -> str:
    header = {"alg": "none", "typ": "at+jwt"}
    return ".".join([*(b64u_encode(json.dumps(part).encode()) for part in (header, claims)), ""])


def granted(line: dict[str, Any]) -> dict[str, Any]:
    """The claims that an end line holds: the grant's payload between its two dots."""
    return claims_of(f".{line['claims']}.")


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def test_a_request_without_a_grant_is_refused(fabric: FabricOfEnvoys) -> None:
    refused(fabric.call(token=None), 401, "grant", routed=False)


@pytest.mark.parametrize(
    "claim", [{"exp": 1}, {"exp": None}, {"iss": "isochrone:other"}, {"iss": None}, {"nbf": 2**33}]
)
def test_a_grant_that_is_expired_endless_foreign_or_not_yet_good(fabric: FabricOfEnvoys, claim: dict[str, Any]) -> None:
    refused(fabric.call(token=fabric.token(**claim)), 401, "grant", routed=False)


@pytest.mark.parametrize("audience", ["elsewhere", ["a", "b"], "", None])
def test_a_grant_for_another_audience(fabric: FabricOfEnvoys, audience: Any) -> None:
    refused(fabric.call(token=fabric.token(aud=audience)), 403, "denied", routed=False)


def test_a_grant_without_a_signature(fabric: FabricOfEnvoys) -> None:
    good = fabric.token()
    for token in (unsigned(claims_of(good)), good.rpartition(".")[0] + ".", good.rpartition(".")[0]):
        refused(fabric.call(token=token), 401, "grant", routed=False)


def test_a_grant_signed_with_a_key_of_nobody(fabric: FabricOfEnvoys) -> None:
    claims, stranger = claims_of(fabric.token()), PrivateKey.generate()
    for kid in ("stranger", json.loads(json.dumps(fabric.jwks))["keys"][0]["kid"]):
        refused(fabric.call(token=sign_compact(claims, stranger, typ="at+jwt", kid=kid)), 401, "grant", routed=False)


def test_a_grant_with_a_claim_changed_after_signing(fabric: FabricOfEnvoys) -> None:
    header, _, signature = fabric.token().split(".")
    forged = b64u_encode(json.dumps(claims_of(fabric.token()) | {"sub": "human:eve"}).encode())
    refused(fabric.call(token=f"{header}.{forged}.{signature}"), 401, "grant", routed=False)


def test_an_oversized_grant(fabric: FabricOfEnvoys) -> None:
    answer = fabric.call(token=fabric.token(pad="x" * 40_000))
    refused(answer, 431, "too_large", routed=False)


@pytest.mark.parametrize("scheme", ["Basic", "bearer:", "DPoP"])
def test_another_scheme_is_no_grant(fabric: FabricOfEnvoys, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {fabric.token()}"}
    refused(fabric.call(token=None, headers=headers), 401, "grant", routed=False)


def test_a_grant_elsewhere_than_in_its_header_is_no_grant(fabric: FabricOfEnvoys) -> None:
    token = fabric.token()
    refused(fabric.call(token=None, path=f"{PATH}?access_token={token}"), 401, "grant", routed=False)
    refused(fabric.call(token=None, headers={"cookie": f"authorization={token}"}), 401, "grant", routed=False)


def test_a_narrow_grant_goes_where_it_says_and_nowhere_else(fabric: FabricOfEnvoys) -> None:
    for site in SITES:
        token = fabric.token(sites=f"|{site}|")
        assert {fabric.call(KONSTANZ, token).site for _ in range(3)} == {site}
    both = fabric.token(sites=f"|{ZURICH}|{FRANKFURT}|")
    assert fabric.call(KONSTANZ, both).site == FRANKFURT
    every = fabric.token(sites="|" + "|".join(SITES) + "|")
    assert len({fabric.call(KONSTANZ, every).site for _ in range(40)}) == 2


@pytest.mark.parametrize("scope", ["|elsewhere|", "konstanz", "|", "", "**", "|konstan|", "|Konstanz|"])
def test_a_scope_without_a_site_that_is_in_time(fabric: FabricOfEnvoys, scope: str) -> None:
    refused(fabric.call(KONSTANZ, fabric.token(sites=scope)), 422, "out_of_bounds")


# --- what a client sends that is not a client's to send -----------------------------------------------------------

FORGED = [
    *((name, "forged") for name in CLAIM_HEADERS.values()),
    ("X-Isochrone-Human", "forged"),
    ("x-isochrone-human", "forged"),
    ("X-ISOCHRONE-SITES", "|zurich|"),
    ("x-isochrone-ingress", "forged"),
    ("x-isochrone-plan", "forged"),
    ("x-isochrone-execution", "forged"),
    ("x-isochrone-refused", "forged"),
    ("x-isochrone-", "forged"),
    (CLAIMS, "forged"),
    ("X-Isochrone-Claims", "forged"),
    ("x-isochrone-anything", "forged"),
    ("isochrone-kept-0", "12"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-max-retries", "9"),
    ("x-envoy-original-path", "/forged"),
    ("x-envoy-original-dst-host", "127.0.0.1:1"),
    ("x-envoy-original-host", "forged"),
    ("x-envoy-decorator-operation", "forged"),
    ("x-envoy-internal", "true"),
    ("x-envoy-external-address", "6.6.6.6"),
    ("x-envoy-expected-rq-timeout-ms", "1"),
    ("x-envoy-force-trace", "1"),
    ("X-Envoy-Anything", "forged"),
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-proto", "forged"),
    ("x-forwarded-client-cert", "URI=spiffe://lakeside/site/zurich"),
    ("x-request-id", "forged"),
    ("X-Request-Id", "forged"),
]


@pytest.mark.parametrize("target", [KONSTANZ, FRANKFURT])
def test_what_a_client_forges_reaches_no_route_no_journal_and_no_model(fabric: FabricOfEnvoys, target: str) -> None:
    answer = fabric.call(KONSTANZ, fabric.token(sites=f"|{target}|"), headers=FORGED)
    assert answer.site == target
    seen = fabric.sites[target].model.seen[-1]
    assert not [value for _, value in seen.headers if value in ("forged", "6.6.6.6", "|zurich|", "/forged")]
    assert seen.path == PATH
    allowed_of_envoy = {"x-envoy-external-address"}
    assert {name for name in seen.names() if name.startswith("x-envoy-")} <= allowed_of_envoy
    (own_id,) = seen.get("x-request-id")
    assert answer.headers[EXECUTION].endswith(own_id)
    for site in {KONSTANZ, target}:
        lines = [line for line in fabric.sites[site].journal() if line.get("id") == own_id]
        lines = lines or [fabric.sites[site].journal_end(own_id)]
        assert "forged" not in json.dumps(lines)
        journaled = granted(fabric.sites[site].journal_end(own_id))
        assert (journaled["sub"], journaled["ctr"]) == ("human:ada", "line-audio")
    (carried,) = seen.get(CLAIMS)
    assert granted({"claims": carried})["sub"] == "human:ada"


def test_claim_headers_without_a_grant_open_nothing(fabric: FabricOfEnvoys) -> None:
    claims = [(CLAIM_HEADERS["ctr"], "line-audio"), (CLAIM_HEADERS["sites"], "*"), (CLAIM_HEADERS["sub"], "human:ada")]
    refused(fabric.call(token=None, headers=claims), 401, "grant", routed=False)


def test_a_claim_that_the_grant_lacks_is_not_taken_from_the_client(fabric: FabricOfEnvoys) -> None:
    refused(fabric.call(token=fabric.token(sites=None), headers={CLAIM_HEADERS["sites"]: "*"}), 422, "out_of_bounds")
    refused(fabric.call(token=fabric.token(ctr=None), headers={CLAIM_HEADERS["ctr"]: "line-audio"}), 404, "unknown")


@pytest.mark.parametrize(
    "path",
    [
        "/.isochrone/../v2/models/voice/infer",
        "/.isochrone/%2e%2e/v2/models/voice/infer",
        "/x/..//v2/models/voice/infer",
    ],
)
def test_no_spelling_of_a_path_runs_ungoverned_or_unrecorded(fabric: FabricOfEnvoys, path: str) -> None:
    refused(fabric.call(token=None, path=path), 401, "grant", routed=False)
    answer = fabric.call(path=path)
    assert fabric.sites[KONSTANZ].journal_end(answer.headers[EXECUTION])["path"] == PATH


@pytest.mark.parametrize("path", ["/.isochrone%2fx", "/v2%2fx", "/v2/..%5cx", "/%2e%2e%2f.isochrone/x"])
def test_escaped_slashes_are_refused(fabric: FabricOfEnvoys, path: str) -> None:
    refused(fabric.call(path=path), 400, "malformed", routed=False)


def test_endpoints_of_the_node_are_reached_without_a_grant(fabric: FabricOfEnvoys) -> None:
    assert fabric.call(token=None, path="/.isochrone/token").json == {"site": f"{KONSTANZ}-node"}
    assert fabric.call(token=None, path="//.isochrone//token").json == {"site": f"{KONSTANZ}-node"}


# --- requests that are too large, too slow or no HTTP --------------------------------------------------------------

TEN_MB = 10_000_000


@pytest.mark.parametrize("extra", [[], ["-H", "expect:"], ["-H", "expect:", "-H", "transfer-encoding: chunked"]])
def test_curl_reads_that_ten_megabytes_are_too_large(fabric: FabricOfEnvoys, extra: list[str], tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"x" * TEN_MB)
    words = ["curl", "-sS", "-o", str(tmp_path / "answer"), "-w", "%{http_code}", *extra]
    words += ["-H", f"authorization: Bearer {fabric.token()}", "--data-binary", f"@{tmp_path / 'body'}"]
    words.append(f"http://{fabric.sites[KONSTANZ].ingress}{PATH}")
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("413", "")
    assert json.loads((tmp_path / "answer").read_text())["type"] == "urn:isochrone:refusal:too_large"


def chunks() -> Iterator[bytes]:
    for _ in range(TEN_MB // 100_000):
        yield b"x" * 100_000


@pytest.mark.parametrize("how", ["whole", "chunked"])
def test_httpx_reads_that_ten_megabytes_are_too_large(fabric: FabricOfEnvoys, how: str) -> None:
    content = b"x" * TEN_MB if how == "whole" else chunks()
    headers = {"authorization": f"Bearer {fabric.token()}"}
    answer = httpx.post(f"http://{fabric.sites[KONSTANZ].ingress}{PATH}", content=content, headers=headers, timeout=20)
    assert answer.status_code == 413
    assert answer.headers[REFUSED] == "too_large"


def test_a_body_at_the_limit_is_carried_whole_to_another_site(fabric: FabricOfEnvoys) -> None:
    answer = fabric.call(KONSTANZ, fabric.token(sites=f"|{FRANKFURT}|"), body=b"x" * BODY_BYTES_MAX)
    assert answer.site == FRANKFURT
    assert fabric.sites[FRANKFURT].model.seen[-1].body_bytes == BODY_BYTES_MAX


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (b"NONSENSE\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", 400, "malformed"),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed",
        ),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx_y: 1\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 120 + b"\r\n", 431, "too_large"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431, "too_large"),
        (b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n", 404, "unknown"),
    ],
)
def test_what_is_no_good_http_is_refused_with_a_reason(
    fabric: FabricOfEnvoys, sent: bytes, status: int, kind: str
) -> None:
    with fabric.connect(KONSTANZ) as connection:
        connection.sendall(sent)
        answer = read_answer(connection)
    if kind != "unknown":
        refused(answer, status, kind, routed=False)
    else:
        assert answer.status in (401, 403, 404)
        assert REFUSED in answer.headers


# --- the journal --------------------------------------------------------------------------------------------------


def test_both_ends_journal_every_field(fabric: FabricOfEnvoys) -> None:
    token = fabric.token(sites=f"|{FRANKFURT}|")
    answer = fabric.call(KONSTANZ, token, headers={DEADLINE: "15"}, body=b"12345")
    ends = {site: fabric.sites[site].journal_end(answer.headers[EXECUTION]) for site in (KONSTANZ, FRANKFURT)}
    named = set(end_fields(KONSTANZ, "ingress", "p"))
    assert all(set(end) == named for end in ends.values())
    assert [name for name, value in ends[FRANKFURT].items() if value is None] == []
    # Only the executing site has a peer that handed over.
    assert [name for name, value in ends[KONSTANZ].items() if value is None] == ["peer"]
    # What the executing site says of its model server leaves the way there and back.
    assert int(ends[KONSTANZ]["model_us"]) == ends[FRANKFURT]["upstream_first_byte_us"] > 0
    way_us = ends[KONSTANZ]["upstream_first_byte_us"] - int(ends[KONSTANZ]["model_us"])
    assert 0 < way_us < ends[KONSTANZ]["upstream_first_byte_us"]
    assert (ends[KONSTANZ]["role"], ends[FRANKFURT]["role"]) == ("ingress", "peer")
    assert ends[FRANKFURT]["peer"] == "spiffe://lakeside/site/konstanz"
    for site, end in ends.items():
        starts = [line for line in fabric.sites[site].journal() if line.get("id") == end["id"]]
        (start,) = (line for line in starts if line["type"] == "DownstreamStart")
        assert set(start) == set(start_fields(site, "ingress"))
        assert start.items() <= end.items() | {("type", "DownstreamStart")}
        assert granted(end) == claims_of(token)
        assert (end["v"], end["status"], end["ingress"], end["plan"]) == (JOURNAL_VERSION, 200, KONSTANZ, "7")
        assert (end["received_bytes"], end["deadline_ms"]) == (5, "15")
        assert end["duration_us"] >= end["first_byte_us"] > 0
    assert ends[KONSTANZ]["upstream"] == str(fabric.sites[FRANKFURT].peer)
    assert ends[FRANKFURT]["upstream"] == str(fabric.sites[FRANKFURT].model.address)


def test_every_start_has_its_end_and_every_line_parses(fabric: FabricOfEnvoys) -> None:
    fabric.call(KONSTANZ)
    fabric.call(KONSTANZ, token=None)

    def ids(kind: str) -> Counter[str]:
        # What was no request has no id and no start: its end alone says that it was refused.
        return Counter(
            str(line["id"]) for line in fabric.sites[KONSTANZ].journal() if line["type"] == kind and line["id"]
        )

    until(lambda: ids("DownstreamStart") == ids("DownstreamEnd") != Counter(), "an end for every start")
    assert set(ids("DownstreamEnd").values()) == {1}


def test_a_refusal_is_journaled_with_its_reason(fabric: FabricOfEnvoys) -> None:
    early = fabric.call(KONSTANZ, token=None)
    end = fabric.sites[KONSTANZ].journal_end(early.headers[EXECUTION])
    assert (end["status"], end["detail"].partition("{")[0]) == (401, "jwt_authn_access_denied")
    assert end["claims"] is None
    late = fabric.call(KONSTANZ, headers={DEADLINE: "5"})
    end = fabric.sites[KONSTANZ].journal_end(late.headers[EXECUTION])
    assert (end["status"], end["detail"], granted(end)["sub"]) == (422, "direct_response", "human:ada")


def test_probes_and_endpoints_of_the_node_are_not_journaled(fabric: FabricOfEnvoys) -> None:
    fabric.call(KONSTANZ, token=None, path="/.isochrone/token")
    answer = fabric.call(KONSTANZ)
    fabric.sites[KONSTANZ].journal_end(answer.headers[EXECUTION])
    assert not [line for line in fabric.sites[KONSTANZ].journal() if str(line["path"]).startswith("/.isochrone/")]


def test_a_client_that_goes_away_is_journaled(fabric: FabricOfEnvoys) -> None:
    model = fabric.sites[KONSTANZ].model
    before = len(model.seen)
    model.hold.clear()
    try:
        with fabric.connect(KONSTANZ) as connection:
            head = f"POST {PATH} HTTP/1.1\r\nhost: a\r\n{DEADLINE}: 12\r\nauthorization: Bearer {fabric.token()}\r\n"
            connection.sendall(f"{head}content-length: 0\r\n\r\n".encode())
            until(lambda: len(model.seen) > before, "the model server has the request")
            (own_id,) = model.seen[-1].get("x-request-id")
            connection.shutdown(socket.SHUT_RDWR)
        assert "DC" in fabric.sites[KONSTANZ].journal_end(own_id)["flags"]
    finally:
        model.hold.set()
