"""The wall clock set back and forth between batches: order, counts and checkpoints stay, and each step is a finding."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.fault_matrix.driver import BATCHES, FaultyDisk, drive, judge, open_book

from isochrone.record.canonical import decode
from isochrone.serve.completeness import Completeness
from isochrone.serve.logbook import Logbook

__all__ = ["table"]

STEPS_S = {
    "an hour back": (-3600.0,),
    "a year on": (31_536_000.0,),
    "back, on, and back": (-3600.0, 7200.0, -86_400.0),
}


def run(folder: Path, steps_s: tuple[float, ...]) -> None:
    """A child process: one life of the node, under a clock that is set before each of its first batches."""
    real_s, offset_s = time.time, [0.0]
    time.time = lambda: real_s() + offset_s[0]
    watching: list[Completeness] = []

    async def watch(book: Logbook) -> None:
        look = asyncio.create_task(watching[0]._watch_clock())
        await asyncio.sleep(0)
        await book._recover_and_step(publish=True)
        await look

    async def between(book: Logbook, batch: int) -> None:
        if not watching:
            envoy: Any = SimpleNamespace(child=None)
            watching.append(Completeness(envoy, book, lambda alarm: None, lambda: (0, None)))
            await watch(book)
        if batch < len(steps_s):
            offset_s[0] += steps_s[batch]
            await watch(book)

    asyncio.run(drive(folder, FaultyDisk(), between))


def table(root: Path) -> int:
    """Print what came of each way to set the clock; the number of those in which something is wrong."""
    assert max(map(len, STEPS_S.values())) <= len(BATCHES)
    print(f"{'clock':28}outcome")
    problems = 0
    for name, steps_s in STEPS_S.items():
        folder = root / name.replace(" ", "-")
        folder.mkdir(parents=True)
        process = multiprocessing.get_context("forkserver").Process(target=run, args=(folder, steps_s))
        process.start()
        process.join()
        wrong = judge(folder) if process.exitcode == 0 else [f"the node ended with {process.exitcode}"]
        found = _findings(folder)
        if found != len(steps_s):
            wrong.append(f"{found} findings of {len(steps_s)} steps")
        problems += len(wrong)
        print(f"{name:28}{'; '.join(wrong) or f'ok: in order, each once, {found} clock-step'}")
    return problems


def _findings(folder: Path) -> int:
    book = open_book(folder)
    try:
        reader = book.reader()
        reader.checkpoint()
        return sum(decode(data).get("what") == "clock-step" for data in reader.entries())
    finally:
        book.close()
