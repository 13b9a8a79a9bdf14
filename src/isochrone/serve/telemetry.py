"""What a site learns from its own records: who wants what here, and how long executions take, here and elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from isochrone.control.report import Answered, Arrivals, Served, answered, busiest
from isochrone.latency.recent import RecentCounts, RecentSketch
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Plan
from isochrone.record.canonical import Record

__all__ = ["RTT_FILTER", "Telemetry"]

_US_MAX = 1e12
# The least of the last few is kept, as NTP's clock filter does (RFC 5905 section 10): a busy machine at either end
# only ever adds to a round trip, and its load is not the distance.
RTT_FILTER = 4
# What others answered is remembered for so many seconds: under bursts older times say nothing of now.
_ELSEWHERE_S = 10


class Telemetry:
    """Counts and sketches of one site since things last changed. Times are records' own, in seconds since 1970.

    Args:
        site: whose records these are.
        now_s: when watching begins; what ended before is old news.
    """

    def __init__(self, site: str, now_s: float) -> None:
        self._site, self._began_s = site, now_s
        self._arrivals: dict[str, RecentCounts] = {}
        self._times: dict[str, _Times] = {}
        self._elsewhere: dict[tuple[str, str], _Times] = {}
        self._hop = RecentSketch()
        self._ways: dict[str, _Way] = {}

    def add(self, fabric: Fabric, records: Iterable[Record]) -> None:
        """Learn from outcomes and refusals; requests without a known contract are nobody's."""
        for record in records:
            if record["kind"] not in ("outcome", "refusal"):
                continue
            contract = fabric.contracts.get(record["what"]["contract"])
            end_s = record["start_us"] / 1e6 + (_seconds(record["result"]["duration_us"]) or 0.0)
            if contract is None or end_s < self._began_s:
                continue
            if record["role"] == "ingress" and _wants_capacity(record["result"]["status"]):
                self._counts(record["what"]["contract"]).add(end_s)
            executing = record["via"]["executing_site"]
            if record["role"] == "ingress" and executing and (added_s := _added_s(record["result"])) is not None:
                self._hop.add(added_s, end_s)
                if executing != self._site and executing in fabric.sites and not contract.on_record.is_synchronous:
                    self._ways.setdefault(executing, _Way()).add(record["result"], end_s)
            if executing == self._site:
                self._times.setdefault(contract.workload, _Times()).add(record["result"], end_s)
            elif executing in fabric.sites and record["role"] == "ingress" and record["result"]["status"] < 400:
                # A site that is full refuses quickly, which is no execution there.
                times = self._elsewhere.setdefault((executing, contract.workload), _Times(_ELSEWHERE_S))
                times.add(record["result"], end_s)

    def arrivals(self, fabric: Fabric, now_s: float) -> dict[str, Arrivals]:
        """By contract, for every contract: that nobody asks is known, too."""
        return {name: Arrivals(*self._counts(name).window(now_s)) for name in sorted(fabric.contracts)}

    def served(self, plan: Plan, now_s: float) -> dict[str, Served]:
        """By workload, of those that the plan has run here and that executions are remembered of."""
        hardware, replicas = plan.hardware.get(self._site, {}), plan.placements.get(self._site, {})
        found = {}
        for workload, times in sorted(self._times.items()):
            if workload in hardware and replicas.get(workload):
                seen = times.served(hardware[workload], replicas[workload], now_s)
                if seen is not None:
                    found[workload] = seen
        return found

    def answered(self, now_s: float) -> dict[str, dict[str, Answered]]:
        """By other site and workload, executions that entered here and are remembered."""
        found = {pair: seen for pair, times in self._elsewhere.items() if (seen := times.answered(now_s)) is not None}
        self._elsewhere = {pair: self._elsewhere[pair] for pair in found}
        return busiest(found)

    def hop(self, now_s: float) -> dict[str, Any]:
        """What this site's Envoy adds to requests that enter here, as a sketch; empty without any."""
        found = self._hop.window(now_s)[0]
        return found.to_json() if found.count else {}

    def rtt(self, now_s: float) -> dict[str, Sketch]:
        """Round trips to other sites, as executions there showed them."""
        taken = {site: way.sketch.window(now_s)[0] for site, way in self._ways.items()}
        self._ways = {site: self._ways[site] for site, sketch in taken.items() if sketch.count}
        return {site: sketch for site, sketch in taken.items() if sketch.count}

    def _counts(self, contract: str) -> RecentCounts:
        return self._arrivals.setdefault(contract, RecentCounts(self._began_s))


class _Way:
    """Round trips to one other site: what an answer's first byte took, less what the model server there took of it."""

    def __init__(self) -> None:
        self.sketch = RecentSketch(bucket_s=2.0, buckets_n=45)
        self._recent: deque[float] = deque(maxlen=RTT_FILTER)

    def add(self, result: Mapping[str, Any], end_s: float) -> None:
        beyond_s, model_s = _seconds(result["upstream_first_byte_us"]), _seconds(result.get("model_first_byte_us"))
        if beyond_s and model_s and beyond_s > model_s:
            self._recent.append(beyond_s - model_s)
            self.sketch.add(min(self._recent), end_s)


class _Times:
    def __init__(self, buckets_n: int = 64) -> None:
        self._duration, self._first_byte = RecentSketch(buckets_n=buckets_n), RecentSketch(buckets_n=buckets_n)
        self._last_s = 0.0

    def add(self, result: Mapping[str, Any], end_s: float) -> None:
        """An execution that a model server answered, or that was given up while it took longer than most do: what is
        hedged at a slow site is broken off there every time, and would otherwise never be seen."""
        whole_s, first_s = _seconds(result["upstream_us"]), _seconds(result["upstream_first_byte_us"])
        if result["status"] == 0:
            whole_s = first_s = _seconds(result["duration_us"])
            usual_s = self._duration.window(end_s)[0].quantile(0.5)
            if whole_s is None or usual_s is None or whole_s < usual_s:
                return
        elif not 200 <= result["status"] < 500:
            return
        if whole_s and first_s:
            self._duration.add(whole_s, end_s)
            self._first_byte.add(first_s, end_s)
            self._last_s = max(self._last_s, end_s)

    def served(self, hardware: str, replicas: int, now_s: float) -> Served | None:
        duration, span_s = self._duration.window(now_s)
        if not duration.count:
            return None
        first_byte: Sketch = self._first_byte.window(now_s)[0]
        return Served(
            hardware=hardware,
            replicas=replicas,
            rps=duration.count / span_s,
            duration=duration.to_json(),
            first_byte=first_byte.to_json(),
            at_s=round(self._last_s, 3),
        )

    def answered(self, now_s: float) -> Answered | None:
        duration, span_s = self._duration.window(now_s)
        first_byte, _ = self._first_byte.window(now_s)
        return answered(duration, first_byte, duration.count / span_s, round(self._last_s, 3))


def _seconds(us: object) -> float | None:
    """A journaled duration; None where there is none."""
    return us / 1e6 if isinstance(us, int | float) and 0 <= us < _US_MAX else None


def _added_s(result: Mapping[str, Any]) -> float | None:
    """From a request's arrival to its answer's first byte, less what passed beyond this proxy, of requests that were
    answered at the first try: what an attempt before took is no proxy's work."""
    whole_s, beyond_s = _seconds(result.get("first_byte_us")), _seconds(result["upstream_first_byte_us"])
    if result.get("attempts") != 1 or not 200 <= result["status"] < 400 or not whole_s or not beyond_s:
        return None
    return max(0.0, whole_s - beyond_s)


def _wants_capacity(status: int) -> bool:
    """Whether a request would have been served had there been room and time: not one that nobody may ask for."""
    return status < 400 or status in (408, 422, 429) or status >= 500
