"""Every act that a site has verified goes into its log, once: what the hub relays is on record at every site."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from isochrone.authority.identity import ACT_BYTES_MAX, ACT_TYP
from isochrone.authority.proof import parse_signed
from isochrone.record import records
from isochrone.serve.logbook import Logbook
from isochrone.serve.people import anchor_digest

__all__ = ["ActRecorder"]


class ActRecorder:
    """Level-triggered: give it the newest registry document, and it records what the log does not hold yet."""

    def __init__(self, fabric: str) -> None:
        self._fabric = fabric
        self._document: Mapping[str, Any] | None = None
        self._news = asyncio.Event()

    def take(self, document: Mapping[str, Any]) -> None:
        """A registry document that was verified and goes on from the one before."""
        self._document = document
        self._news.set()

    async def run(self, logbook: Logbook) -> None:
        """Record until cancelled.

        Raises:
            StorageError: the log cannot be written; call again, and it goes on where it was.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._catch_up(logbook)
            except BaseException:
                self._news.set()
                raise

    async def _catch_up(self, logbook: Logbook) -> None:
        assert self._document is not None
        document, now_us = self._document, int(time.time() * 1e6)
        missing: list[tuple[int, str, str]] = []
        for seq in range(len(document["acts"]), 0, -1):
            text = document["acts"][seq - 1]
            digest = parse_signed(text, typ=ACT_TYP, bytes_max=ACT_BYTES_MAX).digest
            if logbook.index.find(digest, ("act",)):
                break
            missing.append((seq, digest, text))
        else:
            first = anchor_digest(self._fabric, document)
            if not logbook.index.find(first, ("act",)):
                await logbook.record(records.anchor(logbook.here, now_us, first, document["anchor"]))
        for seq, digest, text in reversed(missing):
            await logbook.record(records.act(logbook.here, now_us, seq, digest, text))
