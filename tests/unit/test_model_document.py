"""Documents that are wrong: every mistake at once, each at its line and column, each with what to do."""

from __future__ import annotations

import pytest

from isochrone.errors import InputError
from isochrone.model.document import DocumentError, Finding, parse_fabric
from isochrone.model.presets import PRESETS

GOOD = """\
name: lakeside
sites:
  konstanz:
    tier: edge
    at: {lat: 47.66, lon: 9.18}
    jurisdiction: DE
    vendor: seewerk
    hardware: {cpu: {units: 4, price_per_unit_hour: 0.09}}
workloads:
  voice:
    protocol: open-inference
    model: {name: silero-vad}
    runtime: {kind: process, command: [serve, "{port}"]}
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 5}, rps_max: 100}}
contracts:
  line-audio:
    workload: voice
    in_time: {objective_ms: 20}
    demand_rps: {konstanz: 20}
"""


def findings(text: str) -> list[Finding]:
    with pytest.raises(DocumentError) as caught:
        parse_fabric(text, "f.yaml")
    assert caught.value.findings
    return caught.value.findings


def only(text: str) -> Finding:
    found = findings(text)
    assert len(found) == 1, found
    return found[0]


def change(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_the_good_document_parses() -> None:
    fabric = parse_fabric(GOOD)
    assert fabric.contracts["line-audio"].in_time.objective_ms == 20
    assert fabric.contracts["line-audio"].rungs_ms == (5, 10, 20)


def test_an_unknown_key_is_named_with_the_key_that_was_meant() -> None:
    found = only(change("    jurisdiction: DE\n", "    jurisdiction: DE\n    drianed: true\n"))
    assert (found.line, found.column, found.where) == (7, 5, "sites.konstanz.drianed")
    assert "drained" in found.hint


def test_an_unknown_key_like_no_other_lists_the_known_ones() -> None:
    found = only(GOOD + "quux: 1\n")
    assert (found.line, found.column) == (20, 1)
    assert all(key in found.hint for key in ("name", "sites", "workloads", "contracts", "emulate"))


def test_an_unknown_key_in_a_contract_offers_preset() -> None:
    found = only(change("    workload: voice\n", "    workload: voice\n    presett: medical\n"))
    assert "preset" in found.hint


@pytest.mark.parametrize(
    ("key", "line", "column"),
    [("name: again", 20, 1), ("contracts: {}", 20, 1), ("    workload: voice", 20, 5)],
)
def test_a_key_that_stands_twice_is_found_where_it_stands_again(key: str, line: int, column: int) -> None:
    found = only(GOOD + key + "\n")
    assert (found.line, found.column) == (line, column)
    assert "twice" in found.problem


def test_two_sites_of_one_name_are_a_mistake_not_an_overwrite() -> None:
    site = GOOD.splitlines(keepends=True)[2:8]
    found = only(change("workloads:\n", "".join(site) + "workloads:\n"))
    assert (found.line, found.column, found.where) == (9, 3, "sites.konstanz")


def test_a_contract_for_a_workload_that_is_not_there() -> None:
    found = only(change("    workload: voice\n", "    workload: voise\n"))
    assert (found.line, found.column, found.where) == (17, 5, "contracts.line-audio.workload")
    assert "voise" in found.problem
    assert "voice" in found.hint


@pytest.mark.parametrize(
    ("old", "new", "line", "where"),
    [
        ("demand_rps: {konstanz: 20}", "demand_rps: {basel: 20}", 19, "demand_rps.basel"),
        ("    in_time: {", "    in_bounds: {sites: [konstanz, basel]}\n    in_time: {", 18, "in_bounds.sites.1"),
    ],
)
def test_a_site_that_is_not_there(old: str, new: str, line: int, where: str) -> None:
    found = only(change(old, new))
    assert (found.line, found.where) == (line, f"contracts.line-audio.{where}")
    assert "konstanz" in found.hint


def test_emulated_distances_name_sites_that_are_there() -> None:
    found = only(GOOD + "emulate: {rtt_ms: {konstanz/basel: 3}}\n")
    assert (found.line, found.column) == (20, 20)
    assert "basel" in found.problem


@pytest.mark.parametrize("pair", ["konstanz", "konstanz/konstanz", "/", "konstanz/basel/konstanz"])
def test_an_emulated_distance_is_between_two_sites(pair: str) -> None:
    assert findings(GOOD + f"emulate: {{rtt_ms: {{{pair}: 3}}}}\n")


def test_a_distance_given_in_both_directions_is_ambiguous() -> None:
    second = GOOD.splitlines(keepends=True)[2:8]
    text = change("workloads:\n", "".join(second).replace("konstanz", "basel") + "workloads:\n")
    assert parse_fabric(text + "emulate: {rtt_ms: {konstanz/basel: 3}}\n").emulate
    found = only(text + "emulate: {rtt_ms: {konstanz/basel: 3, basel/konstanz: 4}}\n")
    assert "basel/konstanz" in found.where


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("units: 4", "units: -4", 8),
        ("price_per_unit_hour: 0.09", "price_per_unit_hour: -0.09", 8),
        ("objective_ms: 20", "objective_ms: -20", 18),
        ("objective_ms: 20", "objective_ms: 0", 18),
        ("konstanz: 20", "konstanz: -1", 19),
        ("rps_max: 100", "rps_max: -1", 14),
        ("p50_ms: 1", "p50_ms: -1", 14),
        ("lat: 47.66", "lat: 97.66", 5),
        ("objective_ms: 20", "objective_ms: 20, quantile: 1", 18),
        ("objective_ms: 20", "objective_ms: 20, quantile: 0", 18),
    ],
)
def test_numbers_out_of_range(old: str, new: str, line: int) -> None:
    found = only(change(old, new))
    assert found.line == line
    assert "found" in found.problem


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", ".NaN", "1e999"])
@pytest.mark.parametrize("old", ["objective_ms: 20", "konstanz: 20", "lat: 47.66", "rps_max: 100"])
def test_no_number_is_not_a_number_or_infinite(old: str, number: str) -> None:
    key = old.partition(":")[0]
    assert only(change(old, f"{key}: {number}")).line == GOOD[: GOOD.index(old)].count("\n") + 1


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("units: 4", "units: four", 8),
        ("units: 4", "units: 4.5", 8),
        ("units: 4", "units: [4]", 8),
        ("units: 4", "units:", 8),
        ("tier: edge", "tier: cloud", 4),
        ("    at: {lat: 47.66, lon: 9.18}", "    at: 47.66", 5),
        ("jurisdiction: DE", "jurisdiction: germany", 6),
        ("jurisdiction: DE", "jurisdiction: NO", 6),  # YAML 1.1 reads NO as false
        ("vendor: seewerk", "vendor: See Werk", 7),
        ("protocol: open-inference", "protocol: grpc", 11),
        ('command: [serve, "{port}"]', 'command: serve "{port}"', 13),
        ('command: [serve, "{port}"]', "command: [serve]", 13),
        ("kind: process", "kind: container", 13),
        ("p99_ms: 5", "p99_ms: 0.5", 14),
        ("    in_time: {objective_ms: 20}", "    in_time: 20", 18),
        ("name: lakeside", "name: Lake Side", 1),
        ("name: lakeside", "name: [lakeside]", 1),
        ("  konstanz:\n", "  Konstanz:\n", 3),
    ],
)
def test_values_of_the_wrong_kind(old: str, new: str, line: int) -> None:
    assert any(found.line == line for found in findings(change(old, new)))


def test_a_runtime_without_kind_says_which_kinds_there_are() -> None:
    found = only(change("kind: process, ", ""))
    assert found.line == 13
    assert "kind" in found.problem
    assert "process" in found.problem + found.hint
    assert "external" in found.problem + found.hint


def test_a_contract_without_in_time_says_how_to_add_it() -> None:
    found = only(change("    in_time: {objective_ms: 20}\n", ""))
    assert (found.line, found.column) == (16, 3)
    assert "in_time" in found.problem
    assert "in_time" in found.hint


def test_hardware_that_no_site_has() -> None:
    found = only(change("service: {cpu:", "service: {gpu:"))
    assert (found.line, found.where) == (14, "workloads.voice.service")
    assert "gpu" in found.problem
    assert "cpu" in found.hint


def test_every_mistake_at_once_in_the_order_of_the_text() -> None:
    text = change("units: 4", "units: -4").replace("tier: edge", "tier: cloud").replace("kind: process", "kind: pod")
    text = text.replace("objective_ms: 20", "objective: 20") + "quux: 1\n"
    found = findings(text)
    assert [f.line for f in found] == [4, 8, 13, 18, 18, 20]
    with pytest.raises(DocumentError, match="6 mistakes"):
        parse_fabric(text)


def test_mistakes_between_nouns_are_all_told() -> None:
    text = change("konstanz: 20", "basel: 1, chur: 2").replace("workload: voice", "workload: vice")
    assert [f.line for f in findings(text)] == [17, 19, 19]


def test_a_wrong_preset_and_other_mistakes_are_told_together() -> None:
    text = change("    workload: voice\n", "    workload: voice\n    preset: surgery\n").replace(
        "units: 4", "units: -1"
    )
    found = findings(text)
    assert [f.line for f in found] == [8, 18]
    assert "medical" in found[1].hint


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_fills_in_time_and_names_its_source(preset: str) -> None:
    text = change("    in_time: {objective_ms: 20}\n", f"    preset: {preset}\n")
    in_time = parse_fabric(text).contracts["line-audio"].in_time
    assert in_time.model_dump(mode="json") == PRESETS[preset].in_time()
    assert len(PRESETS[preset].source) > 20


def test_what_the_contract_says_wins_over_its_preset() -> None:
    text = change("    workload: voice\n", "    workload: voice\n    preset: medical\n")
    in_time = parse_fabric(text).contracts["line-audio"].in_time
    assert (in_time.objective_ms, in_time.quantile) == (20, 0.999)


@pytest.mark.parametrize("value", ["[medical]", "{a: 1}", "", "3"])
def test_a_preset_that_is_no_name(value: str) -> None:
    assert "preset" in only(change("    in_time: {objective_ms: 20}\n", f"    preset: {value}\n")).problem


def test_aliases_are_not_read() -> None:
    found = only(change("konstanz:\n", "konstanz: &site\n").replace("workloads:\n", "  basel: *site\nworkloads:\n"))
    assert "alias" in found.problem
    assert (found.line, found.column) == (9, 10)


def test_a_document_that_expands_without_end_is_refused_at_once() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert "alias" in only(bomb).problem


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "~\n", "null"])
def test_an_empty_file(text: str) -> None:
    found = only(text)
    assert found.line >= 1
    assert "empty" in found.problem or "mapping" in found.problem


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "42", "[1, 2]", "true"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    assert "mapping" in only(text).problem


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: [lakeside\nsites: 3\n", 2),
        ("name: lakeside\n\tsites: {}\n", 2),
        ("a: b: c\n", 1),
        ("name: 'lakeside\n", 2),
        ("name: lakeside\n--- \nname: other\n", 2),
        ("name: \x00\n", 1),
        ("name: !!python/object/apply:os.system [ls]\n", 1),
        ("name: !secret x\n", 1),
        ("? [a, b]\n: c\n", 1),
        ("? {a: b}\n: c\n", 1),
        ("%YAML 9.9\n---\na: 1\n", 1),
        ("on: 2020-13-45\n", 1),
        ("a: {<<: [1]}\n", 1),
        ("a: 0b2\n", 1),
        ("a: !!int x\n", 1),
        ("a: !!binary x\n", 1),
        ("[" * 5000, 1),
        ("{a: " * 5000, 1),
    ],
)
def test_a_file_that_is_no_yaml_or_more_than_plain_yaml(text: str, line: int) -> None:
    found = findings(text)
    assert found[0].line >= min(line, found[0].line)
    assert all(1 <= f.line <= text.count("\n") + 1 for f in found)


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    assert "characters" in only("# " + "x" * 4_000_000).problem


def test_findings_read_as_compilers_write_them() -> None:
    found = only(change("    workload: voice\n", "    workload: voise\n"))
    assert str(found).startswith("f.yaml:17:5: contracts.line-audio.workload: ")


def test_a_document_error_is_an_input_error_with_code_and_hint() -> None:
    with pytest.raises(InputError) as caught:
        parse_fabric("")
    assert caught.value.code == "input.document"
    assert caught.value.hint


def test_nouns_do_not_change() -> None:
    fabric = parse_fabric(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        fabric.contracts["line-audio"].in_time.objective_ms = 1


def test_evidence_may_be_asked_for_before_the_request_is_forwarded() -> None:
    demand = "    demand_rps: {konstanz: 20}"
    text = GOOD.replace(demand, f"    on_record: {{evidence: synchronous}}\n{demand}")
    assert parse_fabric(text).contracts["line-audio"].on_record.is_synchronous
    assert not parse_fabric(GOOD).contracts["line-audio"].on_record.is_synchronous
    with pytest.raises(DocumentError):
        parse_fabric(text.replace("synchronous", "eventually"))
