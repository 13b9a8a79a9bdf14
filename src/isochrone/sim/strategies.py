"""Strategies behind one interface: how others describe theirs in public, and ours.

All are given the sites that policy allows and that run the workload, as an operator would configure them; what differs
is how they choose among those. None but ours refuses or limits anything, as none of the descriptions does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BASELINES", "NO_LIMIT", "Ended", "Strategy", "View", "in_flight"]

Floats = NDArray[np.float64]
NO_LIMIT = math.inf
# How many ended, and of some of them where they entered and their times at the model server, waiting included: ingress,
# first byte, whole answer.
Ended = tuple[int, list[tuple[int, float, float]]]


@dataclass(frozen=True, slots=True)
class View:
    """Telemetry at a tick, as the sites report it.

    Attributes:
        up: (S,) sites known to be alive by health checks.
        speaking, frozen: (S,) sites whose telemetry gets out at all, and those whose telemetry stands still.
        rps: (C, I) what arrived since the last tick, per second.
        in_flight: (W, S) executions in the system.
        ended: by workload and site, executions that ended since the last tick, for strategies that observe.
        latency_s: (C, I, S) moving averages of the time to the objective's metric at the ingress; 0 where unknown.
    """

    now_s: float
    up: NDArray[np.bool_]
    speaking: NDArray[np.bool_]
    frozen: NDArray[np.bool_]
    rps: Floats
    in_flight: NDArray[np.int64]
    ended: list[list[Ended]]
    latency_s: Floats


class Strategy(Protocol):
    """Chooses a site for every request. Sites are indices; -1 means none.

    Attributes:
        observes: whether it has limits or wants to know what ended.
        limits: contract and site to the executions the site admits at once.
        churn: see `Outcome`.
    """

    name: str
    observes: bool
    limits: list[list[float]]
    churn: float

    def tick(self, view: View) -> None:
        """Take in telemetry."""

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        """The site to send a request to. `pick` is uniform in 0 to 1; `ends` are the sites' heaps of end times."""

    def spill(self, ingress: int, contract: int, tried: int) -> int:
        """The next site to try after those in the bit set `tried` would not or could not take the request."""


def in_flight(ends: list[float], now_s: float) -> int:
    """Executions in a site's system at `now_s`; forgets those that ended."""
    while ends and ends[0] <= now_s:
        heapq.heappop(ends)
    return len(ends)


class _Baseline:
    """What the descriptions have in common: a list of eligible sites, spilling to the nearest one left.

    Args:
        rtt_s: (I, S); eligible: (C, S) in bounds and placed; workload: (C,); slots, cost: (W, S).
    """

    name = ""
    observes = False

    def __init__(
        self, rtt_s: Floats, eligible: NDArray[np.bool_], workload: Sequence[int], slots: Floats, cost: Floats
    ) -> None:
        self.limits = [[NO_LIMIT] * rtt_s.shape[1] for _ in workload]
        self.churn = 0.0
        self.rtt = rtt_s.tolist()
        self.workload = list(workload)
        self.slots, self.cost = slots.tolist(), cost.tolist()
        self.eligible = eligible
        self.latency = np.zeros((len(workload), *rtt_s.shape)).tolist()
        self._list(np.ones(rtt_s.shape[1], dtype=bool))

    def _list(self, up: NDArray[np.bool_]) -> None:
        self.sites = [np.flatnonzero(row & up).tolist() for row in self.eligible]

    def tick(self, view: View) -> None:
        self._list(view.up)
        self.latency = view.latency_s.tolist()

    def spill(self, ingress: int, contract: int, tried: int) -> int:
        left = [s for s in self.sites[contract] if not tried >> s & 1]
        return min(left, key=self.rtt[ingress].__getitem__, default=-1)


class Nearest(_Baseline):
    """The least round trip."""

    name = "nearest"

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        return min(self.sites[contract], key=self.rtt[ingress].__getitem__, default=-1)


class RoundRobin(_Baseline):
    """Each in turn."""

    name = "round robin"
    turn = 0

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        sites = self.sites[contract]
        self.turn += 1
        return sites[self.turn % len(sites)] if sites else -1


class LeastLoad(_Baseline):
    """The least in flight per slot, known exactly."""

    name = "least load"

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        slots = self.slots[self.workload[contract]]
        return min(self.sites[contract], key=lambda s: in_flight(ends[s], now_s) / slots[s], default=-1)


class WeightedScore(_Baseline):
    """Locality, load and cost, each scaled to 0 to 1, added with equal weights (as Praxis Grid is described)."""

    name = "weighted score"

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        sites, w = self.sites[contract], self.workload[contract]
        rtt, slots, cost = self.rtt[ingress], self.slots[w], self.cost[w]
        far, dear = max((rtt[s] for s in sites), default=1) or 1, max((cost[s] for s in sites), default=1) or 1
        return min(sites, key=lambda s: rtt[s] / far + len(ends[s]) / slots[s] + cost[s] / dear, default=-1)


class EwmaTwoChoices(_Baseline):
    """Two sites at random, the one with the lower latency average x load (as agentgateway is described; Mitzenmacher,
    "The power of two choices in randomized load balancing", IEEE TPDS 2001)."""

    name = "EWMA, two choices"

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        sites, known = self.sites[contract], self.latency[contract][ingress]
        if not sites:
            return -1
        first, rest = divmod(pick * len(sites), 1.0)
        second = (int(first) + 1 + int(rest * (len(sites) - 1))) % len(sites)
        pair = (sites[int(first)], sites[second])
        return min(pair, key=lambda s: known[s] * (1 + len(ends[s])))


class LowestLatency(_Baseline):
    """At random among the sites whose latency average is within a tenth of the lowest; unknown ones first (as LiteLLM
    describes latency-based routing)."""

    name = "lowest latency"

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        sites, known = self.sites[contract], self.latency[contract][ingress]
        if not sites:
            return -1
        least = min(known[s] for s in sites)
        near = [s for s in sites if known[s] <= 1.1 * least]
        return near[int(pick * len(near))]


class LocalityRings(_Baseline):
    """The nearest ring (within 10, 30, 100 ms, the world) that is under 70 % full, least loaded of two in it (as
    ServiceRouter is described, OSDI 2023)."""

    name = "locality rings"
    rings_s = (0.010, 0.030, 0.100, math.inf)

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        sites, slots, rtt = self.sites[contract], self.slots[self.workload[contract]], self.rtt[ingress]
        last: list[int] = []
        for ring in self.rings_s:
            inside = [s for s in sites if rtt[s] <= ring]
            if inside == last:
                continue
            last = inside
            if sum(in_flight(ends[s], now_s) for s in inside) < 0.7 * sum(slots[s] for s in inside):
                break
        if not last:
            return -1
        a = last[int(pick * len(last))]
        b = last[int(pick * len(last) * 7919) % len(last)]
        return min(a, b, key=lambda s: len(ends[s]) / slots[s])


class InverseSquarePrice(_Baseline):
    """At random in proportion to 1 / price^2 (as OpenRouter describes)."""

    name = "inverse-square price"

    def choose(self, ingress: int, contract: int, pick: float, now_s: float, ends: Sequence[list[float]]) -> int:
        sites, cost = self.sites[contract], self.cost[self.workload[contract]]
        weights = [1.0 / max(cost[s], 1e-12) ** 2 for s in sites]
        left = pick * sum(weights)
        for s, weight in zip(sites, weights, strict=True):
            left -= weight
            if left <= 0:
                return s
        return sites[-1] if sites else -1


BASELINES = (
    Nearest,
    RoundRobin,
    LeastLoad,
    WeightedScore,
    EwmaTwoChoices,
    LowestLatency,
    LocalityRings,
    InverseSquarePrice,
)
