"""A site's service as seen from outside: what ingresses saw of executions they handed to it, less the round trip.

A site speaks well of itself when its telemetry stands still, and when it lies; ingresses that lie may speak badly of
another. So the slower credible view counts: a site is overruled when the ingresses that use it see it clearly slower
than it says, or see executions where it tells no news. One ingress alone overrules nobody, whatever it claims and
however much: they count one each, and the one in the middle speaks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from isochrone.control.report import ANSWERED_MAX, Answered, SiteReport
from isochrone.errors import InputError
from isochrone.latency.estimate import RttTable
from isochrone.latency.sketch import Sketch
from isochrone.model.fabric import Fabric
from isochrone.plan.calibrate import SAMPLES_MIN, Observation

__all__ = ["Outside", "View", "overruling", "seen_from_outside", "views_of"]

# So many ingresses must have seen executions of a site before they overrule it.
_INGRESSES_MIN = 2
# One with fewer executions has no view: its middle is anybody's guess.
_VIEW_MIN = 5
# Views are of now: a site that was busy a while ago is not therefore slow, nor does it lie that it is quick.
_FRESH_S = 3.0
# A site that was overruled stays so when nobody uses it any more: by then a calibration has lost most of its weight.
_HOLDS_S = 30.0
# A site stands still that tells of nothing newer than this before others last saw an execution there.
_NEWS_S = 5.0
# Clearly slower is by half at least: contracts of one workload may differ by site.
_APART = 1.5
# What the way through two Envoys adds to the round trip, on a busy machine.
_WAY_S = 0.002
_LEAST_S, _MOST_S = 1e-6, 1e5
_POINTS_MAX = 64
_NORMAL = NormalDist()
_Z90 = _NORMAL.inv_cdf(0.9)


@dataclass(frozen=True, slots=True)
class View:
    """What one ingress saw of one workload at one other site, dated `at_s` by the hub's clock."""

    answered: Answered
    at_s: float


def views_of(fabric: Fabric, report: SiteReport, now: float) -> dict[tuple[str, str], View]:
    """(site, workload) to what a report says of other sites of the fabric.

    Raises:
        InputError: more than a report may hold, or numbers that cannot be.
    """
    told = {(site, workload): seen for site, row in report.answered.items() for workload, seen in row.items()}
    if len(told) > ANSWERED_MAX:
        raise InputError(f"{len(told)} views, where a report holds {ANSWERED_MAX}", code="telemetry.answered")
    for (site, workload), seen in told.items():
        whole, first = (seen.duration_s_p50, seen.duration_s_p90), (seen.first_byte_s_p50, seen.first_byte_s_p90)
        sound = all(0 < p50 <= p90 <= _MOST_S for p50, p90 in (whole, first))
        if not (sound and seen.count >= 1 and 0 <= seen.rps < math.inf):
            raise InputError(f"what it saw of {workload} at {site} cannot be: {seen!r}", code="telemetry.answered")
    return {
        (site, workload): View(seen, now - max(0.0, report.at_s - seen.at_s))
        for (site, workload), seen in told.items()
        if site in fabric.sites and site != report.site and workload in fabric.workloads
    }


@dataclass(frozen=True, slots=True)
class Outside:
    """What ingresses together see of one workload at a site now, the round trip taken off.

    Attributes:
        duration_s, first_byte_s: p50 and p90 as the ingress in the middle sees them.
        samples: executions that all of them saw; rps: executions per second.
        at_s: the last of them, by the hub's clock.
    """

    duration_s: tuple[float, float]
    first_byte_s: tuple[float, float]
    samples: int
    rps: float
    at_s: float

    def observation(self, replicas: int) -> Observation:
        """As the site might have told it."""
        duration, first_byte = (_lognormal(*points, self.samples) for points in (self.duration_s, self.first_byte_s))
        return Observation(self.rps, duration, first_byte, replicas, self.at_s)


def seen_from_outside(
    views: Mapping[str, View], site: str, rtt: RttTable, demand_rps: Mapping[str, float], now: float
) -> Outside | None:
    """What ingresses together see of one workload at a site; None while they are too few.

    The times are those of the ingress in the middle, the lower one of two: a minority moves nothing beyond what the
    others say. Where the round trip was never measured there is no telling it from service.

    Args:
        views: by ingress.
        demand_rps: ingress to executions per second of the workload that enter there: none hands over more.
    """
    fresh = {
        who: view for who, view in views.items() if view.answered.count >= _VIEW_MIN and now - view.at_s <= _FRESH_S
    }
    ways = {who: rtt.estimate(who, site, 0.9, now) for who in fresh}
    found = sorted(
        (fresh[who].answered.duration_s_p50 - way.value_s, who) for who, way in ways.items() if way.source == "measured"
    )
    samples = sum(fresh[who].answered.count for _, who in found)
    if len(found) < _INGRESSES_MIN or samples < SAMPLES_MIN:
        return None
    who = found[(len(found) - 1) // 2][1]
    middle, way_s = fresh[who].answered, ways[who].value_s + _WAY_S
    return Outside(
        (middle.duration_s_p50 - way_s, middle.duration_s_p90 - way_s),
        (middle.first_byte_s_p50 - way_s, middle.first_byte_s_p90 - way_s),
        samples,
        sum(min(fresh[who].answered.rps, demand_rps.get(who, 0.0)) for _, who in found),
        max(fresh[who].at_s for _, who in found),
    )


def overruling(
    own: Observation | None, outside: Outside | None, held: Observation | None, replicas: int, now: float
) -> Observation | None:
    """What counts instead of what a site says of itself; None where that is believed.

    Args:
        own: what the site says; None where it says nothing.
        outside: what is seen from outside now, if enough look.
        held: what overruled the site before.
        replicas: how many stand at the site.
    """
    if outside is None:
        return held if held is not None and now - held.at_s <= _HOLDS_S else None
    if own is None or outside.at_s - own.at_s > _NEWS_S:
        return outside.observation(replicas)
    slower = _slower(own.duration, outside.duration_s[0]) or _slower(own.first_byte, outside.first_byte_s[0])
    return outside.observation(replicas) if slower else None


def _slower(own: Sketch, seen_s: float) -> bool:
    """Whether half of what is seen from outside takes longer than nine in ten do by the site's own word."""
    middle, upper = own.quantile(0.5), own.quantile(0.9)
    return bool(middle and upper and seen_s > max(_APART * middle, upper))


def _lognormal(p50_s: float, p90_s: float, samples: int) -> Sketch:
    """A sketch of at most `_POINTS_MAX` samples of the log-normal through two points."""
    middle = max(p50_s, _LEAST_S)
    sigma = math.log(max(p90_s, middle) / middle) / _Z90
    points = min(samples, _POINTS_MAX)
    return Sketch(middle * math.exp(sigma * _NORMAL.inv_cdf((k + 0.5) / points)) for k in range(points))
