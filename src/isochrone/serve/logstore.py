"""A log and a witness's memory on plain files: the I/O of `tlog.store`, and nothing else.

    <root>/public/checkpoint        serve this directory as static files: it is the log
    <root>/public/tile/...
    <root>/private/state            the sequencer's state: entries not published yet, the cursor
    <root>/private/lock             held while a writer has the log open

Files are written under temporary names, synced, renamed, and their directories synced; so each file is whole or absent,
and what a call has written is durable when it returns. Each step has a name (`FAULT_POINTS`) that is reported to the
`Disk` before it is taken; tests put a disk in place that fails, or kills the process, at a given one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from isochrone.errors import StorageError

__all__ = ["FAULT_POINTS", "Disk", "FileLogStore", "FileWitnessStore"]

_STEPS = ("create", "write", "sync", "rename", "sync-directory", "done")
FAULT_POINTS: Final = tuple(f"{kind}.{step}" for kind in ("tile", "state", "checkpoint", "witness") for step in _STEPS)
"""Steps of the write path, each reported before it is taken; ``done`` comes after the last one."""

SETTLED_MAX = 1024
_TEMPORARY = ".tmp"
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


class Disk:
    """The file operations of a store; each raises OSError."""

    def reach(self, point: str) -> None:
        """Called before each step of the write path with its name."""

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def create(self, path: Path) -> int:
        """Open `path` for writing, empty."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of `data`; returns how many bytes, which may be fewer than given."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def make_directories(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove_tree(self, path: Path) -> None:
        shutil.rmtree(path)

    def remove(self, path: Path) -> None:
        path.unlink()

    def files(self, root: Path) -> Iterator[Path]:
        """Every file below `root`."""
        for directory, _, names in os.walk(root):
            yield from (Path(directory, name) for name in names)


class _Files:
    """Durable, atomic writing of files below `root`."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root, self.disk = root, disk
        self._settled = {root}  # directories that are durably entered in their parents

    def read(self, name: str) -> bytes | None:
        try:
            return self.disk.read(self.root / name)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise _storage_error(f"cannot read {name}", error) from error

    def write(self, kind: str, files: Sequence[tuple[str, bytes]]) -> None:
        """Write each of `files` (name, content); all are durable on return."""
        paths = [self.root / name for name, _ in files]
        directories = dict.fromkeys(d for path in paths for d in self._unsettled(path.parent))
        try:
            self._write_temporaries(kind, [(_temporary(self.root / name), data) for name, data in files])
            for path in paths:
                self.disk.reach(f"{kind}.rename")
                self.disk.rename(_temporary(path), path)
            for directory in directories:
                self.disk.reach(f"{kind}.sync-directory")
                self.disk.sync_directory(directory)
            self.disk.reach(f"{kind}.done")
        except OSError as error:
            raise _storage_error(f"cannot write {kind} files", error) from error
        self._settled = {self.root, *directories, *(self._settled if len(self._settled) < SETTLED_MAX else ())}

    def _write_temporaries(self, kind: str, files: Sequence[tuple[Path, bytes]]) -> None:
        """Write all files and then sync them: the first sync makes the file system commit what the others need too."""
        with ExitStack() as opened:
            descriptors = []
            for path, data in files:
                self.disk.reach(f"{kind}.create")
                descriptor = self._create(path)
                opened.callback(self.disk.close, descriptor)
                descriptors.append(descriptor)
                self.disk.reach(f"{kind}.write")
                view = memoryview(data)
                while view:
                    written = self.disk.write(descriptor, view)
                    view = view[written:]
            for descriptor in descriptors:
                self.disk.reach(f"{kind}.sync")
                self.disk.sync(descriptor)

    def _create(self, path: Path) -> int:
        try:
            return self.disk.create(path)
        except FileNotFoundError:
            self.disk.make_directories(path.parent)
            return self.disk.create(path)

    def _unsettled(self, directory: Path) -> Iterator[Path]:
        """`directory`, and each one above it whose entry for the one below may not be durable yet."""
        yield directory
        while directory not in self._settled:
            directory = directory.parent
            yield directory


class FileLogStore:
    """`tlog.store.LogStore` in a directory.

    Args:
        root: the log's directory; made if it is not there.
        writable: take the log's lock, as its one writer; False for readers and fsck, which then cannot write.

    Raises:
        StorageError: ``storage.locked``, another writer has the log open; ``storage.full``; ``storage``.
    """

    def __init__(self, root: Path, *, writable: bool = True, disk: Disk | None = None) -> None:
        disk = disk or Disk()
        self.public_directory = root / "public"
        self._public, self._private = _Files(self.public_directory, disk), _Files(root / "private", disk)
        self._lock: int | None = None
        if writable:
            try:
                for directory in (self._public.root, self._private.root):
                    directory.mkdir(parents=True, exist_ok=True)
                for directory in (root, root.parent):
                    disk.sync_directory(directory)
                self._lock = _lock(self._private.root / "lock")
            except OSError as error:
                raise _storage_error(f"cannot open the log in {root}", error) from error

    def close(self) -> None:
        """Let another writer open the log."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self, path: str) -> bytes | None:
        return self._public.read(path)

    def write_tiles(self, tiles: Sequence[tuple[str, bytes]]) -> None:
        self._check_writable()
        self._public.write("tile", tiles)

    def write_checkpoint(self, data: bytes) -> None:
        self._check_writable()
        self._public.write("checkpoint", [("checkpoint", data)])

    def read_state(self) -> bytes | None:
        return self._private.read("state")

    def write_state(self, data: bytes) -> None:
        self._check_writable()
        self._private.write("state", [("state", data)])

    def remove_partials(self, path: str) -> None:
        self._remove(f"{path}.p", self._public.disk.remove_tree)

    def remove(self, path: str) -> None:
        self._remove(path, self._public.disk.remove)

    def paths(self) -> Iterator[str]:
        """Every public file but temporary ones: a crash may leave one, and the next write of that file replaces it."""
        for path in self._public.disk.files(self._public.root):
            if path.suffix != _TEMPORARY:
                yield path.relative_to(self._public.root).as_posix()

    def _remove(self, name: str, remove: Callable[[Path], None]) -> None:
        self._check_writable()
        try:
            remove(self._public.root / name)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise _storage_error(f"cannot remove {name}", error) from error

    def _check_writable(self) -> None:
        if self._lock is None:
            raise StorageError("the log was opened for reading only", code="storage.read-only")


class FileWitnessStore:
    """`tlog.store.WitnessStore` in a directory: one file for each origin, named by the SHA-256 of the origin."""

    def __init__(self, root: Path, *, disk: Disk | None = None) -> None:
        self._files = _Files(root, disk or Disk())
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _storage_error(f"cannot make {root}", error) from error

    def load(self, origin: str) -> bytes | None:
        return self._files.read(_witness_name(origin))

    def swap(self, origin: str, old: bytes | None, new: bytes) -> bool:
        name = _witness_name(origin)
        with self._locked():
            if self._files.read(name) != old:
                return False
            self._files.write("witness", [(name, new)])
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process and thread at a time, for the two or three milliseconds of a swap."""
        try:
            lock = _lock(self._files.root / "lock", wait=True)
        except OSError as error:
            raise _storage_error(f"cannot lock {self._files.root}", error) from error
        try:
            yield
        finally:
            os.close(lock)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + _TEMPORARY)


def _witness_name(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()


def _lock(path: Path, *, wait: bool = False) -> int:
    """A descriptor that holds the lock file at `path` until it is closed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        os.close(descriptor)
        raise StorageError(
            f"{path} is locked: another process writes here",
            code="storage.locked",
            hint="Stop the other writer; a log has one.",
        ) from error
    return descriptor


def _storage_error(what: str, error: OSError) -> StorageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StorageError(
        f"{what}: {error.strerror or error}",
        code="storage.full" if full else "storage",
        hint="Free some space." if full else "Check the disk and the directory's permissions.",
    )
