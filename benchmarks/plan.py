"""How fast routing is solved, and how good the answers are.

    python benchmarks/plan.py [--large]

Random problems on a plane: ingresses and sites uniform over 2,500 x 2,500 km, contracts of 8, 12, 20 or 40 ms of round
trip, one workload per contract, tight capacity (some demand is shed) and ample capacity. In one run, on one core:

    exact        HiGHS on the whole problem (dual simplex), from nothing
    coordinated  prices per pool with column generation, from nothing ("cold"), then after every demand has changed by
                 up to 5 % ("warm"); the gap stated is the one it proves, the error is against the exact optimum

With --large, one thousand ingresses x one thousand sites x --contracts (100) as one problem of some 30 million arcs in
time, at a gap of 1 %: time of the cold solve, of three warm ones, the proven gap, its bound, and the memory the process
holds. Making the problem is not part of the time; no exact optimum is computed at this size.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from isochrone.plan.coordinated import Coordinator
from isochrone.plan.problem import RoutingProblem
from isochrone.plan.routing import route_exactly


def problem(ingresses: int, sites: int, contracts: int, tightness: float, seed: int) -> RoutingProblem:
    """A random problem; capacity is `tightness` x 1.4 x what the demand of each workload takes at least."""
    rng = np.random.default_rng(seed)
    here, there = rng.random((ingresses, 2)) * 2500, rng.random((sites, 2)) * 2500
    rtt_ms = np.sqrt(((here[:, None] - there[None]) ** 2).sum(-1)) * 0.021
    price = rng.uniform(1, 4, sites)
    parts = []
    for contract in range(contracts):
        deadline = rng.choice([8, 12, 20, 40])
        i, s = np.nonzero(rtt_ms <= deadline)
        use = np.maximum(1, 1 / (1 - 0.5 * rtt_ms[i, s] / deadline))
        here_and_there = (i + contract * ingresses).astype(np.int32), (s * contracts + contract).astype(np.int32)
        parts.append((*here_and_there, price[s] + 0.02 * rtt_ms[i, s], use))
    demand, pool, cost, use = (np.concatenate(column) for column in zip(*parts, strict=True))
    rps = rng.exponential(1, ingresses * contracts)
    capacity = rng.uniform(0.3, 1.7, (sites, contracts))
    capacity *= 1.4 * tightness * rps.reshape(contracts, ingresses).sum(1) / capacity.sum(0)
    return RoutingProblem(
        demands=tuple((f"c{n // ingresses}", f"i{n % ingresses}") for n in range(len(rps))),
        pools=tuple((f"s{n // contracts}", f"w{n % contracts}") for n in range(sites * contracts)),
        rps=rps,
        shed_cost=np.repeat(rng.choice([20.0, 50, 200], contracts), ingresses),
        capacity_rps=capacity.ravel(),
        arc_demand=demand,
        arc_pool=pool,
        cost=cost,
        use=use,
    )


def moved(whole: RoutingProblem, seed: int) -> RoutingProblem:
    """Every demand changed by up to 5 %."""
    rng = np.random.default_rng(seed)
    return replace(whole, rps=whole.rps * rng.uniform(0.95, 1.05, len(whole.rps)))


def timed(function, *arguments):  # type: ignore[no-untyped-def]
    """The result and the seconds it took."""
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def compare(ingresses: int, sites: int, contracts: int, tightness: float, gap: float) -> None:
    """One line: exact against coordinated on the same problems."""
    whole = problem(ingresses, sites, contracts, tightness, seed=1)
    coordinator = Coordinator(gap)
    _, cold = timed(coordinator.solve, whole)
    warm, exact_s, errors, gaps = [], [], [], []
    for round_ in range(3):
        now = moved(whole, round_)
        answer, seconds = timed(coordinator.solve, now)
        exact, slow = timed(route_exactly, now)
        warm.append(seconds)
        exact_s.append(slow)
        errors.append(answer.objective / exact.objective - 1)
        gaps.append(answer.gap)
    shed = answer.unserved_rps.sum() / now.rps.sum()
    print(
        f"{ingresses:5d} x {sites:4d} x {contracts:3d} {len(whole.cost):9,d} {shed:6.1%} {gap:6.1%}"
        f" {statistics.median(exact_s) * 1e3:10,.0f} {cold * 1e3:9,.0f} {statistics.median(warm) * 1e3:9,.1f}"
        f" {statistics.median(exact_s) / statistics.median(warm):8,.0f} x {max(gaps):9.1e} {max(errors):9.1e}",
        flush=True,
    )


def held_mb() -> float:
    """Memory the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def large(contracts: int) -> None:
    """1,000 x 1,000 x contracts, cold and then warm."""
    for tightness in (0.8, 1.3):
        whole = problem(1000, 1000, contracts, tightness, seed=1)
        before = held_mb()
        coordinator = Coordinator(0.01)
        answer, cold = timed(coordinator.solve, whole)
        print(
            f"1000 x 1000 x {contracts}, tightness {tightness}: {len(whole.cost):,} arcs in time, process "
            f"{before:,.0f} MB; cold {cold:.1f} s, gap {answer.gap:.1e}"
        )
        for round_ in range(3):
            answer, seconds = timed(coordinator.solve, moved(whole, round_))
            shed = answer.unserved_rps.sum() / whole.rps.sum()
            print(
                f"  warm {seconds:6.2f} s, objective {answer.objective:,.2f}, bound {answer.bound:,.2f}, proven gap "
                f"{answer.gap:.1e}, shed {shed:.1%}, process {held_mb():,.0f} MB",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak {peak:,.0f} MB, the making of the problem included")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--contracts", type=int, default=100, help="of the large problem")
    args = parser.parse_args()
    print(
        f"{'ingress x site x contract':20s} {'arcs':>8s} {'shed':>6s} {'asked':>6s} {'exact ms':>10s} {'cold ms':>9s}"
        f" {'warm ms':>9s} {'exact/warm':>10s} {'gap':>9s} {'error':>9s}"
    )
    for size in ((50, 50, 20), (200, 200, 20)):
        for tightness in (0.8, 1.3):
            for gap in (0.0, 0.01):
                compare(*size, tightness, gap)
    if args.large:
        large(args.contracts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
