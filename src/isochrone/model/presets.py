"""Presets: the six classes of work that cannot wait, each with the standard its numbers come from.

A contract names one by `preset:`; what the contract itself says wins. The standards state one-way or packet-delay
budgets (PDB, between the device and the far end of the mobile core, 3GPP TS 23.501 section 5.7.3.4); an application's
round trip is taken as twice the one-way figure, which leaves the compute inside the same budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from isochrone.model.contract import Metric

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Defaults of a contract class.

    Attributes:
        objective_ms: round trip including compute, in milliseconds.
        quantile: the share of executions the objective must hold for.
        source: standard, table and the figure in it that the objective follows from.
    """

    title: str
    metric: Metric
    objective_ms: float
    quantile: float
    source: str

    def in_time(self) -> dict[str, object]:
        """The `in_time` block this preset stands for."""
        return {"metric": self.metric.value, "objective_ms": self.objective_ms, "quantile": self.quantile}


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "robotics": Preset(
            "Remote control of robots, haptic feedback, high dynamics",
            Metric.DURATION,
            40.0,
            0.999,
            "3GPP TR 22.847 KPI table: 1 to 20 ms one way, reliability 99.99 %; round trip 2 x 20 ms",
        ),
        "industrial-control": Preset(
            "Discrete automation in the factory",
            Metric.DURATION,
            20.0,
            0.999,
            "3GPP TS 23.501 table 5.7.4-1, 5QI 82 and 83: delay budget 10 ms one way, reliability 99.99 %",
        ),
        "live-media": Preset(
            "Visual content in split rendering, live production",
            Metric.FIRST_BYTE,
            40.0,
            0.99,
            "3GPP TS 23.501 table 5.7.4-1, 5QI 90: delay budget 20 ms one way, reliability 99.99 %",
        ),
        "financial-execution": Preset(
            "Pre-trade risk and execution decisions",
            Metric.DURATION,
            10.0,
            0.99,
            "assumption: no public standard bounds it; Commission Delegated Regulation (EU) 2017/589 (MiFID II RTS 6) "
            "article 17 asks for real-time monitoring alerts within 5 s and gives no execution latency",
        ),
        "ar-vr": Preset(
            "Motion to photon",
            Metric.DURATION,
            20.0,
            0.99,
            "Torres Vega et al., J. Network and Systems Management 2020, and Corneo et al., WWW 2021: 20 ms end to end",
        ),
        "medical": Preset(
            "Robotic aided surgery, outer control loop",
            Metric.DURATION,
            10.0,
            0.999,
            "3GPP TS 22.261 / TR 22.847 table 7.11-1: 5 ms one way for haptic and sensor streams, reliability 99.9 %; "
            "the inner loop of TS 22.104 table 5.2-1 (2 ms) stays on the premises",
        ),
    }
)
