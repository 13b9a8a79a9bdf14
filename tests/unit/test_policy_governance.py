"""What governs a fabric: bundles speak for their workload alone, one that fails refuses it, sites only restrict."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from isochrone.errors import PolicyError
from isochrone.model.document import parse_fabric
from isochrone.model.fabric import Fabric
from isochrone.policy.bounds import bounds_of
from isochrone.policy.bundle import Bundle, sign
from isochrone.policy.governance import Governance, govern, own_policies, terms_of
from isochrone.policy.policies import PolicyTextError

SEED = bytes(range(32))
PUBLIC = base64.b64encode(Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()).decode()
DIGEST = "ab" * 32
NOW_S = 1_000.0
DOCUMENT = f"""
name: f
publishers: {{lab: {{key: "{PUBLIC}"}}}}
sites:
  bonn: {{tier: edge, at: {{lat: 50.7, lon: 7.1}}, jurisdiction: DE, vendor: v, hardware: {{cpu: {{units: 4}}}}}}
  bern: {{tier: metro, at: {{lat: 46.9, lon: 7.4}}, jurisdiction: CH, vendor: v, hardware: {{cpu: {{units: 4}}}}}}
workloads:
  chat:
    publisher: lab
    bundle: chat.json
    protocol: http
    model: {{name: m, digest: "sha256:{DIGEST}"}}
    runtime: {{kind: external, at: {{bonn: "127.0.0.1:1"}}}}
    service: {{cpu: {{duration: {{p50_ms: 1, p99_ms: 2}}, rps_max: 9}}}}
  echo:
    protocol: http
    model: {{name: e}}
    runtime: {{kind: external, at: {{bonn: "127.0.0.1:2"}}}}
    service: {{cpu: {{duration: {{p50_ms: 1, p99_ms: 2}}, rps_max: 9}}}}
contracts:
  talk: {{workload: chat, in_time: {{objective_ms: 50}}}}
  ping: {{workload: echo, in_time: {{objective_ms: 50}}}}
policies: [all.cedar]
"""
FABRIC = parse_fabric(DOCUMENT)
ALL = {"all.cedar": '@id("all") permit (principal, action, resource);'}
ONLY_DE = """@id("only-de")
forbid (principal, action in [Action::"place", Action::"exchange", Action::"execute"], resource)
unless { resource.jurisdiction == Jurisdiction::"DE" };"""
BUNDLE = Bundle({"m": DIGEST}, {"p.cedar": ONLY_DE}, {}, 7, 2_000)


def governed(bundle: Bundle = BUNDLE, fabric: Fabric = FABRIC, seed: bytes = SEED, **options: Any) -> Governance:
    files = ALL | {"chat.json": sign(bundle, {"lab": seed}).decode()}
    return govern(fabric, files, **{"now_s": NOW_S, **options})


def allowed(governance: Governance, fabric: Fabric = FABRIC) -> dict[str, set[str]]:
    bounds = bounds_of(fabric, governance.policies)
    return {c: {site for site in fabric.sites if bounds[c, site].allowed} for c in fabric.contracts}


def test_a_bundle_speaks_for_its_workload_alone() -> None:
    governance = governed()
    assert governance.bundles["chat"].revision == 7
    assert governance.expires_s == 2_000
    assert allowed(governance) == {"talk": {"bonn"}, "ping": {"bonn", "bern"}}
    assert {policy.id for policy in governance.policies.policies} == {"all", "chat/only-de"}


def test_a_permit_in_a_bundle_opens_nothing_for_other_workloads() -> None:
    permit = 'permit (principal, action in [Action::"place", Action::"exchange", Action::"execute"], resource);'
    files = {"all.cedar": "", "chat.json": sign(replace(BUNDLE, policies={"p": permit}), {"lab": SEED}).decode()}
    governance = govern(FABRIC, files, now_s=NOW_S)
    assert allowed(governance) == {"talk": {"bonn", "bern"}, "ping": set()}
    assert [policy.id for policy in governance.policies.policies] == ["chat/p:0"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"now_s": 2_000.0}, "bundle-expired"),
        ({"revisions": {"chat": 8}}, "bundle-downgrade"),
        ({"seed": bytes(32)}, "bundle-signature"),
        ({"bundle": replace(BUNDLE, subjects={"m": "cd" * 32})}, "bundle-subject"),
        ({"bundle": replace(BUNDLE, terms={"talk": {"in_time": {"objective_ms": 60}}})}, "bundle-terms"),
        ({"bundle": replace(BUNDLE, terms={"other": {}})}, "bundle-terms"),
        ({"bundle": replace(BUNDLE, policies={"p": "permit (principal, action, resource);"})}, "bundle-policies"),
        ({"bundle": replace(BUNDLE, engine_min=(9, 0, 0))}, "bundle-engine"),
    ],
)
def test_one_that_fails_refuses_its_workload_everywhere_and_says_why(options: dict[str, Any], code: str) -> None:
    governance = governed(**options)
    assert governance.refused["chat"].reasons[0].code == code
    assert allowed(governance) == {"talk": set(), "ping": {"bonn", "bern"}}
    reasons = bounds_of(FABRIC, governance.policies)["talk", "bonn"].reasons
    assert reasons == ("bundle-of-chat",)
    (forbid,) = [policy for policy in governance.policies.policies if policy.id == "bundle-of-chat"]
    assert code in forbid.note


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"payload": 3, "payloadType": "x", "signatures": []}'])
def test_what_is_no_bundle_refuses_too(text: str) -> None:
    governance = govern(FABRIC, ALL | {"chat.json": text}, now_s=NOW_S)
    assert governance.refused["chat"].reasons[0].code == "bundle-form"
    assert allowed(governance)["talk"] == set()


def test_terms_are_those_that_were_signed() -> None:
    terms = {"talk": terms_of(FABRIC.contracts["talk"])}
    assert governed(replace(BUNDLE, terms=terms)).refused == {}
    looser = parse_fabric(
        DOCUMENT.replace(
            "talk: {workload: chat, in_time: {objective_ms: 50}}", "talk: {workload: chat, in_time: {objective_ms: 90}}"
        )
    )
    assert "chat" in governed(replace(BUNDLE, terms=terms), fabric=looser).refused
    dearer = parse_fabric(DOCUMENT.replace("talk: {workload: chat,", "talk: {workload: chat, price_per_1k: 3,"))
    assert governed(replace(BUNDLE, terms=terms), fabric=dearer).refused == {}


def test_a_site_restricts_itself_and_nobody_else() -> None:
    own = own_policies({"own.cedar": '@id("nothing") forbid (principal, action == Action::"place", resource);'}, "bonn")
    both = governed().policies + own
    bounds = bounds_of(FABRIC, both)
    assert {site for site in FABRIC.sites if bounds["ping", site].allowed} == {"bern"}
    assert bounds["ping", "bonn"].reasons == ("bonn/nothing",)


def test_two_sites_may_use_the_same_name() -> None:
    texts = {"own.cedar": '@id("x") forbid (principal, action == Action::"place", resource);'}
    assert len(own_policies(texts, "bonn") + own_policies(texts, "bern")) == 2


def test_a_site_cannot_lift_a_restriction() -> None:
    with pytest.raises(PolicyError, match="may only forbid"):
        own_policies({"own.cedar": 'permit (principal, action == Action::"place", resource);'}, "bonn")
    with pytest.raises(PolicyTextError):
        own_policies({"own.cedar": "forbid (principal"}, "bonn")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("    publisher: lab\n", ""), "nobody's key"),
        ((', digest: "sha256:' + DIGEST + '"', ""), "digest"),
        ((PUBLIC, PUBLIC[:-4] + "AAA="), None),
        ((PUBLIC, "short"), "shape"),
    ],
)
def test_a_document_whose_bundle_nothing_verifies_is_refused(change: tuple[str, str], says: str | None) -> None:
    text = DOCUMENT.replace(*change)
    if says is None:  # another key: the document is well-formed, and the bundle is refused by its signature
        assert governed(fabric=parse_fabric(text)).refused["chat"].reasons[0].code == "bundle-signature"
        return
    with pytest.raises(Exception, match=says):
        parse_fabric(text)
