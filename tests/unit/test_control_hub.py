"""Does the hub plan when it must, keep still when nothing changed, and judge no site by its own silence?"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import isochrone
from isochrone.control.hub import (
    REJOIN_S,
    REPLAN_S,
    SILENT_S,
    Alarm,
    Desired,
    HubState,
    Publish,
    Reported,
    Resumed,
    Tick,
    step,
)
from isochrone.control.report import SiteReport
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Plan
from isochrone.policy.policies import PolicySet
from support.documents import contract, external, fabric, report, site, workload


def fabric_of(*sites: str) -> Fabric:
    """Some of two sites, near each other."""
    anywhere = contract("echo", 200, demand_rps={"konstanz": 5}, penalty_per_1k=20)
    echo = workload(runtime=external(*sites), concurrency=8)
    return fabric({name: site(name) for name in sites}, {"echo": echo}, {"anywhere": anywhere})


ALLOW = PolicySet.parse({"a.cedar": '@id("a") permit (principal, action, resource);'})
FABRIC = fabric_of("konstanz", "frankfurt")
T = 1000.0


def run(state: HubState, *events: tuple[float, Any]) -> tuple[HubState, list[Any]]:
    effects: list[Any] = []
    for now, event in events:
        state, more = step(state, event, now)
        effects += more
    return state, effects


def plans(effects: list[Any]) -> list[Plan]:
    return [effect.plan for effect in effects if isinstance(effect, Publish)]


def alarms(effects: list[Any]) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, Alarm)]


@pytest.fixture
def planned() -> HubState:
    state, effects = run(
        HubState(),
        (T, Reported("konstanz", report("konstanz"))),
        (T, Reported("frankfurt", report("frankfurt"))),
        (T, Desired(1, FABRIC, ALLOW)),
    )
    assert len(plans(effects)) == 1
    return state


def sites_of(plan: Plan | None, ingress: str = "konstanz") -> set[str]:
    assert plan is not None
    rungs = plan.routes[ingress]["anywhere"]
    return {share.site for rung in rungs for share in rung.shares} | {s for rung in rungs for s in rung.fallbacks}


def test_nothing_is_planned_before_desired_state_is_known() -> None:
    state, effects = run(HubState(), (T, Reported("konstanz", report("konstanz"))), (T + 5, Tick()))
    assert (state.plan, effects) == (None, [])


def test_a_fabric_nobody_reported_from_yet_has_no_plan_and_no_alarm() -> None:
    state, effects = run(HubState(), (T, Desired(1, FABRIC, ALLOW)))
    assert (state.plan, effects) == (None, [])


def test_a_fabric_that_has_gone_silent_altogether_keeps_its_plan_and_is_an_alarm(planned: HubState) -> None:
    state, effects = run(planned, (T + SILENT_S + 1, Tick()))
    assert state.plan is planned.plan
    assert (plans(effects), alarms(effects)) == ([], ["no site of the fabric is up"])


def test_unchanged_inputs_publish_nothing(planned: HubState) -> None:
    events = []
    for n in range(1, 9):
        events += [(T + n * 0.9, Reported(site, report(site, 1.0 + n))) for site in ("konstanz", "frankfurt")]
        events.append((T + n * 0.9, Tick()))
    state, effects = run(planned, *events)
    assert effects == []
    assert state.plan is planned.plan


def test_a_site_that_goes_silent_is_planned_without_at_once_and_with_again_when_it_returns(planned: HubState) -> None:
    assert sites_of(planned.plan) == {"konstanz", "frankfurt"}
    kept = (T + SILENT_S, Reported("konstanz", report("konstanz", 2.0)))
    state, effects = run(planned, kept)
    assert plans(effects) == [], "not silent yet"
    state, effects = run(state, (T + SILENT_S + 0.1, Tick()))
    (without,) = plans(effects)
    assert sites_of(without) == {"konstanz"}
    assert without.revision > planned.plan.revision  # type: ignore[union-attr]
    back = (T + SILENT_S + 0.2, Reported("frankfurt", report("frankfurt", 9.0)))
    state, effects = run(state, back)
    assert plans(effects) == [], "all that is heard is taken in first"
    state, effects = run(state, (T + SILENT_S + 0.3, Tick()))
    (again,) = plans(effects)
    assert sites_of(again) == {"konstanz", "frankfurt"}
    assert again.revision > without.revision


def test_an_old_report_read_again_is_no_sign_of_life(planned: HubState) -> None:
    same = [(T + n, Reported("frankfurt", report("frankfurt"))) for n in (1.0, 2.0, 3.0, 3.5)]
    alive = [(T + 3.5, Reported("konstanz", report("konstanz", 2.0)))]
    state, _ = run(planned, *same, *alive)
    assert state.up == {"konstanz"}


def test_a_site_that_starts_again_is_alive_even_with_its_clock_set_back(planned: HubState) -> None:
    state, _ = run(planned, (T + 3.5, Reported("frankfurt", report("frankfurt", 0.5, boot="c"))))
    assert "frankfurt" in state.up


def test_silence_of_the_hub_itself_says_nothing_of_the_sites(planned: HubState) -> None:
    late = T + 60.0
    state, effects = run(planned, (late, Resumed()), (late, Reported("konstanz", report("konstanz", 60.0))))
    assert state.up == {"konstanz", "frankfurt"}
    assert {plan.revision for plan in plans(effects)} <= {planned.plan.revision}  # type: ignore[union-attr]
    assert not alarms(effects)
    state, effects = run(state, (late + REJOIN_S + SILENT_S, Reported("konstanz", report("konstanz", 63.0))))
    state, effects = run(state, (late + REJOIN_S + SILENT_S + 0.1, Tick()))
    assert state.up == {"konstanz"}, "who stays silent is missed after all"


def test_a_hub_that_restarts_goes_on_from_its_plan(planned: HubState) -> None:
    fresh = replace(HubState(), plan=planned.plan)
    state, effects = run(fresh, (5.0, Resumed()), (5.0, Desired(1, FABRIC, ALLOW)))
    assert state.up == {"konstanz", "frankfurt"}
    assert not alarms(effects)
    assert state.plan is not None
    assert state.plan.revision >= planned.plan.revision  # type: ignore[union-attr]
    assert sites_of(state.plan) == {"konstanz", "frankfurt"}


def test_a_removed_site_is_forgotten(planned: HubState) -> None:
    state, effects = run(planned, (T + 1.5, Reported("frankfurt", None)), (T + 1.5, Tick()))
    assert "frankfurt" not in state.reports
    assert state.up == {"konstanz"}
    (plan,) = plans(effects)
    assert sites_of(plan) == {"konstanz"}
    state, effects = run(state, (T + 1.6, Reported("frankfurt", None)))
    assert (state.up, effects) == ({"konstanz"}, [])


def test_a_site_taken_out_of_the_fabric_leaves_plan_and_measurements(planned: HubState) -> None:
    sketch = Sketch()
    sketch.add(0.008)
    told = report("konstanz", 2.0, rtt={"frankfurt": sketch.to_json()})
    state, _ = run(planned, (T + 0.1, Reported("konstanz", told)))
    assert state.rtt is not None
    assert "frankfurt" in state.rtt.measured["konstanz"]
    state, effects = run(state, (T + 0.2, Desired(2, fabric_of("konstanz"), ALLOW)))
    (plan,) = plans(effects)
    assert sites_of(plan) == {"konstanz"}
    assert state.rtt is not None
    assert "frankfurt" not in state.rtt.measured["konstanz"]
    # It goes on reporting until somebody stops it: that changes nothing.
    state, effects = run(state, (T + 0.3, Reported("frankfurt", report("frankfurt", 7.0))))
    assert plans(effects) == []


@pytest.mark.parametrize(
    "rtt",
    [{"frankfurt": {"bins": {"x": 1}}}, {"frankfurt": {}}, {"frankfurt": {"bins": {"-306": -1.0}}},
     {"frankfurt": {"bins": {"-900": 5.0}}}],
)  # fmt: skip
def test_bad_telemetry_is_an_alarm_and_nothing_else(planned: HubState, rtt: dict[str, Any]) -> None:
    assert planned.rtt is not None
    alive = (T + 2.0, Reported("frankfurt", report("frankfurt", 2.0)))
    state, effects = run(planned, alive, (T + REPLAN_S + 0.1, Reported("konstanz", report("konstanz", 2.0, rtt=rtt))))
    if rtt["frankfurt"] != {}:
        assert alarms(effects), "nothing said"
        assert alarms(effects)[0].startswith("konstanz to frankfurt: ")
    assert plans(effects) == []
    assert state.rtt is not None
    assert not state.rtt.measured.get("konstanz", {}).get("frankfurt")
    assert state.up == {"konstanz", "frankfurt"}


def test_a_report_that_is_none_is_refused_by_its_type() -> None:
    from isochrone.errors import InputError

    good = report("konstanz").to_json()
    assert SiteReport.from_json(good) == report("konstanz")
    for bad in (None, [], {}, good | {"plan": "x"}, good | {"at_s": float("nan")}, good | {"more": 1}):
        with pytest.raises(InputError):
            SiteReport.from_json(bad)


def test_forbidding_everything_is_an_answer_with_refusals(planned: HubState) -> None:
    nobody = PolicySet.parse({"n.cedar": '@id("n") forbid (principal, action, resource);'})
    state, effects = run(planned, (T + 0.1, Desired(2, FABRIC, nobody)))
    assert state.plan is not None
    rungs = state.plan.routes.get("konstanz", {}).get("anywhere", ())
    assert all(not rung.shares and not rung.fallbacks for rung in rungs)
    assert plans(effects) or alarms(effects)


IMPURE = {"asyncio", "time", "random", "secrets", "os", "socket", "httpx", "pathlib", "subprocess", "threading", "nats",
          "logging", "sqlite3", "tempfile", "shutil", "uvicorn", "starlette"}  # fmt: skip


@pytest.mark.parametrize("package", ["control", "record", "forward"])
def test_the_core_reads_no_clock_and_does_no_io(package: str) -> None:
    root = Path(isochrone.__file__).parent / package
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text())
        named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in named} & IMPURE, path.name
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"open", "print", "input", "exec", "eval"}, path.name


def test_what_a_proxy_adds_is_learned_and_what_none_adds_is_an_alarm(planned: HubState) -> None:
    state, effects = run(planned, (T + 1, Reported("konstanz", report("konstanz", 2.0, hop=sketch(0.002)))))
    assert alarms(effects) == []
    assert state.service is not None
    assert state.service.hop("konstanz", T + 1).source == "measured"
    for wrong in (sketch(30.0), {"bins": {"1": -4}}, {"bins": {}}):
        after, effects = run(state, (T + 1.1, Reported("konstanz", report("konstanz", 3.0, hop=wrong))))
        assert len(alarms(effects)) == 1
        assert after.service == state.service


def sketch(duration_s: float) -> dict[str, Any]:
    return Sketch([duration_s] * 50).to_json()
