"""How long a site has gone on without its hub: told in its status, on its answers, and once to people."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from isochrone.control.node import STALE_AFTER_S, stale_since
from isochrone.serve import mailbox
from isochrone.serve.learned import Learned

__all__ = ["Staleness"]

_EVERY_S = 1.0


class Staleness:
    """One site's. The hub is heard by its signed heartbeat, and before the first by the plan that was kept."""

    def __init__(self, learned: Learned, alarm: Callable[[str], None]) -> None:
        self._learned, self._alarm = learned, alarm
        path = learned.cache.sealed_path(mailbox.PLAN_KEY)
        self._kept_s = path.stat().st_mtime if path.exists() else None

    async def run(self) -> None:
        """Look for ever. A site that has just started gives its hub the time to be heard."""
        await asyncio.sleep(STALE_AFTER_S)
        while True:
            state = self._learned.state
            heard_s = state.revocations.heard_s if state.revocations else None
            since_s = stale_since(heard_s or self._kept_s, time.time())
            if since_s != state.stale_since_s:
                self._tell(since_s)
                self._learned.change(stale_since_s=since_s)
            await asyncio.sleep(_EVERY_S)

    def _tell(self, since_s: float | None) -> None:
        plan = self._learned.state.plan
        if since_s is not None and self._learned.state.stale_since_s is None and plan is not None:
            self._alarm(f"the hub is not heard: plan {plan.revision} goes on, as of {time.time() - since_s:.0f} s ago")
