"""What a site tells the fabric about itself, once a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isochrone.latency.portable import Portable

__all__ = ["Attainment", "SiteReport"]


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
class SiteReport(Portable):
    """One site's report.

    Attributes:
        boot: changes with every start of the node; `at_s`: the site's clock, seconds since 1970.
        ingress, peer: addresses others reach it at, host:port.
        ready: workload to model servers that answer.
        desired, plan, epoch: revisions that Envoy has confirmed to be in force.
        rtt: peer to a sketch of round trips in its plain form.
        log_size: records covered by the last checkpoint.
        alarms: what a person should look at.
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
    rtt: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attainment: Mapping[str, Attainment] = field(default_factory=dict)
    log_size: int = 0
    alarms: tuple[str, ...] = ()
