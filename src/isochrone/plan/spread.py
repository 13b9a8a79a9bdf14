"""Limits on where a contract's executions gather: shares per site and vendor, and contracts that never share a site.

A share limit is a row of the routing problem, over the executions that are served:

    sum over arcs into the group of x_a  <=  most x sum over all arcs of the contract of x_a

so it holds exactly in what is planned, and its dual is what the limit costs. Which of two contracts that are kept apart
gets a site is a yes or no, decided by an integer program over the whole problem; what is left is linear again. During a
failover, until the next plan, fallbacks may pass a share limit; they never bring two contracts together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from isochrone.model.fabric import Fabric
from isochrone.plan.candidates import Bar, Candidates
from isochrone.plan.highs import INFINITY, LinearProgram, solve
from isochrone.plan.problem import RoutingProblem, ShareLimit, limits_of
from isochrone.plan.routing import cost_scale, routing_matrix

__all__ = ["Apart", "barred", "kept_apart", "unmeetable"]

# Contract to site to the contract that has the site.
Apart = Mapping[str, Mapping[str, str]]
_TIME_LIMIT_S = 5.0
_GAP = 1e-4
# Contracts that nobody calls yet want a place of their own all the same.
_RPS_MIN = 1e-3


def kept_apart(fabric: Fabric, problem: RoutingProblem) -> tuple[RoutingProblem, Apart]:
    """The problem without the arcs of contracts into sites that another one has, from which they are kept apart.

    Raises:
        PlanError: the optimiser found nothing in time.
    """
    pairs = [(name, other) for name, contract in fabric.contracts.items() for other in contract.apart_from]
    if not pairs or not len(problem.cost):
        return problem, {}
    choice = _Choice(problem, pairs)
    apart: dict[str, dict[str, str]] = {}
    for (first, second), site, first_has in choice.solved():
        loser, winner = (second, first) if first_has else (first, second)
        apart.setdefault(loser, {})[site] = winner
    kept = [
        problem.pools[p][0] not in apart.get(problem.demands[d][0], {})
        for d, p in zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), strict=True)
    ]
    return problem.only(np.flatnonzero(kept)), apart


class _Choice:
    """The integer program: columns are arcs, unserved demand, and for each pair and site whether the first has it."""

    def __init__(self, problem: RoutingProblem, pairs: list[tuple[str, str]]) -> None:
        self._problem = problem
        self._arcs: dict[tuple[str, str], list[int]] = {}
        for arc, (d, p) in enumerate(zip(problem.arc_demand.tolist(), problem.arc_pool.tolist(), strict=True)):
            self._arcs.setdefault((problem.demands[d][0], problem.pools[p][0]), []).append(arc)
        sites = list(dict.fromkeys(site for site, _ in problem.pools))
        self._conflicts = [
            (pair, site) for pair in pairs for site in sites if all((name, site) in self._arcs for name in pair)
        ]

    def solved(self) -> Iterable[tuple[tuple[str, str], str, bool]]:
        """(pair, site, whether the first contract of the pair has it), for each site that both could use."""
        if not self._conflicts:
            return []
        found = solve(self._program(), time_limit_s=_TIME_LIMIT_S, gap=_GAP)
        has = np.rint(found.x[-len(self._conflicts) :]).astype(bool).tolist()
        return [(pair, site, first) for (pair, site), first in zip(self._conflicts, has, strict=True)]

    def _program(self) -> LinearProgram:
        problem, yes = self._problem, len(self._conflicts)
        demands, arcs = len(problem.rps), len(problem.cost)
        named = {name for pair, _ in self._conflicts for name in pair}
        rps = np.array(
            [max(_RPS_MIN * (name in named), r) for (name, _), r in zip(problem.demands, problem.rps, strict=True)]
        )
        total = {
            name: sum(r for (each, _), r in zip(problem.demands, rps, strict=True) if each == name) for name in named
        }
        rows, columns, values, upper = [], [], [], []
        for k, ((first, second), site) in enumerate(self._conflicts):
            # Executions of the first only where it has the site, of the second only where it has not.
            for name, sign, row in ((first, -1.0, 2 * k), (second, 1.0, 2 * k + 1)):
                mine = self._arcs[name, site]
                rows += [row] * (len(mine) + 1)
                columns += [*mine, arcs + demands + k]
                values += [1.0] * len(mine) + [sign * total[name]]
            upper += [0.0, total[second]]
        base = routing_matrix(problem)
        base = sp.hstack([base, sp.csc_matrix((base.shape[0], yes))])
        choice = sp.csc_matrix((values, (rows, columns)), shape=(2 * yes, arcs + demands + yes))
        row_upper = np.concatenate([rps, problem.capacity_rps, np.zeros(len(problem.limits)), upper])
        return LinearProgram(
            cost=np.concatenate([problem.cost, problem.shed_cost, np.zeros(yes)]) / cost_scale(problem),
            lower=np.zeros(arcs + demands + yes),
            upper=np.concatenate([np.full(arcs + demands, INFINITY), np.ones(yes)]),
            matrix=sp.vstack([base, choice], format="csc"),
            row_lower=np.concatenate([rps, np.full(len(row_upper) - demands, -INFINITY)]),
            row_upper=row_upper,
            integer=np.concatenate([np.zeros(arcs + demands, dtype=bool), np.ones(yes, dtype=bool)]),
        )


def barred(fabric: Fabric, candidates: Candidates, apart: Apart, binding: Mapping[str, Iterable[str]]) -> Candidates:
    """Candidates that also say what these limits keep out.

    Args:
        binding: contract to the labels of its share limits that have a price.
    """
    bars = dict(candidates.bars)
    said = {(limit.contract, limit.label): limit for limit in limits_of(fabric)}
    for name in candidates.contracts:
        limits = [said[name, label] for label in binding.get(name, ()) if (name, label) in said]
        if name in apart or limits:
            row = zip(candidates.sites, bars[name], strict=True)
            bars[name] = tuple(bar or _bar(site, name, apart.get(name, {}), limits) for site, bar in row)
    return replace(candidates, bars=bars)


def unmeetable(fabric: Fabric, candidates: Candidates) -> Iterable[ShareLimit]:
    """Limits that even all sites in time and in bounds together cannot meet: four sites with a fifth each."""
    found: dict[tuple[str, str], list[ShareLimit]] = {}
    for limit in limits_of(fabric):
        objective_s = fabric.contracts[limit.contract].in_time.objective_ms / 1e3
        usable = candidates.in_time(limit.contract, objective_s)
        if any(usable[:, candidates.sites.index(site)].any() for site in limit.sites):
            found.setdefault((limit.contract, limit.kind), []).append(limit)
    return [limit for group in found.values() if sum(each.most for each in group) < 1 - 1e-9 for limit in group]


def _bar(site: str, contract: str, apart: Mapping[str, str], limits: list[ShareLimit]) -> Bar | None:
    if site in apart:
        return Bar("apart", f"{site} runs {apart[site]}, from which {contract} is kept apart")
    limit = next((limit for limit in limits if site in limit.sites), None)
    return Bar("spread", f"{limit}, and no other site has room for the rest") if limit else None
