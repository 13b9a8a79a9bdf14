"""The page that explains the record names every field that records have, by kind, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from isochrone.forward.journal import attempt_fields, end_fields, start_fields
from isochrone.record import records
from isochrone.serve.clock import read_clock

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "record.md").read_text()
HERE = records.SiteIdentity("konstanz", "edge", "seewerk", "DE")
# Described as a whole: what is inside is another document's, or names of the fabric's own.
WHOLE = {"grant", "policies", "models", "requests"}


def made() -> Iterator[dict[str, Any]]:
    for fields in (start_fields("s", "peer"), end_fields("s", "peer", "p"), attempt_fields("s", "peer")):
        yield records.from_journal(fields, HERE, lambda _: None)
        yield records.from_journal(fields, HERE, lambda _: "frankfurt")
    yield records.exchange(HERE, 1, [], "c", None, [])
    yield records.revocation(HERE, 1, 1, "e")
    yield records.act(HERE, 1, 1, "d", "t")
    yield records.activation(HERE, 1, 1, 1, 0, {}) | {"hardware": [], "models": {}}
    yield records.finding(HERE, 1, "w", "d")
    yield records.interval(HERE, 1, 2, {}, read_clock().to_json(), 0, None)


def paths(value: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, each in value.items():
        if isinstance(each, Mapping) and key not in WHOLE:
            yield from paths(each, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def explained() -> dict[str, set[str]]:
    """Kind to fields, as the page has them."""
    found: dict[str, set[str]] = {}
    for field, kinds in re.findall(r"^\| `([a-z0-9_.]+)` \| ([a-z ]+) \|", PAGE, flags=re.M):
        for kind in kinds.split():
            found.setdefault(kind, set()).add(field)
    return found


@pytest.mark.parametrize("record", list(made()), ids=lambda record: record["kind"])
def test_a_kind_has_exactly_the_fields_that_the_page_gives_it(record: dict[str, Any]) -> None:
    page = explained()
    assert set(paths(record)) == page["all"] | page.get(record["kind"], set())


def test_every_finding_is_explained() -> None:
    serve = Path(records.__file__).parents[1] / "serve"
    text = "".join(path.read_text() for path in sorted(serve.glob("*.py")))
    named = set(re.findall(r"\"((?:journal|log|executions|handover|clock)-[a-z]+)\"", text))
    assert len(named) > 7
    assert [what for what in sorted(named) if f"`{what}`" not in PAGE] == []
