"""Admission stops while the log falls behind, and goes on when it has caught up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from isochrone.record.records import SiteIdentity
from isochrone.serve.recording import RecordingGuard

MIB = 1024 * 1024


class World:
    """An Envoy and a logbook as the guard sees them."""

    def __init__(self) -> None:
        self.here = SiteIdentity("konstanz", "edge", "seewerk", "DE")
        self.failure: Exception | None = None
        self.backlog, self.read_to_s = 0, 0.0
        self.child = SimpleNamespace(pid=7)
        self.runtime: list[str] = []
        self.recorded: list[dict[str, Any]] = []
        self.alarms: list[str] = []

    def backlog_bytes(self) -> int:
        return self.backlog

    async def counters(self) -> dict[str, int]:
        return {}

    async def set_runtime(self, key: str, value: str) -> None:
        self.runtime.append(value)

    async def record(self, record: dict[str, Any]) -> int:
        self.recorded.append(record)
        return 0


def test_a_log_far_behind_its_journal_stops_admission_until_it_has_caught_up(tmp_path: Path) -> None:
    world = World()
    guard = RecordingGuard(world, world, tmp_path, world.alarms.append, lambda: ["lenient"])  # type: ignore[arg-type]

    async def at(backlog: int) -> None:
        world.backlog = backlog
        await guard._step(7)

    async def main() -> None:
        for backlog in (0, 31 * MIB, 33 * MIB, 20 * MIB, 2 * MIB, 0, 31 * MIB):
            await at(backlog)

    asyncio.run(main())
    assert world.runtime == ["0", "100", "0"]
    assert "nothing is executed here but lenient, unrecorded: the log is far behind" in world.alarms[0]
    assert [(each["what"], "but lenient, which went on" in each["detail"]) for each in world.recorded] == [
        ("unrecorded", True)
    ]
