"""The filters that decide what a client's headers are worth."""

from __future__ import annotations

import re
from typing import Any

import pytest

from isochrone.authority.grant import CLAIM_HEADERS
from isochrone.forward.filters import fault, policy, revocation_resource, strip
from isochrone.forward.headers import CLAIMS, DEADLINE, EXECUTION, INGRESS, PLAN, REFUSED, is_ours


def removes(trusted_peer: bool, name: str) -> bool:
    """What Envoy does with a header name (lower case on the wire), from the mutations as compiled."""
    for mutation in strip(trusted_peer)[0]["typed_config"]["mutations"]:
        if mutation.get("remove") == name:
            return True
        matcher = mutation.get("remove_on_match", {}).get("key_matcher", {})
        if "prefix" in matcher and name.startswith(matcher["prefix"]):
            return True
        if "safe_regex" in matcher and re.fullmatch(matcher["safe_regex"]["regex"], name):
            return True
    return False


FORGED = [
    *CLAIM_HEADERS.values(),
    CLAIMS,
    EXECUTION,
    REFUSED,
    "x-isochrone-",
    "x-isochrone-x",
    "x-isochrone-deadline",
    "x-isochrone-deadline-m",
    "x-isochrone-deadline-ms2",
    "x-isochrone-plan-",
    "x-isochrone-ingres",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-retry-on",
    "x-envoy-original-dst-host",
    "x-envoy-",
    "x-forwarded-for",
    "x-forwarded-client-cert",
    "forwarded",
    "x-real-ip",
]


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("trusted_peer", [False, True])
def test_nobody_may_send(name: str, trusted_peer: bool) -> None:
    assert removes(trusted_peer, name)


@pytest.mark.parametrize("name", [DEADLINE, "authorization", "content-type", "x-isochronal", "traceparent", "host"])
@pytest.mark.parametrize("trusted_peer", [False, True])
def test_anybody_may_send(name: str, trusted_peer: bool) -> None:
    assert not removes(trusted_peer, name)


@pytest.mark.parametrize("name", [INGRESS, PLAN])
def test_only_a_site_may_say_where_a_request_came_in(name: str) -> None:
    assert removes(False, name)
    assert not removes(True, name)


@pytest.mark.parametrize("name", [*FORGED[:12], DEADLINE])
def test_is_ours_says_the_same(name: str) -> None:
    assert is_ours(name) == removes(False, name)
    assert is_ours(name.upper()) == is_ours(name)


def test_deny_rules_are_refused_because_they_fail_open() -> None:
    with pytest.raises(ValueError, match="ALLOW"):
        policy("policy-here", {"action": "DENY", "policies": {}})


def walk(matcher: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(header, revoked ids) in the order Envoy looks."""
    if "matcher_tree" not in matcher:
        return []
    tree = matcher["matcher_tree"]
    name = tree["input"]["typed_config"]["header_name"]
    following = matcher["on_no_match"].get("matcher", {})
    return [(name, sorted(tree["exact_match_map"]["map"])), *walk(following)]


def last(matcher: dict[str, Any]) -> str:
    action = matcher["on_no_match"]
    return last(action["matcher"]) if "matcher" in action else str(action["action"]["typed_config"]["action"])


def test_the_revocation_map_looks_at_every_header_with_ids_and_else_allows() -> None:
    deny = {
        "x-isochrone-h2": frozenset({"b", "a"}),
        "x-isochrone-h1": frozenset({"c"}),
        "x-isochrone-k0": frozenset[str](),
    }
    matcher = revocation_resource("revocation", deny)["typed_config"]["matcher"]
    assert walk(matcher) == [("x-isochrone-h1", ["c"]), ("x-isochrone-h2", ["a", "b"])]
    assert last(matcher) == "ALLOW"


def test_no_revocations_is_a_map_that_allows() -> None:
    assert last(revocation_resource("revocation", {})["typed_config"]["matcher"]) == "ALLOW"


def test_emulated_distance_is_the_whole_round_trip_in_whole_milliseconds() -> None:
    assert fault("konstanz", 8)["typed_config"]["delay"]["fixed_delay"] == "0.008s"
