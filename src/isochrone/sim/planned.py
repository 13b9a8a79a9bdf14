"""Our own strategy in the simulated world: the real planner, fed with the simulated telemetry; and the bound.

The world becomes a fabric whose sites each have their own hardware class, so that each site's measured speed is its
own; the planner decides shares, fallbacks, refusals and limits as it does for a real fabric.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.model.site import Position
from isochrone.plan.coordinated import Coordinator
from isochrone.plan.plan import Plan, Rung, difference
from isochrone.plan.planner import make_plan
from isochrone.plan.verdicts import Verdict
from isochrone.sim.report import ContractOutcome, Outcome
from isochrone.sim.strategies import NO_LIMIT, View
from isochrone.sim.world import Requests, World

__all__ = ["PlanStrategy", "omniscient"]

Floats = NDArray[np.float64]
# A site counts as slower in steps of this, so that noise makes no new plans.
_RATIO_STEP = 0.25


class PlanStrategy:
    """See the module.

    Args:
        world: its ingresses must be its sites.
        positions: of the sites.
        sample: requests like those to come; service profiles are taken from them.
        margin: how much more demand than was last seen is planned for.
        quantile: of executions the objectives must hold for, of those admitted.
    """

    name = "isochrone"

    def __init__(
        self,
        world: World,
        positions: Sequence[Position],
        sample: Requests,
        margin: float = 1.2,
        quantile: float = 0.95,
    ) -> None:
        self._world, self._positions, self._margin, self._quantile = world, positions, margin, quantile
        self._profiles = _profiles(world, sample)
        self._work = _relative_work(world, sample)
        self._ratio = np.ones(world.slots.shape)
        self._demand = np.zeros((len(world.contracts), len(world.ingresses)))
        self._plan: Plan | None = None
        self._coordinator = Coordinator(gap=0.0)
        self._churn: list[float] = []
        self._route: list[list[tuple[list[float], list[int], list[int]]]] = []
        self._rtt = _measured_rtt(world, positions)
        self.limits = [[NO_LIMIT] * len(world.sites) for _ in world.contracts]

    @property
    def churn(self) -> float:
        """Mean over the ticks of the share of routed traffic that moved."""
        return float(np.mean(self._churn)) if self._churn else 0.0

    def tick(self, view: View) -> None:
        """Make the next plan from what was seen."""
        # Rises count at once, falls over a few ticks.
        self._demand = np.maximum(view.rps, 0.7 * self._demand + 0.3 * view.rps)
        self._watch_speed(view)
        world, fabric = self._world, self._fabric()
        demand = {
            name: {site: self._margin * float(rps) for site, rps in zip(world.sites, row, strict=True) if rps > 0}
            for name, row in zip(world.contracts, self._demand.tolist(), strict=True)
        }
        bounds = {
            (name, site): Verdict(bool(world.allowed[c, s]))
            for c, name in enumerate(world.contracts)
            for s, site in enumerate(world.sites)
        }
        up = {site for site, alive in zip(world.sites, view.up, strict=True) if alive}
        service = replace(ServiceTable.from_fabric(fabric, hop_s=0.0), work=self._work)
        plan = make_plan(
            fabric, self._rtt, service, bounds, up, self._plan, demand, view.now_s, router=self._coordinator.solve
        )
        if isinstance(plan, Plan):
            if self._plan is not None:
                self._churn.append(difference(self._plan, plan).churn)
            self._plan = plan
            self._install(plan)

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        """By the plan's shares."""
        cumulative, sites, _ = self._route[contract][ingress]
        return sites[bisect_right(cumulative, pick)] if sites else -1

    def spill(self, ingress: int, contract: int, tried: int) -> int:
        """By the plan's fallbacks, in their order."""
        return next((s for s in self._route[contract][ingress][2] if not tried >> s & 1), -1)

    def _watch_speed(self, view: View) -> None:
        for w, row in enumerate(view.residual):
            for s, seen in enumerate(row):
                if len(seen) >= 10:
                    ratio = float(np.median(seen)) / self._world.speed[w, s]
                    self._ratio[w, s] = max(1.0, round(ratio / _RATIO_STEP) * _RATIO_STEP)

    def _install(self, plan: Plan) -> None:
        world = self._world
        number = {site: s for s, site in enumerate(world.sites)}
        self._route = [
            [_route(plan.routes[ingress][name][-1], number) for ingress in world.ingresses] for name in world.contracts
        ]
        self.limits = [[plan.limits.get(site, {}).get(name, 0) for site in world.sites] for name in world.contracts]

    def _fabric(self) -> Fabric:
        world = self._world
        sites: dict[str, Any] = {
            site: {
                "tier": "metro",
                "at": at.model_dump(),
                "jurisdiction": "XX",
                "vendor": "v",
                "hardware": {f"hw-{w}-{s}": {"units": 1} for w in range(len(world.slowdown))},
            }
            for s, (site, at) in enumerate(zip(world.sites, self._positions, strict=True))
        }
        workloads: dict[str, Any] = {f"w{w}": self._workload(w) for w in range(len(world.slowdown))}
        contracts = {
            name: {
                "workload": f"w{world.workload[c]}",
                "in_time": {
                    "metric": "first_byte" if world.first_byte[c] else "duration",
                    "quantile": self._quantile,
                    "objective_ms": float(world.objective_s[c]) * 1e3,
                },
                "penalty_per_1k": float(world.penalty[c]) * 1e3,
            }
            for c, name in enumerate(world.contracts)
        }
        for w in range(len(world.slowdown)):
            for s, site in enumerate(world.sites):
                if world.slots[w, s]:
                    rps = workloads[f"w{w}"]["service"][f"hw-{w}-{s}"]["rps_max"]
                    hourly = float(world.cost[w, s]) * rps * 3600
                    sites[site]["hardware"][f"hw-{w}-{s}"]["price_per_unit_hour"] = hourly
        return Fabric.model_validate({"name": "sim", "sites": sites, "workloads": workloads, "contracts": contracts})

    def _workload(self, w: int) -> dict[str, object]:
        world = self._world
        standing = [s for s in range(len(world.sites)) if world.slots[w, s]]
        return {
            "protocol": "http",
            "model": {"name": "m"},
            "runtime": {"kind": "external", "at": {world.sites[s]: "127.0.0.1:1" for s in standing}},
            "service": {f"hw-{w}-{s}": _slower(self._profiles[w, s], float(self._ratio[w, s])) for s in standing},
        }


def _route(rung: Rung, number: dict[str, int]) -> tuple[list[float], list[int], list[int]]:
    """Cumulative shares but the last, their sites, and the order in which sites are tried after one another."""
    sites = [number[share.site] for share in rung.shares]
    cumulative = list(accumulate(share.share for share in rung.shares))[:-1]
    return cumulative, sites, sites + [number[site] for site in rung.fallbacks]


def _slower(profile: dict[str, dict[str, float]], ratio: float) -> dict[str, object]:
    slower: dict[str, object] = {
        key: {name: value * ratio for name, value in profile[key].items()} for key in ("first_byte", "duration")
    }
    rate = profile["rate"]
    return slower | {"concurrency": int(rate["concurrency"]), "rps_max": rate["rps_max"] / ratio}


def _profiles(world: World, sample: Requests) -> dict[tuple[int, int], dict[str, dict[str, float]]]:
    """Declared service of every pool: what the sample takes in a batch that is half full; the rate is that of a full
    one. That service slows with load within these bounds is not modelled, and shows as lateness in overload."""
    profiles = {}
    workload = np.array(world.workload)[sample.contract]
    for w, s in zip(*np.nonzero(world.slots), strict=True):
        mine = workload == w
        slots = int(world.slots[w, s])
        half = world.speed[w, s] * (1 + world.slowdown[w] * (slots - 1) / 2)
        full = world.speed[w, s] * (1 + world.slowdown[w] * (slots - 1))
        profiles[int(w), int(s)] = {
            "first_byte": _points(sample.first_s[mine] * half),
            "duration": _points(sample.whole_s[mine] * half),
            "rate": {"concurrency": slots, "rps_max": slots / float(sample.whole_s[mine].mean() * full)},
        }
    return profiles


def _relative_work(world: World, sample: Requests) -> dict[str, float]:
    """Mean work of each contract's executions, relative to its workload's."""
    workload = np.array(world.workload)[sample.contract]
    return {
        name: float(sample.whole_s[sample.contract == c].mean() / sample.whole_s[workload == world.workload[c]].mean())
        for c, name in enumerate(world.contracts)
        if (sample.contract == c).any()
    }


def _points(times_s: Floats) -> dict[str, float]:
    p50, p99 = np.quantile(times_s, (0.5, 0.99)).tolist()
    return {"p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3}


def _measured_rtt(world: World, positions: Sequence[Position]) -> RttTable:
    """The world's round trips as measurements."""
    table = RttTable(dict(zip(world.sites, positions, strict=True)))
    for i, ingress in enumerate(world.sites):
        for s, site in enumerate(world.sites):
            if i != s:
                table, _ = table.with_measured(ingress, site, Sketch([float(world.rtt_s[i, s])] * 20), 1e12)
    return table


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
