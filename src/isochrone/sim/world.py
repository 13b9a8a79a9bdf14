"""The second world: simulated sites that queue, batch, slow down and die, under a trace of requests.

Each (site, workload) is one queue with `slots`; an execution takes its work x the site's speed x the slowdown of the
batch it joins, and waits in order of arrival when all slots are busy. The first byte of an answer leaves after the
first part of its work. Requests are worked off in order of their arrival at the ingress; a site that is lost answers
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
        # Executions under way whose end their site has not seen: (end, first byte, whole answer) at the model server.
        self.running: list[list[list[tuple[float, float, float]]]] = [[[] for _ in sites] for _ in workloads]
        self.arrivals = [[0 for _ in ingresses] for _ in contracts]
        self.latency_s = [[[0.0 for _ in sites] for _ in ingresses] for _ in contracts]
        self.in_flight = [[0 for _ in sites] for _ in workloads]

    def ended(self, now_s: float) -> list[list[Ended]]:
        """What ended at each (workload, site) since the last call."""
        return [[self._ended(running, now_s) for running in row] for row in self.running]

    @staticmethod
    def _ended(running: list[tuple[float, float, float]], now_s: float) -> Ended:
        over = [times for end_s, *times in running if end_s <= now_s]
        running[:] = [execution for execution in running if execution[0] > now_s]
        return len(over), [(first_s, whole_s) for first_s, whole_s in over[:SEEN_MAX]]


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
    picks = rng.random(len(requests.at_s))
    end = float(requests.at_s[-1]) if len(requests.at_s) else 0.0
    ticks = np.arange(0.0, end + tick_s, tick_s)
    cuts = np.searchsorted(requests.at_s, ticks).tolist()
    for tick, (first, last) in enumerate(zip(cuts, [*cuts[1:], len(requests.at_s)], strict=True)):
        strategy.tick(_view(world, state, float(ticks[tick]), tick_s, disturbance))
        _run(world, requests, slice(first, last), strategy, state, tally, picks, disturbance)
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


def _run(
    world: World,
    requests: Requests,
    part: slice,
    strategy: Strategy,
    state: _State,
    tally: Tally,
    picks: Floats,
    disturbance: Disturbance,
) -> None:
    """The hot loop: everything it touches is a list."""
    rtt, allowed, objective = world.rtt_s.tolist(), world.allowed.tolist(), world.objective_s.tolist()
    speed, cost, slowdown = world.speed.tolist(), world.cost.tolist(), world.slowdown.tolist()
    workloads, first_byte, limits = world.workload, world.first_byte, strategy.limits
    lost, slow, factor = frozenset(disturbance.lost), frozenset(disturbance.slow), disturbance.factor
    all_free, all_ends, all_running, admitted = state.free, state.ends, state.running, state.admitted
    latencies, arrivals, observed, during, away = (
        state.latency_s,
        state.arrivals,
        strategy.observes,
        disturbance.during,
        disturbance.away,
    )
    choose, spill, add, replace_least, push = (
        strategy.choose,
        strategy.spill,
        tally.add,
        heapq.heapreplace,
        heapq.heappush,
    )
    troubled = bool(lost or slow)
    columns = (requests.at_s, requests.ingress, requests.contract, requests.first_s, requests.whole_s, picks)
    for at, i, c, first_s, whole_s, pick in zip(*(column[part].tolist() for column in columns), strict=True):
        w = workloads[c]
        arrivals[c][i] += 1
        free, ends, mine, limit = all_free[w], all_ends[w], admitted[c], limits[c]
        s = choose(i, c, pick, at, ends)
        sent, tried, refusal = at, 0, "shed"
        while s >= 0:
            there = sent + rtt[i][s] / 2
            if not free[s] or (troubled and s in lost and away(at)):
                refusal = "lost"
            elif limit[s] == NO_LIMIT or in_flight(mine[s], there) < limit[s]:
                break
            sent += rtt[i][s]
            tried |= 1 << s
            s = spill(i, c, tried)
        if s < 0:
            add(c, refusal, 0.0, 0.0)
            continue
        residual = speed[w][s] * (factor if troubled and s in slow and during(at) else 1.0)
        stretch = residual * (1 + slowdown[w] * min(1.0, in_flight(ends[s], there) / len(free[s])))
        start = free[s][0] if free[s][0] > there else there
        end = start + whole_s * stretch
        replace_least(free[s], end)
        push(ends[s], end)
        if observed:
            push(mine[s], end)
            all_running[w][s].append((end, start - there + first_s * stretch, end - there))
        answered = (start + first_s * stretch if first_byte[c] else end) + rtt[i][s] / 2 - at
        known = latencies[c][i]
        known[s] += 0.2 * (answered - known[s]) if known[s] else answered
        kind = "out_of_bounds" if not allowed[c][s] else "late" if answered > objective[c] else "held"
        add(c, kind, answered, cost[w][s])
