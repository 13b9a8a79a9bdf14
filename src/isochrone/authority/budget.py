"""Budgets and rates of a delegation: reserve before, settle after, and how far they can be overshot.

A hop that sets a limit has one *account* for the whole fabric. A site that mints a grant under it first reserves, in
the account of every limited hop of the chain, what that grant's requests can take at most; the grant is good for so
many requests (an `Allowance`), at the site that minted it, whose proxy counts them. Later the site settles what was
really taken. Reservations are upper bounds and accounts are changed one after the other, hence, whoever can talk to
whom:

    tokens, money:   taken <= limit
    requests:        in any t seconds at most  max(1, rate * T) + rate * (t + T)    with T = RATE_LEASE_S

Tokens and money that were reserved and not taken come back when they are settled; requests do not, since the rate
refills their bucket anyway: given back late, they would all come at once.

A site that cannot reach an account reserves nothing and mints nothing under it. What it can still serve are requests of
grants minted before, and those are taken out of the account already: cut off, the overshoot is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from isochrone.authority.delegation import VerifiedChain
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import Money, Scope
from isochrone.errors import AuthorityError

__all__ = ["RATE_LEASE_S", "REQUESTS_MAX", "Account", "Limits", "Reservation", "Toll", "limits_of"]

RATE_LEASE_S = 10
"""Lifetime of a grant under a rate: requests reserved for it may come at any time in it, so this is the burst."""

REQUESTS_MAX = 1024
"""Most requests of one allowance. Allowances are powers of two, so that a proxy can hold one bucket kind for each."""

RESERVATIONS_MAX = 512
"""Open reservations of one account; more are refused, so that an account stays small enough to be changed quickly."""


@dataclass(frozen=True, slots=True)
class Toll:
    """What one request of a contract can take at most.

    Attributes:
        tokens: in and out together; None when nobody states it, and then no token budget can be held.
        cost: what one request is charged, exactly.
    """

    tokens: int | None
    cost: Money


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one hop."""

    rate_rps: float | None = None
    tokens: int | None = None
    cost: Money | None = None

    @classmethod
    def of(cls, scope: Scope) -> Limits:
        return cls(scope.rate_rps_max, scope.tokens_max, scope.cost_max)

    def __bool__(self) -> bool:
        return self != Limits()

    def unheld(self, toll: Toll) -> list[Reason]:
        """Limits that cannot be held for a contract with this toll; a grant would promise what nothing keeps."""
        reasons = []
        if self.tokens is not None and toll.tokens is None:
            text = "the delegation sets a token budget, and the workload does not state tokens_per_request_max"
            reasons.append(Reason("unheld", text))
        if self.cost is not None and self.cost.currency != toll.cost.currency:
            text = f"the delegation's budget is in {self.cost.currency}, the contract's price in {toll.cost.currency}"
            reasons.append(Reason("unheld", text))
        return reasons


def limits_of(chain: VerifiedChain) -> dict[str, Limits]:
    """Limits by id of the hop that sets them, the root first; empty when the chain is not limited."""
    found = {hop.id: Limits.of(hop.scope) for hop in chain.hops}
    return {hop: limits for hop, limits in found.items() if limits}


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the requests of one grant can take together: tokens, and millionths of the currency."""

    tokens: int
    micros: int
    until_s: float


@dataclass(frozen=True, slots=True)
class Account:
    """All that was taken under one limited hop, over all sites.

    Attributes:
        tokens, micros: settled so far.
        level: requests that may be reserved now, as of `at_s`; None before the first (the bucket is full).
        open: reservations by grant id.
    """

    tokens: int = 0
    micros: int = 0
    level: float | None = None
    at_s: float = 0.0
    open: Mapping[str, Reservation] = field(default_factory=dict)

    def affordable(self, limits: Limits, toll: Toll, now_s: float) -> int | Reason:
        """Requests to reserve for the next grant: at most half of what is left, so that other sites find some, too.

        Returns:
            A power of two from 1 to `REQUESTS_MAX`, or which limit is used up.
        """
        if len(self.open) >= RESERVATIONS_MAX:
            return Reason("budget", f"{RESERVATIONS_MAX} grants under this delegation are not settled yet")
        left: list[tuple[float, Reason]] = []
        if limits.rate_rps is not None:
            level = self._refilled(limits.rate_rps, now_s)
            wait_s = (1 - level) / limits.rate_rps if limits.rate_rps else math.inf
            text = f"the rate of {limits.rate_rps:g}/s is used up; next in {wait_s:.1f} s"
            left.append((level, Reason("rate", text)))
        if limits.tokens is not None and toll.tokens:
            rest = limits.tokens - self.tokens - sum(held.tokens for held in self.open.values())
            text = f"{rest} of {limits.tokens} tokens are left, and one request can take {toll.tokens}"
            left.append((rest / toll.tokens, Reason("budget", text)))
        if limits.cost is not None and toll.cost.micros:
            rest = limits.cost.micros - self.micros - sum(held.micros for held in self.open.values())
            text = f"{Money(limits.cost.currency, rest)} of {limits.cost} is left, and one request costs {toll.cost}"
            left.append((rest / toll.cost.micros, Reason("budget", text)))
        for requests, reason in left:
            if requests < 1:
                return reason
        most = min([REQUESTS_MAX, *(max(1, int(requests) // 2) for requests, _ in left)])
        return 1 << (most.bit_length() - 1)

    def reserve(
        self, grant: str, requests: int, limits: Limits, toll: Toll, *, now_s: float, until_s: float
    ) -> Account | Reason:
        """Hold what `requests` requests of a grant can take. Asking again for the same grant changes nothing."""
        if grant in self.open:
            return self
        affordable = self.affordable(limits, toll, now_s)
        if isinstance(affordable, Reason):
            return affordable
        if requests > affordable:
            return Reason("rate", f"{requests} requests are asked, and {affordable} can be reserved now")
        account = self
        if limits.rate_rps is not None:
            level = self._refilled(limits.rate_rps, now_s) - requests
            account = replace(account, level=level, at_s=max(now_s, self.at_s))
        if limits.tokens is not None or limits.cost is not None:
            held = Reservation(requests * (toll.tokens or 0), requests * toll.cost.micros, until_s)
            account = replace(account, open={**self.open, grant: held})
        return account

    def settle(self, grant: str, *, tokens: int, micros: int) -> Account:
        """Turn a reservation into what was really taken; a grant not open here was settled or lapsed before.

        What was taken is counted in full, above the reservation too: hiding it would let it happen again.
        """
        if grant not in self.open:
            return self
        rest = {other: held for other, held in self.open.items() if other != grant}
        return replace(self, tokens=self.tokens + tokens, micros=self.micros + micros, open=rest)

    def lapse(self, now_s: float) -> Account:
        """Settle in full what was reserved and never settled: requests nobody heard of again may have run."""
        account = self
        for grant, held in self.open.items():
            if held.until_s <= now_s:
                account = account.settle(grant, tokens=held.tokens, micros=held.micros)
        return account

    def _refilled(self, rate_rps: float, now_s: float) -> float:
        """A bucket as deep as one lease, and never shallower than one request. A clock that went back adds nothing."""
        depth = max(1.0, rate_rps * RATE_LEASE_S)
        if self.level is None:
            return depth
        return min(depth, self.level + max(0.0, now_s - self.at_s) * rate_rps)

    def to_json(self) -> dict[str, Any]:
        """As it is kept on the bus."""
        held = {grant: [each.tokens, each.micros, each.until_s] for grant, each in self.open.items()}
        return {"tokens": self.tokens, "micros": self.micros, "level": self.level, "at_s": self.at_s, "open": held}

    @classmethod
    def from_json(cls, document: Any) -> Account:
        """Read an account.

        Raises:
            AuthorityError: it is damaged; nothing can be reserved in it.
        """
        match document:
            case {
                "tokens": int(tokens),
                "micros": int(micros),
                "level": None | int() | float() as level,
                "at_s": int() | float() as at_s,
                "open": dict(held),
            } if min(tokens, micros) >= 0 and all(map(_is_reservation, held.values())):
                return cls(tokens, micros, level, at_s, {str(g): Reservation(*each) for g, each in held.items()})
        raise AuthorityError("not an account of a budget", code="authority.account", hint="nothing is granted under it")


def _is_reservation(value: object) -> bool:
    match value:
        case [int(tokens), int(micros), int() | float()]:
            return min(tokens, micros) >= 0
    return False
