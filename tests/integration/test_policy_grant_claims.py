"""From a signed grant to the verdict: `jwt_authn` copies claims to headers, the compiled rule decides, in one Envoy.

Claims of another type, missing or hostile claims, and a client's own copies of the headers must all deny.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwk, jwt
from test_policy_cases import SITE, WORLD
from test_policy_equality import TYPE, ask, configuration, free_port, running

from isochrone.policy import PolicySet, compile_for_site
from isochrone.policy.vocabulary import FACTS, SITES_HEADER

KEY = jwk.ECKey.generate_key("P-256", {"kid": "k"})
CLAIMS = {
    "sub": FACTS["principal.human"].header,
    "agent": FACTS["principal"].header,
    "dep": FACTS["principal.depth"].header,
    "ctr": FACTS["context.contract"].header,
    "wl": FACTS["context.workload"].header,
    "dc": FACTS["context.data_class"].header,
    "sites": SITES_HEADER,
}
GOOD = {"sub": "ada", "agent": "bot", "dep": 2, "ctr": "c-de", "wl": "chat", "dc": "health", "sites": f"|{SITE}|"}
POLICIES = PolicySet.parse(
    {
        "t": 'permit(principal, action == Action::"execute", resource) when { principal.depth < 4 }'
        ' unless { context.data_class == "secret" || principal.id like "evil*" };'
    }
)

LISTS_AND_OBJECTS = [
    ["health"],
    ["é"],
    [],
    {},
    {"a": "health"},
    {"é": 1},
    [1],
    [-1],
    [True],
    [False],
    [None],
    [[1]],
    [{"a": 1}],
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    listening, admin = free_port(), free_port()
    config = configuration(listening, admin, [compile_for_site(POLICIES, SITE, WORLD).rules])
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    provider = {
        "issuer": "i",
        "clock_skew_seconds": 1,
        "local_jwks": {"inline_string": json.dumps({"keys": [KEY.as_dict(private=False)]})},
        "claim_to_headers": [{"header_name": header, "claim_name": claim} for claim, header in CLAIMS.items()],
    }
    authn = {
        "@type": TYPE + "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"p": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
    }
    manager["http_filters"].insert(0, {"name": "jwt", "typed_config": authn})
    with running(config, listening, admin, tmp_path_factory.mktemp("grant")) as ready:
        yield ready


def allowed(port: int, headers: dict[str, str] | None = None, **changes: Any) -> bool:
    claims = {"iss": "i", "exp": int(time.time()) + 60, **GOOD, **changes}
    present = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode({"alg": "ES256", "kid": "k"}, present, KEY)
    return ask(port, [("/0/", {"authorization": f"Bearer {token}", **(headers or {})})])[0]


def test_a_good_grant_is_allowed(port: int) -> None:
    assert allowed(port)
    assert allowed(port, sub="josé", agent="日本", dc="public")


@pytest.mark.parametrize("claim", list(GOOD))
def test_a_missing_claim_denies(port: int, claim: str) -> None:
    assert not allowed(port, **{claim: None})


@pytest.mark.parametrize("claim", list(GOOD))
@pytest.mark.parametrize("value", [*LISTS_AND_OBJECTS, "", "a,b", "a\nb"], ids=repr)
def test_a_claim_of_another_type_or_shape_denies(port: int, claim: str, value: Any) -> None:
    assert not allowed(port, **{claim: value})


@pytest.mark.parametrize("depth", [0, 4, 9, -1, 2**53 + 1, 2**64, 1e300, True, "01", "1.0", " 1"])
def test_numbers_outside_the_vocabulary_deny(port: int, depth: Any) -> None:
    assert not allowed(port, dep=depth)


@pytest.mark.parametrize("changes", [{"dc": "secret"}, {"agent": "evil"}, {"agent": "evil.bot"}, {"sites": "|site-1|"}])
def test_what_the_policy_forbids(port: int, changes: dict[str, Any]) -> None:
    assert not allowed(port, **changes)


@pytest.mark.parametrize("header", list(CLAIMS.values()))
def test_a_clients_own_header_never_replaces_a_missing_claim(port: int, header: str) -> None:
    claim = next(claim for claim, name in CLAIMS.items() if name == header)
    assert not allowed(port, {header: str(GOOD[claim])}, **{claim: None})


def test_a_clients_own_header_never_hides_a_claim(port: int) -> None:
    assert not allowed(port, {FACTS["context.data_class"].header: "health"}, dc="secret")
