"""What a site tells the fabric about itself, once a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isochrone.errors import InputError
from isochrone.latency.portable import Portable
from isochrone.latency.sketch import Sketch

__all__ = [
    "ANSWERED_MAX",
    "Answered",
    "Arrivals",
    "Attainment",
    "LogReport",
    "Served",
    "ShadowCount",
    "SiteReport",
    "answered",
    "busiest",
]

# A site speaks of so many (site, workload) of others, about 200 bytes each.
ANSWERED_MAX = 64


@dataclass(frozen=True, slots=True)
class Arrivals(Portable):
    """Requests of one contract that entered at one site, and how long that rate has held.

    Attributes:
        count: requests that wanted to be served; those of nobody, or not allowed, are none.
        window_s: seconds they came in.
    """

    count: int
    window_s: float


@dataclass(frozen=True, slots=True)
class Served(Portable):
    """Executions of one workload at one site while nothing changed, as seen between its Envoy and its model servers.

    Attributes:
        hardware: class of the replicas, `replicas` of them.
        rps: executions per second.
        duration, first_byte: sketches of the model servers' times in plain form, waiting there included.
        at_s: end of the last of them, by the site's clock.
    """

    hardware: str
    replicas: int
    rps: float
    duration: Mapping[str, Any]
    first_byte: Mapping[str, Any]
    at_s: float


@dataclass(frozen=True, slots=True)
class Answered(Portable):
    """Executions of one workload that one site handed to another and had answered, as its own Envoy saw them.

    Attributes:
        count: executions the times rest on; rps: executions per second.
        duration_s_p50, duration_s_p90, first_byte_s_p50, first_byte_s_p90: from the first byte sent there, so with one
            round trip in them.
        at_s: end of the last of them, by the reporting site's clock.
    """

    count: int
    rps: float
    duration_s_p50: float
    duration_s_p90: float
    first_byte_s_p50: float
    first_byte_s_p90: float
    at_s: float


@dataclass(frozen=True, slots=True)
class Attainment(Portable):
    """Executions of one contract that entered at one site, since that site's node started.

    Attributes:
        in_time: answered by a model server within the objective; `late`: answered by one, but after it.
        refused: refused honestly, with a reason; `failed`: broken off or answered with a server error.
        p50_ms, p99_ms: of the contract's metric, over answered executions; None while there are none.
    """

    in_time: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ShadowCount(Portable):
    """What a candidate would have changed of one contract's requests at one site.

    Attributes:
        tried: requests that policies judged here while the candidate was in shadow.
        would_deny: of these, allowed and denied by the candidate; `would_allow`: the other way round.
        by_policy: both by the policy that denies, or by ``no-permit``.
    """

    tried: int = 0
    would_deny: int = 0
    would_allow: int = 0
    by_policy: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogReport(Portable):
    """One of a site's logs.

    Attributes:
        size: records covered by the last checkpoint; `cosigned_size` by the last one that a quorum has cosigned.
        cosigned_at_s: when that was, as far as this start of the node knows; `by` whom.
        quorum: how many witnesses must have cosigned; 0 where the fabric has none.
        waiting_since_s: since when records wait for a quorum; None while none do.
    """

    size: int = 0
    cosigned_size: int = 0
    cosigned_at_s: float = 0.0
    by: tuple[str, ...] = ()
    quorum: int = 0
    waiting_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class SiteReport(Portable):
    """One site's report.

    Attributes:
        boot: changes with every start of the node; `at_s`: the site's clock, seconds since 1970.
        ingress, peer: addresses others reach it at, host:port.
        ready: workload to model servers that answer.
        desired, plan, epoch: revisions that Envoy has confirmed to be in force.
        epoch_at_s: when its Envoy confirmed `epoch`, by its clock.
        rtt: peer to a sketch of round trips in its plain form.
        arrivals: by contract, since the rate last changed; served: by workload, since its times last changed.
        answered: by other site and workload, since their times last changed; the busiest `ANSWERED_MAX` of them.
        stale_since_s: when it last heard the hub, by its clock, while it does not hear it any more; else None.
        doubted: contract to site to the part of its share in the plan that it keeps here, being late now.
        hop: a sketch, in its plain form, of what its Envoy adds to requests that enter there; empty without any.
        restrictions: the site's own Cedar files, which only forbid; the plan heeds them.
        in_flight: executions that run here now, wherever they entered.
        log_size: records covered by the last checkpoints of all its logs; `logs` says more of each.
        alarms: what a person should look at.
        desired_since_s: since when `desired` is in force, by the site's clock; 0 while nothing is.
        rejected: why the newest desired state is not in force though it came; empty when it is.
        shadow_number, shadow: the candidate that runs in shadow, and what it would have changed, by contract.
    """

    site: str
    boot: str
    at_s: float
    ingress: str
    peer: str
    ready: Mapping[str, int]
    desired: int
    plan: int
    epoch: int
    epoch_at_s: float = 0.0
    rtt: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attainment: Mapping[str, Attainment] = field(default_factory=dict)
    arrivals: Mapping[str, Arrivals] = field(default_factory=dict)
    served: Mapping[str, Served] = field(default_factory=dict)
    answered: Mapping[str, Mapping[str, Answered]] = field(default_factory=dict)
    restrictions: Mapping[str, str] = field(default_factory=dict)
    in_flight: int = 0
    log_size: int = 0
    logs: Mapping[str, LogReport] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    desired_since_s: float = 0.0
    rejected: str = ""
    shadow_number: int = 0
    shadow: Mapping[str, ShadowCount] = field(default_factory=dict)
    stale_since_s: float | None = None
    doubted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    hop: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def told_under(cls, site: str, data: bytes) -> SiteReport:
        """The report that stands under a site's name.

        Raises:
            InputError: it is none, or another site's.
        """
        try:
            report = cls.from_json(json.loads(data))
        except ValueError as error:
            raise InputError(f"not JSON: {error}", code="report.form") from error
        if report.site != site:
            raise InputError(f"a report of {report.site} stands under {site}", code="report.site")
        return report


def answered(duration: Sketch, first_byte: Sketch, rps: float, at_s: float) -> Answered | None:
    """What two sketches of the same executions say; None while they are empty."""
    whole, first = ([sketch.quantile(q) for q in (0.5, 0.9)] for sketch in (duration, first_byte))
    if not (whole[0] and whole[1] and first[0] and first[1]):
        return None
    return Answered(int(duration.count), rps, whole[0], whole[1], first[0], first[1], at_s)


def busiest(found: Mapping[tuple[str, str], Answered]) -> dict[str, dict[str, Answered]]:
    """The `ANSWERED_MAX` (site, workload) with the most executions, by site and workload."""
    kept = sorted(found, key=lambda pair: (-found[pair].rps, pair))[:ANSWERED_MAX]
    table: dict[str, dict[str, Answered]] = {}
    for site, workload in sorted(kept):
        table.setdefault(site, {})[workload] = found[site, workload]
    return table
