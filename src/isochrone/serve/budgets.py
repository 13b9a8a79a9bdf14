"""Budgets and rates over all sites: accounts on the bus, and what this site took under them, from its own records.

One key a limited hop in the bucket ``budgets``, changed by compare-and-set, so that sites that reserve at the same time
do so one after the other. Who cannot reach the bus reserves nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from isochrone.authority.budget import REQUESTS_MAX, Account, Limits, Toll
from isochrone.authority.reasons import Reason
from isochrone.errors import AuthorityError, PeerError
from isochrone.record.canonical import Record
from isochrone.serve import mailbox
from isochrone.serve.bus import Bus

__all__ = ["Accounts", "Meter"]

_TRIES = 40
_SETTLE_EVERY_S = 1.0
# Envoy takes a grant for a second after it has ended; its journal follows within a fraction of another.
_AFTER_S = 2.0
_STREAM_S_MAX = 600.0
COUNTED_MAX = 10_000

Change = Callable[[Account], "tuple[Account, int | Reason]"]


class Accounts:
    """The accounts of all limited hops."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def reserve(
        self, grant: str, limits: Mapping[str, Limits], toll: Toll, *, now_s: float, until_s: float
    ) -> int | Reason:
        """Reserve for a grant in every account that its chain rests on.

        Args:
            limits: by hop, the root first.
            until_s: when a reservation that nobody settled counts as taken.

        Returns:
            For how many requests, or which limit is used up.

        Raises:
            PeerError: the bus cannot be reached. AuthorityError: an account is damaged.
        """
        most = REQUESTS_MAX
        for hop, each in limits.items():
            account, _ = await self._read(hop)
            affordable = account.lapse(now_s).affordable(each, toll, now_s)
            if isinstance(affordable, Reason):
                return affordable
            most = min(most, affordable)
        taken: list[str] = []
        for hop, each in limits.items():

            def reserve(account: Account, most: int = most, each: Limits = each) -> tuple[Account, int | Reason]:
                account = account.lapse(now_s)
                affordable = account.affordable(each, toll, now_s)
                requests = affordable if isinstance(affordable, Reason) else min(most, affordable)
                if isinstance(requests, Reason):
                    return account, requests
                after = account.reserve(grant, requests, each, toll, now_s=now_s, until_s=until_s)
                return (account, after) if isinstance(after, Reason) else (after, requests)

            got = await self._change(hop, reserve)
            if isinstance(got, Reason):
                await self.settle(grant, taken, tokens=0, micros=0)
                return got
            taken.append(hop)
            most = min(most, got)
        return most

    async def settle(self, grant: str, hops: Iterable[str], *, tokens: int, micros: int) -> None:
        """Turn what was reserved for a grant into what it took.

        Raises:
            PeerError: the bus cannot be reached: settle again later; what is settled stays so.
        """
        for hop in hops:
            await self._change(hop, lambda account: (account.settle(grant, tokens=tokens, micros=micros), 0))

    async def _read(self, hop: str) -> tuple[Account, int]:
        entry = await self._bus.get(mailbox.BUDGETS, hop)
        if entry is None or entry.value is None:
            return Account(), 0
        try:
            return Account.from_json(json.loads(entry.value)), entry.revision
        except ValueError as error:
            raise AuthorityError(f"the account of {hop} is damaged: {error}", code="budget.damaged") from error

    async def _change(self, hop: str, change: Change) -> int | Reason:
        for attempt in range(_TRIES):
            before, revision = await self._read(hop)
            after, result = change(before)
            if after == before:
                return result
            data = json.dumps(after.to_json()).encode()
            if await self._bus.put_if(mailbox.BUDGETS, hop, data, revision) is not None:
                return result
            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 5)))  # noqa: S311 - spreads retries
        raise PeerError("the account changes too fast", code="budget.contended", hint="try again")


@dataclass(slots=True)
class _Counted:
    """A grant under limits that this site minted, and what ran under it here."""

    hops: tuple[str, ...]
    toll: Toll
    exp_s: float
    executed: int = 0


@dataclass(slots=True)
class Meter:
    """Counts what was executed under limited grants, and settles each once nothing of it can run any more.

    A grant that a node forgot by a restart is never settled by it: its reservation lapses, which counts as taken.
    """

    accounts: Accounts
    _grants: dict[str, _Counted] = field(default_factory=dict)
    _running: dict[str, float] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether the proxy could forget a counter if there were one more."""
        return len(self._grants) >= COUNTED_MAX

    def count(self, grant: str, hops: Iterable[str], toll: Toll, exp_s: float) -> None:
        """Count what is executed under a grant from now on."""
        self._grants[grant] = _Counted(tuple(hops), toll, exp_s)

    def add(self, records: list[Record]) -> None:
        """Take records of this site's log. The ingress counts: a grant under a limit enters where it was minted."""
        for record in records:
            if record.get("role") != "ingress":
                continue
            if record["kind"] == "admission":
                self._running[record["id"]] = record["start_us"] / 1e6
            elif record["kind"] in ("outcome", "refusal"):
                self._running.pop(record["id"], None)
                counted = self._grants.get(str(record["who"]["grant"]))
                if counted is not None and record["kind"] == "outcome":
                    counted.executed += 1

    async def run(self, caught_up: Callable[[], bool]) -> None:
        """Settle for ever.

        Args:
            caught_up: whether everything that the proxy wrote has been added.
        """
        while True:
            await asyncio.sleep(_SETTLE_EVERY_S)
            for grant in self._due(time.time()) if caught_up() else ():
                counted = self._grants[grant]
                await self.accounts.settle(
                    grant, counted.hops, tokens=counted.executed * (counted.toll.tokens or 0),
                    micros=counted.executed * counted.toll.cost.micros,
                )  # fmt: skip
                del self._grants[grant]

    def _due(self, now_s: float) -> list[str]:
        # Requests whose end is never written (Envoy was killed) end by their own limit.
        self._running = {name: at_s for name, at_s in self._running.items() if at_s > now_s - _STREAM_S_MAX}
        oldest_s = min(self._running.values(), default=now_s)
        return [grant for grant, counted in self._grants.items() if counted.exp_s + _AFTER_S < min(now_s, oldest_s)]
