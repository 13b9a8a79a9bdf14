"""One log of a site: its files, its writer, and the last checkpoint of it that a quorum of witnesses has cosigned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isochrone.record.shards import shard_origin
from isochrone.serve.bookmark import Bookmark
from isochrone.serve.files import private_dir, replace_unsynced
from isochrone.serve.logstore import Disk, FileLogStore
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.note import Note, Signer
from isochrone.tlog.reader import LogReader
from isochrone.tlog.store import LogReadStore
from isochrone.tlog.tiles import CHECKPOINT_PATH
from isochrone.tlog.writer import LogWriter

__all__ = ["Shard", "proof_of", "shard_directory"]


def shard_directory(root: Path, name: str) -> Path:
    """Where a shard's files are below a site's directory."""
    return root / (f"log-{name}" if name else "log")


class Shard:
    """The one writer of one log.

    The cosigned checkpoint is kept beside the log, not in it: a log whose directory was put back to an older copy is
    then found to be behind what was cosigned, and not opened.

    Raises:
        IntegrityError: ``tlog.rollback`` or ``tlog.fork``, and whatever `LogWriter.open` raises.
        StorageError: the store failed, or another process writes the log.
    """

    def __init__(self, root: Path, name: str, main: Signer, disk: Disk | None = None) -> None:
        self.name = name
        self._disk = disk or Disk()
        self.signer = main.named(shard_origin(main.name, name))
        self._directory = shard_directory(root, name)
        self._cosigned_path = private_dir(root / "cosigned") / (name or "main")
        self.cosigned = self._cosigned_path.read_bytes() if self._cosigned_path.exists() else b""
        self.store = FileLogStore(self._directory, disk=self._disk)
        try:
            self.open()
        except BaseException:
            self.store.close()  # or its lock would outlast the failure, and keep out the next attempt
            raise

    def open(self) -> None:
        """Read from disk how far the log is, at first and after every failure."""
        known = [Checkpoint.parse_and_verify(self.cosigned, self.signer.verifier)] if self.cosigned else []
        self.writer = LogWriter.open(self.store, self.signer, self.signer.name, known=known)

    @property
    def bookmark(self) -> Bookmark:
        return Bookmark.decode(self.writer.cursor)

    @property
    def cosigned_size(self) -> int:
        """Entries covered by the last checkpoint that a quorum has cosigned."""
        return Checkpoint.parse(Note.parse(self.cosigned).text).size if self.cosigned else 0

    def keep_cosigned(self, signed: bytes) -> None:
        """Remember a checkpoint that a quorum has cosigned. Unsynced: after a power cut an older one is as good."""
        self._disk.reach("cosigned.write")
        replace_unsynced(self._cosigned_path, signed)
        self.cosigned = signed

    def reader(self, *, cosigned: bool = False) -> LogReader:
        """A reader of what is published, or of what is cosigned, with a view of its own."""
        store: LogReadStore = FileLogStore(self._directory, writable=False)
        if cosigned:
            store = _At(store, self.cosigned)
        return LogReader(store, self.signer.verifier, self.signer.name)

    def prove(self, entry: int) -> dict[str, Any] | None:
        """An entry with what proves it (see `proof_of`); None when no checkpoint covers it yet. The proof is in the
        cosigned checkpoint if that covers the entry."""
        if entry >= self.writer.published_size:
            return None
        return {"log": self.name, **proof_of(self.reader(cosigned=entry < self.cosigned_size), entry)}

    def close(self) -> None:
        self.store.close()


def proof_of(reader: LogReader, entry: int) -> dict[str, Any]:
    """An entry with what proves it, as it travels: the record's text and a C2SP tlog-proof."""
    verified = reader.verify_entry(entry)
    return {"entry": entry, "record": verified.entry.decode(), "proof": reader.prove(entry).encode().decode()}


class _At:
    """A log as it was at one checkpoint."""

    def __init__(self, store: LogReadStore, checkpoint: bytes) -> None:
        self._store, self._checkpoint = store, checkpoint

    def read(self, path: str) -> bytes | None:
        return self._checkpoint if path == CHECKPOINT_PATH else self._store.read(path)
