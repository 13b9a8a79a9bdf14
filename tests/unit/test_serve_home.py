"""State directories: what enrolment makes, what it keeps, and what a damaged one says."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from isochrone.errors import InputError, IntegrityError
from isochrone.model.document import parse_fabric
from isochrone.model.fabric import Fabric
from isochrone.serve.home import HubHome, SiteHome
from isochrone.serve.keyring import Keyring
from isochrone.serve.site_cache import SiteCache

TEXT = """
name: pair
sites:
  one: {tier: edge, at: {lat: 47.66, lon: 9.18}, jurisdiction: DE, vendor: v, hardware: {cpu: {units: 4}}}
  two: {tier: edge, at: {lat: 47.66, lon: 9.18}, jurisdiction: DE, vendor: v, hardware: {cpu: {units: 4}}}
workloads:
  w:
    protocol: http
    model: {name: m}
    runtime: {kind: process, command: [x, "{port}"]}
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 5}, rps_max: 10}}
contracts: {c: {workload: w, in_time: {objective_ms: 20}}}
"""


@pytest.fixture
def fabric() -> Fabric:
    return parse_fabric(TEXT, "fabric.yaml")


@pytest.fixture
def hub(tmp_path: Path) -> HubHome:
    return HubHome.open(tmp_path, "pair")


def enrol(hub: HubHome, fabric: Fabric, site: str, url: str = "nats://127.0.0.1:1") -> SiteHome:
    hub.bus_users(sorted(fabric.sites))
    return hub.enrol(fabric, site, hub.root.parent / "sites" / site, url)


def test_secrets_are_this_users_alone(hub: HubHome, fabric: Fabric) -> None:
    site = enrol(hub, fabric, "one")
    for path in (hub.root, site.root, site.identity):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    private = [hub.root / name for name in ("authority.key", "hub.key", "api.token", "bus.json")]
    private += [site.root / name for name in ("grant.key", "log.seed", "site.json")] + [site.identity / "key.pem"]
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_opening_again_keeps_every_key(hub: HubHome) -> None:
    again = HubHome.open(hub.root.parent, "pair")
    assert again.key.public.jwk == hub.key.public.jwk
    assert again.api_token == hub.api_token


def test_the_state_of_another_fabric_is_refused(hub: HubHome) -> None:
    with pytest.raises(InputError) as caught:
        HubHome.open(hub.root.parent, "other")
    assert caught.value.code == "state.other-fabric"


def test_enrolling_again_renews_the_certificate_and_keeps_who_the_site_is(hub: HubHome, fabric: Fabric) -> None:
    site = enrol(hub, fabric, "one")
    before, certificate = hub.roster()["one"], (site.identity / "certificate.pem").read_bytes()
    again = enrol(hub, fabric, "one", "nats://10.0.0.1:9")
    assert hub.roster()["one"] == before
    assert (again.identity / "certificate.pem").read_bytes() != certificate
    assert again.document()["bus"]["url"] == "nats://10.0.0.1:9"


def test_the_roster_holds_public_keys_only_and_one_of_its_own_for_each_site(hub: HubHome, fabric: Fabric) -> None:
    for name in ("one", "two"):
        enrol(hub, fabric, name)
    roster = hub.roster()
    assert set(roster) == {"one", "two"}
    assert all("d" not in entry["jwk"] and entry["jwk"]["use"] == "sig" for entry in roster.values())
    assert roster["one"]["jwk"]["kid"] != roster["two"]["jwk"]["kid"]
    assert roster["one"]["vkey"] != roster["two"]["vkey"]
    assert roster["one"]["vkey"].startswith("isochrone.invalid/pair/one+")


def test_a_sites_user_may_write_under_its_own_name_only(hub: HubHome) -> None:
    users = {user.name: user for user in hub.bus_users(["one", "two"])}
    assert users["hub"].permissions is None
    permissions = users["site-one"].permissions
    assert permissions is not None
    allowed = permissions["publish"]["allow"]
    # Accounts of budgets are shared: who mints could overspend anyway.
    assert {subject for subject in allowed if subject.startswith("$KV")} == {"$KV.sites.one", "$KV.budgets.>"}
    assert users["site-one"].password != users["site-two"].password
    assert {u.name: u.password for u in hub.bus_users(["one"])}["site-one"] == users["site-one"].password


def test_addresses_stay_the_same(hub: HubHome, fabric: Fabric) -> None:
    site = enrol(hub, fabric, "one")
    first = site.loopback_addresses()
    assert set(first) == {"ingress", "peer", "node_api"}
    assert len(set(first.values())) == 3
    assert SiteHome(site.root).loopback_addresses() == first


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", "{}", '{"site": "one"}'])
def test_a_directory_that_is_no_sites_says_what_to_do(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "site.json").write_text(content)
    with pytest.raises(InputError) as caught:
        SiteHome(tmp_path).document()
    assert caught.value.code == "site.not-enrolled"
    assert "isochrone enrol" in caught.value.hint


def test_nobody_enrolled_is_an_error_that_says_so_and_altered_acts_do_not_apply(hub: HubHome) -> None:
    with pytest.raises(InputError) as caught:
        hub.people()
    assert caught.value.code == "identity.none"
    holder = Keyring(hub.root.parent).create("human:ada", "Ada")
    hub.save_people({"anchor": [holder.identity(is_operator=True).to_json()], "acts": ["x.y.z"]})
    with pytest.raises(IntegrityError):
        hub.people()
    hub.save_people({"anchor": [holder.identity(is_operator=True).to_json()], "acts": []})
    assert hub.people().fabric == "pair"


def test_what_a_site_kept_is_read_back_and_damage_is_told_apart_from_nothing(tmp_path: Path) -> None:
    cache = SiteCache(tmp_path / "cache")
    assert (dict(cache.sealed()), cache.peers(), cache.feed.read()) == ({}, {}, [])
    cache.keep_sealed("plan", b"sealed")
    cache.feed.append(["one", "two"])
    assert dict(cache.sealed()) == {"plan": b"sealed"}
    assert cache.feed.read() == ["one", "two"]
    with (tmp_path / "cache" / "revocations").open("ab") as file:
        file.write(b"thr")
    assert cache.feed.read() == ["one", "two"], "a torn line never was"
    cache.feed.append(["three"])
    assert cache.feed.read() == ["one", "two", "three"]
    (tmp_path / "cache" / "revocations").write_bytes(b"\xff\n")
    with pytest.raises(ValueError):
        cache.feed.read()
    cache.feed.clear()
    assert cache.feed.read() == []
    for damaged in ("", "{", "3", '"x"'):
        (tmp_path / "cache" / "peers.json").write_text(damaged)
        with pytest.raises(ValueError):
            cache.peers()
    (tmp_path / "cache" / "peers.json").write_text(json.dumps({"one": "no address"}))
    with pytest.raises(ValueError):
        cache.peers()
