"""Values by key of which only the newest waits: whoever floods with one key delays no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

__all__ = ["Newest"]


class Newest:
    """``newest.put(key, value)`` on one side, ``async for key, value in newest`` on the other.

    Args:
        pause_s: rest between rounds over the keys, so that a flood costs its receiver little as well.
    """

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._waiting: dict[str, bytes | None] = {}
        self._any = asyncio.Event()

    def put(self, key: str, value: bytes | None) -> None:
        """Replace what waits under the key."""
        self._waiting[key] = value
        self._any.set()

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes | None]]:
        while True:
            await self._any.wait()
            self._any.clear()
            round_, self._waiting = self._waiting, {}
            for key, value in round_.items():
                yield key, value
            await asyncio.sleep(self._pause_s)
