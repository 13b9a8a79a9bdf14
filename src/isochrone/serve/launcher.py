"""Two tiny programs, run by path in a bare interpreter (`python -I -S`), that make sure no child outlives its parent.

`launch PARENT_PID FD ARGV...` becomes ARGV after tying itself to the parent: it asks the kernel to be killed when the
parent dies (Linux, `prctl(2)` PR_SET_PDEATHSIG), and tells the reaper its process group through FD.

`reap` reads ``+PGID`` and ``-PGID`` lines from standard input until the end of file, which comes when the parent has
closed the pipe or died of anything, SIGKILL included, and then kills every group still on its list. It catches what
the kernel's signal does not: children of children, and every system that is not Linux.

Only the standard library, and little of it: this is what runs between fork and exec of every child.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def launch(parent_pid: int, registry_fd: int, argv: list[str]) -> None:
    """Tie this process to its parent and become `argv`. Exit status 127 when it cannot be executed, 125 if orphaned."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died between fork and prctl: no signal will ever come for that death.
    if os.getppid() != parent_pid:
        os._exit(125)
    os.write(registry_fd, b"+%d\n" % os.getpgid(0))
    os.set_inheritable(registry_fd, False)
    # Python ignores these two at start, and an ignored signal stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if hasattr(signal, "SIGXFSZ"):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - becoming another program is this one's purpose
    except OSError as e:
        sys.stderr.write(f"cannot execute {argv[0]}: {e.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


def reap() -> None:
    """Wait for the parent's end, then kill every group that is still registered."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


if __name__ == "__main__":
    if sys.argv[1] == "reap":
        reap()
    else:
        launch(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
