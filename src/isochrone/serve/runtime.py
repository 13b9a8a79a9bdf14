"""Model servers of one site: started where the plan places them, watched, and replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import httpx

from isochrone.errors import IsochroneError
from isochrone.forward.xds import Address
from isochrone.model.workload import Process, Workload
from isochrone.serve.child import Backoff, ChildEvent, ChildSpec
from isochrone.serve.process import Supervisor, free_port
from isochrone.serve.tls import trusting_nobody

__all__ = ["Replicas"]

_DRAIN_S = 2.0


@dataclass(eq=False)
class _Replica:
    """One model server: what is wanted of it, and the one task that follows that, so that no two wishes ever race."""

    wanted: Process | None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    address: Address | None = None
    up: bool = False
    task: asyncio.Task[None] | None = None

    def want(self, runtime: Process | None) -> None:
        if (runtime is None) != (self.wanted is None):
            self.wanted = runtime
            self.changed.set()


class Replicas:
    """The model servers of a site. `ready` maps a workload to the addresses that answer.

    Args:
        on_change: called after `ready` changed; must not block.
        on_alarm: called with what a person should look at.
    """

    def __init__(self, supervisor: Supervisor, on_change: Callable[[], None], on_alarm: Callable[[str], None]) -> None:
        self._supervisor, self._on_change, self._on_alarm = supervisor, on_change, on_alarm
        self._replicas: dict[str, _Replica] = {}

    @property
    def ready(self) -> dict[str, tuple[Address, ...]]:
        """Addresses of model servers that answer, by workload."""
        found: dict[str, list[Address]] = {}
        for name, replica in sorted(self._replicas.items()):
            if replica.up and replica.address is not None:
                found.setdefault(_workload(name), []).append(replica.address)
        return {workload: tuple(addresses) for workload, addresses in found.items()}

    def set_wanted(self, workloads: Mapping[str, Workload], wanted: Mapping[str, int]) -> None:
        """Start what is missing and stop what is too many, in the background."""
        names = {f"{workload}.{n}" for workload, count in wanted.items() for n in range(count)}
        for name in sorted(names | self._replicas.keys()):
            runtime = workloads[_workload(name)].runtime if name in names else None
            wish = runtime if isinstance(runtime, Process) else None
            if name in self._replicas:
                self._replicas[name].want(wish)
            elif wish is not None:
                replica = self._replicas[name] = _Replica(wish)
                replica.task = asyncio.create_task(self._follow(name, replica), name=f"follow {name}")

    def on_event(self, name: str, event: ChildEvent) -> None:
        """Tell of an event of the supervisor's (see `Supervisor.on_event`)."""
        replica = self._replicas.get(name)
        if replica is None or replica.wanted is None:
            return
        if event.kind == "ready":
            self._set_up(replica, True)
        elif event.kind in ("died", "gave_up", "stopped") and replica.up:
            if event.kind != "stopped":
                self._on_alarm(f"model server {name} {event.kind}: {event.signal or event.exit_code} {event.detail}")
            self._set_up(replica, False)

    def _set_up(self, replica: _Replica, up: bool) -> None:
        replica.up = up
        self._on_change()

    async def _follow(self, name: str, replica: _Replica) -> None:
        """Start it while it is wanted and stop it once it is not; the last wish is met, whatever came before."""
        while replica.wanted is not None or replica.up:
            served = await self._while_wanted(name, replica)
            if not (served and await self._taken_back(replica)):
                await self._supervisor.stop(name)
        del self._replicas[name]

    async def _while_wanted(self, name: str, replica: _Replica) -> bool:
        """Keep it running; then take it out of the endpoints before anything else happens. Returns: was it in them."""
        start = None
        if not replica.up and replica.wanted is not None:
            start = asyncio.create_task(self._start(name, replica, replica.wanted), name=f"start {name}")
        while replica.wanted is not None:
            replica.changed.clear()
            await replica.changed.wait()
        if start is not None:
            start.cancel()
            await asyncio.wait([start])
        served = replica.up
        if served:
            self._set_up(replica, False)
        return served

    async def _taken_back(self, replica: _Replica) -> bool:
        """Let what runs there end. One that is wanted again meanwhile and answers is kept, as its model is loaded."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while replica.wanted is None:
                    replica.changed.clear()
                    await replica.changed.wait()
        if replica.wanted is None or replica.address is None:
            return False
        with contextlib.suppress(httpx.HTTPError):
            if await _answers(replica.address, replica.wanted.ready)():
                self._set_up(replica, True)
                return True
        return False

    async def _start(self, name: str, replica: _Replica, runtime: Process) -> None:
        """Try until it is ready; a server that never becomes ready is an alarm, not the end of the site."""
        failures = 0
        while True:
            replica.address = Address("127.0.0.1", free_port())
            words = {"{port}": str(replica.address.port), "{python}": sys.executable}
            argv = [_filled(word, words) for word in runtime.command]
            ready = _answers(replica.address, runtime.ready)
            spec = ChildSpec(name, argv, ready=ready, ready_timeout_s=runtime.ready_timeout_s)
            try:
                await self._supervisor.start(spec)
                return
            except IsochroneError as error:
                failures += 1
                self._on_alarm(f"model server {name}: {str(error)[:500]}")
                await asyncio.sleep(Backoff().delay_s(failures))


def _workload(name: str) -> str:
    """The workload of the server called ``WORKLOAD.N``."""
    return name.rsplit(".", 1)[0]


def _filled(word: str, words: Mapping[str, str]) -> str:
    for placeholder, value in words.items():
        word = word.replace(placeholder, value)
    return word


def _answers(address: Address, path: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        async with httpx.AsyncClient(timeout=2.0, verify=trusting_nobody()) as client:
            return (await client.get(f"http://{address}{path}")).status_code == 200

    return ready
