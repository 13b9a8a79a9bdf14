"""Queueing head-room: why a small site pays for being small.

To keep the chance of waiting at or below a share, a pool of N units can carry less than N: the square-root rule of
Halfin and
Whitt (1981, Oper. Res. 29(3)) says N ~ R + beta * sqrt(R) for a load of R busy units. N is concave in R, so its
tangent at a
typical size lies above it everywhere: `units >= reserve + load / utilisation` is safe at any size and linear.
"""

from __future__ import annotations

import math
from functools import lru_cache

__all__ = ["erlang_c", "headroom", "units_needed"]


def erlang_c(units_n: int, load: float) -> float:
    """Share of arrivals that wait in an M/M/N queue (Erlang 1917); `load` in busy units, stable when below N."""
    if load >= units_n:
        return 1.0
    blocked = 1.0
    for k in range(1, units_n + 1):
        blocked = load * blocked / (k + load * blocked)
    return blocked / (1.0 - load / units_n * (1.0 - blocked))


@lru_cache
def _beta(wait_share_max: float) -> float:
    """The Halfin-Whitt beta with P(wait) = 1 / (1 + beta * Phi(beta) / phi(beta)) = `wait_share_max`."""

    def wait(beta: float) -> float:
        phi = math.exp(-beta * beta / 2) / math.sqrt(2 * math.pi)
        return 1.0 / (1.0 + beta * 0.5 * (1 + math.erf(beta / math.sqrt(2))) / phi)

    low, high = 0.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if wait(middle) > wait_share_max else (low, middle)
    return high


def units_needed(load: float, wait_share_max: float) -> float:
    """Units for a load by the square-root rule, plus half a unit for its bias at small sizes."""
    return load + _beta(wait_share_max) * math.sqrt(load) + 0.5


def headroom(typical_load: float, wait_share_max: float) -> tuple[float, float]:
    """(reserve_units, utilisation_max) of the tangent at `typical_load`: units >= reserve + load / utilisation_max."""
    if typical_load <= 0 or not 0 < wait_share_max < 1:
        raise ValueError("typical_load must be above zero and wait_share_max inside (0, 1)")
    slope = 1.0 + _beta(wait_share_max) / (2.0 * math.sqrt(typical_load))
    return units_needed(typical_load, wait_share_max) - slope * typical_load, 1.0 / slope
