"""Does a site run the model servers that were wanted last, whatever was wanted before and how quickly that changed?"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from isochrone.model.workload import Workload
from isochrone.serve import runtime
from isochrone.serve.process import Supervisor
from isochrone.serve.runtime import Replicas

SERVER = {
    "files": Workload.model_validate(
        {
            "protocol": "http",
            "model": {"name": "files"},
            "runtime": {
                "kind": "process",
                "command": ["{python}", "-m", "http.server", "--bind", "127.0.0.1", "{port}"],
                "ready": "/",
            },
            "service": {"cpu": {"duration": {"p50_ms": 1, "p99_ms": 2}, "rps_max": 10}},
        }
    )
}
WANTED, NOTHING = {"files": 1}, dict[str, int]()
Site = tuple[Replicas, Supervisor]


def on_a_site(folder: Path, scene: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        replicas: Replicas
        async with Supervisor(folder, lambda name, event: replicas.on_event(name, event)) as supervisor:
            replicas = Replicas(supervisor, lambda: None, lambda text: None)
            await asyncio.wait_for(scene((replicas, supervisor)), 60)

    asyncio.run(main())


async def until(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline_s, "did not happen"
        await asyncio.sleep(0.02)


def test_a_server_that_is_wanted_again_while_it_drains_is_kept(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        replicas, supervisor = site
        replicas.set_wanted(SERVER, WANTED)
        await until(lambda: bool(replicas.ready))
        pid, address = supervisor.children["files.0"].pid, replicas.ready["files"]
        replicas.set_wanted(SERVER, NOTHING)
        await until(lambda: not replicas.ready)
        replicas.set_wanted(SERVER, WANTED)
        await until(lambda: bool(replicas.ready))
        assert (supervisor.children["files.0"].pid, replicas.ready["files"]) == (pid, address)

    on_a_site(tmp_path, scene)


@pytest.mark.parametrize("pauses_s", [(0.0, 0.0), (0.05, 0.0), (0.0, 0.3), (0.3, 0.05), (0.35, 0.35)])
@pytest.mark.parametrize("last", [WANTED, NOTHING])
def test_what_was_wanted_last_is_what_runs(
    pauses_s: tuple[float, float], last: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_DRAIN_S", 0.2)

    async def scene(site: Site) -> None:
        replicas, _ = site
        for _ in range(4):
            replicas.set_wanted(SERVER, WANTED)
            await asyncio.sleep(pauses_s[0])
            replicas.set_wanted(SERVER, NOTHING)
            await asyncio.sleep(pauses_s[1])
        await settles(site, last)

    on_a_site(tmp_path, scene)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("last", [WANTED, NOTHING])
def test_wishes_at_any_moment_end_in_the_last_one(
    seed: int, last: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two wishes: no turn of the loop, one, a few, or time to start, to drain or to stop."""
    monkeypatch.setattr(runtime, "_DRAIN_S", 0.1)
    chance = random.Random(seed)

    async def scene(site: Site) -> None:
        for _ in range(40):
            site[0].set_wanted(SERVER, chance.choice([WANTED, NOTHING]))
            for _ in range(chance.choice([0, 0, 1, 2, 3])):
                await asyncio.sleep(0)
            await asyncio.sleep(chance.choice([0, 0, 0, 0.005, 0.02, 0.1, 0.3]))
        await settles(site, last)

    on_a_site(tmp_path, scene)


async def settles(site: Site, last: dict[str, int]) -> None:
    """The site comes to what is wanted last, and stays there."""
    replicas, supervisor = site
    replicas.set_wanted(SERVER, last)
    await until(lambda: bool(replicas.ready) == bool(last) == bool(supervisor.children))
    await asyncio.sleep(0.6)
    assert bool(replicas.ready) == bool(last) == bool(supervisor.children)
