"""The storage port of a log, and a log held in memory.

A store holds three kinds of thing, and each has one writer's rule:

- *tiles* (hash tiles and entry bundles): written once, then never changed while the durable state covers them;
- the *checkpoint*: one file, replaced atomically; readers see the old or the new one, never a mixture;
- the *state*: one private file, replaced atomically; replacing it is the moment an append happens.

Each write is durable when it returns, and raises StorageError when it cannot be; then it may have happened or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

__all__ = ["LogReadStore", "LogStore", "MemoryStore", "WitnessStore"]


class LogReadStore(Protocol):
    """What a reader of a log needs: the public resources below its prefix (a directory, or an HTTP mirror of one)."""

    def read(self, path: str) -> bytes | None:
        """The bytes of a resource (``checkpoint``, ``tile/...``), or None when there is none."""
        ...


class LogStore(LogReadStore, Protocol):
    """What a sequencer and fsck need."""

    def write_tiles(self, tiles: Sequence[tuple[str, bytes]]) -> None:
        """Write resources, each whole or not at all; all are durable on return. An existing one is replaced."""
        ...

    def write_checkpoint(self, data: bytes) -> None:
        """Replace the checkpoint atomically and durably."""
        ...

    def read_state(self) -> bytes | None:
        """The sequencer's state, or None for a log that has none yet."""
        ...

    def write_state(self, data: bytes) -> None:
        """Replace the sequencer's state atomically and durably."""
        ...

    def remove_partials(self, path: str) -> None:
        """Remove all partial tiles of the full tile at `path`; none is no error. Need not be durable."""
        ...

    def remove(self, path: str) -> None:
        """Remove a resource; absence is no error. Need not be durable."""
        ...

    def paths(self) -> Iterator[str]:
        """Every public resource in the store, in any order, including whatever does not belong there."""
        ...


class WitnessStore(Protocol):
    """A witness's memory: for each origin the latest checkpoint it cosigned, as a signed note."""

    def load(self, origin: str) -> bytes | None:
        """The stored checkpoint, or None when this log was never cosigned."""
        ...

    def swap(self, origin: str, old: bytes | None, new: bytes) -> bool:
        """Store `new` durably if the stored one is still `old`, in one atomic step; False (nothing done) if not."""
        ...


class MemoryStore:
    """A `LogStore` and a `WitnessStore` in memory, for tests and simulations; `files` may be looked at and damaged."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.state: bytes | None = None
        self.witnessed: dict[str, bytes] = {}

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def write_tiles(self, tiles: Sequence[tuple[str, bytes]]) -> None:
        self.files.update(tiles)

    def write_checkpoint(self, data: bytes) -> None:
        self.files["checkpoint"] = data

    def read_state(self) -> bytes | None:
        return self.state

    def write_state(self, data: bytes) -> None:
        self.state = data

    def remove_partials(self, path: str) -> None:
        for name in [name for name in self.files if name.startswith(f"{path}.p/")]:
            del self.files[name]

    def remove(self, path: str) -> None:
        self.files.pop(path, None)

    def paths(self) -> Iterator[str]:
        return iter(tuple(self.files))

    def load(self, origin: str) -> bytes | None:
        return self.witnessed.get(origin)

    def swap(self, origin: str, old: bytes | None, new: bytes) -> bool:
        if self.witnessed.get(origin) != old:
            return False
        self.witnessed[origin] = new
        return True
