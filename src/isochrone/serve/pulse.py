"""When a site reports: at once on news, every period while anything stirs there, every other one at rest."""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["Pulse"]


class Pulse:
    """``await pulse.rest(...)`` between two reports. Nothing that stirs is told later than a period after it.

    Args:
        period_s: between two reports while anything stirs.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._news, self._stirred = asyncio.Event(), asyncio.Event()

    def news(self) -> None:
        """Something must be told now."""
        self._news.set()
        self._stirred.set()

    def stir(self) -> None:
        """Something happened: the next report goes out when it is due."""
        self._stirred.set()

    async def rest(self, *, is_busy: bool) -> None:
        """Wait until the next report is due; `is_busy` counts as stirring."""
        await self._wait(self._news)
        if not is_busy:
            await self._wait(self._stirred)
        self._news.clear()
        self._stirred.clear()

    async def _wait(self, event: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), self._period_s)
