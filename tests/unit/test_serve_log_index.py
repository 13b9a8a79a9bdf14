"""Does the index answer what it is asked, and only with what records say?"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from isochrone.record.facts import COLUMNS, Facts, facts_of
from isochrone.serve.audit_query import rows_of_sites
from isochrone.serve.log_index import Index
from unit.test_record_trace import ID, SIGNERS, logged, records


def test_facts_of_each_kind() -> None:
    parts = records()
    outcome = facts_of(parts["outcome"])
    assert (outcome.kind, outcome.id, outcome.verdict, outcome.human) == ("outcome", ID, "allow", "human:ada")
    assert (outcome.contract, outcome.executing_site, outcome.status) == ("ward-chat", "vie", 200)
    exchange = facts_of(parts["exchange"])
    assert (exchange.human, exchange.verdict, exchange.contract) == ("human:ada", "allow", "ward-chat")
    assert exchange.grant_id == outcome.grant_id
    assert tuple(COLUMNS)[3:] == Facts._fields


@pytest.mark.parametrize("value", [None, "x", 3, [], {}, {"id": []}])
@pytest.mark.parametrize(
    "name", ["who", "what", "via", "under", "result", "grant", "reasons", "start_us", "kind", "id"]
)
def test_a_record_of_any_form_has_a_row(tmp_path: Path, name: str, value: Any) -> None:
    record = records()["outcome"] | {name: value}
    index = Index(tmp_path / "i")
    try:
        rows = facts_of(record)
        assert all(each is None or isinstance(each, str | int) for each in rows)
    finally:
        index.close()


def test_rows_are_found_by_facts_and_time(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    parts = list(records().values())
    index.add(0, parts)
    at_us = parts[0]["start_us"]
    assert [entry for _, entry, _ in index.rows({"kind": "outcome"})] == [0]
    assert [entry for _, entry, _ in index.rows({"human": "human:ada"})] == [1, 0]
    assert [entry for _, entry, _ in index.rows({}, at_us, at_us + 1)] == [0]
    assert list(index.rows({}, None, 0)) == []
    with pytest.raises(KeyError):
        list(index.rows({"1=1 --": "x"}))
    index.close()


def test_an_index_that_was_deleted_or_damaged_is_made_again_from_the_log(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    logged(site, "vie", list(records().values()))
    (site / "vie-0").rename(site / "log")
    vkeys = {"vie": SIGNERS["vie"].vkey}

    def asked() -> list[Any]:
        return [row.to_json() for row in rows_of_sites({"vie": site}, vkeys, {"human": "human:ada"}, (None, None))]

    without = asked()
    assert [row["kind"] for row in without] == ["exchange", "outcome"]
    assert not (site / "index.sqlite").exists()
    with sqlite3.connect(site / "index.sqlite") as other:
        other.execute("CREATE TABLE record (entry)")
    assert asked() == without
    (site / "index.sqlite").write_bytes(b"no database")
    assert asked() == without
    (site / "index.sqlite").unlink()
    index = Index(site / "index.sqlite")
    index.add(0, list(records().values()))
    index.close()
    assert [{**row, "grant_id": None} for row in asked()] == [{**row, "grant_id": None} for row in without]
