"""What cannot be recorded is not executed: watches journal and log, and shuts the site's routes while either fails,
or while the log falls far behind the journal. Contracts that say `when_unrecorded: continue` go on, and that is told.

The disk that is full is the one that Envoy's files stand on, so no file is written to refuse: a runtime value, set
through Envoy's admin endpoint, switches on a route that was compiled in before (`forward.routes.UNRECORDED`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from isochrone.errors import IsochroneError
from isochrone.forward.routes import UNRECORDED
from isochrone.record.records import finding
from isochrone.serve.envoy import EnvoyProcess
from isochrone.serve.envoy_admin import WRITE_FAILED
from isochrone.serve.files import atomic_write
from isochrone.serve.logbook import Logbook

__all__ = ["RecordingGuard"]

_EVERY_S = 0.25
# Room for a second of journal lines, so that a disk with a few bytes left does not open and shut the site.
_PROBE_BYTES = 64 * 1024
# A few seconds of the most that a site can take; admission goes on once all but a moment of it is sequenced.
_BACKLOG_BYTES_MAX = 32 * 1024 * 1024
_BACKLOG_BYTES_AGAIN = 1024 * 1024


class RecordingGuard:
    """One site's guard: ``await guard.run()`` until cancelled.

    Args:
        directory: on the file system of the journal; a probe file is written there while writes fail.
        alarm: told when the site begins to refuse, and why.
        going_on: contracts that are executed all the same, as of now.
    """

    def __init__(
        self,
        envoy: EnvoyProcess,
        logbook: Logbook,
        directory: Path,
        alarm: Callable[[str], None],
        going_on: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._envoy, self._logbook, self._directory, self._alarm = envoy, logbook, directory, alarm
        self._going_on = going_on
        self._is_behind = False
        self._counted: tuple[int, int] = (0, 0)
        self._told: tuple[int, bool] | None = None
        self._journal_fails = False
        self._lost = 0
        self._since_s: float | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            child = self._envoy.child
            if child is not None and child.pid:
                # An Envoy that does not answer is starting or stopping; the next round sees it.
                with contextlib.suppress(IsochroneError):
                    await self._step(child.pid)

    async def _step(self, pid: int) -> None:
        await self._look_at_journal(pid)
        failure = self._logbook.failure
        reason = f"the log cannot be written: {failure}" if failure else ""
        if self._journal_fails:
            reason = reason or "Envoy cannot write the journal: is the disk full?"
        if await self._falls_behind():
            reason = reason or "the log is far behind the journal: the disk or this machine is too slow"
        if self._told != (pid, bool(reason)):
            await self._envoy.set_runtime(UNRECORDED, "100" if reason else "0")
            self._told = (pid, bool(reason))
        if reason and self._since_s is None:
            self._since_s = time.time()
            names = ", ".join(self._going_on())
            self._alarm(f"nothing is executed here{f' but {names}, unrecorded' if names else ''}: {reason}")
        elif not reason and self._since_s is not None:
            await self._close()

    async def _look_at_journal(self, pid: int) -> None:
        failed = (await self._envoy.counters()).get(WRITE_FAILED, 0)
        before = self._counted[1] if self._counted[0] == pid else 0
        self._counted = (pid, failed)
        self._lost += failed - before
        if failed > before:
            self._journal_fails = True
        elif self._journal_fails:
            self._journal_fails = not await asyncio.to_thread(self._can_write)

    async def _falls_behind(self) -> bool:
        limit = _BACKLOG_BYTES_AGAIN if self._is_behind else _BACKLOG_BYTES_MAX
        # No thread is woken to measure what was all read a moment ago.
        is_read = time.time() - self._logbook.read_to_s < _EVERY_S
        self._is_behind = not is_read and await asyncio.to_thread(self._logbook.backlog_bytes) > limit
        return self._is_behind

    def _can_write(self) -> bool:
        probe = self._directory / "disk.probe"
        try:
            atomic_write(probe, bytes(_PROBE_BYTES), 0o600)
            probe.unlink()
        except (IsochroneError, OSError):
            return False
        return True

    async def _close(self) -> None:
        """It records again: what was missed is itself a record."""
        since_s, lost = self._since_s or 0.0, self._lost
        names = ", ".join(self._going_on())
        what = f"everything but {names}, which went on," if names else "everything"
        detail = f"refused {what} for {time.time() - since_s:.1f} s; {lost} writes of the journal failed"
        await self._logbook.record(finding(self._logbook.here, int(since_s * 1e6), "unrecorded", detail))
        self._since_s, self._lost = None, 0
