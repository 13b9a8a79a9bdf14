"""Does the table of the capital model's equations name exactly what the model poses?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from capital_world import world

from isochrone.plan.capital import model

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "capital-model.md").read_text(encoding="utf-8")


def test_every_constraint_and_variable_is_in_the_table():
    data = world(places=2, sites=2, years=2)
    limited = replace(data, coverage_min=0.5, hardware=tuple(replace(h, build_units_max=1e4) for h in data.hardware))
    posed = model.build(limited).model
    table = {row[0]: row for row in re.findall(r"^\| `(\w+)` \|(.*)\| `model\.(\w+)` \|$", PAGE, re.M)}
    named = set(table) | {"regret", "cost_max"}  # these two stand in one line, and are posed only in studies
    assert set(posed.constraints) <= named
    assert set(table) <= set(posed.constraints)
    for name, _, function in table.values():
        assert name == function
        assert callable(getattr(model, function))
    for variable in posed.variables:
        assert f"`{variable}[" in PAGE, variable
