"""OR-Library's file layouts, parsed from text (Beasley 1990, J. Oper. Res. Soc. 41(11))."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import InputError
from isochrone.plan.siting.problem import SitingProblem

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["parse_orlib", "parse_pmedian", "shortest_paths"]


def _numbers(text: str, name: str) -> NDArray[np.float64]:
    try:
        return np.array(text.rstrip("\0\x1a").split(), dtype=np.float64)  # some published copies are padded with NUL
    except ValueError as exc:
        raise InputError(f"{name}: not a file of numbers: {exc}", code="siting.format") from exc


def parse_orlib(text: str, name: str, *, kind: str = "single-source") -> SitingProblem:
    """Read `sites customers / capacity open_cost per site / demands / costs site by site`.

    Args:
        text: the file's content. A cost is that of serving the customer's whole demand.
        name: for messages.
        kind: which problem to pose on the data: ``uncapacitated``, ``capacitated`` or ``single-source``.

    Raises:
        InputError: not that layout, or an unknown kind.
    """
    if kind not in ("uncapacitated", "capacitated", "single-source"):
        raise InputError(f"unknown kind of siting problem: {kind}", code="siting.kind")
    values = _numbers(text, name)
    if values.size < 2 or values[0] < 1 or values[1] < 1:
        raise InputError(f"{name}: the first line must be the numbers of sites and customers", code="siting.format")
    sites, customers = int(values[0]), int(values[1])
    ends = np.cumsum([2, 2 * sites, customers, sites * customers])
    if values.size != ends[-1]:
        raise InputError(
            f"{name}: {values.size} numbers where {sites} sites and {customers} customers need {ends[-1]}",
            code="siting.format",
            hint="expected: counts, then capacity and opening cost per site, demands, and costs site by site",
        )
    site, demand, cost = (values[a:b] for a, b in pairwise(ends))
    limited = kind != "uncapacitated"
    return SitingProblem(
        name=name,
        serve_cost=cost.reshape(sites, customers),
        open_cost=site[1::2].copy(),
        demand=demand if limited else None,
        capacity=site[0::2].copy() if limited else None,
        single_source=kind == "single-source",
    )


def parse_pmedian(text: str, name: str) -> SitingProblem:
    """Read `vertices edges p / from to length`: an undirected graph, where a repeated edge's last length counts."""
    values = _numbers(text, name)
    if values.size < 3 or values.size != 3 + 3 * int(values[1]):
        raise InputError(f"{name}: expected `vertices edges p` and one line per edge", code="siting.format")
    n, _, p = (int(v) for v in values[:3])
    edges = values[3:].reshape(-1, 3)
    if edges[:, :2].min() < 1 or edges[:, :2].max() > n:
        raise InputError(f"{name}: an edge names a vertex outside 1..{n}", code="siting.format")
    length = np.full((n, n), np.inf)
    for a, b, cost in edges:
        length[int(a) - 1, int(b) - 1] = length[int(b) - 1, int(a) - 1] = cost
    distance = shortest_paths(length)
    if not np.isfinite(distance).all():
        raise InputError(f"{name}: the graph is not connected", code="siting.format")
    return SitingProblem(name=name, serve_cost=distance, open_cost=np.zeros(n), sites_open_n=p)


def shortest_paths(length: NDArray[np.float64]) -> NDArray[np.float64]:
    """All-pairs shortest paths by Floyd and Warshall; shape (n, n) in and out, missing edges are infinite."""
    distance = length.copy()
    np.fill_diagonal(distance, 0.0)
    for k in range(len(distance)):
        np.minimum(distance, distance[:, k, None] + distance[None, k, :], out=distance)
    return distance
