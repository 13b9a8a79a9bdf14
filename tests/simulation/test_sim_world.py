"""The simulated world: its queues, its faults, and the hub's control loop in it against the strategies of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isochrone.errors import InputError
from isochrone.model.site import Position
from isochrone.sim.batching import fit_batching
from isochrone.sim.bound import omniscient
from isochrone.sim.controlled import HubStrategy
from isochrone.sim.report import Outcome
from isochrone.sim.strategies import BASELINES, LeastLoad, Nearest
from isochrone.sim.trace import Trace, day_weight, parse_azure, parse_mooncake, spread
from isochrone.sim.world import Disturbance, Requests, World, simulate

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PLACES = [Position(lat=47.7, lon=9.2), Position(lat=50.1, lon=8.7), Position(lat=52.5, lon=13.4)]
NAMES = ("konstanz", "frankfurt", "berlin")


def world_of(slots: int = 4, objective_s: float = 0.1) -> World:
    return World(
        sites=NAMES,
        ingresses=NAMES,
        contracts=("a", "b"),
        workload=(0, 0),
        rtt_s=np.array([[0, 6, 14], [6, 0, 9], [14, 9, 0]]) / 1e3,
        allowed=np.array([[True, True, True], [True, True, False]]),
        objective_s=np.full(2, objective_s),
        first_byte=(False, False),
        penalty=np.array([0.01, 0.02]),
        slots=np.full((1, 3), slots),
        speed=np.ones((1, 3)),
        cost=np.array([[3e-6, 2e-6, 1e-6]]),
        slowdown=np.array([0.0]),
    )


def requests_of(rps: float, seconds: float, seed: int = 3, mean_s: float = 0.02) -> Requests:
    rng = np.random.default_rng(seed)
    count = int(rps * seconds)
    whole = rng.exponential(mean_s, count)
    return Requests(
        np.sort(rng.uniform(0, seconds, count)), rng.integers(0, 3, count), rng.integers(0, 2, count), whole / 2, whole
    )


def run(world: World, requests: Requests, which: str | type = "plan", **options: object) -> Outcome:
    if isinstance(which, type):
        eligible = world.allowed & (world.slots[list(world.workload)] > 0)
        strategy = which(world.rtt_s, eligible, world.workload, world.slots.astype(float), world.cost)
    else:
        strategy = HubStrategy(world, PLACES, requests)
    return simulate(world, requests, strategy, np.random.default_rng(0), tick_s=1.0, **options)  # type: ignore[arg-type]


def test_one_queue_waits_as_theory_says() -> None:
    # M/M/1 at load 0.5: mean time in the system is service / (1 - load) = 2 services.
    world = replace(world_of(slots=1, objective_s=10.0), rtt_s=np.zeros((3, 3)))
    requests = requests_of(25.0, 2000, mean_s=0.02)
    alone = replace(requests, ingress=np.zeros_like(requests.ingress))
    outcome = run(world, alone, Nearest)
    times = [contract.p50_s for contract in outcome.contracts]
    # The time in an M/M/1 system is exponential with rate mu - lambda: the median is ln 2 / 25.
    assert np.mean(times) == pytest.approx(np.log(2) / 25, rel=0.05)


def test_a_request_on_its_way_takes_no_room_yet() -> None:
    far = np.array([[0.0, 0.2, 0.2], [0.2, 0.0, 0.2], [0.2, 0.2, 0.0]])
    world = replace(world_of(), rtt_s=far, slots=np.array([[1, 0, 0]]))
    # The first is sent from afar and arrives at 100 ms; the second enters at the site itself at 10 ms.
    requests = Requests(
        np.array([0.0, 0.01]), np.array([2, 0]), np.array([0, 1]), np.array([0.02, 0.02]), np.array([0.02, 0.02])
    )
    there, here = run(world, requests, Nearest).contracts
    assert here.p50_s == pytest.approx(0.02)
    assert there.p50_s == pytest.approx(0.22)


def test_a_run_is_its_seed() -> None:
    world, requests = world_of(), requests_of(150, 20)
    assert run(world, requests) == run(world, requests)


def test_every_request_is_counted_once() -> None:
    world, requests = world_of(), requests_of(300, 10)
    for kind in ("plan", *BASELINES):
        outcome = run(world, requests, kind, disturbance=Disturbance(3, 6, lost=(0,), slow=(1,)))
        assert sum(contract.count for contract in outcome.contracts) == len(requests.at_s)
        assert sum(contract.out_of_bounds for contract in outcome.contracts) == 0
        assert outcome.execution_error >= omniscient(world, requests).execution_error - 1e-12


def test_calm_load_is_served_in_time_and_cheaply() -> None:
    world, requests = world_of(objective_s=1.0), requests_of(150, 30)
    ours, nearest = run(world, requests), run(world, requests, Nearest)
    assert ours.execution_error < nearest.execution_error + 0.01
    assert ours.cost < 0.9 * nearest.cost
    assert ours.cost == pytest.approx(omniscient(world, requests).cost)


def test_a_penalty_worth_more_than_the_saving_keeps_executions_near() -> None:
    world, requests = world_of(objective_s=0.1), requests_of(100, 30)
    tight, loose = run(world, requests), run(replace(world, objective_s=np.full(2, 1.0)), requests)
    assert tight.cost > loose.cost
    assert tight.execution_error <= run(world, requests, Nearest).execution_error + 0.005


def test_overload_is_refused_early_rather_than_answered_late() -> None:
    world, requests = world_of(), requests_of(1200, 15)  # twice what twelve slots of 20 ms can do
    ours, others = run(world, requests), run(world, requests, LeastLoad)
    late = sum(contract.late for contract in ours.contracts) / len(requests.at_s)
    assert late < 0.1
    assert others.execution_error > 0.8
    assert ours.execution_error < 0.65
    a, b = ours.contracts
    assert b.held / b.count > a.held / a.count  # the dearer penalty goes first where both are allowed


def test_a_lost_site_loses_no_request_that_another_can_answer() -> None:
    world, requests = world_of(slots=8), requests_of(150, 30)
    outcome = run(world, requests, disturbance=Disturbance(10, 20, lost=(0,)))
    assert sum(contract.lost for contract in outcome.contracts) == 0
    assert outcome.execution_error < 0.03
    everything = run(world, requests, disturbance=Disturbance(10, 20, lost=(0, 1, 2)))
    assert 0.25 < everything.execution_error < 0.45


def test_a_slow_site_is_left() -> None:
    world, requests = world_of(slots=8), requests_of(150, 40)
    slow = Disturbance(5, 40, slow=(2,), factor=10.0)
    assert run(world, requests, disturbance=slow).execution_error < 0.1


def test_no_requests_are_no_error() -> None:
    none = np.zeros(0)
    nothing = Requests(none, none.astype(int), none.astype(int), none, none)
    assert run(world_of(), nothing, Nearest).execution_error == 0


def test_a_world_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        replace(world_of(), rtt_s=np.zeros((2, 3)))
    with pytest.raises(InputError, match="NaN"):
        replace(world_of(), cost=np.full((1, 3), np.nan))


def test_traces_are_read_and_bad_ones_refused() -> None:
    azure = parse_azure("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n")
    assert (azure.at_s[0], azure.prompt_tokens[0], azure.answer_tokens[0]) == (0, 374, 44)
    mooncake = parse_mooncake('{"timestamp": 500, "input_length": 5, "output_length": 6}\n')
    assert (mooncake.at_s[0], mooncake.prompt_tokens[0]) == (0, 5)
    for text in ("", "a,b\n1,2\n", "TIMESTAMP,ContextTokens,GeneratedTokens\nnever,1,2\n"):
        with pytest.raises(InputError):
            parse_azure(text)
    for text in ("", "{}", "not json"):
        with pytest.raises(InputError):
            parse_mooncake(text)


def test_spreading_keeps_the_order_and_follows_the_weights() -> None:
    trace = Trace(np.arange(1000.0), np.ones(1000), np.ones(1000))
    copies, places = spread(trace, [1, 0, 3], 4, np.random.default_rng(1))
    assert len(copies.at_s) == 4000
    assert (np.diff(copies.at_s) >= 0).all()
    assert np.bincount(places, minlength=3)[1] == 0
    assert np.mean(places == 2) == pytest.approx(0.75, abs=0.03)
    with pytest.raises(InputError):
        spread(trace, [0, 0], 1, np.random.default_rng(1))


def test_a_place_is_busy_in_its_own_afternoon() -> None:
    assert day_weight(16, 0) == pytest.approx(1.0)
    assert day_weight(16, 180) == pytest.approx(0.3)


def test_the_fit_finds_the_line_it_was_given() -> None:
    rows = [
        {
            "model_path": "m",
            "system": "g",
            "isl": str(isl),
            "batch_size": str(batch),
            "silicon_ttft_ms": str(20 + 0.1 * isl),
            "silicon_tpot_ms": str(8 + batch * (0.25 + 0.0001 * isl)),
        }
        for isl in (100, 1000, 8000)
        for batch in (1, 4, 16, 64)
    ]
    fit = fit_batching(rows, {"model_path": "m", "system": "g"}, context=1000, slots=32)
    assert (fit.ttft_s, fit.prefill_s) == (pytest.approx(0.020), pytest.approx(1e-4))
    assert (fit.step_s, fit.step_per_active_s) == (pytest.approx(0.008), pytest.approx(0.00035))
    assert fit.error < 1e-9
    with pytest.raises(InputError, match="too few"):
        fit_batching(rows, {"model_path": "another"}, context=1000, slots=32)
    with pytest.raises(InputError, match="do not vary"):
        fit_batching(rows[:1] * 20, {"model_path": "m"}, context=1000, slots=32)


@pytest.mark.skipif(not DATA.is_dir(), reason="the published traces are not here")
def test_published_traces_read_in_full() -> None:
    conversations = parse_azure((DATA / "llm_traces/AzureLLMInferenceTrace2023_conv.csv").read_text())
    assert len(conversations.at_s) == 19_366
    assert len(parse_mooncake((DATA / "llm_traces/mooncake_conversation_trace.jsonl").read_text()).at_s) == 12_031
