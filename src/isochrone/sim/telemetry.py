"""What a simulated site tells of itself, in the form and by the estimators of a real one."""

from __future__ import annotations

import numpy as np

from isochrone.control.report import Arrivals, Served, SiteReport
from isochrone.latency.recent import RecentCounts, RecentSketch
from isochrone.latency.sketch import Sketch
from isochrone.sim.fabric import hardware_of
from isochrone.sim.strategies import View
from isochrone.sim.world import World

__all__ = ["SiteTelemetry"]

# Round trips do not change in this world: they are told so often.
RTT_S = 10.0


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
        self._served = {w: RecentCounts(0.0) for w in self._workloads}
        self._duration = {w: RecentSketch(buckets_n=16) for w in self._workloads}
        self._first_byte = {w: RecentSketch(buckets_n=16) for w in self._workloads}
        self._last_s = dict.fromkeys(self._workloads, 0.0)
        self._rtt = {
            peer: Sketch([float(rtt)] * 100).to_json()
            for peer, rtt in zip(world.sites, world.rtt_s[site], strict=True)
            if peer != self._name
        }

    def watch(self, view: View, tick_s: float) -> None:
        """Take in what happened since the last tick."""
        middle_s = view.now_s - tick_s / 2
        for c, counts in enumerate(self._arrivals):
            counts.add(middle_s, int(np.rint(view.rps[c, self._site] * tick_s)))
        for w in self._workloads:
            ended, seen = view.ended[w][self._site]
            if ended:
                self._served[w].add(middle_s, ended)
                self._last_s[w] = view.now_s
            for first_s, whole_s in seen:
                self._first_byte[w].add(first_s, middle_s)
                self._duration[w].add(whole_s, middle_s)

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
            served={f"w{w}": self._of(w, now_s) for w in self._workloads if self._last_s[w]},
        )

    def _of(self, w: int, now_s: float) -> Served:
        duration, _ = self._duration[w].window(now_s)
        first_byte, _ = self._first_byte[w].window(now_s)
        count, span_s = self._served[w].window(now_s)
        return Served(
            hardware=self._hardware[w],
            replicas=1,
            rps=count / max(span_s, 1e-3),
            duration=duration.to_json(),
            first_byte=first_byte.to_json(),
            at_s=self._last_s[w],
        )
