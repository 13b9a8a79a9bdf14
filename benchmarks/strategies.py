"""Strategies compared: execution error, cost, times and churn, on three fabrics, on five days each.

    python benchmarks/strategies.py [--fabric europe|us|world|all] [--day calm|...|all] [--minutes 5] [--seed 1]

`worlds.py` says what the fabrics and the days are. All strategies see the same sites in bounds and the same requests.
Baselines are told of lost sites by health checks within a second; "least load" and "locality rings" see every queue at
the moment of choice, and latency averages count an answer when it is begun, none of which a real deployment has. Ours
is `control.hub.step`, fed once a second with the reports of the simulated sites, which travel 0.1 s, as plans do.

Execution error is late + shed + lost + out of bounds, as shares of all requests. The bound serves each request alone at
the cheapest site in time and in bounds: nothing can hold what it cannot. `gap` is execution error above the bound's,
`cost/1k` what 1,000 held executions cost, and `loss` what the fabric loses a second: cost of executions and the
contracts' penalties for broken ones, which is what ours is asked to minimise.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from worlds import DATA, FABRICS, build, days

from isochrone.model.site import Position
from isochrone.sim.bound import omniscient
from isochrone.sim.controlled import HubStrategy
from isochrone.sim.report import Outcome
from isochrone.sim.strategies import BASELINES, Strategy
from isochrone.sim.world import Disturbance, Requests, World, simulate

DAYS = ("calm", "spike", "site loss", "slow site", "stale")


def head(world: World) -> str:
    """Names of the columns."""
    names = " ".join(f"{name + ' p50/p99':>18s}" for name in world.contracts)
    return (f"  {'strategy':22s} {'error':>7s} {'gap':>7s}  {'late':>7s} {'shed':>7s} {'lost':>7s} {'bounds':>7s} "
            f"{'cost/1k':>8s} {'loss':>8s} {names} ms {'churn':>6s}")  # fmt: skip


def row(world: World, outcome: Outcome, bound: Outcome, length_s: float) -> str:
    """One line of the table."""
    count = sum(contract.count for contract in outcome.contracts)
    held = sum(contract.held for contract in outcome.contracts)
    kinds = ("late", "shed", "lost", "out_of_bounds")
    parts = " ".join(f"{sum(getattr(c, kind) for c in outcome.contracts) / count:7.2%}" for kind in kinds)
    times = " ".join(f"{f'{c.p50_s * 1e3:,.0f}/{c.p99_s * 1e3:,.0f}':>18s}" for c in outcome.contracts)
    penalties = sum((c.count - c.held) * p for c, p in zip(outcome.contracts, world.penalty.tolist(), strict=True))
    return (
        f"  {outcome.strategy:22s} {outcome.execution_error:7.2%} "
        f"{outcome.execution_error - bound.execution_error:7.2%}  {parts} {1e3 * outcome.cost / max(held, 1):8.4f} "
        f"{(outcome.cost + penalties) / length_s:8.3f} {times}    {outcome.churn:6.2%}"
    )


def strategies(world: World, at: list[Position], sample: Requests) -> list[Strategy]:
    """All of them, fresh."""
    eligible = world.allowed & (world.slots[list(world.workload)] > 0)
    arguments = (world.rtt_s, eligible, world.workload, world.slots.astype(float), world.cost)
    return [*(kind(*arguments) for kind in BASELINES), HubStrategy(world, at, sample)]


def table(fabric: str, day: str, minutes: float, seed: int, only: list[str]) -> None:
    """One cell of the comparison."""
    world, at, requests = build(fabric, minutes, seed)
    arrivals, disturbance = days(requests, minutes * 60)[day]
    print(f"{fabric}, {day}: {len(arrivals.at_s):,} requests, {len(world.sites)} sites, {minutes:g} minutes")
    print(head(world))
    bound = omniscient(world, arrivals)
    for strategy in strategies(world, at, requests):
        if any(part in strategy.name for part in only):
            outcome = run(world, arrivals, strategy, seed, disturbance)
            print(row(world, outcome, bound, minutes * 60), flush=True)
    print(row(world, bound, bound, minutes * 60), flush=True)


def run(world: World, arrivals: Requests, strategy: Strategy, seed: int, disturbance: Disturbance) -> Outcome:
    """One strategy over one day."""
    return simulate(world, arrivals, strategy, np.random.default_rng(seed), tick_s=0.5, disturbance=disturbance)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fabric", choices=[*FABRICS, "all"], default="all")
    parser.add_argument("--day", choices=[*DAYS, "all"], default="all")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[""], help="strategies whose names hold one of these")
    args = parser.parse_args()
    if not DATA.is_dir():
        print("the measured data are not here: nothing to simulate", file=sys.stderr)
        return 1
    start = time.perf_counter()
    for fabric in FABRICS if args.fabric == "all" else [args.fabric]:
        for day in DAYS if args.day == "all" else [args.day]:
            table(fabric, day, args.minutes, args.seed, args.only)
    print(f"{time.perf_counter() - start:,.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
