"""The token endpoint of a running site over HTTP: which OAuth error answers which mistake, and is each on record?"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from isochrone.authority.delegation import CHAIN_TOKEN_TYPE, issue_child, issue_root, join_chain, parse_hop, root_claims
from isochrone.authority.entitlement import sign_request
from isochrone.authority.exchange import GRANT_TYPE
from isochrone.authority.jose import PrivateKey, b64u_decode, sign_compact
from isochrone.authority.known_groups import known_groups
from isochrone.authority.possession import make_dpop
from isochrone.authority.scope import Money, Scope
from isochrone.authority.testing import World
from isochrone.serve.client import GrantAuth
from isochrone.serve.home import HubHome
from isochrone.serve.keyring import Keyring
from support.fabric import AGENT, PATH, SITES, RunningFabric, running_fabric, until

KONSTANZ, FRANKFURT = SITES


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("x")) as running:
        running.token(KONSTANZ)
        yield running


def url_of(fabric: RunningFabric) -> str:
    return f"{fabric.base(KONSTANZ)}/.isochrone/token"


def form(chain: Sequence[str], contract: str = "anywhere", **changes: str) -> dict[str, str]:
    usual = {
        "grant_type": GRANT_TYPE, "subject_token": join_chain(chain), "subject_token_type": CHAIN_TOKEN_TYPE,
        "scope": f"contract:{contract}",
    }  # fmt: skip
    return usual | changes


def dpop(fabric: RunningFabric, key: PrivateKey | None = None, **changes: Any) -> str:
    usual = {"method": "POST", "url": url_of(fabric), "now_s": time.time(), "jti": secrets.token_urlsafe(12)}
    return make_dpop(key or Keyring(fabric.state).get(AGENT).key, **(usual | changes))


def ask(fabric: RunningFabric, data: Any, *proofs: str) -> httpx.Response:
    return httpx.post(url_of(fabric), data=data, headers=[("dpop", proof) for proof in proofs], timeout=10.0)


def chain_of(fabric: RunningFabric) -> tuple[str, ...]:
    return Keyring(fabric.state).get(AGENT).chain


def exchanges(fabric: RunningFabric) -> list[dict[str, Any]]:
    return [record for record in fabric.entries(KONSTANZ) if record["kind"] == "exchange"]


def assert_refused(fabric: RunningFabric, answer: httpx.Response, error: str, words: str, *, status: int = 400) -> None:
    """The OAuth error, uncached; and an exchange record with the same reason, already durable."""
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert words in answer.json()["error_description"]
    assert answer.headers["cache-control"] == "no-store"

    def recorded() -> bool:
        last = exchanges(fabric)[-1]
        return last["verdict"] == "deny" and last["grant"] is None and words in "; ".join(last["reasons"])

    assert until(recorded, f"a denied exchange with {words!r} is on record", 10.0)


def test_a_proven_chain_is_a_grant_and_on_record(fabric: RunningFabric) -> None:
    answer = ask(fabric, form(chain_of(fabric)), dpop(fabric))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"access_token", "issued_token_type", "token_type", "expires_in", "scope"}
    assert fabric.call(KONSTANZ, token=answer.json()["access_token"]).status_code == 200
    assert until(lambda: exchanges(fabric)[-1]["verdict"] == "allow", "it is on record")
    assert exchanges(fabric)[-1]["chain"] == list(chain_of(fabric))


def test_possession_must_be_proven_by_exactly_one_header(fabric: RunningFabric) -> None:
    chain = form(chain_of(fabric))
    assert_refused(fabric, ask(fabric, chain), "invalid_grant", "one DPoP header")
    assert_refused(fabric, ask(fabric, chain, dpop(fabric), dpop(fabric)), "invalid_grant", "one DPoP header")


def test_a_proof_for_another_method_or_url_does_not_do(fabric: RunningFabric) -> None:
    chain = form(chain_of(fabric))
    for changes in ({"method": "GET"}, {"url": f"{fabric.base(FRANKFURT)}/.isochrone/token"}):
        answer = ask(fabric, chain, dpop(fabric, **changes))
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof"), answer.text


def test_a_proof_serves_once(fabric: RunningFabric) -> None:
    proof = dpop(fabric)
    assert ask(fabric, form(chain_of(fabric)), proof).status_code == 200
    assert_refused(fabric, ask(fabric, form(chain_of(fabric)), proof), "invalid_dpop_proof", "")


def test_an_old_proof_and_a_strangers_proof_do_not_do(fabric: RunningFabric) -> None:
    chain = form(chain_of(fabric))
    for proof in (dpop(fabric, now_s=time.time() - 300), dpop(fabric, now_s=time.time() + 300), "x.y.z", ""):
        answer = ask(fabric, chain, proof)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"] in ("invalid_grant", "invalid_dpop_proof")
    assert_refused(fabric, ask(fabric, chain, dpop(fabric, PrivateKey.generate())), "invalid_grant", "possession")


def test_a_chain_of_another_fabric_is_nobodys(fabric: RunningFabric) -> None:
    world = World(now_s=time.time())
    chain = world.chain(2)
    answer = ask(fabric, form(chain), dpop(fabric, world.key("a1")))
    assert_refused(fabric, answer, "invalid_grant", "")
    assert until(lambda: exchanges(fabric)[-1]["chain"] == chain, "the chain itself is kept")


def root_of(fabric: RunningFabric, key: PrivateKey, scope: Scope, *, at_s: float) -> list[str]:
    operator = Keyring(fabric.state).get("human:operator")
    registry = HubHome(fabric.state / "hub", "pair").people()
    claims = root_claims(
        registry, operator.id, operator.key.public.thumbprint, agent="agent:late", agent_key=key.public,
        scope=scope, depth_max=0, now_s=at_s, life_s=3600, jti=secrets.token_urlsafe(8),
    )  # fmt: skip
    root = issue_root(claims, operator.key)
    assert isinstance(root, str)
    return [root]


@pytest.mark.parametrize(
    ("limit", "error", "words", "status"),
    [
        ({"cost_max": Money("USD", 1_000_000)}, "invalid_grant", "budget is in USD", 400),
        ({"cost_max": Money("EUR", 999)}, "invalid_grant", "one request costs EUR 0.00", 400),
        ({"tokens_max": 99}, "invalid_grant", "99 of 99 tokens are left, and one request can take 100", 400),
    ],
    ids=["currency", "cost", "tokens"],
)
def test_a_limit_that_cannot_be_held_gives_no_grant(
    fabric: RunningFabric, limit: dict[str, Any], error: str, words: str, status: int
) -> None:
    key = PrivateKey.generate()
    chain = root_of(fabric, key, Scope(**limit), at_s=time.time())
    assert_refused(fabric, ask(fabric, form(chain), dpop(fabric, key)), error, words, status=status)


def test_an_expired_chain_is_refused(fabric: RunningFabric) -> None:
    key = PrivateKey.generate()
    answer = ask(fabric, form(root_of(fabric, key, Scope(), at_s=time.time() - 7200)), dpop(fabric, key))
    assert_refused(fabric, answer, "invalid_grant", "expired")


def test_a_contract_that_does_not_exist_or_is_outside_the_scope(fabric: RunningFabric) -> None:
    answer = ask(fabric, form(chain_of(fabric), "nothing"), dpop(fabric))
    assert_refused(fabric, answer, "invalid_scope", "there is no contract nothing")
    chain = fabric.delegate("agent:narrow", contracts=("lakeside",))
    key = Keyring(fabric.state).get("agent:narrow").key
    assert ask(fabric, form(chain, "lakeside"), dpop(fabric, key)).status_code == 200
    assert_refused(fabric, ask(fabric, form(chain), dpop(fabric, key)), "invalid_scope", "scope-outside")


def test_a_widened_chain_is_refused(fabric: RunningFabric) -> None:
    """A sub-agent that signs itself more than it was given: the signature holds, the chain does not."""
    chain = fabric.delegate("agent:narrow-giver", depth=1, contracts=("lakeside",))
    giver, key = Keyring(fabric.state).get("agent:narrow-giver"), PrivateKey.generate()
    honest = issue_child(
        chain, giver.key, known_groups(), agent="agent:sub", agent_key=key.public, depth_max=1,
        scope=Scope(contracts=frozenset({"lakeside"})), now_s=time.time(), life_s=600, jti="j1",
    )  # fmt: skip
    assert isinstance(honest, list)
    claims = json.loads(b64u_decode(honest[-1].split(".")[1]))
    typ = json.loads(b64u_decode(honest[-1].split(".")[0]))["typ"]
    text = json.dumps(claims).replace("lakeside", "anywhere")
    forged = [*chain, sign_compact(json.loads(text), giver.key, typ=typ)]
    assert ask(fabric, form(honest, "lakeside"), dpop(fabric, key)).status_code == 200
    answer = ask(fabric, form(forged, "anywhere"), dpop(fabric, key))
    assert answer.status_code == 400
    assert answer.json()["error"] in ("invalid_grant", "invalid_scope")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"subject_token_type": "jwt"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"audience": "elsewhere"}, "invalid_target"),
        ({"scope": "contract:a contract:b"}, "invalid_scope"),
        ({"scope": ""}, "invalid_scope"),
    ],
)
def test_a_form_that_is_no_exchange_is_told_so(fabric: RunningFabric, changes: dict[str, str], error: str) -> None:
    answer = ask(fabric, form(chain_of(fabric), **changes), dpop(fabric))
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_what_is_too_large_is_refused_and_the_log_goes_on(fabric: RunningFabric) -> None:
    answer = ask(fabric, form(["x" * 40_000]), dpop(fabric))
    assert (answer.status_code, answer.json()["error"]) == (413, "invalid_request")
    answer = ask(fabric, form(["x" * 300_000]), dpop(fabric))
    assert 400 <= answer.status_code < 500
    # Small on the wire and six times as long in JSON: it fits no record.
    hostile = "&".join(f"{name}={value}" for name, value in form(["HOPS"]).items()).replace("HOPS", "%01" * 11_900)
    answer = httpx.post(
        url_of(fabric), content=hostile, timeout=10.0,
        headers={"dpop": dpop(fabric), "content-type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    assert 400 <= answer.status_code < 500, answer.text
    assert ask(fabric, form(chain_of(fabric)), dpop(fabric)).status_code == 200
    assert fabric.report(KONSTANZ)["alarms"] == []


def test_an_auth_that_renews_by_itself(fabric: RunningFabric) -> None:
    with httpx.Client(auth=GrantAuth(fabric.source(KONSTANZ)), timeout=10.0) as client:
        assert client.post(f"{fabric.base(KONSTANZ)}{PATH}", json={}).status_code == 200


def test_a_revoked_chain_mints_nothing_and_its_grants_stop(fabric: RunningFabric) -> None:
    chain = fabric.delegate("agent:leaving")
    key = Keyring(fabric.state).get("agent:leaving").key
    token = ask(fabric, form(chain), dpop(fabric, key)).json()["access_token"]
    assert fabric.call(FRANKFURT, token=token).status_code == 200
    operator = Keyring(fabric.state).get("human:operator")
    request = sign_request(
        "pair", "hop", parse_hop(chain[0]).id, reason="left", key=operator.key, now_s=time.time(),
        jti=secrets.token_urlsafe(8),
    )  # fmt: skip
    answer = fabric.ask_hub("POST", "/revocations", {"request": request, "chain": chain})
    assert answer["status_code"] == 200, answer
    for site in SITES:
        until(lambda site=site: fabric.call(site, token=token).status_code == 403, f"{site} refuses the grant")
    assert_refused(fabric, ask(fabric, form(chain), dpop(fabric, key)), "invalid_grant", "revoked")
