"""Which sites could serve which contract from where: times as matrices, and what bars a site for whatever the time.

For I ingresses and S sites (the same names in the same order) each contract has one I x S matrix of the time it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from isochrone.latency.estimate import RttTable, ServiceTable, service_time_s
from isochrone.model.contract import Contract
from isochrone.model.fabric import Fabric
from isochrone.model.site import Site
from isochrone.model.workload import External, ServiceProfile, Workload
from isochrone.plan.plan import ExclusionKind, Routes
from isochrone.plan.verdicts import UNDECIDED, Bounds

__all__ = ["Bar", "Candidates", "execution_cost", "find_candidates"]

Floats = NDArray[np.float64]
# One in ten round trips meets no queue on its way, whatever the day is like.
_UNDISTURBED = 0.1


@dataclass(frozen=True, slots=True)
class Bar:
    """What keeps a site from serving a contract at all, whatever the deadline."""

    kind: ExclusionKind
    detail: str
    policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidates:
    """See the module. `rtt_s`, `service_s`, `needed_s`, `bars` and `late` go by contract.

    Attributes:
        hardware: (workload, site) to the hardware class its replicas would take; absent where it cannot run.
        profiles: (workload, site) to how one of those replicas serves now, by what was declared and measured.
        work: contract to the capacity one of its executions takes, relative to its workload's average; 1 if absent.
        floor_s: (I, S) physics floor of the round trip.
        rtt_s: (I, S); service_s: (S,) infinite where there is no hardware; needed_s: (I, S) with the hops.
        strained: (I, S) pairs out of time by what is measured that would be in time at an undisturbed round trip and
            the declared service, and where more than half of the executions are. They are fallbacks of last resort;
            where an ingress has nothing else they count with that round trip and service (`needed_s`), since refusing
            everything breaks more promises than trying.
        doubt_s: (I, S) one standard error of `needed_s`, by what is measured; standing: deadline to the pairs (I, S)
            that requests with it may take by the plan in force. These are in time until it is clear that they are not.
        late: (I, S) probability that an execution misses the contract's objective.
        late_error: (I, S) one standard error of `late`, by what is measured.
        bars: per site; None where only time decides.
    """

    sites: tuple[str, ...]
    contracts: tuple[str, ...]
    hardware: Mapping[tuple[str, str], str]
    profiles: Mapping[tuple[str, str], ServiceProfile]
    work: Mapping[str, float]
    floor_s: Floats
    rtt_s: Mapping[str, Floats]
    service_s: Mapping[str, Floats]
    needed_s: Mapping[str, Floats]
    doubt_s: Mapping[str, Floats]
    standing: Mapping[str, Mapping[float, NDArray[np.bool_]]]
    late: Mapping[str, Floats]
    late_error: Mapping[str, Floats]
    strained: Mapping[str, NDArray[np.bool_]]
    bars: Mapping[str, tuple[Bar | None, ...]]

    def open(self, contract: str) -> NDArray[np.bool_]:
        """(S,) sites that nothing bars."""
        return np.array([bar is None for bar in self.bars[contract]])

    def in_time(self, contract: str, deadline_s: float) -> NDArray[np.bool_]:
        """(I, S) pairs that are open and make the deadline."""
        usable: NDArray[np.bool_] = (self.believed_s(contract, deadline_s) <= deadline_s) & self.open(contract)[None, :]
        return usable

    def believed_s(self, contract: str, deadline_s: float) -> Floats:
        """(I, S) time needed, less its error where the pair stands for this deadline."""
        stands = self.standing.get(contract, {}).get(round(deadline_s * 1e3, 6))
        needed = self.needed_s[contract]
        return needed if stands is None else np.where(stands, needed - self.doubt_s[contract], needed)


def find_candidates(
    fabric: Fabric,
    rtt: RttTable,
    service: ServiceTable,
    bounds: Bounds,
    up: Set[str],
    now_s: float,
    in_force: Routes | None = None,
) -> Candidates:
    """Judge every (ingress, site, contract).

    Args:
        up: names of the live sites.
        in_force: what is forwarded by; it stays in time until it is clear that it is not.
    """
    sites = tuple(fabric.sites)
    kinds = _profiles(fabric, service, now_s)
    hardware = _choose_hardware(fabric, service, kinds, now_s)
    profiles = {(w, site): kinds[w, site, kind] for (w, site), kind in hardware.items()}
    floor = np.array([[rtt.floor_s(a, b) for b in sites] for a in sites])
    quantiles = {contract.in_time.quantile for contract in fabric.contracts.values()}
    by_quantile = {q: _rtt_s(rtt, sites, q, now_s) for q in quantiles}
    usual_rtt_s, _ = _rtt_s(rtt, sites, 0.5, now_s)
    hops = _hops_s(service, sites, now_s)
    undisturbed_s = None
    rtts, services, needed, doubts, late, errors, strained, bars = {}, {}, {}, {}, {}, {}, {}, {}
    for name, contract in fabric.contracts.items():
        quantile = contract.in_time.quantile
        rtts[name], rtt_error_s = by_quantile[quantile]
        services[name] = _service_s(sites, contract, profiles, quantile)
        needed[name] = rtts[name] + services[name][None, :] + hops
        slack_s = contract.in_time.objective_ms / 1e3 - rtts[name] - hops
        median_s, sigma, error, sigma_error = _service_spread(sites, contract, profiles, hardware, service, now_s)
        tail_error = np.hypot(error, NormalDist().inv_cdf(quantile) * sigma * sigma_error)
        doubts[name] = np.hypot(rtt_error_s, (np.where(error > 0, services[name], 0.0) * tail_error)[None, :])
        late[name] = _late(slack_s, median_s, sigma)
        slower = _late(slack_s - rtt_error_s, median_s * (1 + error), sigma) - late[name]
        errors[name] = np.hypot(slower, _late(slack_s, median_s, sigma * (1 + sigma_error)) - late[name])
        bars[name] = tuple(
            _bar(site, fabric.sites[site], name, contract, fabric.workloads[contract.workload], hardware, bounds, up)
            for site in sites
        )
        usable = np.array([bar is None for bar in bars[name]])
        objective_s = contract.in_time.objective_ms / 1e3
        # How many make it is asked of the usual round trip: that of one in a hundred is in `needed_s` already.
        likely = _late(objective_s - usual_rtt_s - hops, median_s, sigma) < 0.5
        strained[name] = (needed[name] > objective_s) & likely & usable[None, :]
        if strained[name].any():
            if undisturbed_s is None:
                undisturbed_s = _rtt_s(rtt, sites, _UNDISTURBED, now_s)[0]
            declared = {(w, site): fabric.workloads[w].service[kind] for (w, site), kind in hardware.items()}
            undisturbed = undisturbed_s + _service_s(sites, contract, declared, quantile)[None, :]
            undisturbed += _hops_s(service.as_declared(), sites, now_s)
            strained[name] &= undisturbed <= objective_s
            none = ~((needed[name] <= objective_s) & usable[None, :]).any(axis=1)
            needed[name] = np.where(strained[name] & none[:, None], undisturbed, needed[name])
    return Candidates(
        sites,
        tuple(fabric.contracts),
        hardware,
        profiles,
        service.work,
        floor,
        rtts,
        services,
        needed,
        doubts,
        _standing(fabric, sites, in_force or {}),
        late,
        errors,
        strained,
        bars,
    )


def _standing(fabric: Fabric, sites: tuple[str, ...], in_force: Routes) -> dict[str, dict[float, NDArray[np.bool_]]]:
    """Contract to deadline to the pairs (I, S) that requests with it may take."""
    index = {site: s for s, site in enumerate(sites)}
    table: dict[str, dict[float, NDArray[np.bool_]]] = {}
    for ingress, row in in_force.items():
        for contract, rungs in row.items():
            for rung in rungs if ingress in index and contract in fabric.contracts else ():
                by_deadline = table.setdefault(contract, {})
                stands = by_deadline.setdefault(rung.deadline_ms, np.zeros((len(sites), len(sites)), dtype=bool))
                stands[index[ingress], [index[site] for site in rung.sites if site in index]] = True
    return table


def execution_cost(site: Site, hardware: str, profile: ServiceProfile) -> float:
    """Currency per execution of a replica that is kept busy: unit price x units / sustainable rate."""
    return site.hardware[hardware].price_per_unit_hour * profile.units / (3600.0 * profile.rps_max)


def _profiles(fabric: Fabric, service: ServiceTable, now_s: float) -> dict[tuple[str, str, str], ServiceProfile]:
    """(workload, site, hardware class) to how a replica would serve there now, wherever one could run."""
    return {
        (name, where, kind): service.profile(where, name, kind, now_s)
        for name, workload in fabric.workloads.items()
        for where, site in fabric.sites.items()
        if not isinstance(workload.runtime, External) or where in workload.runtime.at
        for kind, declared in workload.service.items()
        if kind in site.hardware and site.hardware[kind].units >= declared.units
    }


def _choose_hardware(
    fabric: Fabric, service: ServiceTable, kinds: Mapping[tuple[str, str, str], ServiceProfile], now_s: float
) -> dict[tuple[str, str], str]:
    """One class per (workload, site): the one that lets most of the workload's contracts be in time at that site
    itself, then the cheapest per execution, then the first by name."""
    options: dict[tuple[str, str], list[tuple[int, float, str]]] = {}
    for (name, where, kind), profile in kinds.items():
        hop_s, site = service.hop(where, now_s).value_s, fabric.sites[where]
        contracts = [contract for contract in fabric.contracts.values() if contract.workload == name]
        served = sum(_is_served_locally(contract, kind, profile, hop_s) for contract in contracts)
        cost = execution_cost(site, kind, fabric.workloads[name].service[kind])
        options.setdefault((name, where), []).append((-served, cost, kind))
    return {pool: min(offered)[-1] for pool, offered in options.items()}


def _is_served_locally(contract: Contract, hardware: str, profile: ServiceProfile, hop_s: float) -> bool:
    allowed = not contract.in_bounds.hardware or hardware in contract.in_bounds.hardware
    time_s = service_time_s(profile, contract.in_time.metric, contract.in_time.quantile)
    return allowed and time_s + hop_s <= contract.in_time.objective_ms / 1e3


def _service_s(
    sites: tuple[str, ...], contract: Contract, profiles: Mapping[tuple[str, str], ServiceProfile], quantile: float
) -> Floats:
    """(S,) service time at a quantile; infinite where there is no hardware."""
    found = [profiles.get((contract.workload, site)) for site in sites]
    metric = contract.in_time.metric
    return np.array([np.inf if each is None else service_time_s(each, metric, quantile) for each in found])


def _service_spread(
    sites: tuple[str, ...],
    contract: Contract,
    profiles: Mapping[tuple[str, str], ServiceProfile],
    hardware: Mapping[tuple[str, str], str],
    service: ServiceTable,
    now_s: float,
) -> tuple[Floats, Floats, Floats, Floats]:
    """(S,) median of the service time, (S,) standard deviation of its logarithm, through p50 and p99, and (S,) one
    standard error of each by what is measured, as a share of it."""
    p50, p99 = (_service_s(sites, contract, profiles, quantile) for quantile in (0.50, 0.99))
    with np.errstate(invalid="ignore"):
        sigma = np.where(np.isfinite(p50), np.log(p99 / p50) / 2.3263478740408408, 1.0)
    workload = contract.workload
    kinds = [hardware.get((workload, site)) for site in sites]
    noise = [
        service.noise(site, workload, kind, now_s) if kind else (0.0, 0.0)
        for site, kind in zip(sites, kinds, strict=True)
    ]
    error, sigma_error = np.array(noise).T
    return p50, np.maximum(sigma, 1e-3), error, sigma_error


def _hops_s(service: ServiceTable, sites: tuple[str, ...], now_s: float) -> Floats:
    """(I, S) what the proxies on the way add."""
    hop = np.array([service.hop(site, now_s).value_s for site in sites])
    return np.asarray(hop[:, None] + hop[None, :] * (1 - np.eye(len(sites))))


def _rtt_s(rtt: RttTable, sites: tuple[str, ...], quantile: float, now_s: float) -> tuple[Floats, Floats]:
    """(I, S) round trips, and (I, S) the standard errors of those that are measured."""
    found = [[rtt.estimate(a, b, quantile, now_s) for b in sites] for a in sites]
    errors = [[each.spread_s if each.source == "measured" else 0.0 for each in row] for row in found]
    return np.array([[each.value_s for each in row] for row in found]), np.array(errors)


def _late(slack_s: Floats, median_s: Floats, sigma: Floats) -> Floats:
    """P(service > slack) for log-normal service times; 1 where there is no slack at all."""
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (np.log(np.maximum(slack_s, 1e-12)) - np.log(median_s)[None, :]) / sigma[None, :]
    probability: Floats = np.where(slack_s > 0, ndtr(-depth), 1.0)
    return probability


def _bar(
    name: str,
    site: Site,
    contract_name: str,
    contract: Contract,
    workload: Workload,
    hardware: Mapping[tuple[str, str], str],
    bounds: Bounds,
    up: Set[str],
) -> Bar | None:
    verdict = bounds.get((contract_name, name), UNDECIDED)
    if not verdict.allowed:
        return Bar("out_of_bounds", f"policy keeps {contract_name} out of {name}", verdict.reasons)
    kind = hardware.get((contract.workload, name))
    if kind is None:
        if isinstance(workload.runtime, External) and name not in workload.runtime.at:
            return Bar("no_hardware", f"no {contract.workload} server is declared at {name}")
        wanted = ", ".join(sorted(workload.service))
        return Bar("no_hardware", f"{name} has no units of a class {contract.workload} runs on ({wanted})")
    if contract.in_bounds.hardware and kind not in contract.in_bounds.hardware:
        allowed = ", ".join(contract.in_bounds.hardware)
        return Bar("out_of_bounds", f"{name} runs {contract.workload} on {kind}, allowed: {allowed}", ("hardware",))
    if name not in up:
        return Bar("down", f"{name} does not answer")
    if site.drained:
        return Bar("drained", f"{name} is drained")
    return None
