"""Budgets and rates of a delegation: reserve before, settle after, and how far they can be overshot.

A delegation's budget is one amount over all sites. Each site spends from a *lease*: a part of the whole that the hub
hands out, so that the leases together never exceed the budget and sites that cannot talk cannot overspend it:

    spent <= budget + (concurrent executions) * (greatest cost of one beyond its reservation)

The second term is zero when reservations are upper bounds, as they are for tokens with a `max_tokens`. A fabric that
lets sites spend without leases has ``sites * budget`` as its bound instead; `overshoot_max` states both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from isochrone.authority.reasons import Reason

__all__ = ["BudgetRefused", "Leases", "Ledger", "RateBucket", "overshoot_max"]


@dataclass(frozen=True, slots=True)
class BudgetRefused:
    """Nothing was reserved."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Ledger:
    """One amount at one site: integers of its unit (tokens, or millionths of a currency).

    Attributes:
        limit: what may be spent in all.
        spent: settled so far.
        reserved: id of an execution -> (amount, when the reservation lapses, seconds since 1970).
    """

    limit: int
    spent: int = 0
    reserved: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def held(self) -> int:
        """Sum of the open reservations."""
        return sum(amount for amount, _ in self.reserved.values())

    @property
    def left(self) -> int:
        """What can still be reserved; never below zero."""
        return max(0, self.limit - self.spent - self.held)

    def reserve(self, execution: str, amount: int, *, until_s: float) -> Ledger | BudgetRefused:
        """Hold `amount` for an execution. Asking again for the same execution changes nothing."""
        if amount < 0:
            raise ValueError("an amount is not negative")
        if execution in self.reserved:
            return self
        if amount > self.left:
            return BudgetRefused((Reason("budget", f"{amount} is asked and {self.left} of {self.limit} is left"),))
        return replace(self, reserved={**self.reserved, execution: (amount, until_s)})

    def settle(self, execution: str, amount: int) -> Ledger:
        """Turn a reservation into what was really spent; an execution not reserved here was settled or lapsed before.

        What was spent is counted in full, above the reservation too: hiding it would let it happen again.
        """
        if amount < 0:
            raise ValueError("an amount is not negative")
        if execution not in self.reserved:
            return self
        rest = {other: held for other, held in self.reserved.items() if other != execution}
        return replace(self, spent=self.spent + amount, reserved=rest)

    def lapse(self, now_s: float) -> Ledger:
        """Settle in full what was reserved and never settled: an execution nobody heard of again may have run."""
        lost = {execution: amount for execution, (amount, until_s) in self.reserved.items() if until_s <= now_s}
        rest = {execution: held for execution, held in self.reserved.items() if execution not in lost}
        return replace(self, spent=self.spent + sum(lost.values()), reserved=rest) if lost else self

    def extended(self, amount: int) -> Ledger:
        """With `amount` more to spend: a lease that was topped up, or, negative, given back from what is left."""
        if amount < -self.left:
            raise ValueError("more is given back than is left")
        return replace(self, limit=self.limit + amount)


@dataclass(frozen=True, slots=True)
class Leases:
    """The whole budget at the hub, and what each site holds of it."""

    budget: int
    held: Mapping[str, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """What no site holds."""
        return self.budget - sum(self.held.values())

    def lease(self, site: str, amount: int) -> tuple[Leases, int]:
        """Give a site up to `amount`; returns what it got, which may be less, or nothing."""
        if amount < 0:
            raise ValueError("an amount is not negative")
        given = min(amount, self.free)
        return replace(self, held={**self.held, site: self.held.get(site, 0) + given}), given

    def give_back(self, site: str, amount: int) -> Leases:
        """Take back what a site has not spent."""
        if not 0 <= amount <= self.held.get(site, 0):
            raise ValueError("a site gives back no more than it holds")
        return replace(self, held={**self.held, site: self.held[site] - amount})


@dataclass(frozen=True, slots=True)
class RateBucket:
    """A token bucket: at most ``burst + rate * t`` requests begin in any t seconds.

    Attributes:
        rate_rps: this site's share of the delegation's rate; the shares of all sites sum to it at most.
        burst: requests that may begin at once; at least 1.
        level: what is in the bucket at `at_s`.
    """

    rate_rps: float
    burst: float
    level: float
    at_s: float

    @classmethod
    def full(cls, rate_rps: float, *, burst: float, now_s: float) -> RateBucket:
        """A bucket that starts full."""
        if not (rate_rps >= 0 and burst >= 1):
            raise ValueError("a rate is not negative and a burst at least 1")
        return cls(rate_rps, burst, burst, now_s)

    def take(self, now_s: float) -> RateBucket | BudgetRefused:
        """Begin one request. A clock that went back adds nothing."""
        at_s = max(now_s, self.at_s)
        level = min(self.burst, self.level + (at_s - self.at_s) * self.rate_rps)
        if level < 1.0:
            wait = f"in {(1.0 - level) / self.rate_rps:.3f} s" if self.rate_rps else "never"
            return BudgetRefused((Reason("rate", f"the rate of {self.rate_rps:g}/s is used up; next {wait}"),))
        return replace(self, level=level - 1.0, at_s=at_s)


def overshoot_max(*, budget: int, sites: int, concurrent: int, beyond_reservation: int, are_leased: bool) -> int:
    """How far a budget can be overshot when no site can talk to another.

    Args:
        concurrent: executions in flight over the fabric.
        beyond_reservation: the most that one execution can cost above what was reserved for it.
        are_leased: whether sites spend from leases, or each up to the whole budget.
    """
    return concurrent * beyond_reservation + (0 if are_leased else (sites - 1) * budget)
