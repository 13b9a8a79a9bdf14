"""Children of this process: started, watched, restarted with backoff, stopped cleanly, and never orphaned.

Every child runs in a session and process group of its own. Whatever ends this process, `kill -9` included, ends the
children too: `launcher.py` asks the kernel for it (Linux) and a reaper process, whose standard input is a pipe that
only this process holds open, kills every group that is still registered once the pipe closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from isochrone.errors import ProcessError
from isochrone.serve import launcher
from isochrone.serve.child import Backoff, Child, ChildEvent, ChildLog, ChildSpec
from isochrone.serve.files import private_dir

__all__ = [
    "Backoff",
    "Child",
    "ChildEvent",
    "ChildSpec",
    "Supervisor",
    "free_port",
    "free_ports",
    "listening",
    "run_until_signal",
]

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_LOG_CHECK_S = 5.0
_PORTS = range(20_000, 32_000)


class Supervisor:
    """Owns children: `async with Supervisor(log_dir) as s: child = await s.start(spec)`; all are stopped at the end.

    Use it from the main thread: the kernel's parent-death signal is tied to the thread that forks, not the process.

    Args:
        log_dir: made private (0700); each child's output goes to ``NAME.log`` in it.
        on_event: called in the event loop with the child's name and what happened; must not block.
    """

    def __init__(self, log_dir: Path, on_event: Callable[[str, ChildEvent], None] | None = None) -> None:
        self.log_dir = log_dir
        self.children: dict[str, Child] = {}
        self._on_event = on_event
        self.groups: set[int] = set()
        """Process groups that the reaper would kill."""
        self._registry_r = self._registry_w = -1
        self._reaper: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a Supervisor must run in the main thread (parent-death signals follow the thread)")
        private_dir(self.log_dir)
        self._registry_r, self._registry_w = os.pipe()
        await self._start_reaper()
        self._tasks = [
            asyncio.create_task(self._keep_reaper(), name="keep reaper"),
            asyncio.create_task(self._keep_logs_small(), name="rotate child logs"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()

    async def start(self, spec: ChildSpec) -> Child:
        """Start a child and wait until it is ready.

        Raises:
            ProcessError: ``process.binary-missing``, ``process.died``, ``process.not-ready`` or
                ``process.port-in-use``; the message quotes the last log lines. Nothing is left running.
        """
        if self._registry_w < 0:
            raise RuntimeError("Supervisor.start outside its `async with` block")
        if spec.name in self.children:
            raise ValueError(f"a child named {spec.name!r} is already supervised")
        log = ChildLog(self.log_dir / f"{spec.name}.log", spec.log_bytes_max, spec.log_backups)
        child = Child(spec, self, log)
        self.children[spec.name] = child
        try:
            await child.start()
        except BaseException:
            del self.children[spec.name]
            raise
        return child

    async def stop(self, name: str) -> None:
        """Stop one child and forget it; unknown names are ignored, so that stopping twice is harmless."""
        child = self.children.get(name)
        if child is not None:
            await child.stop()
            self.children.pop(name, None)

    async def stop_all(self) -> None:
        """Stop every child, the last started first; even when this is cancelled, nothing is left running."""
        try:
            while self.children:
                await self.stop(next(reversed(self.children)))
        finally:
            await self._close()

    async def spawn(self, spec: ChildSpec, log: ChildLog) -> asyncio.subprocess.Process:
        """Fork and execute `spec.argv` tied to this process (used by `Child`)."""
        program = shutil.which(spec.argv[0])
        if program is None:
            raise ProcessError(
                f"{spec.name}: no executable {spec.argv[0]!r}",
                code="process.binary-missing",
                hint="install it, or give the full path of an executable file",
            )
        output = log.open()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", launcher.__file__, "launch", str(os.getpid()), str(self._registry_w)),
                *(program, *spec.argv[1:]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=spec.cwd,
                env={**os.environ, **spec.env},
                pass_fds=(self._registry_w,),
                start_new_session=True,
            )
        finally:
            os.close(output)
        self.groups.add(process.pid)
        return process

    def deregister(self, group: int) -> None:
        """Take a group that has ended off the reaper's list (used by `Child`)."""
        self.groups.discard(group)
        self._tell_reaper(b"-%d\n" % group)

    def emit(self, name: str, event: ChildEvent) -> None:
        """Report an event (used by `Child`); a failing callback is logged, never lets a child go unwatched."""
        _logger.info("%s %s pid=%d %s", name, event.kind, event.pid, event.detail)
        if self._on_event is not None:
            try:
                self._on_event(name, event)
            except Exception:
                _logger.exception("on_event failed for %s %s", name, event.kind)

    async def _start_reaper(self) -> None:
        self._reaper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", launcher.__file__, "reap"),
            stdin=self._registry_r,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def _keep_reaper(self) -> None:
        """A killed reaper is replaced and told the list again; the pipe stays, so no registration is lost."""
        while self._reaper is not None:
            await self._reaper.wait()
            await asyncio.sleep(0.1)
            await self._start_reaper()
            for group in self.groups:
                self._tell_reaper(b"+%d\n" % group)

    async def _keep_logs_small(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            for child in self.children.values():
                child.log.rotate_if_large()

    def _tell_reaper(self, line: bytes) -> None:
        if self._registry_w >= 0:
            os.write(self._registry_w, line)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for fd in (self._registry_w, self._registry_r):
            if fd >= 0:
                os.close(fd)
        self._registry_w = self._registry_r = -1
        reaper, self._reaper = self._reaper, None
        if self._tasks:
            await asyncio.wait(self._tasks)
        if reaper is not None:
            await reaper.wait()


async def run_until_signal(main: Coroutine[Any, Any, T]) -> T | None:
    """Run `main` until it ends (its result) or SIGINT or SIGTERM arrives (None), cancelling it so that it cleans up.

    A second signal meets the default handler and ends the process at once; supervised children still go with it.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    stopped: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        stopped.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopped:
            task.cancel()
            raise
        return None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Distinct TCP ports that were free a moment ago, below the range that outgoing connections take theirs from.

    A start that loses the race all the same fails with ``process.port-in-use``.

    Raises:
        ProcessError: no port is to be had.
    """
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for _ in range(100 * count):
            candidate = held.enter_context(socket.socket())
            port = _PORTS.start + secrets.randbelow(len(_PORTS))
            with contextlib.suppress(OSError):
                candidate.bind((host, port))
                found.append(port)
            if len(found) == count:
                return found
    raise ProcessError(f"no free port on {host}", code="process.port-in-use", hint="stop what holds so many ports")


def free_port(host: str = "127.0.0.1") -> int:
    """One port; see `free_ports`."""
    return free_ports(1, host)[0]


async def listening(host: str, port: int) -> bool:
    """Whether something accepts TCP connections there: the simplest readiness check."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 1.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
