"""Small file mechanisms that every store of the shell shares: atomic replacement, directory sync, single-instance lock.

Every function turns an `OSError` into `StorageError`: code ``storage.full`` when the disk, quota or file-size limit is
reached, ``storage.io`` otherwise, so that callers can stop admitting work on the former.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from isochrone.errors import StorageError

__all__ = [
    "atomic_write",
    "fsync_dir",
    "last_lines",
    "lock",
    "private_dir",
    "replace_unsynced",
    "storage_errors",
    "sweep_temporaries",
    "write_if_changed",
]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TEMPORARY_SUFFIX = ".tmp~"


@contextlib.contextmanager
def storage_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn any `OSError` inside into `StorageError` that names what was being done and to which path."""
    try:
        yield
    except OSError as e:
        if e.errno in _FULL:
            hint = "free space (or raise the quota or file-size limit) and start again; nothing was half-written"
            raise StorageError(f"no space left while {doing} {path}", code="storage.full", hint=hint) from e
        hint = "check that the path exists, is writable for this user, and that the disk is healthy"
        raise StorageError(f"{doing} {path} failed: {e.strerror or e}", code="storage.io", hint=hint) from e


def fsync_dir(path: Path) -> None:
    """Make the names inside directory `path` durable (POSIX: a rename is only durable after this).

    Raises:
        StorageError: the directory cannot be opened or synced.
    """
    with storage_errors("syncing directory", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def replace_unsynced(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` at once, without waiting for the disk: a power cut may bring back the old content.

    Only for what is also kept durably elsewhere and is written again after a restart.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}")
    with storage_errors("writing", path):
        try:
            temporary.write_bytes(data)
            temporary.chmod(mode)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def atomic_write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that a reader or a crash sees the old bytes or the new ones, never a mixture.

    The temporary file is made beside the target (same file system), synced, renamed, and the directory synced.

    Args:
        path: target; its directory must exist.
        data: the whole new content.
        mode: permission bits of the new file, regardless of the umask.

    Raises:
        StorageError: disk full or any other refusal; the target is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}")
    with storage_errors("writing", path):
        try:
            _write_synced(temporary, data, mode)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    fsync_dir(path.parent)


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.fchmod(fd, mode)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def write_if_changed(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """`atomic_write` unless `path` already holds exactly `data`; returns whether it wrote."""
    with storage_errors("reading", path):
        try:
            if path.read_bytes() == data:
                return False
        except FileNotFoundError:
            pass
    atomic_write(path, data, mode)
    return True


def sweep_temporaries(directory: Path) -> int:
    """Delete what a crash between write and rename left in `directory`; returns how many files."""
    leftovers = [p for p in directory.glob(f".*{_TEMPORARY_SUFFIX}") if p.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def private_dir(path: Path) -> Path:
    """Create `path` (with parents) readable by this user alone (0700), or tighten it to that; returns it."""
    with storage_errors("creating directory", path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    return path


def last_lines(path: Path, count: int = 20, since_byte: int = 0, bytes_max: int = 65_536) -> list[str]:
    """The last `count` lines of a text file after byte `since_byte`, reading at most `bytes_max`; [] when missing."""
    try:
        with path.open("rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(since_byte, f.tell() - bytes_max))
            return f.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` as this host's single-instance lock for the `with` block.

    The lock is the kernel's (flock), so it ends with the process however that ends; the file stays and names the last
    holder's process id.

    Raises:
        StorageError: ``storage.locked`` when another process (or another holder in this one) has it.
    """
    with storage_errors("opening lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StorageError(
                f"{path} is locked by process {holder}",
                code="storage.locked",
                hint="stop the other instance, or choose another state directory",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
