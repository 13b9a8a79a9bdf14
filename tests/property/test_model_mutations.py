"""Any damage to a valid document leaves a valid document or located mistakes, never another exception."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.model.document import DocumentError, parse_fabric
from isochrone.model.fabric import Fabric

GOOD = """\
name: lakeside
currency: EUR
sites:
  konstanz:
    tier: edge
    at: {lat: 47.66, lon: 9.18}
    jurisdiction: DE
    vendor: seewerk
    hardware: {cpu: {units: 4, price_per_unit_hour: 0.09}}
    address: "127.0.0.1:8000"
  process: {tier: metro, at: {lat: 50, lon: 8}, jurisdiction: DE, vendor: main, hardware: {cpu: {units: 8}}}
workloads:
  voice:
    protocol: open-inference
    model: {name: silero-vad}
    runtime: {kind: process, command: [serve, "{port}"]}
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 5}, rps_max: 100}}
  chat:
    protocol: openai
    model: {name: smollm2}
    runtime: {kind: external, at: {konstanz: "127.0.0.1:9"}}
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 5}, rps_max: 100}}
contracts:
  line-audio:
    workload: voice
    in_time: {objective_ms: 20}
    in_bounds: {jurisdictions: [EU], sites: [konstanz]}
    demand_rps: {konstanz: 20}
  assistant: {workload: chat, preset: live-media}
emulate: {rtt_ms: {konstanz/process: 8}}
"""

Path = tuple[str | int, ...]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.dates(),
    st.binary(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def paths_of(value: Any, path: Path = ()) -> list[Path]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(found for key, item in inner for found in paths_of(item, (*path, key)))]


PATHS = [path for path in paths_of(yaml.safe_load(GOOD)) if path]


def judge(text: str) -> None:
    """Parses, or names mistakes whose places are inside the text."""
    try:
        assert isinstance(parse_fabric(text), Fabric)
        return
    except DocumentError as error:
        findings = error.findings
    lines = text.splitlines() or [""]
    assert findings
    for finding in findings:
        assert 1 <= finding.line <= len(lines) + 1, finding
        assert 1 <= finding.column <= max(len(line) for line in lines) + 1, finding
        assert finding.problem


def holder(document: Any, path: Path) -> Any:
    for key in path[:-1]:
        document = document[key]
    return document


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(PATHS), LEAVES)
def test_any_value_in_any_place(path: Path, value: Any) -> None:
    document = yaml.safe_load(GOOD)
    holder(document, path)[path[-1]] = value
    judge(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PATHS), st.one_of(st.text(max_size=20), st.integers(), st.booleans(), st.none()))
def test_any_key_renamed_or_left_out(path: Path, key: Any) -> None:
    document = yaml.safe_load(GOOD)
    inside = holder(document, path)
    if isinstance(inside, dict):
        inside[key] = inside.pop(path[-1])
    else:
        del inside[path[-1]]
    judge(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 12),
    st.text(max_size=6) | st.sampled_from(list("[]{}&*!|>%@`\"'#,:-\t\n")),
)
def test_any_text_cut_out_or_put_in(at: int, cut: int, put: str) -> None:
    judge(GOOD[:at] + put + GOOD[at + cut :])


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_text_at_all(text: str) -> None:
    judge(text)


def test_the_document_that_is_damaged_is_good() -> None:
    assert isinstance(parse_fabric(GOOD), Fabric)
