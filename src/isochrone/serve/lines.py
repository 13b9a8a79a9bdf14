"""A file of lines that only grows: each batch is on disk when `append` returns, and a torn last line never was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from isochrone.serve.files import storage_errors

__all__ = ["Lines"]


class Lines:
    """ASCII lines in one file of mode 0600; one writer.

    Raises:
        StorageError: from every method, when the disk does not do its part.
        ValueError: from `read`, when the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[str]:
        """Every whole line; what a crash left of another is cut off."""
        with storage_errors("reading", self._path):
            if not self._path.exists():
                return []
            data = self._path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self._path, whole)
        return data[:whole].decode("ascii").splitlines()

    def append(self, lines: Sequence[str]) -> None:
        """Write lines behind those that are there."""
        with storage_errors("writing", self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                file.write("".join(f"{line}\n" for line in lines).encode("ascii"))
                file.flush()
                os.fsync(file.fileno())

    def clear(self) -> None:
        """Forget all of it."""
        with storage_errors("removing", self._path):
            self._path.unlink(missing_ok=True)
