"""Where records are: an index over a site's logs, in one SQLite file. Derived; it can be deleted at any time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from isochrone.record.canonical import Record
from isochrone.record.facts import Facts, facts_of
from isochrone.record.handover import other_end

__all__ = ["Index", "Place"]

_VERSION = 3
# A derived file: losing the last second of it to a power cut costs a short re-reading, so it is not synced.
_SCHEMA = f"""
PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA user_version={_VERSION};
CREATE TABLE IF NOT EXISTS record (log TEXT, entry INTEGER, {", ".join(Facts._fields)}, other TEXT,
    PRIMARY KEY (log, entry)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_id ON record (id);
CREATE INDEX IF NOT EXISTS by_kind ON record (kind, log, entry);
CREATE INDEX IF NOT EXISTS by_other ON record (other, log, entry) WHERE other IS NOT NULL;
"""
_INSERT = f"INSERT OR REPLACE INTO record VALUES ({', '.join('?' * (len(Facts._fields) + 3))})"  # noqa: S608 - marks
_ASKED_MAX = 500


class Place(NamedTuple):
    """One record: the shard (see `record.shards`) and the entry's number in its log."""

    log: str
    entry: int


class Index:
    """Where records are, by execution id, grant id and kind, and which ones another site must know of as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            is_other = version != _VERSION and db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if is_other:
                raise sqlite3.DatabaseError(f"version {version}")
            db.executescript(_SCHEMA)
        except sqlite3.DatabaseError:
            db.close()
            self._remove()
            return self._open()
        return db

    @classmethod
    def existing(cls, path: Path) -> Index | None:
        """The index that a site keeps, to be read beside it; None when there is none of this version."""
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error:
            return None
        return cls(path) if version == _VERSION else None

    def mended(self, work: Callable[[], None]) -> None:
        """Do `work`; where that shows that the file is damaged, begin an empty one and do it again."""
        try:
            work()
        except sqlite3.OperationalError:  # no space, no access: the file itself may be whole
            raise
        except sqlite3.DatabaseError:
            self._db.close()
            self._remove()
            self._db = self._open()
            work()

    def _remove(self) -> None:
        for left in self._path.parent.glob(f"{self._path.name}*"):
            left.unlink()

    def size(self, log: str = "") -> int:
        """The entry after the last one indexed; 0 when none is."""
        query = "SELECT COALESCE(MAX(entry) + 1, 0) FROM record WHERE log = ?"
        return int(self._db.execute(query, (log,)).fetchone()[0])

    def add(self, first: int, records: Sequence[Record], log: str = "") -> None:
        """Index records that are the log's entries from `first` on."""
        rows = [(log, first + n, *facts_of(record), other_end(record)) for n, record in enumerate(records)]
        self._db.execute("BEGIN")
        try:
            self._db.executemany(_INSERT, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            # What is missing is found and added when the log is opened again.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def keep(self, log: str, start: int, stop: int) -> None:
        """Forget entries of a log outside [start, stop): those it does not hold, and those that were pruned."""
        self._db.execute("DELETE FROM record WHERE log = ? AND (entry >= ? OR entry < ?)", (log, stop, start))

    def find(self, identifier: str, kinds: tuple[str, ...]) -> list[Place]:
        """Records of these kinds with this id, oldest first in each log, the main log first."""
        marks = ",".join("?" * len(kinds))
        query = f"SELECT log, entry FROM record WHERE id = ? AND kind IN ({marks}) ORDER BY log, entry"  # noqa: S608
        return [Place(*row) for row in self._db.execute(query, (identifier, *kinds))]

    def since(self, log: str, kind: str, at_us: int) -> list[int]:
        """Entries of a kind in a log that began at or after a time, oldest first."""
        query = "SELECT entry FROM record WHERE kind = ? AND log = ? AND at_us >= ? ORDER BY entry"
        return [row[0] for row in self._db.execute(query, (kind, log, at_us))]

    def last(self, kind: str, before: int) -> int | None:
        """The newest entry of a kind below `before` in the main log."""
        query = "SELECT MAX(entry) FROM record WHERE kind = ? AND log = '' AND entry < ?"
        found = self._db.execute(query, (kind, before)).fetchone()[0]
        return None if found is None else int(found)

    def rows(
        self, where: Mapping[str, str], from_us: int | None = None, to_us: int | None = None
    ) -> Iterator[tuple[str, int, Facts]]:
        """Log, entry and facts of the records with these facts that began in [`from_us`, `to_us`), by time.

        Raises:
            KeyError: `where` names what is no fact.
        """
        tests = [f"{name} = ?" for name in _checked(where)]
        values: list[str | int] = list(where.values())
        for test, at_us in (("at_us >= ?", from_us), ("at_us < ?", to_us)):
            if at_us is not None:
                tests.append(test)
                values.append(at_us)
        query = f"SELECT * FROM record WHERE {' AND '.join(tests) or '1'} ORDER BY at_us, log, entry"  # noqa: S608
        for log, entry, *facts, _ in self._db.execute(query, values):
            yield log, entry, Facts(*facts)

    def first_since(self, log: str, at_us: int) -> int | None:
        """The first entry of a log that began at `at_us` or later: all before it are older."""
        query = "SELECT MIN(entry) FROM record WHERE log = ? AND at_us >= ?"
        found = self._db.execute(query, (log, at_us)).fetchone()[0]
        return None if found is None else int(found)

    def shared_with(self, other: str, log: str, start: int, count_max: int) -> list[tuple[int, str, int]]:
        """Entry, id and start (us) of records from `start` on of which another site must have one as well."""
        query = "SELECT entry, id, at_us FROM record WHERE other = ? AND log = ? AND entry >= ? ORDER BY entry LIMIT ?"
        return [(row[0], row[1], row[2]) for row in self._db.execute(query, (other, log, start, count_max))]

    def others(self) -> set[str]:
        """Sites that have records in common with this one."""
        query = "SELECT DISTINCT other FROM record WHERE other IS NOT NULL"
        return {row[0] for row in self._db.execute(query)}

    def unknown(self, identifiers: Sequence[str]) -> list[str]:
        """Those of `identifiers` that no record here has."""
        known: set[str] = set()
        for start in range(0, len(identifiers), _ASKED_MAX):
            part = identifiers[start : start + _ASKED_MAX]
            marks = ",".join("?" * len(part))
            query = f"SELECT id FROM record WHERE id IN ({marks})"  # noqa: S608 - marks only
            known.update(row[0] for row in self._db.execute(query, part))
        return [each for each in identifiers if each not in known]

    def close(self) -> None:
        self._db.close()


def _checked(where: Mapping[str, str]) -> list[str]:
    """The names in `where`, which go into the query's text: all are facts."""
    for name in where:
        if name not in Facts._fields:
            raise KeyError(name)
    return list(where)
