"""A simulated world as a fabric document, so that production control code can run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isochrone.model.fabric import Fabric
from isochrone.model.site import Position
from isochrone.policy.policies import PolicySet
from isochrone.sim.world import Requests, World

__all__ = ["ALLOW_ALL", "fabric_of", "hardware_of"]

# What is out of bounds in a world stands in the contracts' own lists of sites.
ALLOW_ALL = PolicySet.parse({"sim.cedar": '@id("sim") permit (principal, action, resource);'})


def fabric_of(world: World, positions: Sequence[Position], sample: Requests, quantile: float = 0.95) -> Fabric:
    """The document an operator would write for this world: profiles by benchmark, demand as expected on average.

    Args:
        positions: of the sites, which must be the ingresses too.
        sample: requests like those to come; declared service and demand are taken from them.
        quantile: of executions the objectives must hold for.
    """
    length_s = float(sample.at_s[-1]) if len(sample.at_s) else 1.0
    services = {w: _services(world, sample, w) for w in range(len(world.slowdown))}
    sites = {
        site: _site(world, s, at, services) for s, (site, at) in enumerate(zip(world.sites, positions, strict=True))
    }
    workloads = {f"w{w}": _workload(world, w, services[w]) for w in services}
    contracts = {
        name: _contract(world, c, quantile) | {"demand_rps": _expected(world, sample, c, length_s)}
        for c, name in enumerate(world.contracts)
    }
    return Fabric.model_validate({"name": "sim", "sites": sites, "workloads": workloads, "contracts": contracts})


def hardware_of(world: World, workload: int, site: int) -> str:
    """The class of the hardware that serves a workload at a site: sites of equal speed have the same."""
    speeds = np.unique(world.speed[workload])
    return f"hw-{workload}-{int(np.searchsorted(speeds, world.speed[workload, site]))}-{world.slots[workload, site]}"


def _site(world: World, s: int, at: Position, services: dict[int, dict[str, Any]]) -> dict[str, Any]:
    hardware = {}
    for w, service in services.items():
        if world.slots[w, s]:
            kind = hardware_of(world, w, s)
            hourly = float(world.cost[w, s]) * service[kind]["rps_max"] * 3600
            hardware[kind] = {"units": 1, "price_per_unit_hour": hourly}
    return {
        "tier": "metro",
        "at": at.model_dump(),
        "jurisdiction": "ZZ",
        "vendor": "v",
        "hardware": hardware or {"none": {"units": 0}},
    }


def _workload(world: World, w: int, service: dict[str, Any]) -> dict[str, Any]:
    standing = [site for s, site in enumerate(world.sites) if world.slots[w, s]]
    return {
        "protocol": "http",
        "model": {"name": f"m{w}"},
        "runtime": {"kind": "external", "at": dict.fromkeys(standing, "127.0.0.1:1")},
        "service": service,
    }


def _contract(world: World, c: int, quantile: float) -> dict[str, Any]:
    allowed = [site for s, site in enumerate(world.sites) if world.allowed[c, s]]
    return {
        "workload": f"w{world.workload[c]}",
        "in_time": {
            "metric": "first_byte" if world.first_byte[c] else "duration",
            "quantile": quantile,
            "objective_ms": float(world.objective_s[c]) * 1e3,
        },
        "in_bounds": {"sites": allowed} if len(allowed) < len(world.sites) else {},
        "penalty_per_1k": float(world.penalty[c]) * 1e3,
    }


def _expected(world: World, sample: Requests, c: int, length_s: float) -> dict[str, float]:
    counts = np.bincount(sample.ingress[sample.contract == c], minlength=len(world.ingresses))
    return {site: float(n) / length_s for site, n in zip(world.ingresses, counts.tolist(), strict=True) if n}


def _services(world: World, sample: Requests, w: int) -> dict[str, Any]:
    """Declared service of every class: times and rate of a full batch, as a benchmark at the rated load gives them."""
    found: dict[str, Any] = {}
    mine = np.array(world.workload)[sample.contract] == w
    if not mine.any():
        mine = np.ones(len(mine), dtype=bool)
    for s in np.flatnonzero(world.slots[w]).tolist():
        slots, speed = int(world.slots[w, s]), float(world.speed[w, s])
        full = speed * (1 + float(world.slowdown[w]))
        found[hardware_of(world, w, s)] = {
            "first_byte": _points(sample.first_s[mine] * full),
            "duration": _points(sample.whole_s[mine] * full),
            "concurrency": slots,
            "rps_max": slots / float(sample.whole_s[mine].mean() * full),
        }
    return found


def _points(times_s: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.quantile(times_s, (0.5, 0.99)).tolist()
    return {"p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3}
