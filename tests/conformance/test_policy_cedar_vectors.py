"""Cedar's published integration tests, through the same door that the decision point uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isochrone.policy import engine

ROOT = Path(__file__).parents[2].parent / "shared" / "vectors" / "cedar-integration-tests"
FILES = sorted((ROOT / "tests").glob("*/*.json"))
pytestmark = pytest.mark.skipif(not FILES, reason="the published Cedar integration tests are not beside this checkout")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_decisions(path: Path) -> None:
    document: dict[str, Any] = json.loads(path.read_text())
    policies = engine.build(engine.parse((ROOT / document["policies"]).read_text()).static_policies)
    schema = (ROOT / document["schema"]).read_text()
    known = engine.Entities.from_json_str((ROOT / document["entities"]).read_text(), schema)
    for request in document["requests"]:
        asked = {key: request[key] for key in ("principal", "action", "resource")}
        answer = engine.evaluate(policies, known, {**asked, "context": json.dumps(request["context"])})
        assert answer.allowed is (request["decision"] == "allow"), request["description"]
        assert sorted(answer.policies) == sorted(request["reason"])
        assert len(answer.errors) == len(request["errors"])
