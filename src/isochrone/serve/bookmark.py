"""What a log remembers with every append, in one piece: how far the journal is read, and what was counted in it.

It is the log's cursor (`tlog.writer`): it moves with the entries in one durable step, so counts are exact across
crashes. A shard's bookmark also says how lines were shared out over the shards in the step it belongs to: a step that
was interrupted between two shards is then finished as it was begun, whatever the fabric says by now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from isochrone.errors import IntegrityError
from isochrone.serve.journal import Cursor

__all__ = ["ROLES", "Bookmark", "Counts", "Tally"]

ROLES = ("ingress", "peer")


@dataclass(frozen=True, slots=True)
class Counts:
    """Lines of one listener: `starts`, `ends`, and those `ends` that have an id, hence a start of their own."""

    starts: int = 0
    ends: int = 0
    identified: int = 0

    @property
    def unended(self) -> int:
        """Requests that began and have no end, yet or ever."""
        return max(0, self.starts - self.identified)


@dataclass(frozen=True, slots=True)
class Tally:
    """Journal lines of one Envoy: `segment` is the first it wrote, `counts` are by listener."""

    segment: int = 1
    counts: Mapping[str, Counts] = field(default_factory=dict)

    def of(self, role: str) -> Counts:
        return self.counts.get(role, Counts())

    def add(self, lines: Iterable[Mapping[str, Any]]) -> Tally:
        """With these lines counted."""
        numbers = {role: [self.of(role).starts, self.of(role).ends, self.of(role).identified] for role in ROLES}
        for line in lines:
            row = numbers.get(str(line.get("role")))
            if row is None:
                continue
            if line.get("type") == "DownstreamStart":
                row[0] += 1
            elif line.get("type") == "DownstreamEnd":
                row[1] += 1
                row[2] += bool(line.get("id"))
        return replace(self, counts={role: Counts(*row) for role, row in numbers.items()})


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where reading of the journal goes on, what was counted before, and how contracts were shared out over shards."""

    journal: bytes = b""
    tally: Tally = Tally()
    classes: Mapping[str, str] = field(default_factory=dict)

    @property
    def segment(self) -> int:
        return Cursor.from_bytes(self.journal).segment

    def encode(self) -> bytes:
        counts = {role: [c.starts, c.ends, c.identified] for role, c in self.tally.counts.items()}
        document = {"journal": self.journal.hex(), "segment": self.tally.segment, "counts": counts}
        return json.dumps(document | {"classes": dict(self.classes)}, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Bookmark:
        """Inverse of `encode`; empty bytes are the beginning.

        Raises:
            IntegrityError: ``journal.bookmark``.
        """
        if not data:
            return cls()
        try:
            document = json.loads(data)
            counts = {str(role): Counts(*map(int, row)) for role, row in document["counts"].items()}
            tally = Tally(int(document["segment"]), counts)
            return cls(bytes.fromhex(document["journal"]), tally, dict(document["classes"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"the log's bookmark is damaged: {error!r}", code="journal.bookmark") from error
