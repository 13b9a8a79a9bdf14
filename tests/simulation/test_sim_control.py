"""The hub's own control loop over simulated sites, when what it hears is late, old, too much, or forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_sim_world import PLACES, requests_of, world_of

from isochrone.control.hub import SILENT_S
from isochrone.errors import InputError
from isochrone.sim.controlled import ControlFaults, HubStrategy
from isochrone.sim.report import Outcome
from isochrone.sim.world import Disturbance, Requests, World, simulate

CALM, SOUND = Disturbance(), ControlFaults()


def run(
    world: World, requests: Requests, disturbance: Disturbance = CALM, faults: ControlFaults = SOUND
) -> tuple[Outcome, HubStrategy]:
    strategy = HubStrategy(world, PLACES, requests, faults)
    rng = np.random.default_rng(0)
    return simulate(world, requests, strategy, rng, tick_s=0.5, disturbance=disturbance), strategy


def lost(outcome: Outcome) -> int:
    return sum(contract.lost for contract in outcome.contracts)


def test_a_hub_that_restarts_again_and_again_breaks_nothing() -> None:
    world, requests = world_of(slots=8), requests_of(150, 25)
    calm, _ = run(world, requests)
    restarted, strategy = run(world, requests, faults=ControlFaults(restart_s=5.0))
    assert restarted.execution_error <= calm.execution_error + 0.01
    assert lost(restarted) == 0
    assert strategy.hub.plan is not None


def test_a_site_lost_while_the_hub_restarts_is_left_all_the_same() -> None:
    world, requests = world_of(slots=8), requests_of(150, 25)
    outcome, strategy = run(world, requests, Disturbance(8, 25, lost=(0,)), ControlFaults(restart_s=7.0))
    assert lost(outcome) == 0
    assert outcome.execution_error < 0.05
    assert "konstanz" not in strategy.hub.up


def test_a_flood_of_telemetry_makes_no_more_plans() -> None:
    world, requests = world_of(slots=8), requests_of(150, 10)
    calm, few = run(world, requests)
    flooded, many = run(world, requests, faults=ControlFaults(flood=50))
    assert many.steps > 20 * few.steps
    assert many.plans <= few.plans + 2
    assert flooded == calm


def test_reports_that_travel_long_make_late_plans_and_no_wrong_ones() -> None:
    world, requests = world_of(slots=8), requests_of(150, 20)
    outcome, _ = run(world, requests, faults=ControlFaults(delay_s=2.0))
    assert outcome.execution_error < 0.03


def test_a_site_that_flaps_loses_no_request() -> None:
    world, requests = world_of(slots=8), requests_of(150, 25)
    outcome, strategy = run(world, requests, Disturbance(3, 21, lost=(1,), flap_s=2 * SILENT_S))
    assert lost(outcome) == 0
    assert outcome.execution_error < 0.05
    assert outcome.churn < 0.2
    assert "frankfurt" in strategy.hub.up


def test_a_slow_site_whose_telemetry_stands_still_is_left() -> None:
    # Berlin is cheapest, then ten times as slow, and all that it says of itself is how quick it was before.
    world, requests = world_of(slots=8), requests_of(150, 20)
    outcome, _ = run(world, requests, Disturbance(5, 20, slow=(2,), stale=(2,), factor=10.0))
    assert outcome.execution_error < 0.1


def test_cut_off_from_the_hub_each_ingress_leaves_a_slow_site_by_itself() -> None:
    # Reports travel for longer than the run lasts: nobody plans. Berlin is cheapest, then ten times as slow.
    world, requests = world_of(slots=8), requests_of(150, 35)
    slow, cut_off = Disturbance(5, 15, slow=(2,), factor=10.0), ControlFaults(delay_s=1e3)
    outcome, strategy = run(world, requests, slow, cut_off)
    assert strategy.plans == 1
    assert strategy.left
    assert outcome.execution_error < 0.05
    assert not strategy.doubted, "and it is taken back"


def test_noise_is_no_lateness() -> None:
    outcome, strategy = run(world_of(slots=8), requests_of(150, 60))
    assert strategy.left == 0
    assert outcome.execution_error < 0.02


def test_all_sites_full_is_refused_and_the_plan_says_so() -> None:
    world, requests = world_of(slots=2), requests_of(900, 15)
    outcome, strategy = run(world, requests)
    assert strategy.hub.plan is not None
    assert {short.kind for short in strategy.hub.plan.shortfalls} == {"full"}
    shed = sum(contract.shed for contract in outcome.contracts)
    late = sum(contract.late for contract in outcome.contracts)
    assert shed > 5 * late


DECIDED = """
import hashlib, json
from test_sim_control import Disturbance, requests_of, run, world_of
outcome, strategy = run(world_of(slots=4), requests_of(400, 12), Disturbance(4, 8, slow=(0,)))
decided = [outcome.to_json(), strategy.hub.plan.to_json(), strategy.alarms]
print(hashlib.sha256(json.dumps(decided).encode()).hexdigest())
"""


def test_what_is_decided_does_not_depend_on_the_process() -> None:
    # Sets of names are in another order in each process: nothing may follow from that, not even the last digit.
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    decided = {
        subprocess.run(
            [sys.executable, "-c", DECIDED],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}, check=True, capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(decided) == 1
    assert len(decided.pop().strip()) == 64


def test_no_demand_and_no_price_are_planned_with() -> None:
    world, requests = world_of(), requests_of(150, 10)
    free = replace(world, cost=np.zeros_like(world.cost))
    outcome, strategy = run(free, requests)
    assert outcome.execution_error < 0.02
    assert strategy.hub.plan is not None
    alone = replace(requests, contract=np.zeros_like(requests.contract))
    outcome, strategy = run(world, alone)
    assert outcome.execution_error < 0.02
    assert strategy.hub.plan is not None
    assert strategy.hub.plan.routes["konstanz"]["b"][-1].shares, "nobody asks, and there is a way all the same"


def test_nothing_reaches_a_site_out_of_bounds_whatever_goes_wrong() -> None:
    world, requests = world_of(slots=2), requests_of(400, 20)
    everything = Disturbance(5, 15, lost=(0,), flap_s=2.0, slow=(1,), stale=(1,))
    outcome, _ = run(world, requests, everything, ControlFaults(delay_s=1.0, restart_s=3.0, flood=3))
    assert sum(contract.out_of_bounds for contract in outcome.contracts) == 0
    assert sum(contract.count for contract in outcome.contracts) == len(requests.at_s)


@pytest.mark.parametrize("wrong", [{"delay_s": -1.0}, {"restart_s": float("nan")}, {"flood": 0}])
def test_faults_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="no faults"):
        ControlFaults(**wrong)  # type: ignore[arg-type]
