"""The second world: simulated sites that queue, batch, slow down and die, under a trace of requests.

Each (site, workload) is one queue with `slots`; an execution takes its work x the site's speed x the slowdown of the
batch it joins, and waits in order of arrival when all slots are busy. The first byte of an answer leaves after the
first part of its work. Everything happens in the order of time; a site that is lost answers
nothing and says nothing: its requests are tried at the next site the strategy names, one round trip later, as are those
over a site's limit for their contract; with nowhere left to try they are lost, or shed. One seed gives one run.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isochrone.errors import InputError
from isochrone.sim.report import Outcome, Tally
from isochrone.sim.strategies import NO_LIMIT, Ended, Strategy, View, in_flight

__all__ = ["Disturbance", "Requests", "World", "simulate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
# Executions whose times a site measures per tick and workload; the others it only counts.
SEEN_MAX = 30


@dataclass(frozen=True, slots=True)
class World:
    """Sites, and what contracts want of them. S sites, I ingresses, C contracts, W workloads.

    Attributes:
        rtt_s: (I, S) round trips as they are; allowed: (C, S) what policy says.
        workload: (C,) the workload of each contract; objective_s, penalty: (C,), penalty per broken execution.
        first_byte: (C,) whether the objective bounds the first byte rather than the whole answer.
        slots, speed, cost: (W, S) executions at once (0 where it is not placed), time factor, currency per execution.
        slowdown: (W,) how much longer executions take when all slots are busy, as a share; in proportion in between.
    """

    sites: tuple[str, ...]
    ingresses: tuple[str, ...]
    contracts: tuple[str, ...]
    workload: tuple[int, ...]
    rtt_s: Floats
    allowed: Flags
    objective_s: Floats
    first_byte: tuple[bool, ...]
    penalty: Floats
    slots: Ints
    speed: Floats
    cost: Floats
    slowdown: Floats

    def __post_init__(self) -> None:
        sites, contracts = len(self.sites), len(self.contracts)
        shapes = {
            "rtt_s": (len(self.ingresses), sites),
            "allowed": (contracts, sites),
            "objective_s": (contracts,),
            "penalty": (contracts,),
            "slots": (len(self.slowdown), sites),
            "speed": (len(self.slowdown), sites),
            "cost": (len(self.slowdown), sites),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape:
                raise InputError(f"{name} has shape {values.shape}, not {shape}", code="sim.world")
            if values.dtype != bool and not (np.isfinite(values).all() and (values >= 0).all()):
                raise InputError(f"{name} holds a number that is NaN, infinite or negative", code="sim.world")


@dataclass(frozen=True, slots=True)
class Requests:
    """What arrives: (N,) seconds, ingress, contract, work alone on a server until the first byte and in all."""

    at_s: Floats
    ingress: Ints
    contract: Ints
    first_s: Floats
    whole_s: Floats


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What goes wrong between two times.

    Attributes:
        lost: sites that answer nothing; health checks notice after `notice_s`.
        flap_s: lost sites are away and back in turns of this length; 0 for away all the time.
        slow: sites that take `factor` times as long.
        stale: sites whose telemetry stands still, though they speak.
    """

    from_s: float = 0.0
    to_s: float = 0.0
    lost: tuple[int, ...] = ()
    flap_s: float = 0.0
    slow: tuple[int, ...] = ()
    factor: float = 4.0
    stale: tuple[int, ...] = ()
    notice_s: float = 1.0

    def during(self, now_s: float) -> bool:
        """Whether things go wrong at this time."""
        return self.from_s <= now_s < self.to_s

    def away(self, now_s: float) -> bool:
        """Whether the lost sites answer nothing at this time."""
        return self.during(now_s) and (not self.flap_s or int((now_s - self.from_s) / self.flap_s) % 2 == 0)


_CALM = Disturbance()


class _State:
    """What stands in each (workload, site) queue, and what was seen since the last tick. Plain lists: it is hot."""

    def __init__(self, world: World) -> None:
        sites, ingresses = range(len(world.sites)), range(len(world.ingresses))
        workloads, contracts = range(len(world.slowdown)), range(len(world.contracts))
        # When each slot is free again, and when each execution in the system ends, by workload and by contract: heaps.
        self.free = [[[0.0] * int(world.slots[w, s]) for s in sites] for w in workloads]
        self.ends: list[list[list[float]]] = [[[] for _ in sites] for _ in workloads]
        self.admitted: list[list[list[float]]] = [[[] for _ in sites] for _ in contracts]
        # Executions under way whose end their site has not seen: (end, ingress, first byte, whole answer), the times at
        # the model server.
        self.running: list[list[list[tuple[float, int, float, float]]]] = [[[] for _ in sites] for _ in workloads]
        self.arrivals = [[0 for _ in ingresses] for _ in contracts]
        self.latency_s = [[[0.0 for _ in sites] for _ in ingresses] for _ in contracts]
        self.in_flight = [[0 for _ in sites] for _ in workloads]

    def ended(self, now_s: float) -> list[list[Ended]]:
        """What ended at each (workload, site) since the last call."""
        return [[self._ended(running, now_s) for running in row] for row in self.running]

    @staticmethod
    def _ended(running: list[tuple[float, int, float, float]], now_s: float) -> Ended:
        over = [execution[1:] for execution in running if execution[0] <= now_s]
        running[:] = [execution for execution in running if execution[0] > now_s]
        return len(over), over[:SEEN_MAX]


def simulate(
    world: World,
    requests: Requests,
    strategy: Strategy,
    rng: np.random.Generator,
    *,
    tick_s: float = 5.0,
    disturbance: Disturbance = _CALM,
) -> Outcome:
    """Run the trace through one strategy.

    Args:
        tick_s: how often the strategy sees telemetry.
    """
    state, tally = _State(world), Tally(world.contracts)
    traffic = _Traffic(world, strategy, state, tally, disturbance)
    picks = rng.random(len(requests.at_s))
    end = float(requests.at_s[-1]) if len(requests.at_s) else 0.0
    ticks = np.arange(0.0, end + tick_s, tick_s)
    cuts = np.searchsorted(requests.at_s, ticks).tolist()
    for tick, (first, last) in enumerate(zip(cuts, [*cuts[1:], len(requests.at_s)], strict=True)):
        traffic.deliver(float(ticks[tick]))
        strategy.tick(_view(world, state, float(ticks[tick]), tick_s, disturbance))
        traffic.enter(requests, slice(first, last), picks)
    traffic.deliver(np.inf)
    return tally.outcome(strategy.name, strategy.churn)


def _view(world: World, state: _State, now: float, tick_s: float, disturbance: Disturbance) -> View:
    up, speaking, frozen = (np.ones(len(world.sites), dtype=bool) for _ in range(3))
    up[list(disturbance.lost)] = not disturbance.away(now - disturbance.notice_s)
    speaking[list(disturbance.lost)] = not disturbance.away(now)
    stale = disturbance.stale if disturbance.during(now) else ()
    frozen[:] = np.isin(np.arange(len(frozen)), stale)
    for w, row in enumerate(state.ends):
        for s, ends in enumerate(row):
            if s not in stale:
                state.in_flight[w][s] = in_flight(ends, now)
    rps = np.array(state.arrivals, dtype=float) / tick_s
    state.arrivals = [[0] * len(row) for row in state.arrivals]
    return View(
        now_s=now,
        up=up,
        speaking=speaking,
        frozen=frozen,
        rps=rps,
        in_flight=np.array(state.in_flight),
        ended=state.ended(now),
        latency_s=np.array(state.latency_s),
    )


class _Traffic:
    """The hot loops: everything they touch is a list. Requests reach their sites in the order of time, however far they
    come from: a queue knows nothing of who is still on the way."""

    def __init__(self, world: World, strategy: Strategy, state: _State, tally: Tally, disturbance: Disturbance) -> None:
        self._strategy, self._state, self._tally, self._disturbance = strategy, state, tally, disturbance
        self._workloads, self._first_byte = world.workload, world.first_byte
        self._rtt, self._allowed, self._objective = (
            world.rtt_s.tolist(),
            world.allowed.tolist(),
            world.objective_s.tolist(),
        )
        self._speed, self._cost, self._slowdown = world.speed.tolist(), world.cost.tolist(), world.slowdown.tolist()
        self._lost, self._slow = frozenset(disturbance.lost), frozenset(disturbance.slow)
        # On the way: (when there, request, ingress, contract, site, entered, first, whole, sites tried before).
        self._flying: list[tuple[float, int, int, int, int, float, float, float, int]] = []

    def enter(self, requests: Requests, part: slice, picks: Floats) -> None:
        """Requests come in at their ingresses and are sent on their way."""
        flying, rtt, workloads, arrivals = self._flying, self._rtt, self._workloads, self._state.arrivals
        ends, choose, push, deliver = self._state.ends, self._strategy.choose, heapq.heappush, self.deliver
        columns = (requests.at_s, requests.ingress, requests.contract, requests.first_s, requests.whole_s, picks)
        rows = zip(*(column[part].tolist() for column in columns), strict=True)
        for n, (at, i, c, first_s, whole_s, pick) in enumerate(rows, part.start):
            if flying and flying[0][0] <= at:
                deliver(at)
            arrivals[c][i] += 1
            s = choose(i, c, pick, at, ends[workloads[c]])
            if s < 0:
                self._tally.add(c, "shed", 0.0, 0.0)
            else:
                push(flying, (at + rtt[i][s] / 2, n, i, c, s, at, first_s, whole_s, 0))

    def deliver(self, until_s: float) -> None:
        """Those on the way reach their sites until then: they are taken in, or tried at the next site."""
        flying, state, rtt, workloads, lost = self._flying, self._state, self._rtt, self._workloads, self._lost
        limits, spill, away = self._strategy.limits, self._strategy.spill, self._disturbance.away
        pop, push, add = heapq.heappop, heapq.heappush, self._tally.add
        while flying and flying[0][0] <= until_s:
            there, n, i, c, s, at, first_s, whole_s, tried = pop(flying)
            limit = limits[c][s]
            if not state.free[workloads[c]][s] or (s in lost and away(there)):
                refusal = "lost"
            elif limit == NO_LIMIT or in_flight(state.admitted[c][s], there) < limit:
                self._take_in(there, i, c, s, at, first_s, whole_s)
                continue
            else:
                refusal = "shed"
            tried |= 1 << s
            following = spill(i, c, tried)
            if following < 0:
                add(c, refusal, 0.0, 0.0)
            else:
                again = there + rtt[i][s] / 2 + rtt[i][following] / 2
                push(flying, (again, n, i, c, following, at, first_s, whole_s, tried))

    def _take_in(self, there: float, i: int, c: int, s: int, at: float, first_s: float, whole_s: float) -> None:
        w, state, back_s = self._workloads[c], self._state, self._rtt[i][s] / 2
        free, ends = state.free[w][s], state.ends[w][s]
        residual = self._speed[w][s]
        if s in self._slow and self._disturbance.during(there):
            residual *= self._disturbance.factor
        stretch = residual * (1 + self._slowdown[w] * min(1.0, in_flight(ends, there) / len(free)))
        start = free[0] if free[0] > there else there
        end = start + whole_s * stretch
        heapq.heapreplace(free, end)
        heapq.heappush(ends, end)
        if self._strategy.observes:
            heapq.heappush(state.admitted[c][s], end)
            state.running[w][s].append((end, i, start - there + first_s * stretch, end - there))
        answered = (start + first_s * stretch if self._first_byte[c] else end) + back_s - at
        known = state.latency_s[c][i]
        known[s] += 0.2 * (answered - known[s]) if known[s] else answered
        on_time = "late" if answered > self._objective[c] else "held"
        kind = on_time if self._allowed[c][s] else "out_of_bounds"
        self._tally.add(c, kind, answered, self._cost[w][s])
