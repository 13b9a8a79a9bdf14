"""What one plan costs the hub: CPU of a whole `make_plan`, and the part of it that the routing solve takes.

    python benchmarks/planning.py [--sites 8 50 200] [--contracts 20] [--plans 5]

Random fabrics on a plane of 20 x 20 degrees: every site is an ingress of every contract and may run every workload.
Round trips are measured everywhere, and before each plan every demand has changed by up to 5 % and one site in four has
told new round trips. Placement stands (it is thought over twice a minute); its model servers run outside of the fabric.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time

from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Plan
from isochrone.plan.planner import declared_demand, make_plan
from isochrone.plan.problem import Routing, RoutingProblem
from isochrone.plan.router import RouterBySize
from isochrone.plan.verdicts import Verdict


class Watched:
    """How long the router took, and over how many arcs."""

    def __init__(self) -> None:
        self.router, self.seconds, self.arcs = RouterBySize(), 0.0, 0

    def __call__(self, problem: RoutingProblem) -> Routing:
        start = time.process_time()
        routing = self.router(problem)
        self.seconds, self.arcs = time.process_time() - start, len(problem.cost)
        return routing


def fabric_of(count: int, contracts: int, rng: random.Random) -> Fabric:
    """Sites on a plane, one workload per contract, deadlines from 20 ms to 1 s."""
    names = [f"s{n}" for n in range(count)]
    sites = {
        name: {
            "tier": "metro",
            "at": {"lat": rng.uniform(40, 60), "lon": rng.uniform(0, 20)},
            "jurisdiction": "DE",
            "vendor": "v",
            "hardware": {"gpu": {"units": contracts, "price_per_unit_hour": rng.uniform(1, 4)}},
        }
        for name in names
    }
    workload = {
        "protocol": "http",
        "model": {"name": "m"},
        "runtime": {"kind": "external", "at": dict.fromkeys(names, "127.0.0.1:1")},
        "service": {"gpu": {"duration": {"p50_ms": 8, "p99_ms": 14}, "concurrency": 8, "rps_max": 60}},
        "replicas_max_per_site": 1,
    }
    terms = {
        f"c{n}": {
            "workload": f"w{n}",
            "in_time": {"objective_ms": rng.choice([20, 40, 100, 1000])},
            "demand_rps": {name: rng.expovariate(1 / 30) for name in names},
        }
        for n in range(contracts)
    }
    workloads = {f"w{n}": workload for n in range(contracts)}
    return Fabric.model_validate({"name": "f", "sites": sites, "workloads": workloads, "contracts": terms})


def told(rtt: RttTable, of: list[str], now: float, rng: random.Random) -> RttTable:
    """The table after these sites have told their round trips to all others."""
    for here in of:
        for there in rtt.positions:
            if here != there:
                middle = 1.6 * rtt.floor_s(here, there) + 0.001
                sketch = Sketch(middle * rng.lognormvariate(0, 0.05) for _ in range(40))
                rtt, _ = rtt.with_measured(here, there, sketch, now)
    return rtt


def measure(count: int, contracts: int, plans: int) -> None:
    """One line: medians over the plans after the first."""
    rng = random.Random(1)
    fabric, now = fabric_of(count, contracts, rng), 1e6
    names, router = list(fabric.sites), Watched()
    rtt = told(RttTable.from_fabric(fabric), names, now, rng)
    bounds = {(name, site): Verdict(True) for name in fabric.contracts for site in names}
    plan: Plan | None = None
    whole, solve = [], []
    for _ in range(plans + 1):
        now += 3.0
        rtt = told(rtt, rng.sample(names, max(1, count // 4)), now, rng)
        demand = {
            name: {site: rps * rng.uniform(0.95, 1.05) for site, rps in row.items()}
            for name, row in declared_demand(fabric).items()
        }
        start = time.process_time()
        made = make_plan(
            fabric, rtt, ServiceTable.from_fabric(fabric), bounds, set(names), plan, demand, now, router=router
        )
        whole.append(time.process_time() - start)
        solve.append(router.seconds)
        assert isinstance(made, Plan)
        plan = made
    middle, solved = statistics.median(whole[1:]) * 1e3, statistics.median(solve[1:]) * 1e3
    print(
        f"{count:5d} x {count:4d} x {contracts:3d} {router.arcs:9,d} {whole[0] * 1e3:10,.0f} {middle:10,.1f} "
        f"{solved:10,.1f} {middle - solved:10,.1f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[8, 50, 200])
    parser.add_argument("--contracts", type=int, default=20)
    parser.add_argument("--plans", type=int, default=5)
    args = parser.parse_args()
    heads = ("arcs", "first ms", "warm ms", "solve", "the rest")
    print(f"ingress x site x contract {heads[0]:>3s} " + " ".join(f"{head:>10s}" for head in heads[1:]))
    for count in args.sites:
        measure(count, args.contracts, args.plans)
    return 0


if __name__ == "__main__":
    sys.exit(main())
