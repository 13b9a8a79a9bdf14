"""The hub's control loop: desired state and reports in, plans out. Pure: state, event and time to state and effects."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from isochrone.control.leap import leaps
from isochrone.control.measured import Measured, demand_to_plan
from isochrone.control.report import SiteReport
from isochrone.errors import InputError, PolicyError
from isochrone.latency.estimate import Finding, RttTable, ServiceTable
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Infeasible, Plan
from isochrone.plan.planner import Router, declared_demand, make_plan
from isochrone.plan.router import RouterBySize
from isochrone.plan.verdicts import Bounds
from isochrone.policy.bounds import bounds_of
from isochrone.policy.governance import own_policies
from isochrone.policy.policies import PolicySet

__all__ = ["Alarm", "Desired", "Drain", "HubState", "Publish", "Reported", "Resumed", "Tick", "step"]

# A site not heard of for this long is not planned with.
SILENT_S = 3.0
# Sites reconnect to a bus that was away with a growing pause: they are given this long before their silence counts.
REJOIN_S = 5.0
# Measurements move a little all the time, and every new plan is work for proxies: one in three seconds is enough. Where
# they leap the next one comes sooner, and news of sites and of desired state do not wait at all.
REPLAN_S, LEAPT_S = 3.0, 1.0


@dataclass(frozen=True, slots=True)
class Desired:
    """New desired state, already validated."""

    revision: int
    fabric: Fabric
    policies: PolicySet


@dataclass(frozen=True, slots=True)
class Reported:
    """A site's report; None when the site was removed."""

    site: str
    report: SiteReport | None


@dataclass(frozen=True, slots=True)
class Drain:
    """Operators have these sites drained: no new executions there, until they are told apart again."""

    sites: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The hub hears again, after a start or an outage of its own: its silence said nothing of the sites'."""


Event = Desired | Drain | Reported | Resumed | Tick


@dataclass(frozen=True, slots=True)
class Publish:
    """Send the plan to every site."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something a person should look at."""

    text: str


Effect = Publish | Alarm


@dataclass(frozen=True, slots=True)
class HubState:
    """What the hub knows. `heard_s` is the hub's own clock at each site's last report; `router` keeps its programs
    from solve to solve, which makes it quick and changes no gap."""

    desired: Desired | None = None
    bounds: Bounds = field(default_factory=dict)
    rtt: RttTable | None = None
    service: ServiceTable | None = None
    measured: Measured = field(default_factory=Measured)
    reports: Mapping[str, SiteReport] = field(default_factory=dict)
    heard_s: Mapping[str, float] = field(default_factory=dict)
    plan: Plan | None = None
    planned_s: float = float("-inf")
    urgent: bool = False
    leapt: bool = False
    up: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()
    router: Router = field(default_factory=RouterBySize, compare=False)


def step(state: HubState, event: Event, now: float) -> tuple[HubState, list[Effect]]:
    """Take one event into account.

    Raises:
        PlanError: the optimiser gave no proven answer; the state before the event still holds.
    """
    effects: list[Effect] = []
    before = state.reports
    match event:
        case Desired():
            state = _adopt(state, event)
        case Reported():
            state, problems = _hear(state, event, now)
            effects += map(Alarm, problems)
        case Resumed():
            planned_with = state.plan.routes if state.plan else {}
            state = replace(state, heard_s=dict.fromkeys([*state.heard_s, *planned_with], now + REJOIN_S))
        case Drain():
            state = replace(state, drained=event.sites)
        case Tick():
            pass
    up = frozenset(site for site, at_s in state.heard_s.items() if now - at_s <= SILENT_S)
    urgent = state.urgent or up != state.up or _news_of_models(before, state.reports)
    state = replace(state, up=up, urgent=urgent)
    # What is heard is taken in first, all of it: a plan for each of many reports would keep the hub from hearing.
    due = urgent or now - state.planned_s >= (LEAPT_S if state.leapt else REPLAN_S)
    if state.desired is None or not (isinstance(event, Desired | Drain) or (isinstance(event, Tick) and due)):
        return state, effects
    return _plan(state, effects, now)


def _ready(reports: Mapping[str, SiteReport]) -> dict[str, Mapping[str, int]]:
    return {site: report.ready for site, report in reports.items()}


def _news_of_models(before: Mapping[str, SiteReport], after: Mapping[str, SiteReport]) -> bool:
    """Whether other model servers answer than before."""
    return before is not after and _ready(before) != _ready(after)


def _adopt(state: HubState, event: Desired) -> HubState:
    fabric = event.fabric
    kept = state.rtt.measured if state.rtt else {}
    table = RttTable.from_fabric(fabric)
    known = {a: {b: m for b, m in row.items() if b in fabric.sites} for a, row in kept.items() if a in fabric.sites}
    return replace(
        state,
        desired=event,
        bounds=_bounds(event, state.reports),
        rtt=replace(table, measured=known),
        service=_service(state, fabric),
        measured=state.measured.within(fabric),
    )


def _service(state: HubState, fabric: Fabric) -> ServiceTable:
    """Declared service, and what is known of workloads that are still declared as they were."""
    table = ServiceTable.from_fabric(fabric)
    if state.service is None:
        return table
    hops = {site: measured for site, measured in state.service.hops.items() if site in fabric.sites}
    table = replace(table, hops=hops)
    for site in fabric.sites:
        for workload, known in state.service.calibrated.get(site, {}).items():
            if table.profiles.get(workload) == state.service.profiles.get(workload):
                table = table.with_calibration(site, workload, known)
    return table


def _bounds(desired: Desired, reports: Mapping[str, SiteReport]) -> Bounds:
    """The fabric's policies, and what each site forbids itself. Restrictions that cannot be read are the site's own
    affair: it enforces them, or does not start; the plan goes on without."""
    policies = desired.policies
    for site, report in sorted(reports.items()):
        with contextlib.suppress(PolicyError):
            policies += own_policies(report.restrictions, site)
    return bounds_of(desired.fabric, policies)


def _hear(state: HubState, event: Reported, now: float) -> tuple[HubState, list[str]]:
    reports, heard = dict(state.reports), dict(state.heard_s)
    if event.report is None:
        reports.pop(event.site, None)
        heard.pop(event.site, None)
        return replace(state, reports=reports, heard_s=heard), []
    before = reports.get(event.site)
    reports[event.site] = event.report
    if state.desired and event.report.restrictions != (before.restrictions if before else {}):
        state = replace(state, bounds=_bounds(state.desired, reports))
    # Only news counts as a sign of life: a stored report that is read again does not.
    news = before is None or (before.boot, before.at_s) != (event.report.boot, event.report.at_s)
    if news:
        heard[event.site] = now
    state = replace(state, reports=reports, heard_s=heard)
    return _learn(state, event.report, now) if news else (state, [])


def _learn(state: HubState, report: SiteReport, now: float) -> tuple[HubState, list[str]]:
    """Take over what the site measured; what of it was refused."""
    if state.desired is None or state.rtt is None or state.service is None:
        return state, []
    if report.site not in state.desired.fabric.sites:
        return state, []
    table, problems = state.rtt, []
    for peer, sketch in sorted(report.rtt.items()):
        try:
            table, finding = table.with_measured(report.site, peer, Sketch.from_json(sketch), now)
        except InputError as error:
            finding = Finding(report.site, peer, 0.0, 0.0, str(error))
        if finding is not None:
            problems.append(f"{finding.ingress} to {finding.site}: {finding.problem}")
    measured, service, refused = state.measured.hear(
        state.desired.fabric, table, state.service, state.plan, report, now
    )
    if report.hop:
        try:
            service = service.with_hop(report.site, Sketch.from_json(report.hop), now)
        except InputError as error:
            refused = [*refused, f"{report.site}: {error}"]
    fabric, here = state.desired.fabric, frozenset([report.site])
    known = demand_to_plan(fabric, state.measured, here), state.service, state.rtt
    leapt = leaps(report.site, known, (demand_to_plan(fabric, measured, here), service, table))
    state = replace(state, rtt=table, measured=measured, service=service, leapt=state.leapt or leapt)
    return state, problems + refused


def _plan(state: HubState, effects: list[Effect], now: float) -> tuple[HubState, list[Effect]]:
    assert state.desired
    assert state.rtt
    assert state.service
    fabric = state.desired.fabric.with_drained(state.drained)
    demand = demand_to_plan(fabric, state.measured, state.up)
    answer = make_plan(
        fabric, state.rtt, state.service, state.bounds, state.up, state.plan, demand, now,
        router=state.router, reserve=declared_demand(fabric), ready=_ready(state.reports),
    )  # fmt: skip
    state = replace(state, planned_s=now, leapt=False, urgent=False)
    if isinstance(answer, Infeasible):
        # Before the first report there is nothing to be alarmed about: sites are starting.
        return state, [*effects, *([Alarm(answer.reason)] if state.reports else [])]
    held = state.plan
    if held is not None and (answer.revision, answer.placed_s) == (held.revision, held.placed_s):
        return replace(state, plan=answer), effects
    return replace(state, plan=answer), [*effects, Publish(answer)]
