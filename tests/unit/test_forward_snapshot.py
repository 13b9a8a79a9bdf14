"""What a site's Envoy is handed: complete, consistent, the same for the same view, and accepted by the real binary."""

from __future__ import annotations

import datetime as dt
import functools
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.jose import PrivateKey
from isochrone.forward.fib import Entry, Fib, fib_for
from isochrone.forward.fib import Path as Chain
from isochrone.forward.secrets import CREDENTIAL, secret_file, secret_path
from isochrone.forward.snapshot import bootstrap, compile_site, revocation_file
from isochrone.forward.view import Files, SiteView, site_uri
from isochrone.forward.xds import Address
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Exclusion, Plan, Refusal, Rung, Share
from isochrone.plan.verdicts import Verdict
from isochrone.serve.binaries import envoy
from isochrone.serve.pki import Authority
from support import documents

ANY = {"action": "ALLOW", "policies": {"any": {"permissions": [{"any": True}], "principals": [{"any": True}]}}}
JWKS = {"keys": [PrivateKey.generate().public.jwk | {"kid": "k", "alg": "ES256"}]}


@functools.cache
def fabric_of(count: int) -> Fabric:
    return documents.fabric(
        {f"site-{at:03}-{'x' * 40}": documents.site() for at in range(count)},
        {"voice": documents.workload() | {"protocol": "open-inference"}},
        {"line": documents.contract("voice", 20), "far": documents.contract("voice", 5)},
        name="lakeside",
    )


def plan_of(routes: dict[str, dict[str, tuple[Rung, ...]]]) -> Plan:
    return documents.plan(revision=7, routes=routes)


def view_of(count: int, directory: str = "/s", **changes: Any) -> SiteView:
    fabric = fabric_of(count)
    names = sorted(fabric.sites)
    here, others = names[0], names[1:]
    excluded = tuple(Exclusion(name, "out_of_time", 12.5, 9.5, 3.0, 1.5, (), "100% too far %REQ(x)%") for name in names)
    shares = tuple(Share(name, 1 / count) for name in names)
    routes: dict[str, dict[str, tuple[Rung, ...]]] = {
        here: {
            "line": (Rung(20.0, shares[:2], tuple(names[2:])),),
            "far": (Rung(5.0, (), (), Refusal("t", "d", exclusions=excluded)),),
        }
    }
    everywhere = {(contract, name): Verdict(True) for contract in fabric.contracts for name in names}
    view = SiteView(
        fabric=fabric,
        site=here,
        fib=fib_for(fabric, plan_of(routes), here, everywhere),
        files=Files(f"{directory}/xds", f"{directory}/identity", f"{directory}/j.jsonl", f"{directory}/admin.sock"),
        ingress=Address("127.0.0.1", 1000),
        peer=Address("127.0.0.1", 1001),
        node_api=Address("127.0.0.1", 1002),
        peers={name: Address("127.0.0.1", 2000 + at) for at, name in enumerate(others)},
        replicas={"voice": (Address("127.0.0.1", 3000),)},
        jwks=JWKS,
        issuer="isochrone:lakeside",
        rules=ANY,
        anywhere_rules=ANY,
        allowed={contract: frozenset(names) for contract in fabric.contracts},
        deny={},
        policy_digest="p",
        epoch=1,
        rtt_ms=dict.fromkeys(others, 8.0),
    )
    return replace(view, **changes)


def resources(view: SiteView, file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(compile_site(view).files[file])["resources"]
    return found


def bodies(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in bodies(item)]
    if not isinstance(value, dict):
        return []
    own = [value["direct_response"]["body"]["inline_string"]] if "direct_response" in value else []
    return own + [text for item in value.values() for text in bodies(item)]


def test_equal_views_are_equal_bytes() -> None:
    assert compile_site(view_of(4)).files == compile_site(view_of(4)).files


def changed(before: SiteView, after: SiteView) -> set[str]:
    old, new = compile_site(before), compile_site(after)
    names = set(old.files) | set(new.files)
    files = {name for name in names if old.files.get(name) != new.files.get(name)}
    assert files == {name for name in names if old.versions.get(name) != new.versions.get(name)}
    return files


def test_a_change_touches_only_the_files_that_hold_it() -> None:
    view = view_of(3)
    other = sorted(view.fabric.sites)[1]
    assert changed(view, view_of(3)) == set()
    assert changed(view, replace(view, down=frozenset({other}))) == {"cds/clusters.json"}
    assert changed(view, replace(view, deny={"x-isochrone-h1": frozenset({"a"})})) == {"ecds/revocation.json"}
    assert changed(view, replace(view, fib=replace(view.fib, revision=8))) == {"rds/ingress.json", "rds/peer.json"}
    assert changed(view, replace(view, fib=replace(view.fib, limits={"line": 3}))) == {"cds/clusters.json"}
    assert changed(view, replace(view, policy_digest="q")) == {"lds/listeners.json"}
    assert changed(view, replace(view, epoch=2)) == set()
    assert changed(view, replace(view, stale_since_s=1.7e9)) == {"rds/ingress.json"}


def test_answers_say_since_when_the_hub_is_not_heard_and_nothing_while_it_is() -> None:
    view = view_of(2)
    stale = json.dumps(resources(replace(view, stale_since_s=1_763_920_000.7), "rds/ingress.json"))
    assert '{"key": "x-isochrone-stale-since", "value": "1763920000"}' in stale
    heard = json.dumps(resources(view, "rds/ingress.json"))
    assert '"key": "x-isochrone-stale-since"' not in heard


def test_the_revocation_file_alone_is_the_one_in_the_snapshot() -> None:
    deny = {"x-isochrone-human": frozenset({"human:eve"})}
    assert compile_site(view_of(2, deny=deny)).files["ecds/revocation.json"] == revocation_file(deny)


def test_two_hundred_sites_fit_into_every_body() -> None:
    files = compile_site(view_of(200)).files
    texts = bodies([json.loads(files[f"rds/{role}.json"]) for role in ("ingress", "peer")])
    assert len(texts) > 4
    assert max(len(text.encode()) for text in texts) <= 4096
    assert all(json.loads(text)["status"] for text in texts if text != "ok")


def test_a_view_that_forwards_where_nothing_stands_is_refused_before_envoy_sees_it() -> None:
    view = view_of(2)
    with pytest.raises(ValueError, match="do not exist"):
        compile_site(replace(view, allowed={"line": frozenset(), "far": frozenset()}))


def test_a_peer_without_a_known_address_is_not_routed_to_but_refused_as_passing() -> None:
    view = view_of(3)
    second = sorted(view.fabric.sites)[1]
    entry = Entry("line", 20.0, (Chain((second,), 1000),), (second,), None)
    alone = replace(view, peers={}, fib=Fib(view.site, 7, (entry,), {}))
    routes = resources(alone, "rds/ingress.json")[0]["virtual_hosts"][0]["routes"]
    line = [
        route
        for route in routes
        if any(h.get("string_match") == {"exact": "line"} for h in route["match"].get("headers", ()))
    ]
    assert all("direct_response" in route for route in line)
    for wanted in ({"exact": "*"}, {"contains": f"|{second}|"}):
        first = next(r for r in line if any(h.get("string_match") == wanted for h in r["match"]["headers"]))
        assert first["direct_response"]["status"] == 503


@pytest.mark.parametrize(("tries", "retries"), [(2, 1), (3, 2), (9, 3)])
def test_a_request_is_retried_as_often_as_the_plan_says(tries: int, retries: int) -> None:
    view = view_of(4)
    sites = tuple(sorted(view.fabric.sites))
    entry = Entry("line", 20.0, (Chain(sites, 1000),), sites, None, tries=tries)
    routes = resources(replace(view, fib=Fib(view.site, 7, (entry,), {})), "rds/ingress.json")[0]["virtual_hosts"][0]
    found = {
        route["route"]["retry_policy"]["num_retries"]
        for route in routes["routes"]
        if "route" in route
        and {"name": "x-isochrone-contract", "string_match": {"exact": "line"}} in route["match"].get("headers", ())
    }
    assert max(found) == retries


def test_a_site_without_replicas_has_an_empty_cluster_and_a_lock_that_lets_nothing_through() -> None:
    view = view_of(1, replicas={})
    clusters = {cluster["name"]: cluster for cluster in resources(view, "cds/clusters.json")}
    options = clusters["exec/line"]["typed_extension_protocol_options"]
    (filters,) = [option["http_filters"] for option in options.values()]
    assert filters[0]["typed_config"]["rules"] == {"action": "ALLOW", "policies": {}}
    assert clusters["exec/line"]["load_assignment"]["endpoints"] == []


def test_no_listener_trusts_an_address_to_be_internal() -> None:
    for listener in resources(view_of(2), "lds/listeners.json"):
        (manager,) = listener["filter_chains"][0]["filters"]
        config = manager["typed_config"]
        assert config["use_remote_address"]
        assert config["internal_address_config"]["cidr_ranges"] == [
            {"address_prefix": "255.255.255.255", "prefix_len": 32}
        ]


def write(view: SiteView, directory: Path) -> None:
    """Everything the files name, as on a site's machine."""
    now = dt.datetime.now(dt.UTC)
    authority = Authority.create("lakeside", now)
    issued = authority.issue(site_uri("lakeside", view.site), now)
    files = {f"xds/{name}": data for name, data in compile_site(view).files.items()}
    secret = secret_file(CREDENTIAL, issued.certificate, issued.key)
    files |= {"identity/trust.pem": authority.certificate, f"xds/{secret_path(CREDENTIAL)}": secret}
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)


def validate(document: dict[str, Any], directory: Path) -> None:
    """Have the real binary judge a bootstrap, which it does without opening a port."""
    (directory / "bootstrap.json").write_text(json.dumps(document))
    words: list[str | Path] = ["--mode", "validate", "-c", directory / "bootstrap.json"]
    words += ["--service-node", "n", "--service-cluster", "c", "-l", "error"]
    done = subprocess.run([envoy(), *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def plain(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key != "@type"}


def inlined(view: SiteView) -> dict[str, Any]:
    """All that is discovered from files as one static bootstrap."""
    found = {name: json.loads(data)["resources"] for name, data in compile_site(view).files.items()}
    by_name = {route["name"]: plain(route) for role in ("ingress", "peer") for route in found[f"rds/{role}.json"]}
    revocation = found["ecds/revocation.json"][0]["typed_config"]
    listeners = [plain(listener) for listener in found["lds/listeners.json"]]
    for listener in listeners:
        for chain in listener["filter_chains"]:
            config = chain["filters"][0]["typed_config"]
            config["route_config"] = by_name[config.pop("rds")["route_config_name"]]
            for filter_ in config["http_filters"]:
                if filter_.pop("config_discovery", None):
                    filter_["typed_config"] = revocation
    document: dict[str, Any] = json.loads(bootstrap(view.files))
    document.pop("dynamic_resources")
    clusters = [plain(cluster) for cluster in found["cds/clusters.json"]]
    return document | {"static_resources": {"clusters": clusters, "listeners": listeners}}


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_real_envoy_accepts_every_resource(count: int, tmp_path: Path) -> None:
    deny = {"x-isochrone-h1": frozenset({"a", "b"}), "x-isochrone-k0": frozenset({"c"})}
    view = view_of(count, str(tmp_path), deny=deny)
    write(view, tmp_path)
    validate(inlined(view), tmp_path)


def test_the_real_envoy_would_have_told_of_a_mistake(tmp_path: Path) -> None:
    view = view_of(1, str(tmp_path))
    write(view, tmp_path)
    document = inlined(view)
    document["static_resources"]["clusters"][0]["connect_timeout"] = "soon"
    with pytest.raises(AssertionError):
        validate(document, tmp_path)


def test_the_real_envoy_accepts_the_bootstrap(tmp_path: Path) -> None:
    view = view_of(2, str(tmp_path))
    write(view, tmp_path)
    validate(json.loads(bootstrap(view.files)), tmp_path)
