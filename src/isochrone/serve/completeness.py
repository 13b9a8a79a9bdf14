"""Whether the journal holds everything: its lines against the proxy's own counters, reconciled without end.

Envoy counts each request in memory, at another place than where it writes the journal. What it counted as ended must
soon be a line of the journal, and no line may be there that it has not counted. Whatever does not balance becomes a
finding that names the interval, once, and counting goes on from there.

While requests come without a pause, what ended in the last second or so cannot be told from what is on its way: so many
lines can be missing until the next pause, or until that Envoy ends, and then all of them show.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from isochrone.errors import IsochroneError
from isochrone.forward.journal import OWN_STATS
from isochrone.record.records import finding, interval
from isochrone.serve.bookmark import ROLES, Tally
from isochrone.serve.clock import read_clock
from isochrone.serve.envoy import EnvoyProcess
from isochrone.serve.logbook import Logbook

__all__ = ["Balance", "Completeness"]

_EVERY_S = 1.0
# A line waits 50 ms in Envoy and as long again for the sequencer; a busy machine adds to both.
_SETTLE_S = 0.5
_IN_A_ROW = 3
_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Gap:
    """What does not balance: `count` requests without a line (lines without a request, if it is negative)."""

    role: str
    count: int
    since_s: float
    until_s: float

    def __str__(self) -> str:
        at = " to ".join(time.strftime("%H:%M:%S", time.gmtime(s)) for s in (self.since_s, self.until_s))
        what = "requests ended and have no line in the journal" if self.count > 0 else "lines are of no request"
        return f"{self.role}: between {at} UTC {abs(self.count)} {what}"


@dataclass(slots=True)
class Balance:
    """The two counts of one Envoy, pure: `step` takes what both say now and returns the gaps that are certain."""

    life: int
    since_s: float
    samples: deque[tuple[float, Mapping[str, int]]] = field(default_factory=deque)
    absorbed: dict[str, int] = field(default_factory=dict)
    off: dict[str, int] = field(default_factory=dict)
    balanced_s: dict[str, float] = field(default_factory=dict)
    last: Mapping[str, int] = field(default_factory=dict)

    def step(self, now_s: float, ended: Mapping[str, int], tally: Tally, read_to_s: float) -> list[Gap]:
        """
        Args:
            ended: requests that the proxy counts as ended, by listener, as of `now_s`.
            tally: the journal's lines, read before `ended` was.
            read_to_s: what was written until then is in `tally`.
        """
        self.samples.append((now_s, ended))
        self.last = ended
        settled = None
        while self.samples and self.samples[0][0] + _SETTLE_S <= read_to_s:
            settled = self.samples.popleft()
        gaps = []
        for role in ROLES:
            lines = tally.of(role).ends + self.absorbed.get(role, 0)
            missing = settled[1].get(role, 0) - lines if settled is not None else 0
            surplus = lines - ended.get(role, 0)
            count = missing if missing > 0 else -surplus if surplus > 0 else 0
            if count == 0 and settled is not None:
                self.balanced_s[role] = settled[0]
            self.off[role] = self.off.get(role, 0) + 1 if count else 0 if settled is not None else self.off.get(role, 0)
            if count and self.off[role] >= _IN_A_ROW:
                gaps.append(self._gap(role, count, now_s))
        return gaps

    def end(self, now_s: float, tally: Tally) -> list[Gap]:
        """The Envoy is gone and its last line is read: what it last said it had counted."""
        found = []
        for role in ROLES:
            count = self.last.get(role, 0) - tally.of(role).ends - self.absorbed.get(role, 0)
            if count > 0:
                found.append(self._gap(role, count, now_s))
        return found

    def _gap(self, role: str, count: int, now_s: float) -> Gap:
        self.absorbed[role] = self.absorbed.get(role, 0) + count
        self.off[role] = 0
        gap = Gap(role, count, self.balanced_s.get(role, self.since_s), now_s)
        self.balanced_s[role] = now_s
        return gap


class Completeness:
    """One site's: ``await completeness.run()`` until cancelled.

    Args:
        revocations: epoch in force, and seconds since the hub was last heard, None when it never was.
    """

    def __init__(
        self,
        envoy: EnvoyProcess,
        logbook: Logbook,
        alarm: Callable[[str], None],
        revocations: Callable[[], tuple[int, float | None]],
    ) -> None:
        self._envoy, self._logbook, self._alarm, self._revocations = envoy, logbook, alarm, revocations
        self._balance: Balance | None = None
        self._gone: list[Balance] = []
        self._stated_s = 0.0
        self._clock_offset_s: float | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._watch_clock()
            # An Envoy that does not answer is starting or stopping; the next round sees it.
            with contextlib.suppress(IsochroneError):
                await self._step()
            await self._look_at_the_gone()

    async def _step(self) -> None:
        life = self._logbook.life
        if self._envoy.child is None or self._logbook.failure is not None:
            return
        if self._balance is None or self._balance.life != life:
            self._gone += [self._balance] if self._balance is not None else []
            self._balance = Balance(life, time.time())
        tally = self._tally(life)
        read_to_s = self._logbook.read_to_s
        ended = _ended(await self._envoy.counters())
        if self._logbook.life != life:  # restarted meanwhile: these counters are another Envoy's
            return
        for gap in self._balance.step(time.time(), ended, tally, read_to_s):
            await self._tell(gap)
        if time.time() - self._stated_s >= _INTERVAL_S:
            await self._state(ended)

    def _tally(self, life: int) -> Tally:
        """The lines of one Envoy; none where the last line read is of another."""
        tally = self._logbook.tally
        return tally if tally.segment == life else self._logbook.ended.get(life, Tally(life))

    async def _look_at_the_gone(self) -> None:
        """Envoys that ended, once the first line of a later one says that all of theirs are read."""
        for balance in [each for each in self._gone if each.life in self._logbook.ended]:
            self._gone.remove(balance)
            for gap in balance.end(time.time(), self._logbook.ended[balance.life]):
                await self._tell(gap)

    async def _tell(self, gap: Gap) -> None:
        kind = "journal-incomplete" if gap.count > 0 else "journal-surplus"
        self._alarm(f"journal and proxy disagree: {gap}")
        await self._record_finding(gap.since_s, kind, str(gap))

    async def _state(self, ended: Mapping[str, int]) -> None:
        """The minute's statement: both counts, the clock, and how fresh the revocations are."""
        before_s, self._stated_s = self._stated_s or time.time(), time.time()
        tally = self._tally(self._logbook.life)
        counts = {
            role: {"counted": ended[role], "journaled": tally.of(role).ends, "unended": tally.of(role).unended}
            for role in ROLES
        }
        epoch, heard_s_ago = self._revocations()
        clock = await asyncio.to_thread(read_clock)
        span = (int(before_s * 1e6), int(self._stated_s * 1e6))
        made = interval(self._logbook.here, *span, counts, clock.to_json(), epoch, heard_s_ago)
        await self._logbook.record(made)

    async def _watch_clock(self) -> None:
        """A wall clock that moves against the monotonic one was set: times before and after do not compare."""
        offset_s = time.time() - time.monotonic()
        before_s, self._clock_offset_s = self._clock_offset_s, offset_s
        if before_s is not None and abs(offset_s - before_s) > 0.5:
            detail = f"the wall clock moved by {offset_s - before_s:+.3f} s against the monotonic clock"
            self._alarm(detail)
            # Counts that were taken under the other time would wait for it to come again.
            self._stated_s = 0.0
            if self._balance is not None:
                self._balance.samples.clear()
            await self._record_finding(time.time(), "clock-step", detail)

    async def _record_finding(self, at_s: float, what: str, detail: str) -> None:
        with contextlib.suppress(IsochroneError):  # the log has stopped: its own alarm says so
            await self._logbook.record(finding(self._logbook.here, int(at_s * 1e6), what, detail))


def _ended(stats: Mapping[str, int]) -> dict[str, int]:
    """Requests that the proxy has counted and ended, by listener, without those to the node's own endpoints."""

    def count(name: str) -> int:
        return stats.get(name, 0)

    return {
        role: count(f"http.{role}.downstream_rq_total")
        - count(f"http.{role}.downstream_rq_active")
        - count(f"{OWN_STATS}.{role}")
        for role in ROLES
    }
