"""How records are kept and witnessed, as the document says it: one rule for every party, and mistakes are named."""

from __future__ import annotations

import pytest

from isochrone.errors import InputError
from isochrone.model.document import DocumentError
from isochrone.model.fabric import Fabric
from isochrone.model.keeping import WITNESSES_MAX, Keeping, Retention, quorum_of, witnesses_of
from isochrone.record.shards import classes_of, shard_of, shard_origin, trust_policy, verifiers_of, witnessing_of
from isochrone.tlog.note import Signer
from support import documents
from support.documents import Json


def fabric(keeping: Json | None = None, terms: Json | None = None, sites: int = 1) -> Fabric:
    return documents.fabric(
        {name: documents.site() for name in "abcdefgh"[:sites]},
        {"echo": documents.workload(runtime=documents.external("a"))},
        {"main": documents.contract("echo", 50, on_record=terms or {})},
        on_record=keeping or {},
    )


@pytest.mark.parametrize(
    ("keeping", "terms", "says"),
    [
        ({}, {"evidence": "synchronous", "when_unrecorded": "continue"}, "cannot go on unrecorded"),
        ({"retention": "1-year"}, {"retention": "7-years"}, "rest on those of the main log"),
        ({"quorum": 2}, {}, "is never met"),
        ({"retention": "2-weeks"}, {}, "retention"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(keeping: Json, terms: Json, says: str) -> None:
    with pytest.raises(DocumentError) as caught:
        fabric(keeping, terms, sites=2)
    assert says in str(caught.value)


def test_witnesses_are_the_next_sites_and_a_quorum_is_more_than_half() -> None:
    sites = frozenset("abcdefgh")
    assert witnesses_of(sites, "g") == ("h", "a", "b", "c", "d")
    assert witnesses_of(frozenset("a"), "a") == ()
    counts = [quorum_of(Keeping(), tuple("abcdefgh"[:count])) for count in range(WITNESSES_MAX + 1)]
    assert counts == [0, 1, 2, 2, 3, 3]
    assert quorum_of(Keeping(quorum=2), ("a", "b", "c")) == 2


def test_two_histories_cannot_both_find_a_default_quorum() -> None:
    for count in range(1, WITNESSES_MAX + 1):
        assert 2 * quorum_of(Keeping(), tuple("abcde"[:count])) > count


def test_every_class_lasts_as_long_as_its_name_says_in_any_calendar() -> None:
    assert [each.days >= least for each, least in zip(Retention, (184, 366, 1096, 1827, 2192, 2557), strict=True)]
    assert Retention.SIX_MONTHS.days == 186


def test_records_go_to_the_log_of_their_contract() -> None:
    classes = classes_of(fabric(terms={"retention": "6-months"}))
    assert classes == {"main": "6-months"}
    assert shard_of({"kind": "outcome", "what": {"contract": "main"}}, classes) == "6-months"
    assert shard_of({"kind": "outcome", "what": {"contract": "other"}}, classes) == ""
    assert shard_of({"kind": "admission"}, classes) == shard_of({"kind": "finding", "what": "x"}, classes) == ""
    assert classes_of(fabric(terms={"retention": "7-years"})) == {}


def test_one_key_signs_every_log_of_a_site_under_its_own_name() -> None:
    signer = Signer("isochrone.invalid/pair/a", bytes(32))
    verifiers = verifiers_of(signer.vkey)
    named = signer.named(shard_origin(signer.name, "1-year"))
    assert verifiers["1-year"].vkey == named.vkey != signer.vkey
    with pytest.raises(InputError):
        shard_origin(signer.name, "../..")


def test_a_witness_whose_key_is_not_known_counts_and_cannot_be_made_up_for() -> None:
    quorum, keys = witnessing_of(fabric(sites=3), "a", {})
    assert (quorum, keys) == (2, {})
    with pytest.raises(InputError):
        trust_policy(Signer("x.example/log", bytes(32)).vkey, quorum, keys)
