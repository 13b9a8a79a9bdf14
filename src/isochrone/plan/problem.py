"""The routing problem as arrays: who wants how much, who can serve it, at what cost.

    minimise    sum cost_a x_a + sum shed_cost_d u_d
    subject to  sum over arcs of d: x_a + u_d = rps_d                 for each demand d     (dual: price of demand)
                sum over arcs of p: use_a x_a        <= capacity_p    for each pool p       (dual: price of capacity)
                shares of executions per site and vendor (see `spread`)                     (dual: price of a limit)
                x, u >= 0

A demand is one contract at one ingress; a pool is the replicas of one workload at one site. Only arcs that are in time
and in bounds exist, so no answer can leave either. `use_a` is how much of the pool's sustainable rate one execution
takes when its objective must still hold (see `qualified`): 1 for an average execution with time to spare.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from isochrone.errors import InputError
from isochrone.model.fabric import Fabric

__all__ = ["Routing", "RoutingProblem", "ShareLimit", "Solver", "limits_of"]

Solver = Literal["exact", "coordinated"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ShareLimit:
    """At most a share `most` of a contract's executions may run at `sites`, which are one site or those of a vendor."""

    contract: str
    kind: Literal["site", "vendor"]
    name: str
    most: float
    sites: frozenset[str]

    @property
    def label(self) -> str:
        """As prices name it."""
        return f"{self.kind} {self.name}"

    def __str__(self) -> str:
        return f"at most {self.most:.0%} of {self.contract} may run at {self.label}"


def limits_of(fabric: Fabric) -> tuple[ShareLimit, ...]:
    """Every share limit of every contract."""
    vendors: dict[str, set[str]] = {}
    for name, site in fabric.sites.items():
        vendors.setdefault(site.vendor, set()).add(name)
    found = []
    for name, contract in fabric.contracts.items():
        if contract.site_share_max is not None:
            most = contract.site_share_max
            found += [ShareLimit(name, "site", site, most, frozenset([site])) for site in fabric.sites]
        if contract.vendor_share_max is not None:
            most = contract.vendor_share_max
            found += [ShareLimit(name, "vendor", vendor, most, frozenset(at)) for vendor, at in vendors.items()]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RoutingProblem:
    """See the module. D demands, P pools, A arcs.

    Args:
        demands: D (contract, ingress) names; pools: P (site, workload) names.
        rps: (D,) executions per second wanted.
        shed_cost: (D,) cost of one execution not served.
        capacity_rps: (P,) executions per second the pool sustains.
        arc_demand, arc_pool: (A,) indices into demands and pools, sorted by demand.
        cost: (A,) cost of one execution on the arc.
        use: (A,) capacity one execution takes.
        cost_error: (A,) one standard error of the cost, or one for all, by what measurements leave open. No optimum
            depends on it: it says which differences are too small to move anything for (see `damping`).
        limits: L limits on where a contract's executions gather, `limit_rows` times x <= 0 each.

    Raises:
        InputError: shapes disagree, or a number is NaN, infinite or negative.
    """

    demands: tuple[tuple[str, str], ...]
    pools: tuple[tuple[str, str], ...]
    rps: Floats
    shed_cost: Floats
    capacity_rps: Floats
    arc_demand: Ints
    arc_pool: Ints
    cost: Floats
    use: Floats
    limits: tuple[ShareLimit, ...] = ()
    cost_error: Floats | float = 0.0

    def __post_init__(self) -> None:
        demands, pools, arcs = len(self.rps), len(self.capacity_rps), len(self.cost)
        same = len(self.demands) == len(self.shed_cost) == demands and len(self.pools) == pools
        if not same or not len(self.arc_demand) == len(self.arc_pool) == len(self.use) == arcs:
            raise InputError("arrays of a routing problem differ in length", code="plan.shape")
        for name in ("rps", "shed_cost", "capacity_rps", "cost", "use", "cost_error"):
            values = np.asarray(getattr(self, name))
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise InputError(f"{name} holds a number that is NaN, infinite or negative", code="plan.number")
        if arcs and (int(self.arc_demand.max()) >= demands or int(self.arc_pool.max()) >= pools):
            raise InputError("an arc names a demand or pool that does not exist", code="plan.shape")

    def limit_rows(self) -> sp.csr_matrix:
        """(L, A) left sides of the limits' rows; the right sides are 0."""
        contract_of = np.array([name for name, _ in self.demands] or [""])[self.arc_demand]
        site_of = np.array([site for site, _ in self.pools] or [""])[self.arc_pool]
        rows = [
            (contract_of == limit.contract) * (np.isin(site_of, sorted(limit.sites)) - limit.most)
            for limit in self.limits
        ]
        return sp.csr_matrix(np.array(rows).reshape(len(rows), len(self.cost)))

    def wanted(self) -> RoutingProblem:
        """The same problem without the arcs of demands that are zero."""
        return self.only(np.flatnonzero(self.rps[self.arc_demand] > 0))

    def only(self, arcs: NDArray[np.int64]) -> RoutingProblem:
        """The same problem with these arcs alone."""
        return replace(
            self,
            arc_demand=self.arc_demand[arcs],
            arc_pool=self.arc_pool[arcs],
            cost=self.cost[arcs],
            use=self.use[arcs],
            cost_error=np.broadcast_to(self.cost_error, self.cost.shape)[arcs],
        )


@dataclass(frozen=True, slots=True)
class Routing:
    """An answer to a `RoutingProblem`.

    Attributes:
        flow_rps: (A,) executions per second on each arc; unserved_rps: (D,).
        capacity_price: (P,) what capacity for one more execution per second would save; demand_price: (D,) what one
            more execution costs. Currency per execution, both at least 0.
        limit_price: (L,) what one more execution beyond each share limit would save.
        objective: currency per second; bound: proven lower bound on the optimum.
        solver: whose answer it is.
    """

    flow_rps: Floats
    unserved_rps: Floats
    capacity_price: Floats
    demand_price: Floats
    objective: float
    bound: float
    limit_price: Floats = field(default_factory=lambda: np.zeros(0))
    solver: Solver = "exact"

    @property
    def gap(self) -> float:
        """(objective - bound) / objective; 0 when both are 0."""
        return 0.0 if self.objective <= 0 else max(0.0, (self.objective - self.bound) / self.objective)
