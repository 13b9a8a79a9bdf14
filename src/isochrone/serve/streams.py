"""Running streams of something revoked are cut: Envoy judges a request once, when it begins, and has no way to end it.

Of the requests that run (`serve.live`), those that the revocation map denies lose a connection: at the ingress the
client's, at the executing site the one to the model server, which carries nothing else. The connection is reached by
`pidfd_getfd` (Linux 5.6, a process may do it to its own children) and shut down; nothing of Envoy is changed. Where the
system does not allow that, streams end by their own limit on duration, and the site says so in an alarm.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Any

from isochrone.authority.grant import Grant
from isochrone.authority.revocation import DenyMap, is_denied
from isochrone.errors import AuthorityError
from isochrone.serve.live import Connection, Running

__all__ = ["StreamCutter", "doomed_connection", "shut_down"]

_PIDFD_GETFD = 438  # the same on every architecture
_logger = logging.getLogger(__name__)


class StreamCutter:
    """One site's.

    Args:
        pid: Envoy's process, None while it does not run.
        denied: all that is revoked now.
        alarm: told once if streams cannot be cut here.
    """

    def __init__(
        self, pid: Callable[[], int | None], denied: Callable[[], DenyMap], alarm: Callable[[str], None]
    ) -> None:
        self._pid, self._denied, self._alarm = pid, denied, alarm

    async def take(self, running: Iterable[Running]) -> None:
        """Cut what of it is revoked."""
        denied, pid = self._denied(), self._pid()
        doomed = {found for each in running if (found := doomed_connection(each, denied))}
        if not doomed or pid is None:
            return
        try:
            count = await asyncio.to_thread(shut_down, pid, doomed)
        except OSError as error:
            self._alarm(f"running streams of what is revoked end by their own limit: they cannot be cut here: {error}")
            return
        if count:
            _logger.warning("%d connections of what is revoked were cut", count)


def doomed_connection(running: Running, denied: DenyMap) -> Connection | None:
    """The connection to cut, None for a request that may go on."""
    try:
        if not is_denied(Grant("", dict(running.claims)).headers(), denied):
            return None
    except (ValueError, TypeError, KeyError, AuthorityError):
        return None  # a request without a grant
    # An ingress that lost the model's answer would try another site; without its client it does not.
    local, remote = running.client if running.role == "ingress" else running.model
    return (local, remote) if local and remote else None


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
