"""Is each execution counted once, where it entered, and as what the client got?"""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.control.report import Attainment
from isochrone.serve.attainment import Attainments
from support.documents import contract, fabric, site, workload

FABRIC = fabric(
    {"here": site()},
    {"w": workload(1, 5, first_byte={"p50_ms": 1, "p99_ms": 5})},
    {"whole": contract("w", 20), "first": {"workload": "w", "in_time": {"objective_ms": 20, "metric": "first_byte"}}},
)


def record(kind: str = "outcome", contract: Any = "whole", role: str = "ingress", **result: Any) -> dict[str, Any]:
    usual = {"status": 200, "first_byte_us": 5_000, "duration_us": 10_000}
    return {"kind": kind, "role": role, "what": {"contract": contract}, "result": usual | result}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (record(), "in_time"),
        (record(duration_us=20_000), "in_time"),
        (record(duration_us=20_001), "late"),
        (record(contract="first", duration_us=90_000), "in_time"),
        (record(contract="first", first_byte_us=20_001), "late"),
        (record(status=404), "in_time"),
        (record(status=500), "failed"),
        (record(status=503), "refused"),
        (record(status=0), "failed"),
        (record(duration_us=None), "failed"),
        (record(kind="refusal", status=422), "refused"),
        (record(kind="refusal", status=503, duration_us=None), "refused"),
    ],
)
def test_each_outcome_counts_as_one_thing(made: dict[str, Any], expected: str) -> None:
    attainments = Attainments()
    attainments.add(FABRIC, [made])
    (found,) = attainments.of().values()
    counts = {name: getattr(found, name) for name in ("in_time", "late", "refused", "failed")}
    assert counts == dict.fromkeys(counts, 0) | {expected: 1}
    assert (found.p50_ms is None) == (expected in ("failed", "refused"))


def test_what_did_not_enter_here_or_has_no_contract_is_nobodys() -> None:
    attainments = Attainments()
    attainments.add(FABRIC, [record(role="peer"), record(contract=None), record(contract="gone"), record("admission")])
    attainments.add(FABRIC, [{"kind": "exchange"}, {"kind": "finding"}])
    assert attainments.of() == {}


def test_quantiles_are_of_answered_executions_within_the_sketchs_error() -> None:
    attainments = Attainments()
    attainments.add(FABRIC, [record(duration_us=1000 * ms) for ms in range(1, 101)] + [record(status=500)] * 50)
    found = attainments.of()["whole"]
    assert (found.in_time, found.late, found.failed) == (20, 80, 50)
    assert found.p50_ms == pytest.approx(50, rel=0.03)
    assert found.p99_ms == pytest.approx(99, rel=0.03)
    assert Attainment.from_json(found.to_json()) == found
