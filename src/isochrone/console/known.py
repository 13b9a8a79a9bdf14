"""What a question about a fabric is answered from: what its hub knows now, or what its document declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isochrone.control.node import emulated_rtt_ms
from isochrone.errors import InputError, PeerError
from isochrone.latency.estimate import SAMPLES_MIN, RttTable, ServiceTable
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Infeasible, Plan
from isochrone.plan.planner import declared_demand, make_plan
from isochrone.plan.verdicts import Bounds
from isochrone.policy.bounds import bounds_of
from isochrone.policy.policies import PolicySet
from isochrone.serve.desired import desired_in_force

__all__ = ["Known"]


@dataclass(frozen=True, slots=True)
class Known:
    """A fabric, its bounds, times, live sites and plan, as they are at `now_s`.

    Attributes:
        findings: distances the document states that no signal could make.
    """

    fabric: Fabric
    bounds: Bounds
    rtt: RttTable
    service: ServiceTable
    up: frozenset[str]
    plan: Plan
    now_s: float
    findings: tuple[str, ...] = ()

    @classmethod
    def declared(cls, fabric: Fabric, policies: PolicySet) -> Known:
        """Nothing measured: every site up, declared service times, distances emulated as stated or else modelled."""
        rtt, findings = _declared_rtt(fabric)
        service, bounds = ServiceTable.from_fabric(fabric), bounds_of(fabric, policies)
        up = frozenset(fabric.sites)
        plan = make_plan(fabric, rtt, service, bounds, up, None, declared_demand(fabric), 0.0)
        if isinstance(plan, Infeasible):
            raise InputError(plan.reason, code="plan.infeasible")
        return cls(fabric, bounds, rtt, service, up, plan, 0.0, findings)

    @classmethod
    def told(cls, document: Mapping[str, Any]) -> Known:
        """What a hub told (`Hub.known`).

        Raises:
            PeerError: the hub has no plan yet, or told something else.
        """
        if document.get("plan") is None:
            why = document.get("title") or "it has no plan yet"
            raise PeerError(f"the hub cannot say: {why}", code="hub.no-plan", hint="ask again in a few seconds")
        fabric, governance = desired_in_force(document["fabric"], document["policies"])
        return cls(
            fabric=fabric.with_drained(frozenset(document.get("drained", ()))),
            bounds=bounds_of(fabric, governance.policies),
            rtt=RttTable.from_json(document["rtt"]),
            service=ServiceTable.from_json(document["service"]),
            up=frozenset(document["up"]),
            plan=Plan.from_json(document["plan"]),
            now_s=float(document["now_s"]),
        )


def _declared_rtt(fabric: Fabric) -> tuple[RttTable, tuple[str, ...]]:
    """Distances before anything is measured. Emulated ones enter as what the probes are going to see."""
    table, findings = RttTable.from_fabric(fabric), []
    for site in sorted(fabric.sites):
        for other, rtt_ms in emulated_rtt_ms(fabric, site).items():
            sketch = Sketch()
            for _ in range(SAMPLES_MIN):
                sketch.add(rtt_ms / 1e3)
            table, finding = table.with_measured(other, site, sketch, 0.0)
            if finding is not None and other < site:
                findings.append(f"emulate.rtt_ms {other}/{site}: {finding.problem}")
    return table, tuple(findings)
