"""From executions seen under load to the service time behind them: the queue is taken out, and the error stated.

A site that is busy answers late because requests wait; a site that is slow answers late by itself. Only the second is a
property of the site, and planning with the first would send traffic back and forth. So each observation (arrival rate
and answer times) is explained by the M/G/c queue of `qualified`: the slowdown that, with the waiting it implies, gives
the mean time seen. Observations under several loads must then agree on one slowdown; how far they do not is the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

from isochrone.latency.calibration import Calibration
from isochrone.latency.sketch import RELATIVE_ERROR, Sketch
from isochrone.model.workload import ServiceProfile, ServiceTime
from isochrone.plan.qualified import Pool, wait_mean_s

__all__ = ["SAMPLES_MIN", "Observation", "calibrate", "load_band", "with_observation"]

# Fewer executions say too little: the declared profile stays.
SAMPLES_MIN = 20
# Observations of other loads lose half their weight in this time, and are forgotten after ten times as long.
_HALF_LIFE_S = 60.0
# Observations that differ by so many standard errors are of different times, not of different loads.
_DEVIATIONS = 3.0
_Z90, _Z99 = NormalDist().inv_cdf(0.9), NormalDist().inv_cdf(0.99)
# What the queue of `qualified` misses its waiting by, as a share of it: an answer is as good as it rests on waiting.
_QUEUE_ERROR = 0.3
# So much waiting, as a share of the time, is little.
_LITTLE = 0.1
# A log-normal no narrower than this: what a sketch cannot tell from a constant.
_SIGMA_MIN = 2 * RELATIVE_ERROR


@dataclass(frozen=True, slots=True)
class Observation:
    """Executions of one workload at one site while nothing changed.

    Attributes:
        rps: executions per second; duration, first_byte: their times at the model server, waiting there included.
        replicas: how many served them.
        at_s: the last of them, in seconds of the caller's clock.
    """

    rps: float
    duration: Sketch
    first_byte: Sketch
    replicas: int
    at_s: float

    @property
    def in_flight(self) -> float:
        """Mean number in flight (Little's law)."""
        return self.rps * (self.duration.mean or 0.0)


def load_band(observation: Observation) -> int:
    """The load in powers of two of the mean number in flight per replica; 0 for all below one."""
    return max(0, math.ceil(math.log2(max(observation.in_flight / observation.replicas, 1e-9))))


def with_observation(known: Mapping[int, Observation], new: Observation) -> dict[int, Observation]:
    """Observations by load band, the new one added and those forgotten whose time is over."""
    kept = {band: old for band, old in known.items() if new.at_s - old.at_s < 10 * _HALF_LIFE_S}
    return kept | {load_band(new): new}


def calibrate(
    declared: ServiceProfile, hardware: str, observations: Iterable[Observation], now_s: float
) -> Calibration | None:
    """What observations under different loads say of a profile; None while they are too few.

    The newest decides what is compared: what contradicts it was seen before something changed, and is left out.
    """
    usable = sorted((o for o in observations if o.duration.count >= SAMPLES_MIN), key=lambda o: -o.at_s)
    if not usable:
        return None
    newest = _fit(declared, usable[0])
    fits = [newest, *(fit for o in usable[1:] if newest.agrees(fit := _fit(declared, o)))]
    weights = [fit.observation.duration.count * 0.5 ** ((now_s - fit.observation.at_s) / _HALF_LIFE_S) for fit in fits]
    total = sum(weights)
    middle = sum(w * fit.log_slowdown for w, fit in zip(weights, fits, strict=True)) / total
    between = sum(w * (fit.log_slowdown - middle) ** 2 for w, fit in zip(weights, fits, strict=True)) / total
    within = 1 / math.sqrt(sum(1 / fit.error**2 for fit in fits))
    slowdown = math.exp(middle)
    idlest = min(fits, key=lambda fit: fit.waiting)
    return Calibration(
        hardware=hardware,
        duration=idlest.duration(slowdown),
        first_byte=idlest.first_byte(),
        slowdown=slowdown,
        error=math.hypot(math.sqrt(between), within),
        loads=len(fits),
        samples=newest.observation.duration.count,
        at_s=newest.observation.at_s,
        sustained_rps=max((fit.sustained_rps for fit in fits), default=0.0),
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """One observation, explained.

    Attributes:
        log_slowdown: logarithm of mean service time over declared; error: its standard error.
        waiting: share of the mean time that is waiting; wait_s: that waiting.
    """

    declared: ServiceProfile
    observation: Observation
    log_slowdown: float
    error: float
    waiting: float
    wait_s: float

    @classmethod
    def of(cls, declared: ServiceProfile, seen: Observation) -> _Fit:
        # As many run at once as the profile says do so without slowing down: who is slow with fewer is slow.
        pool = Pool.of(declared, seen.replicas)
        pool = replace(pool, servers=pool.concurrency)
        mean_s = seen.duration.mean
        assert mean_s
        # The slowdown at which service and waiting together take what was seen: it rises with both, so halve.
        low, high = 0.0, mean_s / pool.mean_s
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            slower = replace(pool, mean_s=middle * pool.mean_s)
            low, high = (middle, high) if slower.mean_s + wait_mean_s(slower, seen.rps) < mean_s else (low, middle)
        service_s = high * pool.mean_s
        sampling = _sigma(seen.duration) / math.sqrt(seen.duration.count)
        error = math.hypot(sampling, RELATIVE_ERROR, _QUEUE_ERROR * (1 - service_s / mean_s))
        return cls(declared, seen, math.log(high), error, 1 - service_s / mean_s, mean_s - service_s)

    @property
    def sustained_rps(self) -> float:
        """By one replica, where nearly nothing waited."""
        return self.observation.rps / self.observation.replicas if self.waiting < _LITTLE else 0.0

    def agrees(self, other: _Fit) -> bool:
        """Whether the two could be of one service time; a tenth is no change, whatever the errors say."""
        apart = abs(self.log_slowdown - other.log_slowdown)
        return apart <= _DEVIATIONS * math.hypot(self.error, other.error, 0.1)

    def duration(self, slowdown: float) -> ServiceTime:
        """Service without waiting: the fitted mean; as wide as was seen where nearly nothing waits, else declared."""
        mean_s = slowdown * Pool.of(self.declared, 1).mean_s
        sigma = _sigma(self.observation.duration) if self.waiting < _LITTLE else _declared_sigma(self.declared.duration)
        return _service_time(mean_s / math.exp(sigma * sigma / 2), sigma)

    def first_byte(self) -> ServiceTime:
        """Likewise, less the waiting."""
        sketch = self.observation.first_byte
        declared = self.declared.first_byte or self.declared.duration
        sigma = _sigma(sketch) if self.waiting < _LITTLE else _declared_sigma(declared)
        seen_s = sketch.quantile(0.5) or 0.0
        return _service_time(max(seen_s - self.wait_s, 0.05 * seen_s, 1e-6), sigma)


# Every report brings one new observation, and those of other loads are asked about again.
_fit = lru_cache(maxsize=512)(_Fit.of)


def _sigma(sketch: Sketch) -> float:
    """Standard deviation of the logarithm, through p50 and p90."""
    middle, upper = sketch.quantile(0.5), sketch.quantile(0.9)
    return max(_SIGMA_MIN, math.log(upper / middle) / _Z90) if middle and upper else _SIGMA_MIN


def _declared_sigma(time: ServiceTime) -> float:
    return max(_SIGMA_MIN, math.log(time.p99_ms / time.p50_ms) / _Z99)


def _service_time(median_s: float, sigma: float) -> ServiceTime:
    return ServiceTime(p50_ms=median_s * 1e3, p99_ms=median_s * 1e3 * math.exp(sigma * _Z99))
