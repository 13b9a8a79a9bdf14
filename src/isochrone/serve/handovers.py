"""Executions that were handed over, held against the other site: each end must have a record of the same id.

Both ends ask, by the same question: "these ids are in my log as shared with you; which does yours not have?" The index
says what is shared, so nothing is kept in memory, and a site that was cut off goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

from isochrone.errors import IsochroneError, PeerError, StorageError
from isochrone.record.records import finding
from isochrone.serve.files import replace_unsynced
from isochrone.serve.logbook import Logbook
from isochrone.serve.peer_client import PeerClient

__all__ = ["HANDOVERS", "Handovers", "unknown_of"]

HANDOVERS = "handovers"
_EVERY_S = 2.0
# The other end's record comes with its own flush, its own sequencer, and the end of its own stream.
_SETTLE_S = 5.0
_ASKED_AGAIN_S = 10.0
_PAGE = 5000
_IDS_TOLD = 20


class Handovers:
    """One site's side: ``await handovers.run()`` until cancelled.

    Args:
        directory: the site's; ``handovers.json`` says how far each log was compared with each site.
        known: sites of the fabric, as of now.
    """

    def __init__(
        self,
        directory: Path,
        logbook: Logbook,
        peers: PeerClient,
        known: Callable[[], frozenset[str]],
        alarm: Callable[[str], None],
    ) -> None:
        self._path, self._logbook, self._peers, self._known, self._alarm = (
            directory / "handovers.json", logbook, peers, known, alarm,
        )  # fmt: skip
        self._positions = self._load()
        self._missing_since_s: dict[str, float] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            others = await asyncio.to_thread(self._logbook.index.others)
            for site in sorted(others & self._known()):
                for shard in list(self._logbook.shards):
                    # A site that is away is asked when it is back; one whose answer is no answer, too.
                    with contextlib.suppress(PeerError, StorageError, ValueError, sqlite3.Error):
                        while await self._compare(site, shard):
                            pass

    async def _compare(self, site: str, shard: str) -> bool:
        """One page of what is shared with a site; whether there is more."""
        key = f"{site} {shard}".strip()
        start = self._positions.get(key, 0)
        page = await asyncio.to_thread(self._logbook.index.shared_with, site, shard, start, _PAGE)
        old_us = int((time.time() - _SETTLE_S) * 1e6)
        page = [each for each in page if each[0] < self._logbook.shards[shard].writer.published_size]
        ripe = list(takewhile(lambda each: each[2] < old_us, page))
        if not ripe:
            return False
        answer = await self._peers.ask(site, "POST", HANDOVERS, json.dumps([each[1] for each in ripe]).encode())
        if answer.status_code != 200:
            raise PeerError(f"{site} answered {answer.status_code}", code="peer.handovers")
        missing = {str(each) for each in answer.json()} & {each[1] for each in ripe}
        unmatched = [each for each in ripe if each[1] in missing]
        if unmatched:
            since_s = self._missing_since_s.setdefault(key, time.monotonic())
            if time.monotonic() - since_s < _ASKED_AGAIN_S:
                return False  # its log may be behind: ask again before saying so
            await self._tell(site, unmatched)
        self._missing_since_s.pop(key, None)
        self._positions[key] = ripe[-1][0] + 1
        await asyncio.to_thread(replace_unsynced, self._path, json.dumps(self._positions).encode())
        return len(ripe) == _PAGE

    async def _tell(self, site: str, missing: list[tuple[int, str, int]]) -> None:
        times = [time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(each[2] / 1e6)) for each in (missing[0], missing[-1])]
        detail = (
            f"{site} has no record of {len(missing)} executions that are on record here as shared with it, begun "
            f"{times[0]} to {times[1]} UTC: {', '.join(each[1] for each in missing[:_IDS_TOLD])}"
        )
        self._alarm(detail[:200])
        with contextlib.suppress(IsochroneError):  # the log has stopped: its own alarm says so
            await self._logbook.record(finding(self._logbook.here, missing[0][2], "handover-unmatched", detail))

    def _load(self) -> dict[str, int]:
        """Where comparing goes on; from the beginning where that is not known."""
        try:
            held = json.loads(self._path.read_bytes())
            return {str(key): int(value) for key, value in held.items()}
        except (OSError, ValueError, AttributeError):
            return {}


def unknown_of(logbook: Logbook, body: bytes) -> list[str]:
    """Those ids of a peer's question that no record here has.

    Raises:
        ValueError: the body is not a list of at most `_PAGE` ids.
    """
    asked = json.loads(body)
    if not isinstance(asked, list) or len(asked) > _PAGE or not all(isinstance(each, str) for each in asked):
        raise ValueError(f"not a list of at most {_PAGE} ids")
    return logbook.index.unknown(asked)
