"""Attainment of contracts at one ingress, counted from the records of requests that entered there."""

from __future__ import annotations

from collections.abc import Iterable

from isochrone.control.report import Attainment
from isochrone.latency.sketch import Sketch
from isochrone.model.contract import Metric
from isochrone.model.fabric import Fabric
from isochrone.record.canonical import Record

__all__ = ["Attainments"]

_SERVER_ERROR = 500


class Attainments:
    """Running counts; `of` gives the present figures."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}
        self._times: dict[str, Sketch] = {}

    def add(self, fabric: Fabric, records: Iterable[Record]) -> None:
        """Count the outcomes and refusals among `records`; requests without a known contract are nobody's."""
        for record in records:
            if record["kind"] not in ("outcome", "refusal") or record["role"] != "ingress":
                continue
            name = record["what"]["contract"]
            contract = fabric.contracts.get(name)
            if contract is None:
                continue
            counts = self._counts.setdefault(name, dict.fromkeys(("in_time", "late", "refused", "failed"), 0))
            counts[self._judge(fabric, name, record)] += 1

    def _judge(self, fabric: Fabric, name: str, record: Record) -> str:
        terms = fabric.contracts[name].in_time
        result = record["result"]
        if record["kind"] == "refusal":
            return "refused"
        time_us = result["first_byte_us" if terms.metric is Metric.FIRST_BYTE else "duration_us"]
        if not isinstance(time_us, int | float) or not 0 < result["status"] < _SERVER_ERROR:
            return "refused" if result["status"] == 503 else "failed"
        self._times.setdefault(name, Sketch()).add(max(0.0, time_us / 1e6))
        return "in_time" if time_us / 1e3 <= terms.objective_ms else "late"

    def of(self) -> dict[str, Attainment]:
        """Figures by contract."""
        found = {}
        for name, counts in sorted(self._counts.items()):
            sketch = self._times.get(name)
            p50, p99 = (sketch.quantile(0.5), sketch.quantile(0.99)) if sketch else (None, None)
            found[name] = Attainment(
                **counts,
                p50_ms=None if p50 is None else round(p50 * 1e3, 3),
                p99_ms=None if p99 is None else round(p99 * 1e3, 3),
            )
        return found
