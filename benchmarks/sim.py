"""Strategies compared on real regions under published traces, and how fast the simulator is.

    python benchmarks/sim.py [--fabric europe|us|world] [--minutes 5] [--seed 1]

Sites and round trips are Azure regions and their published medians; arrivals are the Azure and Mooncake traces, spread
over the regions by the population of the cities near them and their local time; speeds are fitted to measured rows of
one model on two GPUs. All strategies see the same sites in bounds and the same requests; "least load" and "locality
rings" see every queue at the moment of choice, which no real deployment does. Reported per strategy: execution error
(late + shed + lost + out of bounds), cost per 1,000 held executions, p99, churn, and simulated requests per second of
the whole run (control included) on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path

import numpy as np

from isochrone.latency.floor import geodesic_m
from isochrone.model.site import Position
from isochrone.sim.batching import Batching, fit_batching
from isochrone.sim.planned import PlanStrategy, omniscient
from isochrone.sim.report import Outcome
from isochrone.sim.strategies import BASELINES
from isochrone.sim.trace import day_weight, parse_azure, parse_mooncake, spread
from isochrone.sim.world import Disturbance, Requests, World, simulate

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
FABRICS = {
    "europe": ["West Europe", "North Europe", "UK South", "France Central", "Germany West Central", "Sweden Central",
               "Switzerland North", "Poland Central", "Italy North", "Norway East"],
    "us": ["East US", "East US 2", "Central US", "North Central US", "South Central US", "West Central US", "West US",
           "West US 2", "West US 3"],
    "world": ["East US", "West US 2", "Brazil South", "UK South", "West Europe", "UAE North", "Central India",
              "Southeast Asia", "Japan East", "Korea Central", "Australia East", "South Africa North"],
}  # fmt: skip
MODEL = {"model_path": "meta-llama/Llama-3.1-70B", "backend": "trtllm", "precision": "fp8", "mode": "agg"}


def positions_and_rtt(names: list[str]) -> tuple[list[Position], np.ndarray]:
    """Coordinates and symmetric round trips in seconds; a pair without a published median gets 1.7 x the floor."""
    places = json.loads((DATA / "azure_rtt/azure_region_coordinates.json").read_text())
    at = {v["displayName"]: Position(lat=v["lat"], lon=v["lon"]) for v in places.values()}
    with (DATA / "azure_rtt/azure_region_rtt_ms.csv").open() as file:
        table = {row["Source"]: row for row in csv.DictReader(file)}
    rtt = np.zeros((len(names), len(names)))
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            told = [table.get(x, {}).get(y) for x, y in ((a, b), (b, a))]
            known = [float(value) for value in told if value]
            floor_ms = 2 * geodesic_m(at[a], at[b]) * 1.468 / 299792458 * 1e3
            rtt[i, j] = 0.0 if a == b else max(np.mean(known) if known else 1.7 * floor_ms, floor_ms) / 1e3
    return [at[name] for name in names], rtt


def weights(at: list[Position], hour_utc: float) -> np.ndarray:
    """People whose nearest site it is, times how busy their hour is."""
    with (DATA / "cities/cities15000_min.csv").open() as file:
        cities = sorted(csv.DictReader(file), key=lambda row: -float(row["population"]))[:800]
    found = np.zeros(len(at))
    for city in cities:
        here = Position(lat=float(city["lat"]), lon=float(city["lon"]))
        metres = [geodesic_m(here, there) for there in at]
        if min(metres) < 2.5e6:
            found[int(np.argmin(metres))] += float(city["population"]) * day_weight(hour_utc, here.lon)
    return found


def fitted() -> tuple[Batching, Batching]:
    """A quick and a slow GPU for the same model."""
    with (DATA / "gpu_perf/aiconfigurator_silicon_sample.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = (("b200_sxm", "8"), ("h200_sxm", "4"))
    quick, slow = (MODEL | {"system": system, "tp_size": parts} for system, parts in kinds)
    return fit_batching(rows, quick, context=1500, slots=32), fit_batching(rows, slow, context=1500, slots=32)


def build(fabric: str, minutes: float, seed: int) -> tuple[World, list[Position], Requests]:
    """Three contracts: chat and code on language models, and a 60 ms audio stream."""
    rng = np.random.default_rng(seed)
    names = FABRICS[fabric]
    at, rtt = positions_and_rtt(names)
    near = weights(at, hour_utc=14.0)
    quick, slow = fitted()
    print(f"fit: {quick.rows}+{slow.rows} rows, held-out error of a step {quick.error:.1%} and {slow.error:.1%}")
    azure = DATA / "llm_traces/AzureLLMInferenceTrace2023_{}.csv"
    traces = [
        parse_azure(Path(str(azure).format("conv")).read_text()),
        parse_azure(Path(str(azure).format("code")).read_text()),
        parse_mooncake((DATA / "llm_traces/mooncake_conversation_trace.jsonl").read_text()),
    ]
    parts = []
    for contract, (trace, copies) in enumerate(zip(traces, (30, 40, 60), strict=True)):
        copied, place = spread(trace, near, copies, rng)
        keep = copied.at_s < minutes * 60
        prompt, answer = copied.prompt_tokens[keep], copied.answer_tokens[keep]
        if contract == 2:  # the arrivals of Mooncake, with the work of a voice model: 2 ms, log-normal
            first = whole = rng.lognormal(np.log(0.002), 0.5, keep.sum())
        else:
            first, whole = quick.first_s(prompt), quick.whole_s(prompt, answer)
        parts.append((copied.at_s[keep], place[keep], np.full(keep.sum(), contract), first, whole))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    requests = Requests(*(column[order] for column in columns))
    return world_of(names, near, rtt, quick, slow, requests, minutes * 60, rng), at, requests


def world_of(names, near, rtt, quick, slow, requests, length_s, rng) -> World:  # type: ignore[no-untyped-def]
    """Capacity for 1.5 x the mean demand in all, placed half evenly and half by population; prices from 1 to 3."""
    count = len(names)
    share = 0.5 / count + 0.5 * near / near.sum()
    speed = np.ones((2, count))
    speed[0] = np.where(rng.random(count) < 0.4, slow.step_s / quick.step_s, 1.0)
    slowdown = np.array([quick.slowdown, 0.0])
    work = [requests.whole_s[requests.contract != 2].sum(), requests.whole_s[requests.contract == 2].sum()]
    batch = [1 + quick.slowdown * (quick.slots - 1), 1.0]
    slots = np.array([np.ceil(1.5 * work[w] * batch[w] / length_s * share + 2) for w in range(2)]).astype(int)
    price = rng.uniform(1, 3, count)
    cost = np.array([price * 2e-4, price * 2e-7])
    allowed = np.ones((3, count), dtype=bool)
    allowed[1, rng.permutation(count)[: count // 3]] = False
    return World(
        sites=tuple(name.lower().replace(" ", "-") for name in names),
        ingresses=tuple(name.lower().replace(" ", "-") for name in names),
        contracts=("chat", "code", "voice"),
        workload=(0, 0, 1),
        rtt_s=rtt,
        allowed=allowed,
        objective_s=np.array([1.0, 0.6, 0.060]),
        first_byte=(True, True, False),
        penalty=np.array([0.02, 0.02, 0.005]),
        slots=slots,
        speed=speed,
        cost=cost,
        slowdown=slowdown,
    )


def scenarios(world: World, requests: Requests, length_s: float) -> dict[str, tuple[Requests, Disturbance]]:
    """Calm, and four ways it goes wrong in the middle third."""
    from_s, to_s = length_s / 3, 2 * length_s / 3
    busiest = int(np.argmax(np.bincount(requests.ingress)))
    inside = (requests.at_s >= from_s) & (requests.at_s < to_s) & (requests.ingress == busiest)
    again = np.concatenate([np.arange(len(requests.at_s)), np.flatnonzero(inside), np.flatnonzero(inside)])
    again = again[np.argsort(requests.at_s[again], kind="stable")]
    columns = ("at_s", "ingress", "contract", "first_s", "whole_s")
    spike = Requests(*(getattr(requests, name)[again] for name in columns))
    return {
        "calm": (requests, Disturbance()),
        "spike": (spike, Disturbance()),
        "site loss": (requests, Disturbance(from_s, to_s, lost=(busiest,))),
        "slow site": (requests, Disturbance(from_s, to_s, slow=(busiest,))),
        "stale": (requests, Disturbance(from_s, to_s, slow=(busiest,), stale=(busiest,))),
    }


def row(outcome: Outcome, seconds: float, count: int) -> str:
    """One line of the table."""
    held = sum(contract.held for contract in outcome.contracts)
    p99 = " ".join(f"{contract.p99_s * 1e3:8.0f}" for contract in outcome.contracts)
    parts = [sum(getattr(c, kind) for c in outcome.contracts) / count for kind in ("late", "shed", "lost")]
    return (
        f"  {outcome.strategy:22s} {outcome.execution_error:7.2%}  "
        + " ".join(f"{part:7.2%}" for part in parts)
        + f" {1e3 * outcome.cost / max(held, 1):9.4f} {p99} {outcome.churn:6.1%} {count / seconds:9,.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fabric", choices=[*FABRICS, "all"], default="europe")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not DATA.is_dir():
        print("the measured data are not here: nothing to simulate", file=sys.stderr)
        return 1
    for fabric in FABRICS if args.fabric == "all" else [args.fabric]:
        world, at, requests = build(fabric, args.minutes, args.seed)
        for name, (arrivals, disturbance) in scenarios(world, requests, args.minutes * 60).items():
            count = len(arrivals.at_s)
            print(f"{fabric}, {name}: {count:,} requests at {len(world.sites)} sites, {args.minutes:g} minutes")
            print(f"  {'strategy':22s} {'error':>7s}  {'late':>7s} {'shed':>7s} {'lost':>7s} {'cost/1k':>9s} "
                  f"{'p99 ms: chat, code, voice':>26s} {'churn':>6s} {'req/s':>9s}")  # fmt: skip
            eligible = world.allowed & (world.slots[list(world.workload)] > 0)
            strategies = [
                kind(world.rtt_s, eligible, world.workload, world.slots.astype(float), world.cost) for kind in BASELINES
            ]
            for strategy in [*strategies, PlanStrategy(world, at, requests)]:
                start = time.perf_counter()
                outcome = simulate(
                    world, arrivals, strategy, np.random.default_rng(args.seed), tick_s=1.0, disturbance=disturbance
                )
                print(row(outcome, time.perf_counter() - start, count), flush=True)
            start = time.perf_counter()
            bound = omniscient(world, arrivals)
            print(row(bound, time.perf_counter() - start, count), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
