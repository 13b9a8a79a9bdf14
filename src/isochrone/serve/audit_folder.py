"""An export folder on disk: written file by file into an empty directory, and read back."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from isochrone.errors import InputError
from isochrone.record.export import SUMS
from isochrone.serve.files import storage_errors

__all__ = ["FolderOnDisk"]


class FolderOnDisk:
    """A `record.export.Folder` below a directory.

    Raises:
        StorageError: from every method, when the disk does not do its part.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def empty(cls, root: Path) -> FolderOnDisk:
        """A folder to write to. Raises InputError (``audit.folder``) when there is something in it."""
        with storage_errors("making", root):
            root.mkdir(parents=True, exist_ok=True)
            if any(root.iterdir()):
                raise InputError(f"{root} is not empty", code="audit.folder", hint="name a new directory")
        return cls(root)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None when there is none. What leads out of the folder is not there."""
        file = self.root / path
        if ".." in file.parts[len(self.root.parts) :] or not file.is_file() or file.is_symlink():
            return None
        with storage_errors("reading", file):
            return file.read_bytes()

    def paths(self) -> Iterator[str]:
        """Every file, links and hidden ones too."""
        for file in sorted(self.root.rglob("*")):
            if not file.is_dir() or file.is_symlink():
                yield file.relative_to(self.root).as_posix()

    def write(self, path: str, data: bytes) -> None:
        file = self.root / path
        with storage_errors("writing", file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    def seal(self) -> None:
        """Write the digests of all files."""
        lines = [f"{sha256(self.read(path) or b'').hexdigest()}  {path}\n" for path in self.paths()]
        self.write(SUMS, "".join(lines).encode())
