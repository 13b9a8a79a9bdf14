"""Does a site belong to the fabric only by an operator's act, and with the keys that its join token vouches for?"""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.authority.identity import ActRejected, Registry, sign_act
from isochrone.authority.jose import PrivateKey, sign_compact
from isochrone.authority.sites import _TYP, admission_key, admit_subject, admitted, sign_admission
from isochrone.authority.testing import NOW_S
from isochrone.errors import AuthorityError
from isochrone.serve.enrolment import roster_entry
from isochrone.serve.keyring import Holder

ADA, EVE = (Holder(f"human:{name}", name.title(), PrivateKey.generate()) for name in ("ada", "eve"))
EMPTY = Registry.anchored("acme", [ADA.identity(is_operator=True), EVE.identity()])
JOIN, OTHER = PrivateKey.generate("OKP"), PrivateKey.generate("OKP")


def keys() -> dict[str, Any]:
    return roster_entry(PrivateKey.generate().public, "vkey", "witness")


def signed(registry: Registry, kind: str, subject: dict[str, Any], by: Holder = ADA) -> Registry | ActRejected:
    return registry.apply(sign_act(registry, kind, subject, key=by.key, now_s=NOW_S))


def after(registry: Registry, kind: str, subject: dict[str, Any]) -> Registry:
    following = signed(registry, kind, subject)
    assert isinstance(following, Registry), following
    return following


def joined(entry: dict[str, Any], key: PrivateKey = JOIN, fabric: str = "acme", site: str = "one") -> dict[str, Any]:
    return {**entry, "admission": sign_admission(key, fabric, site, entry)}


ADMITTED = after(EMPTY, "admit", admit_subject("one", JOIN.public))


def believed(registry: Registry, entry: Any, site: str = "one") -> tuple[set[str], str]:
    found, faults = admitted(registry.sites, "acme", {site: entry})
    return set(found), "".join(faults)


def test_a_site_is_believed_with_the_keys_that_its_join_key_signed() -> None:
    assert believed(ADMITTED, joined(keys())) == ({"one"}, "")


def test_no_other_keys_and_no_other_site_pass_for_it() -> None:
    mine = joined(keys())
    lies: dict[str, tuple[Any, str]] = {
        "own keys behind the name": ({**keys(), "admission": mine["admission"]}, "of other keys"),
        "own join key": (joined(keys(), OTHER), "no act names the key"),
        "another fabric's": (joined(keys(), fabric="other"), "of other keys, or of another site"),
        "another site's": (joined(keys(), site="two"), "of other keys, or of another site"),
        "no admission": (keys(), "malformed"),
        "junk": ({**keys(), "admission": "x.y.z"}, "site one is not believed"),
        "no join key": ({**keys(), "admission": sign_compact({}, JOIN, typ=_TYP, jwk="x")}, "neither P-256"),
        "no keys": ({"admission": mine["admission"]}, "malformed"),
        "no entry": (3, "malformed"),
    }
    for what, (entry, said) in lies.items():
        found, fault = believed(ADMITTED, entry)
        assert (found, said in fault) == (set(), True), (what, fault)
    assert believed(EMPTY, mine) == (set(), "site one is not believed: no act admits it")
    assert believed(ADMITTED, mine, "two")[0] == set()


def test_an_admission_that_its_key_did_not_sign() -> None:
    entry = keys()
    head, claims, _ = sign_admission(JOIN, "acme", "one", entry).split(".")
    proof = sign_admission(OTHER, "acme", "one", entry).split(".")[2]
    with pytest.raises(AuthorityError):
        admission_key(f"{head}.{claims}.{proof}", "acme", "one", entry)


def test_a_site_that_may_join_again_runs_on_until_it_does() -> None:
    again = after(ADMITTED, "admit", admit_subject("one", OTHER.public))
    assert believed(again, joined(keys()))[0] == believed(again, joined(keys(), OTHER))[0] == {"one"}


def test_a_removed_site_stays_out_and_its_token_does_not_bring_it_back() -> None:
    mine, gone = joined(keys()), after(ADMITTED, "remove-site", {"site": "one"})
    assert believed(gone, mine)[0] == set()
    assert believed(after(gone, "admit", admit_subject("one", OTHER.public)), mine)[0] == set()


def test_drains_are_acts() -> None:
    drained = after(ADMITTED, "drain", {"site": "one"})
    assert (ADMITTED.drained, drained.drained) == (frozenset(), {"one"})
    assert after(drained, "admit", admit_subject("one", OTHER.public)).drained == {"one"}
    assert after(drained, "undrain", {"site": "one"}).drained == frozenset()


@pytest.mark.parametrize("kind", ["remove-site", "drain", "undrain"])
def test_what_is_no_site_cannot_be_changed(kind: str) -> None:
    refused = signed(ADMITTED, kind, {"site": "two"})
    assert isinstance(refused, ActRejected)
    assert "there is no site 'two'" in str(refused.reasons[0])


@pytest.mark.parametrize("subject", [{}, {"site": "one"}, {"site": 3, "key": "k"}, {"site": "one", "key": ["k"]}])
def test_a_malformed_admission_act(subject: dict[str, Any]) -> None:
    assert isinstance(signed(EMPTY, "admit", subject), ActRejected)


@pytest.mark.parametrize("kind", ["admit", "remove-site", "drain", "undrain"])
def test_only_operators_say_which_sites_there_are(kind: str) -> None:
    refused = signed(ADMITTED, kind, admit_subject("one", OTHER.public), EVE)
    assert isinstance(refused, ActRejected)
    assert "no active operator" in str(refused.reasons[0])
