"""Running streams of something revoked are cut: Envoy judges a request once, when it begins, and has no way to end it.

Envoy names every request that runs longer than half a second in a file, again and again, with its grant and its
connections (`forward.journal.live_fields`). Those that the revocation map denies lose a connection: at the ingress the
client's, at the executing site the one to the model server, which carries nothing else. The connection is reached by
`pidfd_getfd` (Linux 5.6, a process may do it to its own children) and shut down; nothing of Envoy is changed. Where the
system does not allow that, streams end by their own limit on duration, and the site says so in an alarm.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from isochrone.authority.grant import Grant
from isochrone.authority.jose import b64u_decode
from isochrone.authority.revocation import DenyMap, is_denied
from isochrone.errors import AuthorityError

__all__ = ["Connection", "StreamCutter", "shut_down"]

_EVERY_S = 0.1
_BYTES_MAX = 4 * 1024 * 1024
_PIDFD_GETFD = 438  # the same on every architecture
_logger = logging.getLogger(__name__)

Connection = tuple[str, str]
"""Local and remote address as Envoy sees them, ``host:port`` or ``[v6]:port``."""


class StreamCutter:
    """One site's: ``await cutter.run()`` until cancelled.

    Args:
        path: the file of running requests.
        pid: Envoy's process, None while it does not run.
        denied: all that is revoked now.
        alarm: told once if streams cannot be cut here.
    """

    def __init__(
        self, path: Path, pid: Callable[[], int | None], denied: Callable[[], DenyMap], alarm: Callable[[str], None]
    ) -> None:
        self._path, self._pid, self._denied, self._alarm = path, pid, denied, alarm
        self._offset = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            lines, pid = self._new_lines(), self._pid()
            doomed = {found for line in lines if (found := doomed_connection(line, self._denied()))}
            if doomed and pid is not None:
                await self._cut(pid, doomed)

    async def _cut(self, pid: int, doomed: set[Connection]) -> None:
        try:
            count = await asyncio.to_thread(shut_down, pid, doomed)
        except OSError as error:
            self._alarm(f"running streams of what is revoked end by their own limit: they cannot be cut here: {error}")
            return
        if count:
            _logger.warning("%d connections of what is revoked were cut", count)

    def _new_lines(self) -> list[bytes]:
        """Whole lines since the last call. The file is emptied when it has grown: what runs on is named again."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(self._offset if self._offset <= size else 0)
            data = file.read(_BYTES_MAX)
            whole = data.rfind(b"\n") + 1
            self._offset = file.tell() - len(data) + whole
            if self._offset >= _BYTES_MAX:
                os.truncate(self._path, 0)
                self._offset = 0
            return data[:whole].splitlines()
        return []


def doomed_connection(line: bytes, denied: DenyMap) -> Connection | None:
    """The connection to cut for one line of the file, None for a request that may go on."""
    try:
        stream = json.loads(line)
        claims: dict[str, Any] = json.loads(b64u_decode(stream["claims"] or ""))
        if not is_denied(Grant("", claims).headers(), denied):
            return None
        # An ingress that lost the model's answer would try another site; without its client it does not.
        local, remote = stream["client" if stream["role"] == "ingress" else "model"]
        return (local, remote) if local and remote else None
    except (ValueError, TypeError, KeyError, AuthorityError):
        return None  # a torn line, or a request without a grant


def shut_down(pid: int, doomed: Collection[Connection]) -> int:
    """Shut down these TCP connections of another process; how many there were.

    Raises:
        OSError: the system does not let us.
    """
    if not hasattr(os, "pidfd_open"):
        raise OSError("this system has no pidfd_getfd")
    libc, count = ctypes.CDLL(None, use_errno=True), 0
    process = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    continue
                copy = libc.syscall(_PIDFD_GETFD, process, int(name), 0)
                if copy >= 0:
                    count += _shut_down_copy(copy, doomed)
                elif ctypes.get_errno() != 9:  # EBADF: closed meanwhile
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(process)
    return count


def _shut_down_copy(descriptor: int, doomed: Collection[Connection]) -> bool:
    """The copy shares the connection, not its life: closing the copy closes nothing."""
    with socket.socket(fileno=descriptor) as copy:
        try:
            if (_text(copy.getsockname()), _text(copy.getpeername())) not in doomed:
                return False
            copy.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False  # a listener, or no longer connected
        return True


def _text(name: Any) -> str:
    if not isinstance(name, tuple):
        return ""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
