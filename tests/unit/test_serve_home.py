"""State directories: what enrolment makes, what it keeps, and what a damaged one says."""

from __future__ import annotations

import datetime as dt
import json
import stat
from pathlib import Path

import pytest

from isochrone.errors import InputError, IntegrityError
from isochrone.serve.admission import Admission
from isochrone.serve.home import HubHome, SiteHome
from isochrone.serve.joining import join, renew
from isochrone.serve.keyring import Keyring
from isochrone.serve.site_cache import SiteCache


@pytest.fixture
def hub(tmp_path: Path) -> HubHome:
    home = HubHome.open(tmp_path, "pair")
    home.save_addresses("127.0.0.1:1", "127.0.0.1:2")
    return home


def enrol(hub: HubHome, site: str) -> SiteHome:
    home, admission = SiteHome(hub.root.parent / "sites" / site), Admission(hub)
    join(home, admission.invite(site), admission.admit)
    return home


def test_secrets_are_this_users_alone(hub: HubHome) -> None:
    site = enrol(hub, "one")
    for path in (hub.root, site.root, site.identity):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    private = [hub.root / name for name in ("authority.key", "hub.key", "api.token", "invitations.json")]
    private += [site.root / name for name in ("grant.key", "log.seed", "site.json")] + [
        site.identity / "credential.pem"
    ]
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


def test_renewing_changes_the_certificate_and_its_key_and_not_who_the_site_is(hub: HubHome) -> None:
    site = enrol(hub, "one")
    entry, before = hub.roster()["one"], site.credential
    renew(site, Admission(hub).renew)
    assert hub.roster()["one"] == entry
    assert site.credential.certificate != before.certificate
    assert site.credential.key != before.key


def test_the_roster_holds_public_keys_only_and_one_of_its_own_for_each_site(hub: HubHome) -> None:
    for name in ("one", "two"):
        enrol(hub, name)
    roster = hub.roster()
    assert set(roster) == {"one", "two"}
    assert all("d" not in entry["jwk"] and entry["jwk"]["use"] == "sig" for entry in roster.values())
    assert roster["one"]["jwk"]["kid"] != roster["two"]["jwk"]["kid"]
    assert roster["one"]["vkey"] != roster["two"]["vkey"]
    assert roster["one"]["vkey"].startswith("isochrone.invalid/pair/one+")


def test_a_sites_user_may_write_under_its_own_name_and_hear_its_own_answers_only(hub: HubHome) -> None:
    for name in ("one", "two"):
        enrol(hub, name)
    users = {user.uri: user for user in hub.bus_server().users}
    assert set(users) == {"spiffe://pair/hub", "spiffe://pair/site/one", "spiffe://pair/site/two"}
    assert users["spiffe://pair/hub"].permissions is None
    permissions = users["spiffe://pair/site/one"].permissions
    assert permissions is not None
    allowed = permissions["publish"]["allow"]
    # Accounts of budgets are shared: who mints could overspend anyway.
    assert {subject for subject in allowed if subject.startswith("$KV")} == {"$KV.sites.one", "$KV.budgets.>"}
    assert permissions["subscribe"]["allow"] == ["_INBOX.site-one.>"]


def test_the_hub_does_not_know_where_it_is_until_somebody_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        HubHome.open(tmp_path, "pair").bus_server()
    assert caught.value.code == "hub.no-address"


def test_the_hub_renews_its_own_certificate_when_it_is_due(hub: HubHome) -> None:
    now = dt.datetime.now(dt.UTC)
    assert hub.renew_credential(now)
    assert not hub.renew_credential(now + dt.timedelta(days=14))
    assert hub.renew_credential(now + dt.timedelta(days=16))


def test_addresses_stay_the_same(hub: HubHome) -> None:
    site = enrol(hub, "one")
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
