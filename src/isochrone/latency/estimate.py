"""One estimate of how long an answer takes, with its uncertainty and where it comes from.

Round trips start as the physics floor times a stretch and are replaced by measured sketches; service times start as the
workload's declared profile, which measurements calibrate. Nothing is ever estimated below the floor, a measurement that
beats light is refused, and what has not been heard of for long is trusted less: a round trip counts as slower, a
service time as declared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

from isochrone.errors import InputError
from isochrone.latency.calibration import DECLARED_ERROR, Calibration, pooled_slowdown, slowed
from isochrone.latency.continents import paths_of
from isochrone.latency.floor import rtt_floor_s, rtt_light_s
from isochrone.latency.path import ANY_PATH, Path
from isochrone.latency.portable import Portable
from isochrone.latency.sketch import RELATIVE_ERROR, Sketch
from isochrone.model.contract import Metric
from isochrone.model.fabric import Fabric
from isochrone.model.site import Position
from isochrone.model.workload import ServiceProfile, ServiceTime

__all__ = [
    "Estimate",
    "Finding",
    "Measured",
    "RttTable",
    "ServiceTable",
    "Source",
    "answer_time_s",
    "service_time_s",
]

Source = Literal["floor", "model", "declared", "measured"]
# Weakest first: a sum is only as good as its weakest part.
_STRENGTH: tuple[Source, ...] = ("floor", "model", "declared", "measured")
# A measurement counts in full for this long; after that it slows by a share of itself per second, at most to double.
FRESH_S = 60.0
STALE_PER_S = 0.001
# Fewer samples than this say too little about a tail: the declared or modelled value stays.
SAMPLES_MIN = 20
# A quantile counts as measured when at least this many samples lie beyond it.
TAIL_SAMPLES_MIN = 20
# A proxy that adds so much to every other request is none, or the report is wrong.
HOP_S_MAX = 1.0
_HOP_STEP_S = 1e-4
# Standard normal quantiles: a fabric asks for few different ones, and for those all the time.
_z = lru_cache(maxsize=256)(NormalDist().inv_cdf)
_Z99, _Z90 = _z(0.99), _z(0.9)


@dataclass(frozen=True, slots=True)
class Estimate(Portable):
    """A duration at a quantile.

    Attributes:
        value_s: the duration in seconds that `quantile` of executions stay within.
        spread_s: one standard error of `value_s`, in seconds.
        source: the weakest source it rests on.
        age_s: seconds since the oldest measurement in it; 0 where nothing was measured.
    """

    value_s: float
    spread_s: float
    source: Source
    quantile: float
    age_s: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        """Both after one another. Quantiles add up to an upper bound when parts are slow together, as under load."""
        return Estimate(
            value_s=self.value_s + other.value_s,
            spread_s=math.hypot(self.spread_s, other.spread_s),
            source=min(self.source, other.source, key=_STRENGTH.index),
            quantile=max(self.quantile, other.quantile),
            age_s=max(self.age_s, other.age_s),
        )


@dataclass(frozen=True, slots=True)
class Finding(Portable):
    """A measurement that was refused, and why."""

    ingress: str
    site: str
    measured_s: float
    light_s: float
    problem: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A sketch that does not change any more, and when its last sample was taken, in seconds of the caller's clock."""

    sketch: Sketch
    at_s: float
    # Every plan asks for the same few quantiles of it.
    _known: dict[float, tuple[float, float] | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def estimate(self, quantile: float, now_s: float) -> Estimate | None:
        """The quantile, slower the longer ago it was measured; None with fewer than `SAMPLES_MIN` samples."""
        if quantile not in self._known:
            self._known[quantile] = self._order_statistic(quantile)
        if (found := self._known[quantile]) is None:
            return None
        value, above = found
        age_s = max(0.0, now_s - self.at_s)
        stale = min(1.0, STALE_PER_S * max(0.0, age_s - FRESH_S)) * value
        spread = max(RELATIVE_ERROR * value, above - value) + stale
        return Estimate(value + stale, spread, "measured", quantile, age_s)

    def _order_statistic(self, quantile: float) -> tuple[float, float] | None:
        """The quantile, and one standard error of an order statistic above it: one binomial deviation further up."""
        count, value = self.sketch.count, self._tail(quantile)
        if value is None or count < SAMPLES_MIN:
            return None
        above = self._tail(min(0.9999, quantile + math.sqrt(quantile * (1 - quantile) / count)))
        assert above is not None
        return value, above

    def _tail(self, quantile: float) -> float | None:
        """The quantile itself where the samples beyond it are many, else the log-normal through p50 and p90.

        A tail read off its one or two worst samples jumps with every one of them, and plans would jump along.
        """
        beyond = (1 - quantile) * self.sketch.count
        middle, upper = self.sketch.quantile(0.5), self.sketch.quantile(0.9)
        if quantile <= 0.9 or beyond >= TAIL_SAMPLES_MIN or not middle or upper is None:
            return self.sketch.quantile(quantile)
        return float(middle * (upper / middle) ** (_z(quantile) / _Z90))

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {"sketch": self.sketch.to_json(), "at_s": self.at_s}

    @classmethod
    def from_json(cls, data: Any) -> Measured:
        """The value that `to_json` wrote; InputError when it is not one."""
        if not isinstance(data, Mapping) or set(data) != {"sketch", "at_s"} or not math.isfinite(data["at_s"]):
            raise InputError("not a measurement: it has a sketch and at_s", code="latency.measured")
        return cls(Sketch.from_json(data["sketch"]), float(data["at_s"]))


@dataclass(frozen=True, slots=True)
class RttTable:
    """Round trips between sites: the modelled ones by coordinates, the measured ones where there are any.

    Attributes:
        positions: site to position.
        measured: ingress to site to measurement.
        paths: site to the path model of its continent; `ANY_PATH` where absent. Of two ends the quicker one counts:
            the slower one's detours are those inside its continent (`benchmarks/latency.py` measures both).
    """

    positions: Mapping[str, Position]
    measured: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def from_fabric(cls, fabric: Fabric, paths: Mapping[str, Path] | None = None) -> RttTable:
        """Nothing measured yet: every path is modelled by the continents of its ends, unless `paths` says better."""
        return cls({name: site.at for name, site in fabric.sites.items()}, paths=dict(paths or paths_of(fabric)))

    def with_measured(self, ingress: str, site: str, sketch: Sketch, at_s: float) -> tuple[RttTable, Finding | None]:
        """This table with one more measurement, or this table unchanged and the finding that refused it."""
        finding = self._refuse(ingress, site, sketch)
        if finding is not None:
            return self, finding
        row = {**self.measured.get(ingress, {}), site: Measured(sketch.copy(), at_s)}
        return replace(self, measured={**self.measured, ingress: row}), None

    def _refuse(self, ingress: str, site: str, sketch: Sketch) -> Finding | None:
        fastest = sketch.quantile(0.0)
        if fastest is None:
            return Finding(ingress, site, 0.0, 0.0, "no samples")
        if ingress not in self.positions or site not in self.positions:
            return Finding(ingress, site, fastest, 0.0, "a site that is not in the fabric")
        light = rtt_light_s(self.positions[ingress], self.positions[site])
        if fastest * (1 + RELATIVE_ERROR) < light:
            problem = (
                f"{fastest * 1e3:.3f} ms beats light in vacuum ({light * 1e3:.3f} ms): the clock or the coordinates "
                "are wrong, or the answer came from elsewhere"
            )
            return Finding(ingress, site, fastest, light, problem)
        return None

    def floor_s(self, ingress: str, site: str) -> float:
        """The physics floor between two sites, in seconds."""
        return rtt_floor_s(self.positions[ingress], self.positions[site])

    def estimate(self, ingress: str, site: str, quantile: float, now_s: float) -> Estimate:
        """Round trip at `quantile`, never below the floor. A site reaches itself in no time."""
        if ingress == site:
            return Estimate(0.0, 0.0, "measured", quantile)
        floor = self.floor_s(ingress, site)
        measured = self.measured.get(ingress, {}).get(site) or self.measured.get(site, {}).get(ingress)
        found = measured.estimate(quantile, now_s) if measured else None
        if found is not None:
            return found if found.value_s >= floor else replace(found, value_s=floor)
        return self.modelled(floor, quantile, ingress, site)

    def modelled(self, floor_s: float, quantile: float, *ends: str) -> Estimate:
        """A round trip with this floor by the path models of its ends (any position may be left out)."""
        paths = [self.paths.get(end, ANY_PATH) for end in ends] or [ANY_PATH]
        value = min(path.access_s + path.stretch * floor_s for path in paths)
        return Estimate(value, max(path.spread for path in paths) * value, "model", quantile)

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "positions": {name: [at.lat, at.lon] for name, at in self.positions.items()},
            "paths": {site: path.to_json() for site, path in self.paths.items()},
            "measured": {a: {b: m.to_json() for b, m in row.items()} for a, row in self.measured.items()},
        }

    @classmethod
    def from_json(cls, data: Any) -> RttTable:
        """The table that `to_json` wrote; InputError when it is not one."""
        try:
            positions = {name: Position(lat=at[0], lon=at[1]) for name, at in data["positions"].items()}
            measured = {a: {b: Measured.from_json(m) for b, m in row.items()} for a, row in data["measured"].items()}
            paths = {site: Path.from_json(path) for site, path in data["paths"].items()}
            return cls(positions, measured, paths)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"not a table of round trips: {error}", code="latency.table") from error


@dataclass(frozen=True, slots=True)
class ServiceTable:
    """Service times at the executing site, without any network and without waiting.

    Attributes:
        profiles: workload to hardware class to its declared profile.
        hop_s: time one Envoy adds to a request and its answer, in seconds, where it was not measured.
        hops: site to what its Envoy was measured to add.
        work: contract to the mean service time of its executions relative to its workload's; 1 where absent.
        calibrated: site to workload to what its executions have shown.
        pooled: workload to how much slower than declared its sites have shown it to be, at least 1 (see `calibration`):
            where nothing is measured, that is what is expected.
    """

    profiles: Mapping[str, Mapping[str, ServiceProfile]]
    hop_s: float = 0.0003
    work: Mapping[str, float] = field(default_factory=dict)
    calibrated: Mapping[str, Mapping[str, Calibration]] = field(default_factory=dict)
    hops: Mapping[str, Measured] = field(default_factory=dict)
    pooled: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_fabric(cls, fabric: Fabric, hop_s: float = 0.0003) -> ServiceTable:
        """Nothing measured yet."""
        return cls({name: workload.service for name, workload in fabric.workloads.items()}, hop_s)

    def with_calibration(self, site: str, workload: str, calibration: Calibration) -> ServiceTable:
        """This table with what was learned of one workload at one site."""
        row = {**self.calibrated.get(site, {}), workload: calibration}
        calibrated = {**self.calibrated, site: row}
        known = [found for row in calibrated.values() if (found := row.get(workload))]
        slowdown = pooled_slowdown(self.profiles[workload], known, calibration.at_s)
        return replace(self, calibrated=calibrated, pooled={**self.pooled, workload: slowdown})

    def as_declared(self) -> ServiceTable:
        """This table with nothing measured."""
        return replace(self, calibrated={}, hops={}, pooled={})

    def with_hop(self, site: str, sketch: Sketch, at_s: float) -> ServiceTable:
        """This table with what the Envoy of one site adds to requests.

        Raises:
            InputError: nothing was measured, or more than any proxy adds.
        """
        middle = sketch.quantile(0.5)
        if middle is None or middle > HOP_S_MAX:
            raise InputError(f"no proxy adds {middle!r} s to every other request", code="latency.hop")
        return replace(self, hops={**self.hops, site: Measured(sketch.copy(), at_s)})

    def hop(self, site: str, now_s: float) -> Estimate:
        """What one Envoy adds, at the median: quantiles of parts this small and this unlike would add up to too much.
        In whole steps, so that its noise makes no plan."""
        measured = self.hops.get(site)
        found = measured.estimate(0.5, now_s) if measured else None
        if found is None:
            return Estimate(self.hop_s, self.hop_s, "declared", 0.5)
        return replace(found, value_s=math.ceil(found.value_s / _HOP_STEP_S) * _HOP_STEP_S)

    def overhead(self, ingress: str, site: str, now_s: float) -> Estimate:
        """What the proxies on the way add: one where `site` is the ingress, two otherwise."""
        here = self.hop(ingress, now_s)
        return here if ingress == site else here + self.hop(site, now_s)

    def __post_init__(self) -> None:
        for contract, value in self.work.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"executions of {contract} cannot take {value!r} of the average", code="latency.work")

    def profile(self, site: str, workload: str, hardware: str, now_s: float) -> ServiceProfile:
        """How one replica serves there now: calibrated where there are measurements, else as may be expected."""
        declared = slowed(self.profiles[workload][hardware], self.pooled.get(workload, 1.0))
        found = self._calibration(site, workload, hardware)
        return found.applied(declared, now_s) if found else declared

    def estimate(
        self, site: str, workload: str, hardware: str, metric: Metric, quantile: float, now_s: float
    ) -> Estimate:
        """Service time at `quantile`: the log-normal through p50 and p99 of the profile."""
        value = service_time_s(self.profile(site, workload, hardware, now_s), metric, quantile)
        found = self._calibration(site, workload, hardware)
        if found is None or not found.weight(now_s):
            return Estimate(value, DECLARED_ERROR * value, "declared", quantile)
        return Estimate(value, found.spread(now_s) * value, "measured", quantile, max(0.0, now_s - found.at_s))

    def noise(self, site: str, workload: str, hardware: str, now_s: float) -> tuple[float, float]:
        """What measurements leave open: one standard error of the time, and of the deviation of its logarithm, each as
        a share. What is declared may be wrong, but does not vary."""
        found = self._calibration(site, workload, hardware)
        if found is None:
            return 0.0, 0.0
        weight = found.weight(now_s)
        return weight * found.error, weight * found.spread_error

    def _calibration(self, site: str, workload: str, hardware: str) -> Calibration | None:
        found = self.calibrated.get(site, {}).get(workload)
        return found if found and found.hardware == hardware else None

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "profiles": {w: {h: p.model_dump(mode="json") for h, p in row.items()} for w, row in self.profiles.items()},
            "hop_s": self.hop_s,
            "hops": {site: measured.to_json() for site, measured in self.hops.items()},
            "work": dict(self.work),
            "calibrated": {a: {b: c.to_json() for b, c in row.items()} for a, row in self.calibrated.items()},
            "pooled": dict(self.pooled),
        }

    @classmethod
    def from_json(cls, data: Any) -> ServiceTable:
        """The table that `to_json` wrote; InputError when it is not one."""
        try:
            profiles = {
                workload: {hardware: ServiceProfile.model_validate(profile) for hardware, profile in row.items()}
                for workload, row in data["profiles"].items()
            }
            known = {a: {b: Calibration.from_json(c) for b, c in row.items()} for a, row in data["calibrated"].items()}
            work = {contract: float(value) for contract, value in data["work"].items()}
            hops = {site: Measured.from_json(measured) for site, measured in data["hops"].items()}
            pooled = {workload: float(value) for workload, value in data["pooled"].items()}
            return cls(profiles, float(data["hop_s"]), work, known, hops, pooled)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a table of service times: {error}", code="latency.table") from error


def service_time_s(profile: ServiceProfile, metric: Metric, quantile: float) -> float:
    """Quantile of `metric` in seconds; the duration stands in for a first byte that was not declared."""
    time = profile.first_byte or profile.duration if metric is Metric.FIRST_BYTE else profile.duration
    return lognormal_quantile_s(time, quantile)


def lognormal_quantile_s(time: ServiceTime, quantile: float) -> float:
    """Quantile in seconds of the log-normal with the given p50 and p99: p50 (p99 / p50) ** (z_q / z_99)."""
    return float(time.p50_ms / 1e3 * (time.p99_ms / time.p50_ms) ** (_z(quantile) / _Z99))


def answer_time_s(
    rtt: RttTable,
    service: ServiceTable,
    ingress: str,
    site: str,
    workload: str,
    hardware: str,
    metric: Metric,
    quantile: float,
    now_s: float,
) -> Estimate:
    """Time from the request's arrival at `ingress` to the metric there, at `quantile`.

    Round trip + service time + one Envoy when `site` is the ingress, two otherwise. What those add is too little to
    decide what the sum is named after.
    """
    hops = service.overhead(ingress, site, now_s)
    served = service.estimate(site, workload, hardware, metric, quantile, now_s)
    network = rtt.estimate(ingress, site, quantile, now_s)
    total = network + served
    return replace(total, value_s=total.value_s + hops.value_s, spread_s=math.hypot(total.spread_s, hops.spread_s))
