"""Starting, pinning, pausing and ending the processes under test, and the CPU time they used."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

CORES = sorted(os.sched_getaffinity(0))
CORE_UNDER_TEST = CORES[0]
CORE_OF_LOAD = CORES[-1]  # the load generator and the upstream


class NotReady(Exception):
    """A process that did not start or did not answer, with the reason in its own words where there are any."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def pinned(core: int, command: Iterable[str | Path]) -> list[str]:
    return ["taskset", "-c", str(core), *map(str, command)]


def spawn(
    command: Iterable[str | Path],
    *,
    log: Path,
    core: int = CORE_UNDER_TEST,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> psutil.Popen:
    """A child on one core, with no environment but the essentials: what is measured should not see our secrets."""
    essentials = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "LANG": "C.UTF-8", "TMPDIR": str(log.parent)}
    with log.open("wb") as out:
        return psutil.Popen(
            pinned(core, command),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=essentials | (environment or {}),
            cwd=folder or log.parent,
        )


def tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """User and system time of all processes and their descendants so far, seconds, in ticks of 10 ms."""
    total = 0.0
    for process in processes:
        for member in tree(process):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def rss_bytes(processes: Iterable[psutil.Process]) -> int:
    return sum(member.memory_info().rss for process in processes for member in tree(process))


def pause(processes: Iterable[psutil.Process]) -> None:
    """Stop them where they are: an idle peer's background work must not be in another's figures."""
    for process in processes:
        for member in tree(process):
            member.suspend()


def resume(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        for member in tree(process):
            member.resume()


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill each with its descendants and wait for them."""
    members = [member for process in processes for member in tree(process)]
    for member in members:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(members, timeout=5)


def last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-2:])[:300] or "it said nothing"


def wait_listening(process: psutil.Popen, port: int, log: Path, timeout_s: float = 90.0) -> None:
    """Until `port` accepts a connection.

    Raises:
        NotReady: the process ended, or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotReady(f"ended with status {process.returncode}: {last_words(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise NotReady(f"did not listen within {timeout_s:.0f} s: {last_words(log)}")
