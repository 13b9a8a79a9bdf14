"""Contract: what one tenant is promised for one workload."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from isochrone.model.base import Jurisdiction, Name, NonNegative, Noun, Positive, Share
from isochrone.model.keeping import Retention

__all__ = [
    "DEADLINE_LADDER_MS",
    "Contract",
    "Evidence",
    "InBounds",
    "InTime",
    "Metric",
    "OnRecord",
    "Oversight",
    "WhenUnrecorded",
]

# Deadline rungs a request may tighten to by header; a contract offers those below its own objective.
DEADLINE_LADDER_MS = (5, 10, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000)


class Metric(StrEnum):
    """What the objective bounds, measured at the ingress: time to the first byte, or to the whole answer."""

    FIRST_BYTE = "first_byte"
    DURATION = "duration"


class InTime(Noun):
    """The objective: at `quantile` of executions, `metric` stays within `objective_ms`."""

    metric: Metric = Metric.DURATION
    quantile: Share = 0.99
    objective_ms: Positive


class InBounds(Noun):
    """Where an execution may run. An empty list bounds nothing; Cedar policies add to this and never remove from it.

    Attributes:
        data_class: what the requests carry, as policies name it.
        jurisdictions: ISO 3166-1 alpha-2 codes or groups such as EU.
        policies: ids of the Cedar policies that must be present for this contract.
    """

    data_class: Name = "public"
    jurisdictions: tuple[Jurisdiction, ...] = ()
    vendors: tuple[Name, ...] = ()
    hardware: tuple[Name, ...] = ()
    sites: tuple[Name, ...] = ()
    policies: tuple[str, ...] = ()


class Evidence(StrEnum):
    """When the admission record is durable: streamed (journaled as the request starts) or before it is forwarded."""

    STREAMED = "streamed"
    SYNCHRONOUS = "synchronous"


class WhenUnheard(StrEnum):
    """What a site mints under a contract while it cannot hear what is revoked: nothing; short grants for a while; all.

    Each has a bound of its own on how long a revocation can go unnoticed there (`authority.revocation.bound_s`).
    """

    STOP = "stop"
    DEGRADE = "degrade"
    CONTINUE = "continue"


class WhenUnrecorded(StrEnum):
    """What a site does while it cannot record: refuse, or go on and raise an alarm."""

    STOP = "stop"
    CONTINUE = "continue"


class OnRecord(Noun):
    """How executions are recorded.

    Attributes:
        retention: how long their records are kept; None keeps them as long as the site's main log.
    """

    evidence: Evidence = Evidence.STREAMED
    when_unrecorded: WhenUnrecorded = WhenUnrecorded.STOP
    retention: Retention | None = None

    @property
    def goes_on_unrecorded(self) -> bool:
        return self.when_unrecorded is WhenUnrecorded.CONTINUE

    @property
    def is_synchronous(self) -> bool:
        """Whether admissions must be durable before they are forwarded."""
        return self.evidence is Evidence.SYNCHRONOUS


class Oversight(Noun):
    """Whose approval it takes before anything runs. An approval is of the contract's present terms, and expires.

    Attributes:
        approvals: how many people have to approve; 0 asks for nobody's approval.
        by: ids of those who may; empty: any operator.
        above_cost: given, approval is needed only for delegations that allow a higher cost, or any cost.
    """

    approvals: Annotated[int, Field(ge=0, le=8)] = 0
    by: tuple[str, ...] = ()
    above_cost: NonNegative | None = None


class Contract(Noun):
    """What one tenant is promised for one workload: in time, in bounds, on the record, at a price.

    Attributes:
        tenant, home: whose contract it is, and the jurisdiction its data comes from, as policies name them.
        demand_rps: expected requests per second by ingress site.
        price_per_1k: what 1,000 executions earn; `penalty_per_1k` what 1,000 broken or shed ones cost.
        when_unheard: whether a site goes on granting while it hears no revocations.
        survive_sites: how many sites may be lost with another replica still standing that is in time and in bounds.
            What is left after the loss of any one of them carries all that asks for this.
        site_share_max, vendor_share_max: the largest part of its executions that may run at one site, or at all sites
            of one vendor; what cannot be spread so is refused.
        apart_from: contracts that never run at a site this one runs at.
        hedge: send a request that is not answered in time for it to a second site as well; the first answer counts.
            Both execute, and both are paid for: for work that may be done twice.
    """

    workload: Name
    tenant: Name = "default"
    home: Jurisdiction | None = None
    in_time: InTime
    in_bounds: InBounds = InBounds()
    on_record: OnRecord = OnRecord()
    when_unheard: WhenUnheard = WhenUnheard.STOP
    oversight: Oversight = Oversight()
    demand_rps: dict[Name, NonNegative] = Field(default_factory=dict)
    price_per_1k: NonNegative = 0.0
    penalty_per_1k: NonNegative = 10.0
    survive_sites: Annotated[int, Field(ge=0, le=8)] = 0
    site_share_max: Share | None = None
    vendor_share_max: Share | None = None
    apart_from: tuple[Name, ...] = ()
    hedge: bool = False

    @property
    def digest(self) -> str:
        """``sha256:`` over all terms: what a person approves."""
        text = json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def rungs_ms(self) -> tuple[float, ...]:
        """The deadlines a request can ask for, tightest first; the last is the contract's own objective."""
        tighter = tuple(float(rung) for rung in DEADLINE_LADDER_MS if rung < self.in_time.objective_ms)
        return (*tighter, self.in_time.objective_ms)
