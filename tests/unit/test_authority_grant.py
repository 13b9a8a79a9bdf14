"""The grant: where it is good, how long it lives, how big it is, and what a verifier demands of it."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.authority.grant import (
    ALL_SITES,
    CLAIM_HEADERS,
    GRANT_BYTES_MAX,
    GRANT_TYP,
    Binding,
    Grant,
    GrantRefused,
    issuer_name,
    tag,
    verify_grant,
)
from isochrone.authority.jose import sign_compact
from isochrone.authority.testing import NOW_S, World, named_key

WORLD = World()
SITE = named_key("site vie")
CERTIFICATE = Binding(certificate_sha256=b"c" * 32)


def granted(result: Grant | GrantRefused) -> Grant:
    assert isinstance(result, Grant), result
    return result


def codes(result: Grant | GrantRefused) -> set[str]:
    assert isinstance(result, GrantRefused)
    return {reason.code for reason in result.reasons}


def test_a_grant_says_who_what_where_and_for_how_long() -> None:
    chain = WORLD.verified(3)
    grant = granted(WORLD.grant(chain))
    assert grant.claims["iss"] == issuer_name("acme") == "isochrone:acme"
    assert (grant.claims["sub"], grant.claims["act"]) == ("human:ada", {"sub": "agent:a2"})
    assert grant.claims["chd"] == chain.digest
    assert [grant.claims[f"h{at}"] for at in (1, 2, 3)] == [tag(hop.id) for hop in chain.hops]
    assert [grant.claims[f"k{at}"] for at in range(4)] == [tag(key) for key in chain.keys]
    assert "h4" not in grant.claims
    assert grant.exp_s == int(NOW_S) + 60
    assert granted(verify_grant(grant.token, [SITE.public], fabric="acme", now_s=NOW_S)).claims == grant.claims


def test_it_names_the_sites_that_the_scope_allows() -> None:
    chain = WORLD.verified(1)
    places = [("vie", "AT"), ("ber", "DE"), ("zrh", "CH"), ("par", "FR")]
    candidates = [WORLD.execution(site=site, jurisdiction=area) for site, area in places]
    grant = granted(WORLD.grant(chain, candidates=candidates))
    assert grant.claims["sites"] == "|ber|vie|"
    assert grant.sites == {"ber", "vie"}


def test_a_site_where_only_some_hardware_is_allowed_is_not_named() -> None:
    chain = WORLD.verified(1, WORLD.scope(hardware_classes=frozenset({"gpu"})))
    mixed = [WORLD.execution(), WORLD.execution(hardware_class="cpu"), WORLD.execution(site="ber", jurisdiction="DE")]
    assert granted(WORLD.grant(chain, candidates=mixed)).sites == {"ber"}
    assert codes(WORLD.grant(chain, candidates=mixed[:2])) == {"scope-outside"}


def test_all_sites_only_where_nothing_restricts_them() -> None:
    free = WORLD.scope(sites=None, jurisdictions=None)
    grant = granted(WORLD.grant(WORLD.verified(1, free), candidates=None))
    assert grant.claims["sites"] == ALL_SITES
    assert grant.sites is None
    asked = WORLD.execution(site=None, jurisdiction=None)
    assert codes(WORLD.grant(WORLD.verified(1), candidates=None, asked=asked)) == {"scope-unknown"}


def test_nowhere_is_a_refusal_with_every_reason() -> None:
    refused = WORLD.grant(WORLD.verified(1), candidates=[WORLD.execution(site="zrh", jurisdiction="CH")])
    assert isinstance(refused, GrantRefused)
    assert [reason.text for reason in refused.reasons] == [
        "zrh: site zrh is not among ber, vie",
        "zrh: jurisdiction CH is not among EU",
    ]
    assert codes(WORLD.grant(WORLD.verified(1), candidates=[])) == {"no-site"}
    other = [WORLD.execution(contract="trading")]
    assert codes(WORLD.grant(WORLD.verified(1), candidates=other)) == {"scope-outside"}


@pytest.mark.parametrize(("offset_s", "life_s"), [(0, 60), (3590, 10), (3599, 1)])
def test_it_never_outlives_a_hop(offset_s: int, life_s: int) -> None:
    grant = granted(WORLD.grant(WORLD.verified(1), now_s=NOW_S + offset_s))
    assert grant.exp_s - int(NOW_S) - offset_s == life_s
    assert codes(WORLD.grant(WORLD.verified(1), now_s=NOW_S + 3600)) == {"expired"}


def test_it_never_outlives_the_window_of_the_scope() -> None:
    chain = WORLD.verified(1, WORLD.scope(not_after_s=int(NOW_S) + 7))
    assert granted(WORLD.grant(chain)).exp_s == int(NOW_S) + 7


def test_four_hops_fit_into_one_kibibyte_and_eight_into_the_limit() -> None:
    for binding in (CERTIFICATE, Binding(jkt="j" * 43)):
        unlimited = WORLD.verified(4, WORLD.scope(tokens_max=None))
        assert len(granted(WORLD.grant(unlimited, binding=binding, allowance=None)).token) <= 1024
        assert len(granted(WORLD.grant(WORLD.verified(8), binding=binding)).token) <= GRANT_BYTES_MAX


def test_too_many_sites_are_refused_not_cut() -> None:
    names = [f"edge-site-{at:03}" for at in range(100)]
    chain = WORLD.verified(1, WORLD.scope(sites=frozenset(names)))
    assert codes(WORLD.grant(chain, candidates=[WORLD.execution(site=name) for name in names])) == {"oversized"}


def test_headers_name_every_scalar() -> None:
    grant = granted(WORLD.grant(WORLD.verified(2), binding=CERTIFICATE))
    headers = grant.headers()
    assert headers["x-isochrone-human"] == "human:ada"
    assert headers["x-isochrone-agent"] == "agent:a1"
    assert headers["x-isochrone-epoch"] == "0"
    assert set(headers) <= set(CLAIM_HEADERS.values())
    assert len(set(CLAIM_HEADERS.values())) == len(CLAIM_HEADERS)


@pytest.mark.parametrize("claim", ["iss", "aud", "iat", "exp", "jti", "sub", "act", "ctr", "wl", "dc", "chd", "sites"])
def test_a_verifier_demands_every_claim(claim: str) -> None:
    claims: dict[str, Any] = dict(granted(WORLD.grant(WORLD.verified(1))).claims)
    del claims[claim]
    token = sign_compact(claims, SITE, typ=GRANT_TYP, kid=tag(SITE.public.thumbprint))
    assert codes(verify_grant(token, [SITE.public], fabric="acme", now_s=NOW_S)) == {"claim"}


def test_a_verifier_refuses_the_expired_the_early_and_the_oversized() -> None:
    token = granted(WORLD.grant(WORLD.verified(1))).token
    assert codes(verify_grant(token, [SITE.public], fabric="acme", now_s=NOW_S + 60)) == {"expired"}
    assert codes(verify_grant(token, [SITE.public], fabric="acme", now_s=NOW_S - 2)) == {"not-yet"}
    assert codes(verify_grant("a" * 1281, [SITE.public], fabric="acme", now_s=NOW_S)) == {"oversized"}
    assert codes(verify_grant(token, [], fabric="acme", now_s=NOW_S)) == {"signature"}


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="one of them"):
        Binding()
    with pytest.raises(ValueError, match="one of them"):
        Binding(jkt="x", certificate_sha256=b"c" * 32)
    with pytest.raises(ValueError, match="one contract"):
        WORLD.grant(WORLD.verified(1), asked=WORLD.execution(contract=None))
