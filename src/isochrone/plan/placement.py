"""Which site runs how many replicas of which workload: an integer program that dislikes change.

minimise    running cost + penalties (late, shed) + cost of each replica started or stopped + missing cover
subject to  routing of all demand through the replicas' capacity, hardware units per class, replicas_max_per_site,
            cover: for each contract and ingress with demand, 1 + survive_sites sites in time and in bounds;
            what is left after losing any one site carries all of the contracts with survive_sites (see `survival`);
            for each workload, replicas_min in all

A replica is stopped only when it has not been wanted for a while, at least for as long as it takes to load, and while
no replica of its workload is still loading: a site that looks too slow for a moment keeps its model, and what moves is
made before it is broken, unless another workload needs the units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from isochrone.model.fabric import Fabric
from isochrone.model.workload import External
from isochrone.plan.highs import INFINITY, LinearProgram, solve
from isochrone.plan.plan import Exposure
from isochrone.plan.problem import RoutingProblem
from isochrone.plan.survival import Cut, Survival

__all__ = ["DEFAULT_RULES", "Cover", "Placement", "PlacementRules", "place"]

# Past this many arcs a fabric is large.
_TIGHT_ARCS_MAX = 10_000
# Losses that a placement would not survive make it harder, so often.
_ROUNDS_MAX = 8
# Rests of the relaxation that are rounded up, in the attempts at a first placement.
_THRESHOLDS = (1e-6, 0.1, 0.2, 0.35, 0.5, 0.7)
Floats = NDArray[np.float64]
Replicas = Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """How reluctant placement is.

    Attributes:
        change_share: starting or stopping a replica must save this share of its running cost to be worth it, and the
            longer it loads the more: what it costs while it loads is to be saved again within `payback_s`.
        idle_s: how long a replica must have been unwanted before it is stopped.
        every_s: how often placement is thought over while nothing but demand changes.
        gap: relative optimality gap at which the integer program stops; the plan states the one reached.
        time_limit_s: when it stops with a larger gap; only then does the answer depend on the machine.
    """

    change_share: float = 0.5
    payback_s: float = 600.0
    idle_s: float = 120.0
    every_s: float = 30.0
    gap: float = 0.01
    time_limit_s: float = 2.0


DEFAULT_RULES = PlacementRules()


@dataclass(frozen=True, slots=True)
class Cover:
    """What must stand for a contract at an ingress, so that it can be served, and still be after losing a site.

    Attributes:
        contract: whose need it is; empty for what a workload itself asks for.
        ingress: empty for a contract without any demand, which needs one place to run all the same.
        pools: indices of the pools that count.
        sites: how many of them must stand.
        replicas: how many must stand at all of them together.
    """

    contract: str
    ingress: str
    pools: tuple[int, ...]
    sites: int
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """What stands where.

    Attributes:
        replicas: (site, workload) to replicas.
        since_s: (site, workload) to the time it last changed; wanted_s: to the time all of it was last wanted.
        gap: proven distance of the integer program to its optimum, as a share of it.
        placed_s: when this was decided.
        exposures: what could not survive a loss.
    """

    replicas: Replicas
    since_s: Mapping[tuple[str, str], float]
    wanted_s: Mapping[tuple[str, str], float]
    gap: float
    placed_s: float
    exposures: tuple[Exposure, ...] = ()


def place(
    fabric: Fabric,
    problem: RoutingProblem,
    hardware: Mapping[tuple[str, str], str],
    covers: tuple[Cover, ...],
    survival: Survival,
    previous: Placement | None,
    loading: Set[str],
    now_s: float,
    rules: PlacementRules = DEFAULT_RULES,
) -> Placement:
    """Choose replicas for every pool of `problem`, whose capacities are those of one replica.

    Args:
        problem: arcs carry only the cost of being late; replicas pay for the hardware.
        hardware: (workload, site) to hardware class.
        loading: workloads of which a replica does not answer yet: none of theirs is stopped.

    Raises:
        PlanError: the optimiser found no placement in time.
    """
    build, wanted, gap = _solved(
        lambda cuts: _Build(fabric, problem, hardware, covers, cuts, previous, rules), survival, rules
    )
    before = previous or Placement({}, {}, {}, 0.0, now_s)
    standing = build.standing.astype(int)
    wanted_s = {
        pool: now_s if want >= stands else before.wanted_s.get(pool, now_s)
        for pool, want, stands in zip(problem.pools, wanted, standing, strict=True)
    }
    idle_s = {name: max(rules.idle_s, workload.load_s) for name, workload in fabric.workloads.items()}
    idle = np.array(
        [pool[1] not in loading and now_s - wanted_s[pool] >= idle_s[pool[1]] for pool in problem.pools], dtype=bool
    )
    kept = np.where(idle, wanted, np.maximum(wanted, standing))
    for terms, units in build.unit_groups().values():
        if sum(kept[p] * n for p, n in terms) > units:
            for p, _ in terms:
                kept[p] = wanted[p]
    replicas = {pool: int(n) for pool, n in zip(problem.pools, kept, strict=True)}
    since = {
        pool: before.since_s.get(pool, now_s) if before.replicas.get(pool, 0) == n else now_s
        for pool, n in replicas.items()
    }
    return Placement(replicas, since, wanted_s, gap, now_s, survival.exposures(kept.astype(float)))


def _solved(
    build_with: Callable[[tuple[Cut, ...]], _Build], survival: Survival, rules: PlacementRules
) -> tuple[_Build, NDArray[np.int_], float]:
    """The program solved, (P,) the replicas it wants and the proven gap. Losses that its answer would not survive
    become rows, and it is solved again."""
    cuts = survival.first_cuts()
    for _ in range(_ROUNDS_MAX):
        build = build_with(tuple(cuts))
        program = build.program()
        start = _start(program, build)
        optimum = solve(program, time_limit_s=rules.time_limit_s, gap=rules.gap, start=start)
        wanted = np.rint(optimum.x[build.first_y : build.first_z]).astype(int)
        broken = [cut for cut in survival.cuts(wanted.astype(float)) if cut not in cuts]
        if not broken or optimum.gap > rules.gap:  # nothing left to do, or no time
            break
        cuts += broken
    reinforced = _reinforced(build, survival, wanted)
    more = float(build.running @ (reinforced - wanted)) / build.typical
    return build, reinforced, replace(optimum, value=optimum.value + more).gap


def _reinforced(build: _Build, survival: Survival, replicas: NDArray[np.int_]) -> NDArray[np.int_]:
    """With more replicas where a loss would still not be survived and units last: the integer program may have run out
    of time. Of the pools that help, the one that costs least for what it carries."""
    groups = [(dict(terms), units) for terms, units in build.unit_groups().values()]

    def fits(more: NDArray[np.int_], pool: int) -> bool:
        used = (sum(more[p] * n for p, n in each.items()) <= units for each, units in groups if pool in each)
        return bool(more[pool] <= build.most[pool]) and all(used)

    while True:
        before = replicas
        for cut in survival.cuts(replicas.astype(float)):
            worth = {pool: weight / max(build.running[pool], 1e-12) for pool, weight in cut.weights()}
            for pool in sorted(worth, key=lambda pool: (-worth[pool], pool)):
                one = np.arange(len(replicas)) == pool
                while cut.carried(replicas) < cut.need and fits(replicas + one, pool):
                    replicas = replicas + one
        if (replicas == before).all():
            return replicas


def _start(program: LinearProgram, build: _Build) -> Floats:
    """A feasible point: what stands already, or the tight relaxation's replicas rounded in several ways, whichever is
    cheapest. The tight relaxation of a large fabric takes seconds: it is then only used where nothing stands."""
    relaxed = replace(program, integer=None)
    tried: list[Floats] = []
    if build.standing.any():
        tried.append(_round(program, build, build.standing, 0.0))
    if not tried or len(build.problem.cost) <= _TIGHT_ARCS_MAX:
        wanted = solve(build.tightened(relaxed)).x[build.first_y : build.first_z]
        tried += [_round(program, build, wanted, threshold) for threshold in _THRESHOLDS]
    found: list[Floats] = []
    for replicas in np.unique(tried, axis=0):
        lower, upper = program.lower.copy(), program.upper.copy()
        for bound in (lower, upper):
            bound[build.first_y : build.first_z] = replicas
            bound[build.first_z : build.first_d] = np.minimum(replicas, 1)
        found.append(solve(replace(relaxed, lower=lower, upper=upper)).x)
    return min(found, key=lambda x: float(program.cost @ x))


def _round(program: LinearProgram, build: _Build, wanted: Floats, threshold: float) -> Floats:
    """Round down, and up where the rest is over the threshold and units last, the largest rests first."""
    most = program.upper[build.first_y : build.first_z]
    least = program.lower[build.first_y : build.first_z]
    replicas = np.maximum(np.floor(wanted + 1e-6), least)
    rest = wanted - replicas
    for terms, units in build.unit_groups().values():
        left = units - sum(replicas[p] * n for p, n in terms)
        if left < 0:  # the hardware has shrunk below what stands
            for p, _ in terms:
                replicas[p] = least[p]
            continue
        for p, n in sorted(terms, key=lambda term: -rest[term[0]]):
            if rest[p] > threshold and n <= left and replicas[p] < most[p]:
                replicas[p] += 1
                left -= n
    return replicas


class _Build:
    """Columns: arcs x, unserved u, replicas y, standing z (0/1), change d, missing cover m."""

    def __init__(
        self,
        fabric: Fabric,
        problem: RoutingProblem,
        hardware: Mapping[tuple[str, str], str],
        covers: tuple[Cover, ...],
        cuts: tuple[Cut, ...],
        previous: Placement | None,
        rules: PlacementRules,
    ) -> None:
        self.fabric, self.problem, self.hardware, self.covers, self.cuts = fabric, problem, hardware, covers, cuts
        self.previous, self.rules = previous, rules
        self.running, self.most, self.least = self._pools()
        # Costs are in units of a usual replica: the solver's tolerances are absolute.
        self.typical = float(np.median(self.running[self.running > 0])) if (self.running > 0).any() else 1e-6
        before = previous.replicas if previous else {}
        self.standing = np.minimum([before.get(pool, 0) for pool in problem.pools], self.most)
        arcs, demands, pools = len(problem.cost), len(problem.rps), len(problem.pools)
        self.first_u = arcs
        self.first_y = arcs + demands
        self.first_z = self.first_y + pools
        self.first_d = self.first_z + pools
        self.first_m = self.first_d + pools
        self.columns = self.first_m + len(covers) + len(cuts)
        self.rows: list[int] = []
        self.cols: list[int] = []
        self.values: list[float] = []
        self.row_lower: list[float] = []
        self.row_upper: list[float] = []

    def _row(self, terms: list[tuple[int, float]], lower: float, upper: float) -> None:
        row = len(self.row_lower)
        for column, value in terms:
            self.rows.append(row)
            self.cols.append(column)
            self.values.append(value)
        self.row_lower.append(lower)
        self.row_upper.append(upper)

    def program(self) -> LinearProgram:
        running, most, least = self.running, self.most, self.least
        pools = len(running)
        self._routing_rows()
        for p in range(pools):
            self._row([(self.first_z + p, 1.0), (self.first_y + p, -1.0)], -INFINITY, 0.0)
        self._change_rows()
        self._unit_rows()
        self._cover_rows()
        self._limit_rows()
        problem = self.problem
        typical = self.typical
        load_s = np.array([self.fabric.workloads[name].load_s for _, name in problem.pools])
        reluctance = self.rules.change_share + load_s / self.rules.payback_s
        change = reluctance * np.maximum(running, 0.01 * typical)
        missing = 1e3 * (float(running.max(initial=typical)) + float(problem.shed_cost.max(initial=0.0)))
        lacks = np.full(self.columns - self.first_m, missing)
        cost = np.concatenate([problem.cost, problem.shed_cost, running, np.zeros(pools), change, lacks])
        upper = np.full(self.columns, INFINITY)
        upper[self.first_y : self.first_z] = most
        upper[self.first_z : self.first_d] = 1.0
        lower = np.zeros(self.columns)
        lower[self.first_y : self.first_z] = least
        integer = np.zeros(self.columns, dtype=bool)
        integer[self.first_y : self.first_d] = True
        shape = (len(self.row_lower), self.columns)
        return LinearProgram(
            cost=cost / typical,
            lower=lower,
            upper=upper,
            matrix=sp.csc_matrix((self.values, (self.rows, self.cols)), shape=shape),
            row_lower=np.array(self.row_lower),
            row_upper=np.array(self.row_upper),
            integer=integer,
        )

    def tightened(self, program: LinearProgram) -> LinearProgram:
        """With rows that whole replicas imply and a relaxation does not: no arc carries without a replica standing."""
        problem, arcs = self.problem, np.arange(len(self.problem.cost))
        rows = np.concatenate([arcs, arcs])
        columns = np.concatenate([arcs, self.first_y + problem.arc_pool])
        values = np.concatenate([np.ones(len(arcs)), -problem.rps[problem.arc_demand]])
        more = sp.csc_matrix((values, (rows, columns)), shape=(len(arcs), self.columns))
        return replace(
            program,
            matrix=sp.vstack([program.matrix, more], format="csc"),
            row_lower=np.concatenate([program.row_lower, np.full(len(arcs), -INFINITY)]),
            row_upper=np.concatenate([program.row_upper, np.zeros(len(arcs))]),
        )

    def _pools(self) -> tuple[Floats, Floats, Floats]:
        """Running cost per second of one replica, most and least replicas, by pool."""
        running, most, least = [], [], []
        for site, name in self.problem.pools:
            workload, kind = self.fabric.workloads[name], self.hardware[name, site]
            units = workload.service[kind].units
            if isinstance(workload.runtime, External):
                running.append(0.0)
                most.append(workload.replicas_max_per_site)
                least.append(workload.replicas_max_per_site)
                continue
            offered = self.fabric.sites[site].hardware[kind]
            running.append(offered.price_per_unit_hour * units / 3600.0)
            most.append(min(workload.replicas_max_per_site, offered.units // units))
            least.append(0)
        return np.array(running), np.array(most, dtype=float), np.array(least, dtype=float)

    def _routing_rows(self) -> None:
        problem = self.problem
        served: list[list[tuple[int, float]]] = [[(self.first_u + d, 1.0)] for d in range(len(problem.rps))]
        load: list[list[tuple[int, float]]] = [
            [(self.first_y + p, -float(rps))] for p, rps in enumerate(problem.capacity_rps)
        ]
        for arc, (d, p) in enumerate(zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), strict=True)):
            served[d].append((arc, 1.0))
            load[p].append((arc, float(problem.use[arc])))
        for terms, rps in zip(served, problem.rps.tolist(), strict=True):
            self._row(terms, rps, rps)
        for terms in load:
            self._row(terms, -INFINITY, 0.0)

    def _limit_rows(self) -> None:
        rows = self.problem.limit_rows()
        for row in range(rows.shape[0]):
            terms = zip(rows[row].indices.tolist(), rows[row].data.tolist(), strict=True)
            self._row(list(terms), -INFINITY, 0.0)

    def _change_rows(self) -> None:
        if self.previous is None:
            return
        for p, (site, name) in enumerate(self.problem.pools):
            if isinstance(self.fabric.workloads[name].runtime, External):
                continue
            before = float(self.previous.replicas.get((site, name), 0))
            y, d = self.first_y + p, self.first_d + p
            self._row([(y, 1.0), (d, -1.0)], -INFINITY, before)
            self._row([(y, 1.0), (d, 1.0)], before, INFINITY)

    def _cover_rows(self) -> None:
        for index, cover in enumerate(self.covers):
            missing = self.first_m + index
            self._row([(missing, 1.0), *((self.first_z + p, 1.0) for p in cover.pools)], cover.sites, INFINITY)
            if cover.replicas:
                together = [(self.first_y + p, 1.0) for p in cover.pools]
                self._row([(missing, 1.0), *together], cover.replicas, INFINITY)
        for index, cut in enumerate(self.cuts, start=len(self.covers)):
            carried = [(self.first_y + p, weight) for p, weight in cut.weights()]
            self._row([(self.first_m + index, cut.need), *carried], cut.need, INFINITY)

    def unit_groups(self) -> dict[tuple[str, str], tuple[list[tuple[int, float]], float]]:
        """(site, hardware class) to the pools on it with the units one replica takes, and the units offered."""
        groups: dict[tuple[str, str], tuple[list[tuple[int, float]], float]] = {}
        for p, (site, name) in enumerate(self.problem.pools):
            workload, kind = self.fabric.workloads[name], self.hardware[name, site]
            if not isinstance(workload.runtime, External):
                offered = float(self.fabric.sites[site].hardware[kind].units)
                groups.setdefault((site, kind), ([], offered))[0].append((p, float(workload.service[kind].units)))
        return groups

    def _unit_rows(self) -> None:
        for terms, units in self.unit_groups().values():
            self._row([(self.first_y + p, n) for p, n in terms], -INFINITY, units)
