"""One child process: what to run, how to tell that it is ready, when to restart it, how to end it with its group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from isochrone.errors import IsochroneError, ProcessError
from isochrone.serve.files import last_lines, storage_errors

__all__ = ["Backoff", "Child", "ChildEvent", "ChildLog", "ChildSpec", "Parent", "State"]

EventKind = Literal["started", "ready", "died", "restarted", "gave_up", "stopped"]
State = Literal["new", "starting", "ready", "restarting", "stopped", "failed"]
_READY_POLL_S = 0.05
# Lines of a crash that hide the reason above them.
_NOISE = re.compile(r" (envoy_bug|backtrace) ")
_KNOWN_CAUSES = (
    (
        "ddress already in use",
        "process.port-in-use",
        "another process listens on that port: stop it or choose another port",
    ),
    (
        "fs.inotify.max_user_instances",
        "process.inotify-limit",
        "this user has used up its inotify instances (Envoy takes some each): raise fs.inotify.max_user_instances",
    ),
)


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """Something that happened to a child; `exit_code` and `signal` (its name) say how one that died ended."""

    kind: EventKind
    pid: int
    exit_code: int | None = None
    signal: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between restarts: `initial_s` doubling up to `max_s`; forgotten once a child was ready for `reset_s`.

    After `failures_max` failures in a row the supervisor gives up (None: never).
    """

    initial_s: float = 0.2
    max_s: float = 10.0
    reset_s: float = 30.0
    failures_max: int | None = None

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after the `failures`-th failure in a row (1 is the first)."""
        return float(min(self.max_s, self.initial_s * 2.0 ** min(failures - 1, 32)))


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how to treat it.

    Args:
        name: unique within its supervisor; names the log file ``NAME.log`` too.
        argv: command; the first word is a path or found on PATH.
        ready: awaited again and again until it returns True; raising counts as not yet. None: ready once started.
        ready_timeout_s: how long it may take before the start counts as failed.
        stop_grace_s: seconds between SIGTERM and SIGKILL.
        restart: ``always`` after any death, or ``never``.
        before_start: called before every start, restarts included; blocking work goes to a thread.
        env: variables added to this process's own.
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], Awaitable[bool]] | None = None
    ready_timeout_s: float = 20.0
    stop_grace_s: float = 5.0
    restart: Literal["always", "never"] = "always"
    before_start: Callable[[], Awaitable[None]] | None = None
    backoff: Backoff = field(default_factory=Backoff)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    log_bytes_max: int = 10_000_000
    log_backups: int = 2


class ChildLog:
    """A file that a child appends to; rotated by copy and truncate, since the child holds it open by its inode.

    The child writes straight to the file, not through a pipe of ours: this process, however busy, can never stall it.
    Lines written between copy and truncate are lost.
    """

    def __init__(self, path: Path, bytes_max: int, backups: int) -> None:
        self.path = path
        self._bytes_max, self._backups = bytes_max, backups
        self._incarnation_byte = 0

    def open(self) -> int:
        """A descriptor for the next incarnation's output; the caller closes it."""
        self.rotate_if_large()
        with storage_errors("opening log", self.path):
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._incarnation_byte = os.fstat(fd).st_size
        return fd

    def last_lines(self, count: int) -> list[str]:
        """The last lines that the present incarnation wrote."""
        return last_lines(self.path, count, self._incarnation_byte)

    def rotate_if_large(self) -> None:
        """Keep `log_backups` older copies, ``NAME.log.1`` the newest of them."""
        with contextlib.suppress(OSError):  # a log that cannot be rotated must not stop what it logs
            if self.path.stat().st_size <= self._bytes_max:
                return
            older = [self.path.with_name(f"{self.path.name}.{n}") for n in range(1, self._backups + 1)]
            for newer, old in zip(reversed(older[:-1]), reversed(older[1:]), strict=True):
                if newer.exists():
                    newer.replace(old)
            if older:
                shutil.copyfile(self.path, older[0])
            os.truncate(self.path, 0)
            self._incarnation_byte = 0


class Parent(Protocol):
    """What a child needs of its supervisor."""

    groups: set[int]
    """Process groups that the reaper would kill; a number leaves it before the kernel can hand it out again."""

    async def spawn(self, spec: ChildSpec, log: ChildLog) -> asyncio.subprocess.Process:
        """Fork and execute `spec.argv`, tied to this process, its group registered."""

    def deregister(self, group: int) -> None:
        """Take a group that has ended off the reaper's list."""

    def emit(self, name: str, event: ChildEvent) -> None:
        """Report an event."""


class Child:
    """One supervised process; made by `Supervisor.start`."""

    def __init__(self, spec: ChildSpec, parent: Parent, log: ChildLog) -> None:
        self.spec = spec
        self.state: State = "new"
        self.restarts = 0
        self._parent = parent
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready, self._restarted = asyncio.Event(), asyncio.Event()
        self._ready_since_s = 0.0
        self._failures = 0

    @property
    def pid(self) -> int:
        """Process id of the running incarnation, which is its process group's id too; 0 when there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def log_path(self) -> Path:
        """The file that receives standard output and standard error."""
        return self.log.path

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the child is ready (again).

        Raises:
            ProcessError: ``process.not-ready`` after `timeout_s`.
        """
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError:
            raise self._error("is not ready", "process.not-ready") from None

    async def wait_restarted(self, restarts: int) -> None:
        """Wait until it has been restarted more than `restarts` times in all and is ready."""
        while self.restarts <= restarts:
            self._restarted.clear()
            await self._restarted.wait()

    async def wait(self) -> None:
        """Wait until the child has ended for good: stopped, given up, or died with restart ``never``."""
        if self._keeper is not None:
            await asyncio.wait([self._keeper])

    async def start(self) -> None:
        """Start and wait until ready; see `Supervisor.start`."""
        self.state = "starting"
        try:
            await self._incarnate()
        except BaseException:
            await self._end(0.0)
            self.state = "failed"
            raise
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")

    async def stop(self, grace_s: float | None = None) -> None:
        """End it: SIGTERM to its group, `grace_s` to obey (default: the spec's), SIGKILL to whatever is left."""
        if self.state in ("stopped", "failed", "new"):
            return
        self.state = "stopped"
        if self._keeper is not None and self._keeper is not asyncio.current_task():
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        pid = self.pid
        await self._end(self.spec.stop_grace_s if grace_s is None else grace_s)
        self._emit("stopped", pid)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the child's group (for fault tests and drains); nothing happens when it is not running."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _incarnate(self) -> None:
        """Spawn once and wait until ready, else `ProcessError`."""
        if self.spec.before_start is not None:
            await self.spec.before_start()
        self._process = await self._parent.spawn(self.spec, self.log)
        pid = self._process.pid
        self._emit("started", pid)
        await self._until_ready(self._process)
        self.state = "ready"
        self._ready_since_s = time.monotonic()
        self._ready.set()
        self._emit("ready", pid)

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline_s = time.monotonic() + self.spec.ready_timeout_s
        reason = "its readiness check answered no"
        while process.returncode is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._error(f"not ready within {self.spec.ready_timeout_s:g} s: {reason}", "process.not-ready")
            if self.spec.ready is None:
                return
            try:
                if await asyncio.wait_for(self.spec.ready(), left_s) and process.returncode is None:
                    return
                reason = "its readiness check answered no"
            except Exception as e:  # any failure of the check means "not yet"; the last one is quoted
                reason = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(process.wait()), _READY_POLL_S)
        self._died(process)
        raise self._error(f"died before it was ready ({_how(process.returncode)})", "process.died")

    async def _keep(self) -> None:
        while self._process is not None:
            await self._process.wait()
            self._died(self._process)
            if time.monotonic() - self._ready_since_s >= self.spec.backoff.reset_s:
                self._failures = 0
            if self.spec.restart == "never" or not await self._revive():
                self.state = "failed"
                return

    async def _revive(self) -> bool:
        """Restart with backoff until ready; False after giving up."""
        self.state = "restarting"
        limit = self.spec.backoff.failures_max
        detail = ""
        while limit is None or self._failures < limit:
            self._failures += 1
            await asyncio.sleep(self.spec.backoff.delay_s(self._failures))
            try:
                await self._incarnate()
            except IsochroneError as e:
                detail = str(e)
                await self._end(0.0)
                continue
            self.restarts += 1
            self._restarted.set()
            self._emit("restarted", self.pid)
            return True
        self._emit("gave_up", 0, detail=detail or f"died {self._failures + 1} times in a row")
        return False

    def _died(self, process: asyncio.subprocess.Process) -> None:
        self._ready.clear()
        code = process.returncode
        self._forget(process.pid)
        name = signal.Signals(-code).name if code is not None and code < 0 else None
        self._emit("died", process.pid, exit_code=code if name is None else None, signal=name, detail=_how(code))

    async def _end(self, grace_s: float) -> None:
        """End the current process and every other member of its group."""
        self._ready.clear()
        process = self._process
        if process is None:
            return
        try:
            if process.returncode is None and grace_s > 0:
                self.kill(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(process.wait()), grace_s)
        finally:
            self._forget(process.pid)
        await process.wait()
        self._process = None

    def _forget(self, group: int) -> None:
        """Kill what is left of a group and take it off the reaper's list."""
        if group in self._parent.groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            self._parent.deregister(group)

    def _emit(
        self, kind: EventKind, pid: int, *, exit_code: int | None = None, signal: str | None = None, detail: str = ""
    ) -> None:
        self._parent.emit(self.spec.name, ChildEvent(kind, pid, exit_code, signal, detail))

    def _error(self, what: str, code: str) -> ProcessError:
        lines = [line for line in self.log.last_lines(200) if not _NOISE.search(line)]
        quoted = "\n  ".join(lines[-12:]) if lines else "(it wrote nothing)"
        hint = f"the whole log is {self.log.path}"
        for words, its_code, its_hint in _KNOWN_CAUSES:
            if any(words in line for line in lines):
                code, hint = its_code, its_hint
        return ProcessError(f"{self.spec.name} {what}; last log lines:\n  {quoted}", code=code, hint=hint)


def _how(code: int | None) -> str:
    if code is None:
        return "still running"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
