"""Do the policy commands answer from files alone: mistakes, suites, ways, revisions, proofs?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from isochrone.cli.main import main

ROOT = Path(__file__).parents[2]
STARTERS = ROOT / "examples" / "policies"
DEMO = ROOT / "src" / "isochrone" / "cli" / "demo" / "fabric.yaml"
PERMIT = '@id("all") permit (principal, action, resource);\n'
NO_HEALTH = '@id("no-health") forbid (principal, action == Action::"execute", resource)\n'


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["policy", *map(str, words)])


def answer(*words: object) -> Any:
    done = run(*words, "--json")
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def cedar(tmp_path: Path) -> Any:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_check_names_every_mistake_with_its_line(cedar: Any) -> None:
    text = PERMIT + 'forbid (principal, action, resource) when { resource.teir == "edge" };\npermit (principal;\n'
    wrong = cedar("wrong.cedar", text)
    done = run("check", wrong)
    assert done.exit_code == 1
    assert "wrong.cedar:2:" in done.output
    assert "wrong.cedar:3:" in done.output
    found = answer("check", wrong)
    assert not found["ok"]
    assert {finding["line"] for finding in found["findings"]} == {2, 3}


def test_check_of_a_directory_and_of_a_fabric() -> None:
    assert len(answer("check", STARTERS)["policies"]) == 10
    assert answer("check", DEMO)["policies"] == ["contract-executions", "eu-only-biometric"]


def test_every_starter_passes_its_suite() -> None:
    suites = sorted(STARTERS.glob("*.test.yaml"))
    done = run("test", *suites)
    assert done.exit_code == 0, done.output
    assert done.output.count("passed") == len(suites)


def test_a_case_that_fails_is_shown_and_is_status_1(tmp_path: Path) -> None:
    suite = tmp_path / "vendor-exclusion.test.yaml"
    text = (STARTERS / suite.name).read_text()
    suite.write_text(text.replace("expect: deny", "expect: allow"))
    words = ("test", suite, "--policies", STARTERS / "vendor-exclusion.cedar", "--world", STARTERS / "world.yaml")
    done = run(*words)
    assert done.exit_code == 1
    assert "deny: forbid vendor-exclusion" in done.output
    (found,) = answer(*words)
    assert found["passed"] < len(found["cases"])


def test_explain_says_which_way_each_policy_went() -> None:
    found = answer("explain", DEMO, "--site", "zurich")
    ways = {line["policy"]: line["way"] for line in found["sites"]["zurich"]}
    assert ways == {"contract-executions": "always", "eu-only-biometric": "native"}
    assert set(answer("explain", DEMO)["sites"]) == {"konstanz", "zurich", "frankfurt", "ashburn"}


def test_diff_tells_stricter_from_looser_with_an_example(cedar: Any) -> None:
    old = cedar("old.cedar", PERMIT)
    new = cedar("new.cedar", PERMIT + NO_HEALTH + 'when { context.data_class == "health" };')
    world = ("--world", STARTERS / "world.yaml")
    found = answer("diff", old, new, *world)
    assert found["added"] == ["no-health"]
    assert found["stricter"]
    assert not found["looser"]
    assert found["actions"]["execute"]["newly_denied"]["facts"]["context.data_class"] == "health"
    assert run("diff", old, new, *world, "--stricter").exit_code == 0
    back = run("diff", new, old, *world, "--stricter")
    assert back.exit_code == 1
    assert "looser" in back.output
    assert "no verdict changes" in run("diff", old, old, *world).output


def test_never_is_proven_or_refuted_by_a_request() -> None:
    proven = run("analyse", DEMO, "--never", "US:biometric")
    assert proven.exit_code == 0
    assert "proven" in proven.output
    refuted = run("analyse", DEMO, "--never", "US:public")
    assert refuted.exit_code == 1
    assert "at ashburn" in refuted.output
    found = answer("analyse", DEMO, "--never", "EU:biometric")
    assert found["never"][0]["example"]["site"] in ("konstanz", "frankfurt")
    assert found["contracts"]["line-audio"]["zurich"] == ["forbid eu-only-biometric"]


def test_analyse_shows_what_is_dead_and_what_errs(cedar: Any) -> None:
    dead = '@id("dead") forbid (principal, action == Action::"execute", resource) when { resource.tier == "device" };'
    found = answer("analyse", cedar("a.cedar", PERMIT + dead), "--world", DEMO)
    assert found["dead"] == {"dead": "never-applies"}
    overflow = NO_HEALTH + "when { principal.depth * 4611686018427387904 > 0 };"
    failing = run("analyse", cedar("b.cedar", PERMIT + overflow), "--world", DEMO)
    assert failing.exit_code == 1
    assert "errs" in failing.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("check", "/nowhere.cedar"), "cannot read"),
        (("explain", STARTERS, "--site", "atlantis"), "atlantis"),
        (("analyse", STARTERS, "--never", "US"), "JURISDICTION:DATA_CLASS"),
        (("analyse", STARTERS, "--never", "USA:health"), "no jurisdiction"),
        (("diff", STARTERS, STARTERS, STARTERS), "name one source, or two"),
        (("test", STARTERS / "world.yaml"), "cannot read"),
    ],
)
def test_what_cannot_be_answered_says_why(words: tuple[object, ...], says: str) -> None:
    done = run(*words)
    assert done.exit_code in (1, 2)
    assert says in done.stderr


def test_cedar_without_a_world_says_what_to_do(cedar: Any) -> None:
    done = run("explain", cedar("alone.cedar", PERMIT))
    assert done.exit_code == 1
    assert "--world" in done.stderr
