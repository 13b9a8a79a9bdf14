"""Is a plan that contradicts itself refused before anything is forwarded by it?"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from isochrone.errors import InputError
from isochrone.plan.consistent import check_consistent
from isochrone.plan.plan import Plan

GOOD: dict[str, Any] = {
    "revision": 3, "fabric_digest": "f", "reach_digest": "r", "placements": {"a": {"w": 1}}, "hardware": {},
    "placed_since": {}, "limits": {"a": {"c": 4}}, "prices": {}, "shortfalls": [], "objective": 0.0, "solved_s": 0.0,
    "placed_s": 0.0, "gap": 0.0, "placement_gap": 0.0,
    "routes": {
        "a": {
            "c": [
                {"deadline_ms": 10, "shares": [], "refusal": {"title": "t", "detail": "d"}},
                {"deadline_ms": 20, "shares": [{"site": "a", "share": 0.75}, {"site": "b", "share": 0.25}],
                 "fallbacks": ["e"], "hedge_ms": 5.0},
            ]
        }
    },
}  # fmt: skip


def rungs(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["routes"]["a"]["c"]
    return found


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "its revision is 0": lambda d: d.update(revision=0),
    "c is limited to -1 at a": lambda d: d["limits"]["a"].update(c=-1),
    "c is limited to 0 at a": lambda d: d["limits"]["a"].update(c=0),
    "-2 replicas of w at a": lambda d: d["placements"]["a"].update(w=-2),
    "deadlines [20.0, 10.0] ms are not each tighter": lambda d: rungs(d).reverse(),
    "deadlines [-5.0, 20.0] ms": lambda d: rungs(d)[0].update(deadline_ms=-5),
    "deadlines [] ms": lambda d: d["routes"]["a"].update(c=[]),
    "neither served nor refused": lambda d: rungs(d)[0].pop("refusal"),
    "served and refused": lambda d: rungs(d)[1].update(refusal={"title": "t", "detail": "d"}),
    "fallbacks of nobody": lambda d: rungs(d)[0].update(fallbacks=["b"]),
    "a site twice among a, b, a": lambda d: rungs(d)[1].update(fallbacks=["a"]),
    "a share of nothing": lambda d: rungs(d)[1]["shares"].append({"site": "e2", "share": -0.5}),
    "shares that sum to 0.5": lambda d: rungs(d)[1].update(shares=[{"site": "a", "share": 0.5}]),
    "0 tries": lambda d: rungs(d)[1].update(tries=0),
    "hedged after 25.0 ms": lambda d: rungs(d)[1].update(hedge_ms=25.0),
}


def copy() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(GOOD))
    return document


def test_a_plan_that_says_one_thing_is_taken() -> None:
    check_consistent(Plan.from_json(copy()))


@pytest.mark.parametrize("fault", WRONG)
def test_each_contradiction_is_named(fault: str) -> None:
    document = copy()
    WRONG[fault](document)
    with pytest.raises(InputError, match=r"plan -?[0-9]+ contradicts itself") as refused:
        check_consistent(Plan.from_json(document))
    assert fault in str(refused.value)
    assert refused.value.code == "plan.inconsistent"


@pytest.mark.parametrize("share", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_not_even_read(share: float) -> None:
    document = copy()
    rungs(document)[1]["shares"][0]["share"] = share
    with pytest.raises(InputError):
        Plan.from_json(document)
