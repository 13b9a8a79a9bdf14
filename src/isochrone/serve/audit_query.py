"""Queries over what sites recorded: from their derived indexes, or from an export folder that was verified.

An index that is missing or of another version is made again, in memory, from the log beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isochrone.errors import InputError
from isochrone.record.audit import records_in
from isochrone.record.canonical import Record, decode
from isochrone.record.export import MANIFEST, Manifest
from isochrone.record.facts import COLUMNS, Facts
from isochrone.record.shards import verifiers_of
from isochrone.serve.audit_folder import FolderOnDisk
from isochrone.serve.log_index import Index
from isochrone.serve.logstore import FileLogStore
from isochrone.serve.shard import shard_directory
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.extract import first_index
from isochrone.tlog.note import Note
from isochrone.tlog.reader import LogReader
from isochrone.tlog.tree import TileTree

__all__ = ["Row", "rows_of_folder", "rows_of_sites", "write_parquet"]

_MEMORY = Path(":memory:")
_CHUNK = 5000
_BATCH_ROWS = 50_000
_WHOLE = frozenset({"entry", "at_us", "status", "duration_us"})


class Row(NamedTuple):
    """One record: where it is, and what it says."""

    site: str
    log: str
    entry: int
    facts: Facts

    @property
    def values(self) -> tuple[Any, ...]:
        """In the order of `COLUMNS`."""
        return (self.site, self.log, self.entry, *self.facts)

    def to_json(self) -> dict[str, Any]:
        return dict(zip(COLUMNS, self.values, strict=True))


def rows_of_sites(
    directories: Mapping[str, Path], vkeys: Mapping[str, str], where: Mapping[str, str], times: Sequence[int | None]
) -> Iterator[Row]:
    """Rows of sites whose directories are on this machine.

    Args:
        directories: site to its directory. vkeys: site to its main log's verifier key, to make an index again.
        where: fact to the value it must have. times: begin (included) and end (excluded), us since 1970, or None.
    """
    for site, directory in directories.items():
        index = Index.existing(directory / "index.sqlite") or _index_of(directory, vkeys[site])
        yield from _rows(site, index, where, times)


def rows_of_folder(root: Path, where: Mapping[str, str], times: Sequence[int | None]) -> Iterator[Row]:
    """Rows of an export folder. Verify the folder first: here each entry is held to its checkpoint's root only.

    Raises:
        IntegrityError: the folder was altered.
    """
    folder, indexes = FolderOnDisk(root), dict[str, Index]()
    for part in Manifest.parse(folder.read(MANIFEST)).logs:
        index = indexes.setdefault(part.site, Index(_MEMORY))
        store = FolderOnDisk(root / part.folder)
        checkpoint = Checkpoint.parse(Note.parse(store.read("checkpoint") or b"").text)
        tree = TileTree(store, checkpoint.size, checkpoint.root)
        for number, record in records_in(folder, part, tree):
            index.add(number, [record], part.shard)
    for site, index in indexes.items():
        yield from _rows(site, index, where, times)


def write_parquet(path: Path, rows: Iterable[Row]) -> int:
    """Write rows as a Parquet file with the columns of `COLUMNS`; returns how many.

    Raises:
        InputError: ``audit.parquet``, pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(
            "Parquet needs pyarrow", code="audit.parquet", hint="pip install 'isochrone[hub]', or use --json"
        ) from error
    types = [pa.int64() if name in _WHOLE else pa.string() for name in COLUMNS]
    kinds = dict(zip(COLUMNS, types, strict=True))
    fields = [pa.field(name, kind, metadata={"about": COLUMNS[name]}) for name, kind in kinds.items()]
    schema, count = pa.schema(fields), 0
    try:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in _batches(rows):
                arrays = [pa.array(column, kind) for column, kind in zip(zip(*batch, strict=True), types, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                count += len(batch)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}", code="audit.parquet") from error
    return count


def _rows(site: str, index: Index, where: Mapping[str, str], times: Sequence[int | None]) -> Iterator[Row]:
    try:
        for log, entry, facts in index.rows(where, *times):
            yield Row(site, log, entry, facts)
    finally:
        index.close()


def _batches(rows: Iterable[Row]) -> Iterator[list[tuple[Any, ...]]]:
    batch: list[tuple[Any, ...]] = []
    for row in rows:
        batch.append(row.values)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _index_of(directory: Path, vkey: str) -> Index:
    """An index in memory over a site's logs."""
    index = Index(_MEMORY)
    for shard, verifier in verifiers_of(vkey).items():
        place = shard_directory(directory, shard)
        if not (place / "public" / "checkpoint").is_file():
            continue
        store = FileLogStore(place, writable=False)
        reader = LogReader(store, verifier, verifier.name)
        size = reader.checkpoint().size
        start = first_index(store, size)
        chunk: list[Record] = []
        for data in reader.entries(start, size):
            chunk.append(decode(data))
            if len(chunk) == _CHUNK:
                index.add(start, chunk, shard)
                start, chunk = start + _CHUNK, []
        index.add(start, chunk, shard)
    return index
