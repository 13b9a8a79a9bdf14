"""What a run came to: the promises kept and broken, the cost, the times, the churn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from isochrone.latency.portable import Portable

__all__ = ["ContractOutcome", "Outcome", "Tally"]


@dataclass(frozen=True, slots=True)
class ContractOutcome(Portable):
    """One contract's executions. Times in seconds, of those that were answered; 0 when none was."""

    contract: str
    held: int
    late: int
    shed: int
    lost: int
    out_of_bounds: int
    p50_s: float
    p99_s: float
    cost: float

    @property
    def count(self) -> int:
        """All requests."""
        return self.held + self.late + self.shed + self.lost + self.out_of_bounds


@dataclass(frozen=True, slots=True)
class Outcome(Portable):
    """One strategy over one trace.

    Attributes:
        churn: mean share of routed traffic that a tick moved to another site; 0 for strategies without a plan.
    """

    strategy: str
    contracts: tuple[ContractOutcome, ...]
    churn: float

    @property
    def execution_error(self) -> float:
        """Share of executions that break any promise: late, shed, lost or out of bounds."""
        count = sum(contract.count for contract in self.contracts)
        return 1 - sum(contract.held for contract in self.contracts) / count if count else 0.0

    @property
    def cost(self) -> float:
        """Currency spent on executions."""
        return sum(contract.cost for contract in self.contracts)


class Tally:
    """Counts while a run goes on."""

    def __init__(self, contracts: tuple[str, ...]) -> None:
        self._contracts = contracts
        self._kinds: list[Counter[str]] = [Counter() for _ in contracts]
        self._times: list[list[float]] = [[] for _ in contracts]
        self._cost = [0.0 for _ in contracts]

    def add(self, contract: int, kind: str, answered_s: float, cost: float) -> None:
        """One request: held, late, out_of_bounds (answered after `answered_s`), shed or lost (not answered)."""
        self._kinds[contract][kind] += 1
        if answered_s > 0:
            self._times[contract].append(answered_s)
        self._cost[contract] += cost

    def outcome(self, strategy: str, churn: float) -> Outcome:
        """What it all came to."""
        rows = []
        for name, kinds, times, cost in zip(self._contracts, self._kinds, self._times, self._cost, strict=True):
            p50, p99 = np.quantile(times, (0.5, 0.99)).tolist() if times else (0.0, 0.0)
            rows.append(
                ContractOutcome(
                    contract=name,
                    held=kinds["held"],
                    late=kinds["late"],
                    shed=kinds["shed"],
                    lost=kinds["lost"],
                    out_of_bounds=kinds["out_of_bounds"],
                    p50_s=p50,
                    p99_s=p99,
                    cost=cost,
                )
            )
        return Outcome(strategy, tuple(rows), churn)
