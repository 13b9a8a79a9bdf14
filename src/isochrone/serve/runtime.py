"""Model servers of one site: started where the plan places them, watched, and replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Mapping

import httpx

from isochrone.errors import IsochroneError
from isochrone.forward.xds import Address
from isochrone.model.workload import Process, Workload
from isochrone.serve.child import Backoff, ChildEvent, ChildSpec
from isochrone.serve.process import Supervisor, free_port
from isochrone.serve.tls import trusting_nobody

__all__ = ["Replicas"]

_DRAIN_S = 2.0


class Replicas:
    """The model servers of a site. `ready` maps a workload to the addresses that answer.

    Args:
        on_change: called after `ready` changed; must not block.
        on_alarm: called with what a person should look at.
    """

    def __init__(self, supervisor: Supervisor, on_change: Callable[[], None], on_alarm: Callable[[str], None]) -> None:
        self._supervisor, self._on_change, self._on_alarm = supervisor, on_change, on_alarm
        self._addresses: dict[str, Address] = {}
        self._up: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining: dict[str, asyncio.Task[None]] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}

    @property
    def ready(self) -> dict[str, tuple[Address, ...]]:
        """Addresses of model servers that answer, by workload."""
        found: dict[str, list[Address]] = {}
        for name in sorted(self._up):
            found.setdefault(name.rsplit(".", 1)[0], []).append(self._addresses[name])
        return {workload: tuple(addresses) for workload, addresses in found.items()}

    def set_wanted(self, workloads: Mapping[str, Workload], wanted: Mapping[str, int]) -> None:
        """Start what is missing and stop what is too many, in the background."""
        names = {f"{workload}.{n}" for workload, count in wanted.items() for n in range(count)}
        for name in sorted(names - self._tasks.keys()):
            runtime = workloads[name.rsplit(".", 1)[0]].runtime
            if isinstance(runtime, Process):
                self._tasks[name] = asyncio.create_task(self._run(name, runtime), name=f"start {name}")
        for name in sorted(self._tasks.keys() - names):
            self._draining[name] = asyncio.create_task(self._leave(name, self._tasks.pop(name)), name=f"stop {name}")

    def on_event(self, name: str, event: ChildEvent) -> None:
        """Tell of an event of the supervisor's (see `Supervisor.on_event`)."""
        if name not in self._tasks:
            return
        if event.kind == "ready" and name in self._addresses:
            self._up.add(name)
            self._on_change()
        elif event.kind in ("died", "gave_up", "stopped") and name in self._up:
            self._up.discard(name)
            if event.kind != "stopped":
                self._on_alarm(f"model server {name} {event.kind}: {event.signal or event.exit_code} {event.detail}")
            self._on_change()

    async def _run(self, name: str, runtime: Process) -> None:
        """Start it; one that was on its way out and still answers is taken back, as its model is loaded."""
        address, draining = self._addresses.get(name), self._draining.pop(name, None)
        if address is not None and draining is not None:
            draining.cancel()
            await asyncio.wait([draining])
            with contextlib.suppress(httpx.HTTPError):
                if await _answers(address, runtime.ready)():
                    self._up.add(name)
                    self._on_change()
                    return
            await self._supervisor.stop(name)
        if (stopping := self._stopping.get(name)) is not None:
            await asyncio.wait([stopping])
        await self._start(name, runtime)

    async def _start(self, name: str, runtime: Process) -> None:
        """Try until it is ready; a server that never becomes ready is an alarm, not the end of the site."""
        failures = 0
        while True:
            address = Address("127.0.0.1", free_port())
            self._addresses[name] = address
            words = {"{port}": str(address.port), "{python}": sys.executable}
            argv = [_filled(word, words) for word in runtime.command]
            spec = ChildSpec(
                name, argv, ready=_answers(address, runtime.ready), ready_timeout_s=runtime.ready_timeout_s
            )
            try:
                await self._supervisor.start(spec)
                return
            except IsochroneError as error:
                failures += 1
                self._on_alarm(f"model server {name}: {str(error)[:500]}")
                await asyncio.sleep(Backoff().delay_s(failures))

    async def _leave(self, name: str, task: asyncio.Task[None]) -> None:
        """Take it out of the endpoints first, let what runs there end, then stop it."""
        self._up.discard(name)
        self._on_change()
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(_DRAIN_S)
        # From here on there is no way back: whoever wants it again waits for the end.
        self._draining.pop(name, None)
        self._stopping[name] = asyncio.create_task(self._supervisor.stop(name))
        await asyncio.wait([self._stopping[name]])
        self._stopping.pop(name, None)


def _filled(word: str, words: Mapping[str, str]) -> str:
    for placeholder, value in words.items():
        word = word.replace(placeholder, value)
    return word


def _answers(address: Address, path: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        async with httpx.AsyncClient(timeout=2.0, verify=trusting_nobody()) as client:
            return (await client.get(f"http://{address}{path}")).status_code == 200

    return ready
