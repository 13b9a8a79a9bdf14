"""Which executions does an ingress hold for late, and when?"""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from isochrone.control.lateness import Planned
from isochrone.model.contract import InTime
from isochrone.serve.lateness import LatenessWatch, refused_by, was_late
from isochrone.serve.learned import Learned
from isochrone.serve.live import Running, running
from support.documents import contract, fabric, site, workload

FABRIC = fabric(
    {"here": site(), "there": site("zurich")},
    {"w": workload(1, 5)},
    {
        "whole": contract("w", 400),
        "first": contract("w", 400) | {"in_time": {"objective_ms": 400, "metric": "first_byte"}},
    },
)
WHOLE, FIRST = (FABRIC.contracts[name].in_time for name in ("whole", "first"))
T = 1_700_000_000.0


def result(**changes: Any) -> dict[str, Any]:
    usual = {"status": 200, "attempts": 1, "duration_us": 300_000, "upstream_us": 290_000}
    return usual | {"upstream_first_byte_us": 100_000} | changes


@pytest.mark.parametrize(
    ("terms", "changes", "late"),
    [
        (WHOLE, {}, False),
        (WHOLE, {"upstream_us": 400_000}, False),
        (WHOLE, {"upstream_us": 400_001}, True),
        (FIRST, {"upstream_us": 9_000_000}, False),
        (FIRST, {"upstream_first_byte_us": 400_001}, True),
        # Whoever was asked before the last one took the time.
        (WHOLE, {"attempts": 2, "duration_us": 900_000}, False),
        # A refusal, an error and a client that went in time say nothing of how slow the site is.
        (WHOLE, {"status": 429, "upstream_us": 1_000}, None),
        (WHOLE, {"status": 503, "upstream_us": 1_000}, None),
        (WHOLE, {"status": 0, "upstream_us": None, "upstream_first_byte_us": None}, None),
        # A client that gave up when it was late already, and an error that took too long, do.
        (WHOLE, {"status": 0, "upstream_us": None, "duration_us": 500_000}, True),
        (WHOLE, {"status": 0, "upstream_us": None, "duration_us": 500_000, "attempts": 2}, None),
        (WHOLE, {"status": 504, "upstream_us": 500_000}, True),
        (WHOLE, {"upstream_us": None, "duration_us": None}, None),
        (WHOLE, {"upstream_us": "long"}, None),
    ],
)
def test_only_the_time_of_the_site_that_answered_counts(
    terms: InTime, changes: dict[str, Any], late: bool | None
) -> None:
    assert was_late(terms, result(**changes)) is late


@pytest.mark.parametrize(
    ("attempted", "status", "full"),
    [
        ([], 200, []),
        (["a"], 200, []),
        (["a", "b"], 200, ["a"]),
        (["a", "b"], 503, ["a", "b"]),
        (["a"], 429, ["a"]),
        (["a"], 500, []),
    ],
)
def test_sites_that_refused_are_those_before_the_one_that_answered(
    attempted: list[str], status: int, full: list[str]
) -> None:
    assert refused_by({"via": {"attempted": attempted}, "result": {"status": status}}) == full


class Site:
    """What the watch needs of its site."""

    def __init__(self) -> None:
        self.alarms: list[str] = []
        self.changes: list[Any] = []
        learned = SimpleNamespace(state=SimpleNamespace(fabric=FABRIC), change=self._change)
        known = {"1.1.1.1:1": "here", "2.2.2.2:2": "there"}
        self.watch = LatenessWatch(cast(Learned, learned), known.get, self.alarms.append)
        share = {"here": 1.0, "there": 0.0}
        self.watch._step(Planned({"whole": 0.95, "first": 0.95}, {"whole": share, "first": share}))

    def _change(self, doubted: object) -> None:
        self.changes.append(doubted)

    def runs(self, count: int, **changes: Any) -> None:
        for number in range(count):
            one = Running(
                "ingress", f"r{number}", {"ctr": "whole"}, ("a", "b"), ("c", "1.1.1.1:1"), T, T + 0.5, 1, False
            )
            asyncio.run(self.watch.running([replace(one, **changes)]))

    def ends(self, count: int, **changes: Any) -> None:
        self.watch.ended([ended(f"r{number}") | changes for number in range(count)])


def ended(identifier: str) -> dict[str, Any]:
    return {
        "kind": "outcome", "role": "ingress", "id": identifier, "start_us": int(T * 1e6),
        "what": {"contract": "whole"}, "via": {"executing_site": "here", "attempted": ["here"]},
        "result": result(upstream_us=900_000),
    }  # fmt: skip


def test_a_site_is_left_by_what_still_runs_and_its_end_counts_no_second_time() -> None:
    here = Site()
    here.runs(3)
    here.runs(3, now_s=T + 1.0)
    here.ends(3)
    assert here.changes == [], "three executions, however often they are seen"
    here.runs(1, id="another")
    assert here.changes == [{"whole": {"here": 0.0}}]
    assert here.alarms == ["here is late for whole: the plan's other sites take over, for 2 s"]


def test_a_site_is_left_by_what_ended_late() -> None:
    here = Site()
    here.ends(3)
    assert not here.changes
    here.ends(1)
    assert here.changes == [{"whole": {"here": 0.0}}]


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "peer"}, {"attempts": 2}, {"attempts": 0}, {"now_s": T + 0.39}, {"claims": {}}, {"claims": {"ctr": 7}},
        {"claims": {"ctr": "unknown"}}, {"model": ("", "")}, {"claims": {"ctr": "first"}, "answering": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_runs_and_is_not_late_here_is_none_of_it(changes: dict[str, Any]) -> None:
    here = Site()
    here.runs(20, **changes)
    assert not here.changes


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "refusal"}, {"kind": "admission"}, {"role": "peer"}, {"what": {"contract": None}},
        {"what": {"contract": "unknown"}},
        {"via": {"executing_site": "there", "attempted": ["there"]}, "result": result()},
    ],
    ids=str,
)  # fmt: skip
def test_records_of_other_things_say_nothing(changes: dict[str, Any]) -> None:
    here = Site()
    here.ends(20, **changes)
    assert not here.changes


def test_what_runs_is_remembered_up_to_a_bound() -> None:
    here = Site()
    late = [
        Running("ingress", f"n{n}", {"ctr": "whole"}, ("", ""), ("", "1.1.1.1:1"), T, T + 1, 1, False)
        for n in range(10_050)
    ]
    asyncio.run(here.watch.running(late))
    assert len(here.watch._known_late) == 10_000


LINE = {
    "role": "ingress", "id": "r1", "start": "1700000000.25", "now": "1700000000.75", "attempts": 1,
    "first_byte_us": None, "client": ["1.1.1.1:1", "2.2.2.2:2"], "model": [None, None],
    "claims": urlsafe_b64encode(b'{"ctr":"whole"}').rstrip(b"=").decode(),
}  # fmt: skip


def test_a_line_of_the_live_file_is_read() -> None:
    found = running(json.dumps(LINE).encode())
    assert found is not None
    assert (found.now_s - found.start_s, found.claims, found.model) == (0.5, {"ctr": "whole"}, ("", ""))
    assert not found.answering
    without = running(json.dumps(LINE | {"claims": None, "attempts": None, "first_byte_us": 5}).encode())
    assert without is not None
    assert (without.claims, without.attempts, without.answering) == ({}, 0, True)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"7", b'{"role":"ingress"}']
    + [json.dumps(LINE | wrong).encode() for wrong in (
        {"start": None}, {"now": "soon"}, {"claims": "!"}, {"claims": "bm90IEpTT04"}, {"client": None},
        {"model": ["a"]}, {"attempts": "many"},
    )],
)  # fmt: skip
def test_a_torn_line_is_left_out(line: bytes) -> None:
    assert running(line) is None
