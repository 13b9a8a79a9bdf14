"""What a simulated site tells of itself, in the form and by the estimators of a real one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isochrone.control.report import Answered, Arrivals, Served, SiteReport, answered, busiest
from isochrone.latency.recent import RecentCounts, RecentSketch
from isochrone.latency.sketch import Sketch
from isochrone.sim.fabric import hardware_of
from isochrone.sim.strategies import View
from isochrone.sim.world import World

__all__ = ["Handed", "SiteTelemetry", "handed_over"]

# Round trips do not change in this world: they are told so often.
RTT_S = 10.0
# Executions that ended at a workload and site and had entered at one ingress: workload, site, how many, and of some of
# them the first byte and the whole answer at the model server.
Handed = tuple[int, int, int, list[tuple[float, float]]]


def handed_over(view: View, ingresses: int) -> list[list[Handed]]:
    """By ingress, what ended since the last tick. A site measures some of its executions: the others entered alike."""
    found: list[list[Handed]] = [[] for _ in range(ingresses)]
    for w, row in enumerate(view.ended):
        for s, (ended, seen) in enumerate(row):
            of: dict[int, list[tuple[float, float]]] = {}
            for i, first_s, whole_s in seen:
                of.setdefault(i, []).append((first_s, whole_s))
            for i, times in of.items():
                found[i].append((w, s, round(ended * len(times) / len(seen)), times))
    return found


class _Times:
    """Executions of one workload at one site as one party sees them."""

    def __init__(self, buckets_n: int) -> None:
        self._ended = RecentCounts(0.0)
        self._duration, self._first_byte = RecentSketch(buckets_n=buckets_n), RecentSketch(buckets_n=buckets_n)
        self.last_s = 0.0

    def add(self, ended: int, times: Sequence[tuple[float, float]], way_s: float, at_s: float) -> None:
        """`times` of some of those that ended, and the way to the model server and back."""
        self._ended.add(at_s, ended)
        self.last_s = at_s
        self._first_byte.extend([first_s + way_s for first_s, _ in times], at_s)
        self._duration.extend([whole_s + way_s for _, whole_s in times], at_s)

    def window(self, now_s: float) -> tuple[Sketch, Sketch, float]:
        """Duration, first byte, and executions per second."""
        count, span_s = self._ended.window(now_s)
        return self._duration.window(now_s)[0], self._first_byte.window(now_s)[0], count / max(span_s, 1e-3)


class SiteTelemetry:
    """One site's journal, as far as it is about demand and service.

    Args:
        site: its index.
    """

    def __init__(self, world: World, site: int) -> None:
        self._site, self._name = site, world.sites[site]
        self._contracts = world.contracts
        self._arrivals = [RecentCounts(0.0) for _ in world.contracts]
        self._workloads = [w for w in range(len(world.slowdown)) if world.slots[w, site]]
        self._hardware = {w: hardware_of(world, w, site) for w in self._workloads}
        self._served = {w: _Times(16) for w in self._workloads}
        self._handed: dict[tuple[int, int], _Times] = {}
        self._sites, self._way_s = world.sites, world.rtt_s[site].tolist()
        self._rtt = {
            peer: Sketch([float(rtt)] * 100).to_json()
            for peer, rtt in zip(world.sites, world.rtt_s[site], strict=True)
            if peer != self._name
        }

    def watch(self, view: View, handed: Sequence[Handed], tick_s: float) -> None:
        """Take in what happened since the last tick; `handed` is what entered here."""
        middle_s = view.now_s - tick_s / 2
        for c, counts in enumerate(self._arrivals):
            counts.add(middle_s, int(np.rint(view.rps[c, self._site] * tick_s)))
        for w in self._workloads:
            ended, seen = view.ended[w][self._site]
            if ended:
                self._served[w].add(ended, [(first_s, whole_s) for _, first_s, whole_s in seen], 0.0, middle_s)
        for w, s, ended, times in handed:
            if s != self._site:
                self._handed.setdefault((s, w), _Times(10)).add(ended, times, self._way_s[s], middle_s)

    def report(self, now_s: float) -> SiteReport:
        """The site's report."""
        return SiteReport(
            site=self._name,
            boot="b",
            at_s=now_s,
            ingress="127.0.0.1:1",
            peer="127.0.0.1:2",
            ready={f"w{w}": 1 for w in self._workloads},
            desired=1,
            plan=0,
            epoch=0,
            rtt=self._rtt if now_s % RTT_S < 1.0 else {},
            arrivals={
                name: Arrivals(*counts.window(now_s))
                for name, counts in zip(self._contracts, self._arrivals, strict=True)
            },
            served={f"w{w}": self._of(w, now_s) for w in self._workloads if self._served[w].last_s},
            answered=busiest(self._answered(now_s)),
        )

    def _of(self, w: int, now_s: float) -> Served:
        times = self._served[w]
        duration, first_byte, rps = times.window(now_s)
        return Served(
            hardware=self._hardware[w],
            replicas=1,
            rps=rps,
            duration=duration.to_json(),
            first_byte=first_byte.to_json(),
            at_s=times.last_s,
        )

    def _answered(self, now_s: float) -> dict[tuple[str, str], Answered]:
        found = {}
        for (s, w), times in self._handed.items():
            seen = answered(*times.window(now_s), times.last_s)
            if seen is not None:
                found[self._sites[s], f"w{w}"] = seen
        return found
