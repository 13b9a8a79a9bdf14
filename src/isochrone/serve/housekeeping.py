"""What a site's files need from time to time: the journal turned over, the logs pruned."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from isochrone.errors import IsochroneError
from isochrone.model.fabric import Fabric
from isochrone.record.shards import pruned_before_us
from isochrone.serve.envoy import EnvoyProcess
from isochrone.serve.logbook import Logbook

__all__ = ["prune", "rotate"]

_JOURNAL_BYTES_MAX = 64 * 1024 * 1024
_ROTATE_S = 5.0
_PRUNE_S = 3600.0


async def rotate(envoy: EnvoyProcess, logbook: Logbook) -> None:
    """Turn the journal over for ever, and delete what is sequenced of it."""
    while True:
        await asyncio.sleep(_ROTATE_S)
        if envoy.child is not None:
            with contextlib.suppress(IsochroneError):
                await logbook.tail.rotate(envoy.reopen_logs, bytes_max=_JOURNAL_BYTES_MAX, sequenced=logbook.cursor)


async def prune(logbook: Logbook, fabric: Callable[[], Fabric | None]) -> None:
    """For ever: each log forgets what is older than its class, in whole bundles, from its beginning."""
    while True:
        if (known := fabric()) is not None:
            await logbook.prune(pruned_before_us(known, time.time()))
        await asyncio.sleep(_PRUNE_S)
