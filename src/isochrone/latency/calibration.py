"""What measurements made of a declared service profile, how far that is off, and how it fades when nothing follows.

A declaration that is wrong for one site is likely wrong for the others too: its error has a part that all sites of a
workload share and a part of each site's own. With parts of equal variance, n sites that take k times what is declared
let expect k ** (n / (n + 1)) of the next one (Gelman et al., "Bayesian Data Analysis", 3rd ed., section 5.4). Without
that, the sites nobody has measured would look best, and traffic would go from one disappointment to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from isochrone.errors import InputError
from isochrone.latency.portable import Portable
from isochrone.model.workload import ServiceProfile, ServiceTime

__all__ = ["DECLARED_ERROR", "Calibration", "pooled_slowdown", "slowed"]

# One standard error of a declared service time, as a share of it.
DECLARED_ERROR = 0.25
# A calibration counts in full for this long after its last sample, and then fades with this time constant.
FRESH_S = 10.0
FADE_S = 20.0
# What a replica has sustained without waiting it is given again, and so much more.
_GROWTH = 1.25
# A site that takes more than twice what is declared is slow for reasons of its own.
_SHARED_MAX = math.log(2.0)
# What was seen of one site so long ago says nothing any more of the others.
_POOLED_S = 600.0
# sqrt(0.9 x 0.1) over the normal density at p90, over its z.
_P90_ERROR = 1.33
# It fades in so many steps: a plan is not made anew for every second of silence.
_STEPS = 4


@dataclass(frozen=True, slots=True)
class Calibration(Portable):
    """The service of one workload at one site, without waiting, as its executions have shown it.

    What is not heard of for a while fades into what was declared, whether it was slower or faster: a site that lost its
    traffic because it was slow gets the chance to show that it has recovered, and old praise attracts nothing.

    Attributes:
        hardware: the class it was measured on; it says nothing of another one.
        duration, first_byte: the two points of each distribution.
        slowdown: mean duration over the declared one; what one replica sustains falls by as much, and does not rise,
            unless it has shown more.
        error: one standard error, as a share: of the mean, and of what the queue leaves unexplained between loads.
        loads: levels of load it was seen under; samples: executions of the newest of them.
        at_s: the last sample, in seconds of the caller's clock.
        sustained_rps: the most one replica was seen to serve without waiting.
    """

    hardware: str
    duration: ServiceTime
    first_byte: ServiceTime
    slowdown: float
    error: float
    loads: int
    samples: float
    at_s: float
    sustained_rps: float = 0.0

    def __post_init__(self) -> None:
        if not (self.slowdown > 0 and min(self.sustained_rps, self.error) >= 0 and math.isfinite(self.slowdown)):
            raise InputError(f"no calibration slows by {self.slowdown!r} +- {self.error!r}", code="latency.calibration")

    @property
    def spread_error(self) -> float:
        """One standard error of the deviation of the logarithm, as a share of it: it is read off p50 and p90, and the
        order statistic at p90 of n log-normal samples has a deviation of 1.71 sigma / sqrt(n)."""
        return _P90_ERROR / math.sqrt(max(self.samples, 1.0))

    def weight(self, now_s: float) -> float:
        """How much it counts beside the declared profile, 0 to 1."""
        old_s = max(0.0, now_s - self.at_s - FRESH_S)
        return round(_STEPS * math.exp(-old_s / FADE_S)) / _STEPS

    def applied(self, declared: ServiceProfile, now_s: float) -> ServiceProfile:
        """The profile to plan with: weighted with the declared one, in the logarithm. What a replica sustains follows
        from these times and its concurrency, and is at most what was declared."""
        weight = self.weight(now_s)
        first_byte = declared.first_byte or declared.duration
        return declared.model_copy(
            update={
                "duration": _between(declared.duration, self.duration, weight),
                "first_byte": _between(first_byte, self.first_byte, weight),
                # Quick answers under little load say nothing of what a full batch sustains.
                "rps_max": declared.rps_max * max(1 / max(1.0, self.slowdown), self._shown(declared)) ** weight,
            }
        )

    def _shown(self, declared: ServiceProfile) -> float:
        """The part of the declared rate that it has sustained, and a little more: so it can show the rest."""
        return min(1.0, _GROWTH * self.sustained_rps / declared.rps_max)

    def spread(self, now_s: float) -> float:
        """One standard error of the profile to plan with, as a share."""
        weight = self.weight(now_s)
        return math.hypot(weight * self.error, (1 - weight) * DECLARED_ERROR)


def _between(declared: ServiceTime, measured: ServiceTime, weight: float) -> ServiceTime:
    p50 = declared.p50_ms ** (1 - weight) * measured.p50_ms**weight
    p99 = declared.p99_ms ** (1 - weight) * measured.p99_ms**weight
    return ServiceTime(p50_ms=p50, p99_ms=max(p50, p99))


def pooled_slowdown(declared: Mapping[str, ServiceProfile], known: Iterable[Calibration], now_s: float) -> float:
    """How many times what is declared, at least once, an execution takes where nothing is measured: see the module.

    Args:
        declared: hardware class to profile, of one workload.
        known: its calibrations, one a site.
    """
    logs = [
        min(math.log(found.duration.p50_ms / declared[found.hardware].duration.p50_ms), _SHARED_MAX)
        for found in known
        if found.hardware in declared and now_s - found.at_s < _POOLED_S
    ]
    return math.exp(max(0.0, sum(logs) / (len(logs) + 1)))


def slowed(declared: ServiceProfile, factor: float) -> ServiceProfile:
    """The profile with times so many times as long; what a replica sustains stays as declared, until it was seen."""
    if factor == 1.0:
        return declared
    first_byte = declared.first_byte and _times(declared.first_byte, factor)
    return declared.model_copy(update={"duration": _times(declared.duration, factor), "first_byte": first_byte})


def _times(time: ServiceTime, factor: float) -> ServiceTime:
    return ServiceTime(p50_ms=time.p50_ms * factor, p99_ms=time.p99_ms * factor)
