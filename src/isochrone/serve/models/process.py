"""What both model servers do as processes: claim their port, follow their parent, and fail with a clear error."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable

from isochrone.errors import IsochroneError, ProcessError

__all__ = ["LOOPBACK", "STOP_SIGNALS", "announce", "claim_port", "die_with_parent", "main"]

LOOPBACK = "127.0.0.1"
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>, Linux


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (`prctl(2)`, PR_SET_PDEATHSIG); nothing elsewhere.

    A model server keeps no state worth a farewell, so the signal is SIGKILL: a busy native thread cannot delay it.
    The kernel watches the parent's *thread* that started this process: start it from one that stays.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise ProcessError(f"prctl refused to watch the parent: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before the kernel was asked: no signal will come for that
        os.kill(os.getpid(), signal.SIGKILL)


def claim_port(port: int) -> socket.socket:
    """A listening-ready socket bound to `port` on loopback; 0 lets the kernel choose.

    Raises:
        ProcessError: ``process.port-in-use`` or ``process.port-refused``.
    """
    claimed = socket.socket()
    # Without this a restart would have to wait out the connections of the server before it (TIME_WAIT).
    claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        claimed.bind((LOOPBACK, port))
        # Binding succeeds beside another bound socket with the same option; listening does not.
        claimed.listen(2048)
    except (OSError, OverflowError) as e:
        claimed.close()
        in_use = isinstance(e, OSError) and e.errno == errno.EADDRINUSE
        raise ProcessError(
            f"cannot listen on {LOOPBACK}:{port}: {e}",
            code="process.port-in-use" if in_use else "process.port-refused",
            hint="choose another --port, or stop the server that holds it",
        ) from e
    return claimed


def announce(name: str, port: int) -> None:
    """Print the one line that says the server is ready and where."""
    print(f"{name} ready on http://{LOOPBACK}:{port}", flush=True)


def main(run: Callable[[], None]) -> int:
    """Run a server; an operating error becomes one clear line on standard error and exit status 1.

    A stop signal is an ordinary end, status 0, before serving and after (uvicorn raises it again when it has stopped).
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        run()
    except IsochroneError as e:
        print(f"error [{e.code}]: {e}" + (f"\n  hint: {e.hint}" if e.hint else ""), file=sys.stderr, flush=True)
        return 1
    return 0
