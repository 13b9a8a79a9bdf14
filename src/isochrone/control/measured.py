"""What the hub makes of what sites measured: the demand to plan for, and service times calibrated by executions.

A site speaks of what it took part in: of requests that entered there, of executions that ran there, and of those it
handed to others (`outside`). What cannot be is refused and said, and what was held before stays. Numbers that move
within their own error move no plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from isochrone.control.outside import Outside, View, overruling, seen_from_outside, views_of
from isochrone.control.report import Arrivals, Served, SiteReport
from isochrone.errors import InputError
from isochrone.latency.calibration import Calibration
from isochrone.latency.estimate import RttTable, ServiceTable
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.model.workload import ServiceTime
from isochrone.plan.arcs import Demand
from isochrone.plan.calibrate import Observation, calibrate, with_observation
from isochrone.plan.plan import Plan
from isochrone.plan.planner import declared_demand

__all__ = ["DECLARED_S", "Measured", "demand_to_plan"]

# A declared rate counts as much as so many seconds of watching: it speaks until sites do.
DECLARED_S = 1.0
# What one ingress can say of one contract: no Envoy here forwards more, and no window is longer.
_RPS_MAX = 100_000.0
_WINDOW_S_MAX = 600.0
# Service so much faster than declared is a wrong declaration or a wrong report, and would attract traffic.
_FASTER_MAX = 10.0
# What is planned with is kept while measurements stay so close to it: a share of it, or two standard errors.
_DEMAND_BAND, _SERVICE_BAND, _TAIL_BAND = 0.1, 0.1, 0.25


@dataclass(frozen=True, slots=True)
class Measured:
    """See the module.

    Attributes:
        demand: contract to ingress to executions per second to plan for.
        observed: (site, workload) to observations by load (see `plan.calibrate`).
        views: ingress to (site, workload) to what it saw there.
        overruled: (site, workload) to what others saw, where that counts instead of what the site says.
    """

    demand: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    observed: Mapping[tuple[str, str], Mapping[int, Observation]] = field(default_factory=dict)
    views: Mapping[str, Mapping[tuple[str, str], View]] = field(default_factory=dict)
    overruled: Mapping[tuple[str, str], Observation] = field(default_factory=dict)

    def within(self, fabric: Fabric) -> Measured:
        """What of it is about this fabric."""
        return Measured(
            {
                name: {site: rps for site, rps in row.items() if site in fabric.sites}
                for name, row in self.demand.items()
                if name in fabric.contracts
            },
            {
                (site, workload): seen
                for (site, workload), seen in self.observed.items()
                if site in fabric.sites and workload in fabric.workloads
            },
            {site: row for site, row in self.views.items() if site in fabric.sites},
            {
                (site, workload): seen
                for (site, workload), seen in self.overruled.items()
                if site in fabric.sites and workload in fabric.workloads
            },
        )

    def hear(
        self, fabric: Fabric, rtt: RttTable, service: ServiceTable, plan: Plan | None, report: SiteReport, now: float
    ) -> tuple[Measured, ServiceTable, list[str]]:
        """Take a report of a site of the fabric into account; what of it was refused, and why."""
        demand = {name: dict(row) for name, row in self.demand.items()}
        problems, views = [], dict(self.views)
        try:
            views[report.site] = views_of(fabric, report, now)
        except InputError as error:
            problems.append(f"answers to {report.site}: {error}")
        for name, arrived in sorted(report.arrivals.items()):
            if name in fabric.contracts:
                try:
                    row = demand.setdefault(name, {})
                    declared = fabric.contracts[name].demand_rps.get(report.site, 0.0)
                    row[report.site] = _settled_rps(row.get(report.site), *_estimated_rps(declared, arrived))
                except InputError as error:
                    problems.append(f"demand for {name} at {report.site}: {error}")
        heard = replace(self, demand=demand, views=views)
        for workload in sorted(fabric.workloads):
            try:
                heard, service = heard._hear_service(fabric, rtt, service, plan, report, workload, now)
            except InputError as error:
                problems.append(f"service of {workload} at {report.site}: {error}")
            if (report.site, workload) in heard.overruled:
                problems.append(f"service of {workload} at {report.site}: others see it slower, and are believed")
        return heard, service, problems

    def _hear_service(
        self,
        fabric: Fabric,
        rtt: RttTable,
        service: ServiceTable,
        plan: Plan | None,
        report: SiteReport,
        workload: str,
        now: float,
    ) -> tuple[Measured, ServiceTable]:
        """What the reporting site says of a workload, unless others overrule it."""
        at, served = (report.site, workload), report.served.get(workload)
        own = None if served is None else _observation(fabric, plan, report, workload, served, now)
        hardware = served.hardware if served else plan.hardware.get(report.site, {}).get(workload) if plan else None
        replicas = own.replicas if own else plan.placements.get(report.site, {}).get(workload, 0) if plan else 0
        if hardware is None or not replicas:
            return self, service
        outside = self._from_outside(fabric, rtt, *at, now)
        instead = overruling(own, outside, self.overruled.get(at), replicas, now)
        overruled = {pair: seen for pair, seen in self.overruled.items() if pair != at} | (
            {at: instead} if instead else {}
        )
        seen = instead or own
        if seen is None:
            return replace(self, overruled=overruled), service
        # Of a site that is overruled, what it said before counts as little.
        history = with_observation({} if instead else self.observed.get(at, {}), seen)
        service = _calibrated(service, *at, hardware, history, now)
        return replace(self, observed={**self.observed, at: history}, overruled=overruled), service

    def _from_outside(self, fabric: Fabric, rtt: RttTable, site: str, workload: str, now: float) -> Outside | None:
        """What the ingresses saw of a workload at a site."""
        views = {ingress: row[site, workload] for ingress, row in self.views.items() if (site, workload) in row}
        if not views:
            return None
        asked = [name for name, contract in fabric.contracts.items() if contract.workload == workload]
        demand_rps = {who: sum(self.demand.get(name, {}).get(who, 0.0) for name in asked) for who in views}
        return seen_from_outside(views, site, rtt, demand_rps, now)


def demand_to_plan(fabric: Fabric, measured: Measured, up: frozenset[str]) -> Demand:
    """What is measured where a live site measures, and what is declared elsewhere."""
    planned: dict[str, dict[str, float]] = {}
    for name, declared in declared_demand(fabric).items():
        known = {site: rps for site, rps in measured.demand.get(name, {}).items() if site in up}
        planned[name] = {**declared, **known}
    return planned


def _estimated_rps(declared_rps: float, arrived: Arrivals) -> tuple[float, float]:
    """Mean and standard deviation of the rate: arrivals are Poisson, and a declared rate is the gamma prior that
    `DECLARED_S` seconds of it make (Gelman et al., "Bayesian Data Analysis", 3rd ed., section 2.6).

    Raises:
        InputError: arrivals that cannot be.
    """
    count, window_s = arrived.count, arrived.window_s
    if not (0 <= window_s <= _WINDOW_S_MAX and 0 <= count <= _RPS_MAX * max(window_s, 1.0)):
        raise InputError(f"{count} requests in {window_s:g} s cannot be", code="telemetry.arrivals")
    shape, rate_s = declared_rps * DECLARED_S + count, DECLARED_S + window_s
    return shape / rate_s, math.sqrt(shape) / rate_s


def _settled_rps(held: float | None, mean: float, deviation: float) -> float:
    """The rate to plan for: the one held while it explains what is seen, else one standard deviation above the mean."""
    band = max(2 * deviation, _DEMAND_BAND * mean)
    return held if held is not None and abs(held - mean) <= band else mean + deviation


def _observation(
    fabric: Fabric, plan: Plan | None, report: SiteReport, workload: str, served: Served, now: float
) -> Observation:
    """What a site has seen, dated by the hub's clock.

    Raises:
        InputError: it cannot be, or is of hardware that the plan does not use there.
    """
    noun = fabric.workloads[workload]
    placed = plan.hardware.get(report.site, {}).get(workload) if plan else None
    if served.hardware not in noun.service or placed not in (None, served.hardware):
        raise InputError(f"it runs on {placed}, not on {served.hardware}", code="telemetry.hardware")
    if not 1 <= served.replicas <= noun.replicas_max_per_site:
        most = noun.replicas_max_per_site
        raise InputError(f"{served.replicas} replicas, where 1 to {most} may stand", code="telemetry.replicas")
    if not 0 <= served.rps <= _RPS_MAX:
        raise InputError(f"{served.rps!r} executions per second cannot be", code="telemetry.rate")
    age_s = max(0.0, report.at_s - served.at_s)
    duration, first_byte = Sketch.from_json(served.duration), Sketch.from_json(served.first_byte)
    return Observation(served.rps, duration, first_byte, served.replicas, now - age_s)


def _calibrated(
    service: ServiceTable,
    site: str,
    workload: str,
    hardware: str,
    history: Mapping[int, Observation],
    now: float,
) -> ServiceTable:
    found = calibrate(service.profiles[workload][hardware], hardware, history.values(), now)
    if found is None:
        return service
    if found.slowdown < 1 / _FASTER_MAX:
        raise InputError(
            f"executions take {found.slowdown:.3g} of what is declared", code="telemetry.service",
            hint="correct the workload's service profile, or find out what the site reports",
        )  # fmt: skip
    held = service.calibrated.get(site, {}).get(workload)
    if held is not None and _close(held, found):
        more = found.sustained_rps > (1 + _SERVICE_BAND) * held.sustained_rps
        found = replace(
            held, error=found.error, loads=found.loads, samples=found.samples, at_s=found.at_s,
            sustained_rps=found.sustained_rps if more else held.sustained_rps,
        )  # fmt: skip
    return service.with_calibration(site, workload, found)


def _close(held: Calibration, found: Calibration) -> bool:
    """Whether what is held explains what was found."""
    band = max(_SERVICE_BAND, 2 * found.error)
    pairs = [(held.duration, found.duration), (held.first_byte, found.first_byte)]
    return held.hardware == found.hardware and all(_near(a, b, band) for a, b in pairs)


def _near(a: ServiceTime, b: ServiceTime, band: float) -> bool:
    middle, tail = abs(math.log(a.p50_ms / b.p50_ms)), abs(math.log(a.p99_ms / b.p99_ms))
    return middle <= band and tail <= max(band, _TAIL_BAND)
