"""What no strategy passes."""

from __future__ import annotations

import numpy as np

from isochrone.sim.report import ContractOutcome, Outcome
from isochrone.sim.world import Requests, World

__all__ = ["omniscient"]


def omniscient(world: World, requests: Requests) -> Outcome:
    """A bound no strategy passes: every execution alone at the cheapest site in bounds that can answer it in time.

    It knows each request's work and has no queues; what it cannot hold, nothing can.
    """
    workload = np.array(world.workload)[requests.contract]
    first = np.array(world.first_byte)[requests.contract]
    work = np.where(first, requests.first_s, requests.whole_s)
    times = world.rtt_s[requests.ingress] + work[:, None] * world.speed[workload]
    usable = world.allowed[requests.contract] & (world.slots[workload] > 0)
    usable &= times <= world.objective_s[requests.contract][:, None]
    cost = np.where(usable, world.cost[workload], np.inf)
    best = cost.argmin(axis=1)
    rows = np.arange(len(best))
    held = usable.any(axis=1)
    outcomes = []
    for c, name in enumerate(world.contracts):
        mine = requests.contract == c
        answered = times[rows, best][mine & held]
        p50, p99 = np.quantile(answered, (0.5, 0.99)).tolist() if len(answered) else (0.0, 0.0)
        spent = float(cost[rows, best][mine & held].sum())
        outcomes.append(
            ContractOutcome(name, int((mine & held).sum()), 0, int((mine & ~held).sum()), 0, 0, p50, p99, spent)
        )
    return Outcome("omniscient bound", tuple(outcomes), 0.0)
