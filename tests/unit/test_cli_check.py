"""Does `check` name every mistake with its place, and does no bad input end in anything but a clear error?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from isochrone.cli.main import main

GOOD = """\
name: pair
sites:
  near: {tier: edge, at: {lat: 47.66, lon: 9.18}, jurisdiction: DE, vendor: a, hardware: {cpu: {units: 4}}}
  far: {tier: region, at: {lat: 39.04, lon: -77.49}, jurisdiction: US, vendor: b, hardware: {cpu: {units: 4}}}
workloads:
  echo:
    protocol: http
    model: {name: echo}
    runtime: {kind: external, at: {near: "127.0.0.1:80", far: "127.0.0.1:80"}}
    service: {cpu: {duration: {p50_ms: 2, p99_ms: 10}, rps_max: 100}}
contracts:
  quick:
    workload: echo
    in_time: {objective_ms: 20}
    in_bounds: {jurisdictions: [EU, US], policies: [all]}
    demand_rps: {near: 1}
policies: [all.cedar]
"""
POLICY = '@id("all")\npermit (principal, action, resource);\n'

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fabric.yaml").write_text(GOOD)
    (tmp_path / "all.cedar").write_text(POLICY)
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def findings(folder: Path, text: str) -> list[dict[str, Any]]:
    (folder / "fabric.yaml").write_text(text)
    done = run("check", folder / "fabric.yaml", "--json")
    assert done.exit_code == 1, done.output
    found = json.loads(done.output)
    assert found["ok"] is False
    listed: list[dict[str, Any]] = found["findings"]
    return listed


def test_a_good_document_says_where_each_contract_is_in_time(folder: Path) -> None:
    done = run("check", folder / "fabric.yaml", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    contract = found["contracts"]["quick"]
    assert contract["in_bounds"] == ["near", "far"]
    assert list(contract["from"]["near"]["in_time"]) == ["near"]
    (far,) = contract["from"]["near"]["impossible"].values()
    assert far["least_ms"] > 65  # 6,700 km of fibre there and back, and the service
    assert found["placements"]["near"] == {"echo": 1}
    assert found["warnings"] == []
    people = run("check", folder / "fabric.yaml").output
    assert "pair: no mistakes (sites: 2, contracts: 1)" in people


def test_a_contract_out_of_every_reach_is_shown_as_refused(folder: Path) -> None:
    (folder / "fabric.yaml").write_text(GOOD.replace("objective_ms: 20", "objective_ms: 5"))
    people = run("check", folder / "fabric.yaml").output
    assert "nowhere" in people
    assert "Demand that would be refused" in people


def test_an_emulated_distance_that_beats_light_is_a_warning(folder: Path) -> None:
    (folder / "fabric.yaml").write_text(GOOD + "emulate: {rtt_ms: {near/far: 5}}\n")
    found = json.loads(run("check", folder / "fabric.yaml", "--json").output)
    assert len(found["warnings"]) == 1
    assert "beats light" in found["warnings"][0]


CASES = {
    "unknown key": ("units: 4}}}\n  far", "unit: 4}}}\n  far", 3, "'unit' is not a known key here"),
    "missing workload": ("workload: echo", "workload: eco", 13, "there is no workload named 'eco'"),
    "negative number": ("demand_rps: {near: 1}", "demand_rps: {near: -1}", 16, "found -1"),
    "duplicate name": ("  far: {tier", "  near: {tier", 4, "'near' stands here twice"),
    "no such policy": ("policies: [all]}", "policies: [all, none]}", 15, "no policy has the id 'none'"),
    "no such jurisdiction": ("[EU, US]", "[EUROPA]", 15, "'EUROPA' is no jurisdiction"),
    "no such policy file": ("[all.cedar]", "[all.cedar, lost.cedar]", 17, "cannot read"),
    "not YAML": ("sites:", "sites: [", 4, "not readable as YAML"),
    "objective of nothing": ("objective_ms: 20", "objective_ms: 0", 14, "greater than 0"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_is_told_at_its_line(folder: Path, case: str) -> None:
    before, after, line, problem = CASES[case]
    assert before in GOOD
    found = findings(folder, GOOD.replace(before, after, 1))
    at = [(each["line"], each["problem"]) for each in found if problem in each["problem"]]
    assert at, found
    assert at[0][0] == line
    assert all(each["column"] >= 1 and each["file"].startswith(str(folder)) for each in found)


def test_mistakes_of_document_and_policies_come_together(folder: Path) -> None:
    broken = "\npermit (principal action, resource);\nforbid (principal, action, resource)\n"
    (folder / "all.cedar").write_text(POLICY + broken + "when { context.colour == 1 };\n")
    found = findings(folder, GOOD.replace("objective_ms: 20", "objective_ms: -1").replace("[EU, US]", "[eu]"))
    places = [(Path(each["file"]).name, each["line"]) for each in found]
    assert ("fabric.yaml", 14) in places
    assert ("fabric.yaml", 15) in places
    assert ("all.cedar", 4) in places
    assert ("all.cedar", 5) in places
    shown = run("check", folder / "fabric.yaml")
    assert shown.exit_code == 1
    assert f"{folder}/fabric.yaml:14:" in shown.output
    assert f"{len(found)} mistakes" in shown.output


def test_bad_policy_text_does_not_hide_mistakes_held_against_policies(folder: Path) -> None:
    (folder / "all.cedar").write_text("permit (;")
    found = findings(folder, GOOD.replace("[EU, US]", "[EUROPA]"))
    assert any("'EUROPA'" in each["problem"] for each in found)
    # Whether `all` exists cannot be known while its file cannot be parsed.
    assert not any("no policy has the id" in each["problem"] for each in found)


@pytest.mark.parametrize("text", ["", "[]", "name: 1", "policies: 5", "policies: [1]", "\x00", "a: *b", "{" * 3000])
def test_any_text_ends_in_findings(folder: Path, text: str) -> None:
    assert findings(folder, text)


def test_files_that_are_no_text_are_clear_errors(folder: Path) -> None:
    (folder / "all.cedar").write_bytes(b"\xff\xfe\x00")
    (found,) = findings(folder, GOOD)
    assert "cannot read" in found["problem"]
    assert found["line"] == 17
    (folder / "fabric.yaml").write_bytes(b"\xff\xfe\x00")
    done = run("check", folder / "fabric.yaml")
    assert done.exit_code == 1
    assert "error: cannot read" in done.output
    assert run("check", folder / "none.yaml").exit_code == 1
    assert run("check", folder).exit_code == 2


def test_init_writes_a_fabric_that_checks_and_overwrites_nothing(tmp_path: Path) -> None:
    done = run("init", tmp_path / "new")
    assert done.exit_code == 0, done.output
    assert f"isochrone check {tmp_path / 'new' / 'fabric.yaml'}" in done.output
    assert run("check", tmp_path / "new" / "fabric.yaml").exit_code == 0
    before = (tmp_path / "new" / "fabric.yaml").read_text()
    again = run("init", tmp_path / "new")
    assert again.exit_code == 1
    assert "already there" in again.output
    assert (tmp_path / "new" / "fabric.yaml").read_text() == before


def test_init_refuses_before_it_writes_anything(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "bounds.cedar").write_text("mine")
    assert run("init", tmp_path).exit_code == 1
    assert not (tmp_path / "fabric.yaml").exists()
    (tmp_path / "file").write_text("")
    assert run("init", tmp_path / "file").exit_code == 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_fabric_checks(path: Path) -> None:
    assert len(EXAMPLES) >= 2
    done = run("check", path)
    assert done.exit_code == 0, done.output
