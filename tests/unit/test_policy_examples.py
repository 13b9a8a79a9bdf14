"""The starter policies do what their test files say, and each is compiled for the proxy where it concerns execution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from isochrone.errors import PolicyError
from isochrone.policy import PolicySet, compile_for_site
from isochrone.policy.suite import run_suite, world_from

FOLDER = Path(__file__).parents[2] / "examples" / "policies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.cedar"))


def document(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("name", NAMES)
def test_starter_policy(name: str) -> None:
    text = {f"{name}.cedar": (FOLDER / f"{name}.cedar").read_text()}
    results = run_suite(text, document(f"{name}.test.yaml"), world_from(document("world.yaml")))
    assert [result for result in results if not result.passed] == []
    assert {result.expected.split()[0] for result in results} == {"allow", "deny"}


def test_all_starters_together_compile_without_external_authorizer() -> None:
    policies = PolicySet.parse({f"{n}.cedar": (FOLDER / f"{n}.cedar").read_text() for n in NAMES})
    compiled = compile_for_site(policies, "berlin", world_from(document("world.yaml")))
    assert compiled.needs_ext_authz == ()
    ways = {explanation.policy: explanation.way for explanation in compiled.explain()}
    assert ways["residency-public"] == "native"
    assert ways["training-after-hours"] == "cel"
    assert ways["vendor-exclusion"] == "never"


@pytest.mark.parametrize(
    "suite",
    [
        {},
        {"cases": [{"name": "x", "action": "execute"}]},
        {"cases": [{"name": "x", "action": "execute", "expect": "maybe"}]},
    ],
)
def test_a_suite_that_says_nothing_is_an_error(suite: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        run_suite({"a.cedar": "permit(principal, action, resource);"}, suite, world_from(document("world.yaml")))


def test_a_world_with_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(PolicyError, match="berlin"):
        world_from({"sites": {"berlin": {"teir": "edge"}}})
