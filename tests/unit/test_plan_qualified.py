"""Qualified capacity against a simulated queue."""

from __future__ import annotations

import heapq
import math
import random

import pytest

from isochrone.model.workload import ServiceProfile, ServiceTime
from isochrone.plan.qualified import Pool, concurrency_limit, erlang_c, qualified_rps, wait_quantile_s


def simulated_waits(pool: Pool, rps: float, executions: int, seed: int) -> list[float]:
    """Waiting times of a first-come first-served M/G/c queue with log-normal service."""
    rng = random.Random(seed)
    variance = math.log1p(pool.cv**2)
    mu = math.log(pool.mean_s) - variance / 2
    free = [0.0] * pool.servers
    now, waits = 0.0, []
    for _ in range(executions):
        now += rng.expovariate(rps)
        start = max(now, heapq.heappop(free))
        waits.append(start - now)
        heapq.heappush(free, start + rng.lognormvariate(mu, math.sqrt(variance)))
    return waits[executions // 10 :]


def test_erlangs_formula_matches_published_values() -> None:
    # One server: the probability of waiting is the load. Ten servers, 8 Erlang: 0.409 (Erlang C tables).
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(10, 8.0) == pytest.approx(0.40918, abs=1e-4)


@pytest.mark.parametrize("servers", [1, 4, 16])
@pytest.mark.parametrize("cv", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("slack_in_services", [0.5, 3.0])
def test_at_the_qualified_load_the_objective_holds(servers: int, cv: float, slack_in_services: float) -> None:
    pool = Pool(servers=servers, mean_s=servers / 100.0, cv=cv, rate_rps=100.0, concurrency=servers)
    slack = slack_in_services * pool.mean_s
    rps = qualified_rps(pool, slack, 0.95)
    waits = simulated_waits(pool, rps, 40_000, seed=servers)
    late = sum(wait > slack for wait in waits) / len(waits)
    # The stated error: of the 5 % that may wait longer than the slack, the approximation is off by under 2 points.
    assert late <= 0.05 + 0.02
    # It is not merely cautious: half as much load again breaks the objective, where there is that much.
    if rps * 1.5 < pool.rate_rps:
        busier = simulated_waits(pool, rps * 1.5, 40_000, seed=servers)
        assert sum(wait > slack for wait in busier) / len(busier) > 0.05


def test_it_is_exact_for_exponential_service() -> None:
    pool = Pool(servers=1, mean_s=0.1, cv=1.0, rate_rps=10.0, concurrency=1)
    # M/M/1: P(wait > t) = rho exp(-(mu - lambda) t).
    expected = math.log(0.5 / 0.01) / 5.0
    assert wait_quantile_s(pool, 5.0, 0.99) == pytest.approx(expected)


def test_no_slack_at_all_qualifies_nothing_and_more_slack_never_less() -> None:
    pool = Pool(servers=4, mean_s=0.1, cv=0.8, rate_rps=40.0, concurrency=4)
    loads = [qualified_rps(pool, slack, 0.99) for slack in (-0.001, 0.0, 0.01, 0.1, 1.0, 10.0)]
    assert loads[0] == 0
    assert loads == sorted(loads)
    assert loads[-1] < pool.rate_rps


def test_more_replicas_qualify_more_than_in_proportion() -> None:
    profile = ServiceProfile(duration=ServiceTime(p50_ms=10, p99_ms=40), concurrency=2, rps_max=1000)
    one, four = (qualified_rps(Pool.of(profile, n), 0.01, 0.99) for n in (1, 4))
    assert four > 4 * one


def test_a_replica_bound_by_its_rate_works_on_fewer_at_once_than_it_accepts() -> None:
    profile = ServiceProfile(duration=ServiceTime(p50_ms=1.5, p99_ms=6), concurrency=8, rps_max=300)
    pool = Pool.of(profile, 1)
    assert (pool.servers, pool.concurrency, pool.rate_rps) == (1, 8, 300)
    assert pool.mean_s == pytest.approx(0.0018, rel=0.01)


def test_a_replica_bound_by_its_slots_sustains_what_they_do() -> None:
    profile = ServiceProfile(duration=ServiceTime(p50_ms=1000, p99_ms=1000), concurrency=4, rps_max=100)
    pool = Pool.of(profile, 2)
    assert (pool.servers, pool.rate_rps) == (8, pytest.approx(8.0))


def test_the_limit_admits_what_can_start_in_time() -> None:
    pool = Pool(servers=2, mean_s=0.1, cv=1.0, rate_rps=20.0, concurrency=2)
    assert concurrency_limit(pool, 0.0, 0.99) == 2
    assert concurrency_limit(pool, 0.5, 0.5) == 12
    assert concurrency_limit(pool, 5.0, 0.99) == 2 + 76  # 100 departures expected, 2.33 deviations of 10 less
    assert concurrency_limit(pool, -5.0, 0.99) == 2
