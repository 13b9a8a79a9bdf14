"""Replicas that are placed do not all answer yet: what still loads gets nothing that a ready one can serve."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from isochrone.model.fabric import Fabric
from isochrone.model.workload import External
from isochrone.plan.problem import RoutingProblem

__all__ = ["Ready", "Replicas", "answering", "loading", "prefer_ready", "serving"]

# Site to workload to the replicas that answer; of a site that is left out nothing is known.
Ready = Mapping[str, Mapping[str, int]]
# (site, workload) to replicas.
Replicas = Mapping[tuple[str, str], int]


def answering(fabric: Fabric, placed: Replicas, ready: Ready) -> dict[tuple[str, str], int]:
    """Of the replicas placed, those that answer: all where nothing is known, and where no node starts them."""
    found = {}
    for (site, workload), count in placed.items():
        known = site in ready and not isinstance(fabric.workloads[workload].runtime, External)
        found[site, workload] = min(count, ready[site].get(workload, 0)) if known else count
    return found


def loading(answer: Replicas) -> frozenset[tuple[str, str]]:
    """Pools of which nothing answers yet."""
    return frozenset(pool for pool, count in answer.items() if not count)


def serving(placed: Replicas, answer: Replicas) -> dict[tuple[str, str], int]:
    """What to route by: replicas that answer, and where none does yet all that are coming (see `prefer_ready`)."""
    return {pool: answer[pool] or count for pool, count in placed.items()}


def prefer_ready(problem: RoutingProblem, waiting: Set[tuple[str, str]]) -> RoutingProblem:
    """The problem without the arcs into pools that still load, of each demand that has another.

    Where a demand has nothing else it keeps them: its requests are refused as long as nothing answers, and served from
    the moment on that something does, without waiting for another plan.
    """
    if not waiting:
        return problem
    waits = np.array([pool in waiting for pool in problem.pools], dtype=bool)[problem.arc_pool]
    served = np.zeros(len(problem.rps), dtype=bool)
    served[problem.arc_demand[~waits]] = True
    return problem.only(np.flatnonzero(~(waits & served[problem.arc_demand])))
