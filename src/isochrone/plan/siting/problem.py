"""The siting problem, its answer, and a check of an answer that uses no solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isochrone.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Siting", "SitingProblem", "check"]


@dataclass(frozen=True, slots=True)
class SitingProblem:
    """Open sites and assign customers to them at least cost.

    One type covers four classical problems: uncapacitated facility location (`capacity is None`), capacitated
    (`capacity` given), single-source capacitated (`single_source`), and p-median (`sites_open_n` given).

    Args:
        name: shown in messages and tables.
        serve_cost: shape (sites, customers); cost of serving the *whole* of a customer from a site.
        open_cost: shape (sites,); cost of opening a site.
        demand: shape (customers,), in units of capacity; needed when `capacity` is given.
        capacity: shape (sites,), or None for unlimited.
        single_source: a customer is served by one site only.
        sites_open_n: exactly this many sites are opened (the p of p-median), or None.

    Raises:
        InputError: shapes disagree, a number is not finite, or total capacity is below total demand.
    """

    name: str
    serve_cost: NDArray[np.float64]
    open_cost: NDArray[np.float64]
    demand: NDArray[np.float64] | None = None
    capacity: NDArray[np.float64] | None = None
    single_source: bool = False
    sites_open_n: int | None = None

    def __post_init__(self) -> None:
        sites, customers = self.serve_cost.shape
        if not (sites and customers):
            raise InputError(f"{self.name}: no sites or no customers", code="siting.empty")
        if self.open_cost.shape != (sites,):
            raise InputError(f"{self.name}: {sites} rows of costs but {self.open_cost.size} sites", code="siting.shape")
        arrays = [self.serve_cost, self.open_cost]
        if self.capacity is not None:
            if self.demand is None or self.capacity.shape != (sites,) or self.demand.shape != (customers,):
                raise InputError(
                    f"{self.name}: capacity needs one number per site and one demand per customer", code="siting.shape"
                )
            arrays += [self.capacity, self.demand]
            if float(self.demand.sum()) > float(self.capacity.sum()) * (1 + 1e-12):
                raise InputError(
                    f"{self.name}: total demand {self.demand.sum():g} is above total capacity {self.capacity.sum():g}",
                    code="siting.capacity",
                    hint="add sites or capacity; no assignment exists",
                )
        if not all(np.isfinite(a).all() and (a >= 0).all() for a in arrays):
            raise InputError(f"{self.name}: costs, demands and capacities must be finite and not negative",
                             code="siting.number")  # fmt: skip
        if self.sites_open_n is not None and not 1 <= self.sites_open_n <= sites:
            raise InputError(f"{self.name}: cannot open {self.sites_open_n} of {sites} sites", code="siting.p")

    @property
    def kind(self) -> str:
        """One of ``p-median``, ``uncapacitated``, ``capacitated``, ``single-source``."""
        if self.sites_open_n is not None:
            return "p-median"
        if self.capacity is None:
            return "uncapacitated"
        return "single-source" if self.single_source else "capacitated"

    @property
    def sites_open_min(self) -> int:
        """Fewest sites any answer opens: p, or as many of the largest as together hold all demand."""
        if self.sites_open_n is not None:
            return self.sites_open_n
        if self.capacity is None or self.demand is None:
            return 1
        room = np.cumsum(np.sort(self.capacity)[::-1])
        return min(int(np.searchsorted(room, self.demand.sum() * (1 - 1e-12))) + 1, len(room))


@dataclass(frozen=True, slots=True)
class Siting:
    """An answer. `share[i, j]` is the share of customer j served by site i; `bound` is a proven lower bound."""

    value: float
    bound: float
    open: tuple[int, ...]
    share: NDArray[np.float64]
    status: str

    @property
    def gap(self) -> float:
        """Relative distance between value and proven bound."""
        return max(0.0, self.value - self.bound) / max(abs(self.value), 1e-12)


def check(problem: SitingProblem, siting: Siting, *, tolerance: float = 1e-6) -> list[str]:
    """Recompute an answer by arithmetic alone; return what is wrong (empty when it holds).

    Checks that every customer is served in full, only by open sites, within capacity, whole where required, with the
    right number of sites, and that the stated value is the sum of its parts.
    """
    share, found = siting.share, []
    closed = np.ones(len(problem.open_cost), dtype=bool)
    closed[list(siting.open)] = False
    if np.abs(share.sum(axis=0) - 1).max() > tolerance:
        found.append("a customer is not served in full")
    if share.min() < -tolerance or share[closed].sum() > tolerance:
        found.append("a closed site serves, or a share is negative")
    if problem.capacity is not None and problem.demand is not None:
        over = share @ problem.demand - problem.capacity
        if over.max() > tolerance * max(1.0, float(problem.capacity.max())):
            found.append(f"capacity is exceeded by {over.max():g}")
    if problem.single_source and np.abs(share - share.round()).max() > tolerance:
        found.append("a customer is split between sites")
    if problem.sites_open_n is not None and len(siting.open) != problem.sites_open_n:
        found.append(f"{len(siting.open)} sites are open, {problem.sites_open_n} asked")
    value = float(problem.open_cost[list(siting.open)].sum() + (share * problem.serve_cost).sum())
    if abs(value - siting.value) > tolerance * max(1.0, abs(value)):
        found.append(f"the parts sum to {value}, the answer says {siting.value}")
    return found
