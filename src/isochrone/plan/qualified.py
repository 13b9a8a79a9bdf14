"""Qualified capacity: the load at which an objective still holds, from a queueing model.

A pool of replicas is an M/G/c queue. The waiting time is taken as zero with probability 1 - C (Erlang's delay formula)
and otherwise exponential with the mean of the Lee-Longton approximation (Lee and Longton, "Queueing processes
associated with airline passenger check-in", 1959; Tijms, "A First Course in Stochastic Models", 2003, section 9.6):

    W(G) = (1 + cv^2) / 2 x W(M),   P(wait > t) = C exp(-t C / W(G))

It is exact for exponential service times. Quantiles of waiting and of service are added, which overstates their sum, so
that the load it allows is low rather than high; the tests compare it with a simulated queue and state the error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from scipy.special import pdtr

from isochrone.model.workload import ServiceProfile

__all__ = ["Pool", "concurrency_limit", "erlang_c", "qualified_rps", "wait_mean_s", "wait_quantile_s"]


@dataclass(frozen=True, slots=True)
class Pool:
    """The replicas of one workload at one site as a queue.

    Attributes:
        servers: executions taken to run truly at once: the fewest that explain the declared rate, at most the declared
            concurrency (a replica may accept more than it works on).
        mean_s: mean service time.
        cv: coefficient of variation of the service time (standard deviation / mean).
        rate_rps: executions per second the pool sustains, at most `servers / mean_s`.
        concurrency: executions the model servers accept at once.
    """

    servers: int
    mean_s: float
    cv: float
    rate_rps: float
    concurrency: int

    @classmethod
    def of(cls, profile: ServiceProfile, replicas: int) -> Pool:
        """The queue that `replicas` with this profile make; the service time is log-normal through p50 and p99."""
        time = profile.duration
        sigma = math.log(time.p99_ms / time.p50_ms) / 2.3263478740408408
        mean_s = time.p50_ms / 1e3 * math.exp(sigma * sigma / 2)
        servers = min(profile.concurrency, math.ceil(profile.rps_max * mean_s))
        return cls(
            servers=replicas * servers,
            mean_s=mean_s,
            cv=math.sqrt(math.expm1(sigma * sigma)),
            rate_rps=replicas * min(profile.rps_max, servers / mean_s),
            concurrency=replicas * profile.concurrency,
        )


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival waits in M/M/c, `load` = arrival rate x mean service time < servers."""
    # Erlang's loss formula: the last term of the Poisson distribution over the sum of all of them.
    blocked = math.exp(servers * math.log(load) - load - math.lgamma(servers + 1)) / float(pdtr(servers, load))
    return blocked / (1 - load / servers * (1 - blocked))


def wait_mean_s(pool: Pool, rps: float) -> float:
    """Mean waiting time in seconds, W(G) of the module; infinite where the servers cannot keep up."""
    if rps <= 0:
        return 0.0
    spare_rps = pool.servers / pool.mean_s - rps
    if rps * pool.mean_s >= pool.servers or spare_rps <= 0:
        return math.inf
    return (1 + pool.cv**2) / 2 * erlang_c(pool.servers, rps * pool.mean_s) / spare_rps


def wait_quantile_s(pool: Pool, rps: float, quantile: float) -> float:
    """Waiting time in seconds that `quantile` of executions stay within; infinite where the servers cannot keep up."""
    if rps <= 0:
        return 0.0
    spare_rps = pool.servers / pool.mean_s - rps
    if rps * pool.mean_s >= pool.servers or spare_rps <= 0:
        return math.inf
    waits = erlang_c(pool.servers, rps * pool.mean_s)
    if waits <= 1 - quantile:
        return 0.0
    decay = spare_rps * 2 / (1 + pool.cv**2)
    return math.log(waits / (1 - quantile)) / decay


@lru_cache(maxsize=65_536)
def qualified_rps(pool: Pool, slack_s: float, quantile: float) -> float:
    """The highest arrival rate at which `quantile` of executions wait no longer than `slack_s`.

    Args:
        slack_s: objective - round trip - hops - service time at the quantile. Negative: nothing qualifies, 0.
    """
    if slack_s < 0 or pool.rate_rps <= 0:
        return 0.0
    if wait_quantile_s(pool, pool.rate_rps, quantile) <= slack_s:
        return pool.rate_rps
    low, high = 0.0, pool.rate_rps
    while high - low > 1e-6 * pool.rate_rps:
        middle = (low + high) / 2
        low, high = (middle, high) if wait_quantile_s(pool, middle, quantile) <= slack_s else (low, middle)
    return low


def concurrency_limit(pool: Pool, slack_s: float, quantile: float) -> int:
    """Requests in flight at which the last one admitted still starts within `slack_s`, at `quantile`.

    Those beyond the servers wait for departures. Their number in the slack is taken as Poisson with the pool's rate, so
    as many may wait as depart with that certainty (normal approximation). At least 1: a pool that is in time at all can
    serve one request.
    """
    expected = max(0.0, slack_s) * pool.rate_rps
    certain = expected - NormalDist().inv_cdf(quantile) * math.sqrt(expected)
    return max(1, pool.concurrency + max(0, math.floor(certain)))
