"""Are the figures of `status` right, and does help stay light?"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from isochrone.cli.main import _COMMANDS, main
from isochrone.console import site_status
from isochrone.console.fabric_status import contracts_of, render
from isochrone.control.report import SiteReport

NEAR = {
    "tier": "edge", "at": {"lat": 47.66, "lon": 9.18}, "jurisdiction": "DE", "vendor": "a",
    "hardware": {"cpu": {"units": 4}}, "drained": False,
}  # fmt: skip
PLAN = {"routes": {"near": {"quick": [
    {"deadline_ms": 5, "shares": []},
    {"deadline_ms": 20, "shares": [{"site": "near", "share": 0.75}, {"site": "far", "share": 0.25}]},
]}}}  # fmt: skip


def status(**attained: Any) -> dict[str, Any]:
    counts = {"in_time": 0, "late": 0, "refused": 0, "failed": 0, "p50_ms": None, "p99_ms": None} | attained
    report = {
        "ingress": "127.0.0.1:80", "ready": {"echo": 1}, "desired": 2, "plan": 7, "epoch": 0, "at_s": 100.0,
        "log_size": 1234, "logs": {},
        "attainment": {"quick": counts} if attained else {}, "alarms": ["disk is nearly full"],
        "rejected": "revision 3: cannot bind", "in_flight": 0,
    }  # fmt: skip
    terms = {"metric": "duration", "quantile": 0.99, "objective_ms": 20.0}
    return {
        "fabric": "pair", "desired": 3, "plan": 7, "epoch": 0, "up": [], "alarms": ["hub alarm"],
        "drained": [], "sites": {"near": report}, "placements": {"near": {"echo": 2}},
        "rollout": {"rejected": {"near": "revision 3: cannot bind"}},
        "solve": {"solver": "coordinated", "gap": 0.0042, "placement_gap": 0.01, "objective": 0.001},
        "shortfalls": [{"contract": "quick", "ingress": "near", "unserved_rps": 1.5, "detail": "all taken"}],
        "nouns": {
            "sites": {"near": NEAR, "far": NEAR}, "workloads": {"echo": {"runtime": {"kind": "process"}}},
            "contracts": {"quick": {"workload": "echo", "in_time": terms, "demand_rps": {"near": 1}}},
        },
    }  # fmt: skip


def text_of(found: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=220).print(render(found, PLAN, now_s=112.0))
    return out.getvalue()


@pytest.mark.parametrize(
    ("counts", "attained", "left"),
    [
        ({"in_time": 1000}, 1.0, 1.0),
        ({"in_time": 995, "late": 5}, 0.995, 0.5),
        ({"in_time": 990, "late": 5, "failed": 5}, 0.99, 0.0),
        ({"in_time": 90, "failed": 10}, 0.9, -9.0),
        ({"in_time": 995, "late": 5, "refused": 9000}, 0.995, 0.5),  # an honest refusal spends no budget
        ({"refused": 3}, None, None),
    ],
)
def test_attainment_and_error_budget(counts: dict[str, int], attained: float | None, left: float | None) -> None:
    contract = contracts_of(status(**counts), PLAN)["quick"]
    assert contract["attained"] == (None if attained is None else pytest.approx(attained))
    assert contract["budget_left"] == (None if left is None else pytest.approx(left, abs=1e-9))
    assert contract["served"] == {"near": {"near": 0.75, "far": 0.25}}


def test_counts_of_several_ingresses_are_added() -> None:
    found = status(in_time=10)
    found["sites"]["far"] = found["sites"]["near"]
    assert contracts_of(found, PLAN)["quick"]["in_time"] == 20


def test_tables_show_what_is_not_as_it_should_be() -> None:
    shown = text_of(status(in_time=90, late=10, p50_ms=1.25, p99_ms=30.0))
    for words in (
        "never heard of", "silent 12 s", "echo 1/2", "2 (of 3)", "1,234", "near 75%, far 25%", "overdrawn 10.0x",
        "coordinated routing within 0.42% of the best, placement within 1.00%; cost and penalties 3.6 an hour",
        "all taken", "hub alarm", "disk is nearly full", "99 % duration 20 ms", "30.0",
    ):  # fmt: skip
        assert words in shown, words


def test_tables_before_anything_was_answered_or_planned() -> None:
    assert "hub alarm" in text_of(status())
    assert "rejected, the last good goes on: revision 3: cannot bind" in text_of(status())
    assert contracts_of(status(), None)["quick"]["served"] == {}


def test_json_of_apply_does_not_ask() -> None:
    done = CliRunner().invoke(main, ["apply", "fabric.yaml", "--json"])
    assert done.exit_code == 2
    assert "--yes" in done.output


def test_state_that_is_not_clear_is_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "hub").mkdir(parents=True)
        (tmp_path / name / "hub" / "fabric").write_text(name)
    done = CliRunner().invoke(main, ["status"], env={"ISOCHRONE_HOME": str(tmp_path)})
    assert done.exit_code == 1
    assert "--state" in done.output


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'httpx', 'pydantic', 'rich', 'nats', 'cedarpy', 'starlette', 'cryptography'}"
    code = (
        "import sys; from isochrone.cli.main import main; main(['--help'], standalone_mode=False);"
        f" print('heavy:', sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("heavy: []")


@pytest.mark.parametrize("name", ["init", "check", "apply", "status", "explain", "reach"])
def test_each_command_shows_examples_and_is_in_the_reference(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"]).output
    assert f"\n  isochrone {name}" in shown
    reference = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
    assert f"## isochrone {name}" in reference


def test_the_reference_names_every_command() -> None:
    reference = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
    assert [
        name for name in _COMMANDS if f"`isochrone {name}" not in reference and f"isochrone {name}\n" not in reference
    ] == []


def test_a_site_says_what_it_holds_for_late() -> None:
    doubted = {"quick": {"far": 0.125}}
    report = SiteReport("near", "b", 100.0, "127.0.0.1:1", "127.0.0.1:2", {}, 2, 7, 0, doubted=doubted)
    out = io.StringIO()
    Console(file=out, width=120).print(site_status.render(SiteReport.from_json(report.to_json())))
    assert "far keeps 12.5% of its share of quick here" in out.getvalue()
