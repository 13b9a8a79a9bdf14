"""Our own strategy in the simulated world: the hub's control loop itself, fed with the reports of simulated sites.

Each site measures and reports as a real one does, reports travel, `control.hub.step` hears them and plans, plans travel
back, and every ingress forwards by the FIB that `forward.fib` derives from the last plan it has, and leaves sites that
are late by itself (`control.lateness`). What can go wrong on the way (delay, frozen telemetry, a flood, a hub that
restarts) is injected here; what goes wrong at sites, in `world`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from isochrone.control.hub import Alarm, Desired, Effect, Event, HubState, Publish, Reported, Resumed, Tick, step
from isochrone.control.lateness import Executed, Execution, Lateness, Left, Passed, Planned
from isochrone.control.lateness import step as doubt
from isochrone.control.report import SiteReport
from isochrone.errors import InputError
from isochrone.forward.ease import eased, shares_of
from isochrone.forward.fib import Entry, Fib, fib_for
from isochrone.model.site import Position
from isochrone.plan.plan import Plan, difference
from isochrone.sim.fabric import ALLOW_ALL, fabric_of
from isochrone.sim.strategies import NO_LIMIT, View
from isochrone.sim.telemetry import Handed, SiteTelemetry, handed_over
from isochrone.sim.world import Requests, World

__all__ = ["ControlFaults", "HubStrategy"]

REPORT_S = 1.0
# The hub's clock does not begin at 0, where nothing would count as long ago.
_EPOCH_S = 1e6


@dataclass(frozen=True, slots=True)
class ControlFaults:
    """What goes wrong between sites and hub.

    Attributes:
        delay_s: how long reports and plans travel, each.
        restart_s: the hub forgets all but the stored plan and desired state so often; 0 for never.
        flood: how many copies of its report each site sends.
    """

    delay_s: float = 0.1
    restart_s: float = 0.0
    flood: int = 1

    def __post_init__(self) -> None:
        if not (self.delay_s >= 0 and self.restart_s >= 0 and self.flood >= 1):
            raise InputError(f"no faults are {self!r}", code="sim.faults")


_NONE = ControlFaults()


class HubStrategy:
    """See the module.

    Args:
        positions: of the sites, which must be the ingresses too.
        sample: requests like those to come: what was declared is taken from them.
        quantile: of executions the objectives must hold for, of those admitted.

    Attributes:
        left: how often an ingress left a site for a contract by itself.
    """

    name = "isochrone"
    observes = True

    def __init__(
        self,
        world: World,
        positions: Sequence[Position],
        sample: Requests,
        faults: ControlFaults = _NONE,
        quantile: float = 0.95,
    ) -> None:
        self._world, self._faults = world, faults
        self._desired = Desired(1, fabric_of(world, positions, sample, quantile), ALLOW_ALL)
        self._telemetry = [SiteTelemetry(world, s) for s in range(len(world.sites))]
        self._last_report: dict[int, SiteReport] = {}
        self._to_hub: deque[tuple[float, SiteReport]] = deque()
        self._to_sites: deque[tuple[float, Plan]] = deque()
        self._plan: Plan | None = None
        self._fibs: list[Fib | None] = [None] * len(world.ingresses)
        self._doubts = [Lateness()] * len(world.ingresses)
        self._full: list[set[tuple[int, int]]] = [set() for _ in world.ingresses]
        self.left = 0
        self._moved: list[float] = []
        self._number = {site: s for s, site in enumerate(world.sites)}
        self._now = 0.0
        self._reported_s = self._restarted_s = -np.inf
        nowhere: tuple[list[float], list[int], list[int], int] = ([], [], [], 0)
        self._route = [[nowhere] * len(world.ingresses) for _ in world.contracts]
        self.limits = [[NO_LIMIT] * len(world.sites) for _ in world.contracts]
        self.alarms: list[str] = []
        self.plans = self.steps = 0
        self.hub = HubState()
        self._step(self._desired)
        self._step(Resumed())
        self._begin()

    @property
    def churn(self) -> float:
        """Mean over the seconds of the share of routed traffic that moved."""
        return sum(self._moved) / max(self._now, 1.0)

    @property
    def doubted(self) -> dict[str, dict[str, dict[str, float]]]:
        """By ingress, what it holds for late now."""
        named = zip(self._world.ingresses, self._doubts, strict=True)
        return {ingress: doubts.doubted for ingress, doubts in named if doubts.doubted}

    def tick(self, view: View) -> None:
        """Sites measure, reports and plans travel, the hub takes its steps."""
        tick_s, self._now = view.now_s - self._now, view.now_s
        if tick_s > 0:
            handed = handed_over(view, len(self._telemetry))
            for i, (telemetry, entered) in enumerate(zip(self._telemetry, handed, strict=True)):
                telemetry.watch(view, entered, tick_s)
                self._doubt(i, Executed(tuple(self._executions(i, entered))))
                self._doubt(i, Passed())
        if view.now_s - self._reported_s >= REPORT_S:
            self._reported_s = view.now_s
            self._report(view)
        if self._faults.restart_s and view.now_s - self._restarted_s >= self._faults.restart_s:
            self._restarted_s = view.now_s
            self._restart()
        while self._to_hub and self._to_hub[0][0] <= view.now_s:
            report = self._to_hub.popleft()[1]
            self._step(Reported(report.site, report))
        self._step(Tick())
        while self._to_sites and self._to_sites[0][0] <= view.now_s:
            self._install(self._to_sites.popleft()[1])

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        """By the FIB's weights."""
        cumulative, sites, _, _ = self._route[contract][ingress]
        return sites[bisect_right(cumulative, pick)] if sites else -1

    def spill(self, ingress: int, contract: int, tried: int) -> int:
        """By the FIB's candidates, in their order, as often as it says."""
        *_, candidates, tries = self._route[contract][ingress]
        self._full[ingress].update((contract, s) for s in candidates if tried >> s & 1)
        return next((s for s in candidates if not tried >> s & 1), -1) if tried.bit_count() < tries else -1

    def _begin(self) -> None:
        """The fabric stands, and has a plan in force, before the first request."""
        for telemetry in self._telemetry:
            report = telemetry.report(0.0)
            self._step(Reported(report.site, report))
        self._step(Tick())
        for _, plan in self._to_sites:
            self._install(plan)
        self._to_sites.clear()

    def _report(self, view: View) -> None:
        for s in np.flatnonzero(view.speaking).tolist():
            last = self._last_report.get(s)
            if last is not None and view.frozen[s]:
                report = replace(last, at_s=view.now_s)
            else:
                report = self._telemetry[s].report(view.now_s)
            self._last_report[s] = report
            for _ in range(self._faults.flood):
                self._to_hub.append((view.now_s + self._faults.delay_s, report))

    def _restart(self) -> None:
        """As a real hub starts: the stored plan, desired state, then the stored reports."""
        self.hub = HubState(plan=self.hub.plan)
        self._step(self._desired)
        self._step(Resumed())
        for report in self._last_report.values():
            self._step(Reported(report.site, report))

    def _step(self, event: Event) -> None:
        self.steps += 1
        self.hub, effects = step(self.hub, event, _EPOCH_S + self._now)
        for effect in effects:
            self._take(effect)

    def _take(self, effect: Effect) -> None:
        match effect:
            case Publish(plan):
                self.plans += 1
                self._to_sites.append((self._now + self._faults.delay_s, plan))
            case Alarm(text):
                self.alarms.append(text)

    def _install(self, plan: Plan) -> None:
        if self._plan is not None:
            self._moved.append(difference(self._plan, plan).churn)
        self._plan = plan
        fabric, bounds = self._desired.fabric, self.hub.bounds
        quantile = {name: contract.in_time.quantile for name, contract in fabric.contracts.items()}
        for i, ingress in enumerate(self._world.ingresses):
            self._fibs[i] = fib = fib_for(fabric, plan, ingress, bounds)
            self._doubt(i, Planned(quantile, shares_of(fib)))
            self._forward(i)
        for s, site in enumerate(self._world.sites):
            for c, name in enumerate(self._world.contracts):
                self.limits[c][s] = plan.limits.get(site, {}).get(name, NO_LIMIT)

    def _doubt(self, ingress: int, event: Executed | Passed | Planned) -> None:
        """The ingress's own verdicts, in force at once."""
        self._doubts[ingress], effects = doubt(self._doubts[ingress], event, self._now)
        self.left += sum(isinstance(each, Left) for each in effects)
        if effects:
            self._forward(ingress)

    def _executions(self, ingress: int, handed: Sequence[Handed]) -> Iterator[Execution]:
        """What entered there and was seen to end. It says its workload here, so it counts for each of its contracts."""
        world = self._world
        for c, s in sorted(self._full[ingress]):
            yield Execution(world.contracts[c], world.sites[s], self._now, refused=True)
        self._full[ingress].clear()
        for w, s, _, times in handed:
            way_s = float(world.rtt_s[ingress, s])
            for c in (c for c, of in enumerate(world.workload) if of == w):
                for first_s, whole_s in times:
                    took_s = way_s + (first_s if world.first_byte[c] else whole_s)
                    late = took_s > world.objective_s[c]
                    yield Execution(world.contracts[c], world.sites[s], self._now - took_s, late)

    def _forward(self, ingress: int) -> None:
        fib = self._fibs[ingress]
        if fib is not None:
            fib = eased(fib, self._doubts[ingress].doubted)
            for c, name in enumerate(self._world.contracts):
                self._route[c][ingress] = self._entry(fib, name)

    def _entry(self, fib: Fib, contract: str) -> tuple[list[float], list[int], list[int], int]:
        """Cumulative weights but the last, their sites, the order in which sites are tried, and how many of them."""
        entry: Entry | None = next((e for e in reversed(fib.entries) if e.contract == contract), None)
        if entry is None or not entry.paths:
            return [], [], [], 0
        total = sum(path.weight for path in entry.paths)
        cumulative = list(accumulate(path.weight / total for path in entry.paths))[:-1]
        sites = [self._number[path.sites[0]] for path in entry.paths]
        return cumulative, sites, [self._number[site] for site in entry.candidates], entry.tries
