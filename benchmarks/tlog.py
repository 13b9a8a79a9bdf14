"""How fast a log sequences and verifies, as shares of what hashing and the disk alone allow.

    python benchmarks/tlog.py [--records 200000] [--directory DIR] [--flat 1000000]

All figures come from one run on one core, at 1 KB a record. What each line does:

- hash leaves: SHA-256 over each record with its prefix byte, nothing else (the floor of any RFC 6962 log);
- hash tree: the same, and the interior nodes of every tile;
- write and sync: the bytes of the entry bundles written to new files, one fsync each, nothing else;
- append: `LogWriter.append` in durable batches (bundles, tiles, state; each file and directory synced), with a signed
  checkpoint published at the end of each second of log time (5,000 records);
- verify: `LogReader.entries`, every entry hashed and compared with authenticated tiles up to the signed root;
- prove: `LogReader.verify_entry` at random indexes: entry, inclusion proof, and the proof checked;
- fsck: every entry hashed, every tile rebuilt and compared.

`--flat` appends that many records of 100 bytes and prints the resident memory on the way.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from isochrone.serve.logstore import FileLogStore
from isochrone.tlog.fsck import fsck
from isochrone.tlog.merkle import leaf_hashes, root_from_leaves
from isochrone.tlog.note import Signer
from isochrone.tlog.reader import LogReader
from isochrone.tlog.writer import LogWriter

ORIGIN = "benchmark.example/log"
SIGNER = Signer(ORIGIN, bytes(32))
RECORD_BYTES = 1024
PUBLISH_EVERY = 5_000
TARGET_SEQUENCED_PER_S = 15_000
TARGET_VERIFIED_PER_S = 20_000


def rate(count: int, work: Callable[[], object]) -> float:
    """Items per second of wall time."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def records(count: int, size: int = RECORD_BYTES) -> list[bytes]:
    """Distinct records whose content does not repeat."""
    rng = random.Random(1)
    return [rng.randbytes(size) for _ in range(count)]


def write_and_sync(directory: Path, batch: list[bytes], per_file: int) -> None:
    for start in range(0, len(batch), per_file):
        descriptor = os.open(directory / f"{start}", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"".join(batch[start : start + per_file]))
        os.fsync(descriptor)
        os.close(descriptor)


def append(root: Path, pool: list[bytes], count: int, batch: int) -> tuple[float, float]:
    """Sequence `count` records in batches; returns records per second and bytes written per record."""
    before = written_bytes()
    store = FileLogStore(root)
    writer = LogWriter.open(store, SIGNER, ORIGIN)

    def work() -> None:
        while writer.size < count:
            start = writer.size % len(pool)
            writer.append(pool[start : start + batch], b"%d" % writer.size)
            if writer.size - writer.published_size >= PUBLISH_EVERY:
                writer.publish(0)
        writer.publish(0)

    per_s = rate(count, work)
    store.close()
    return per_s, (written_bytes() - before) / count


def written_bytes() -> int:
    """Bytes this process has handed to write(2); 0 where the system does not count them."""
    try:
        return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split("\n")[0])
    except OSError:
        return 0


def resident_mb() -> float:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return float("nan")


def stored_bytes(root: Path, kinds: set[str]) -> int:
    """Bytes in the files of these kinds: a level of hash tiles, or ``entries``."""
    tiles = root / "public" / "tile"
    return sum(path.stat().st_size for kind in kinds for path in (tiles / kind).rglob("*") if path.is_file())


def limits(directory: Path, pool: list[bytes]) -> tuple[float, float, float]:
    count = len(pool)
    leaves = rate(count, lambda: leaf_hashes(pool))
    tree = rate(count, lambda: [root_from_leaves(leaf_hashes(pool[i : i + 256])) for i in range(0, count, 256)])
    (directory / "raw").mkdir()
    disk = rate(count, lambda: write_and_sync(directory / "raw", pool, 256))
    print(f"hash leaves       {leaves:>10,.0f} records/s")
    print(f"hash tree         {tree:>10,.0f} records/s")
    print(f"write and sync    {disk:>10,.0f} records/s   bundles of 256 records, {disk / 256:,.0f} fsync/s")
    return leaves, tree, disk


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--records", type=int, default=200_000)
    arguments.add_argument("--directory", type=Path)
    arguments.add_argument("--flat", type=int, default=0)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        if options.flat:
            memory_over(directory / "flat", options.flat)
            return
        pool = records(20_000)
        _, tree, disk = limits(directory, pool)
        bound = 1 / (1 / tree + 1 / disk)
        print(f"hash then sync    {bound:>10,.0f} records/s   the two above, one after the other: the limit for append")
        for batch in (10, 100, 1_000, 5_000):
            count = min(options.records, batch * 400)
            per_s, written = append(directory / f"log{batch}", pool, count, batch)
            print(
                f"append by {batch:<6,}  {per_s:>10,.0f} records/s   {per_s / bound:.2f} of the limit, "
                f"{per_s / TARGET_SEQUENCED_PER_S:.1f} x target, {written / RECORD_BYTES:.2f} bytes written a byte"
            )
        verify(directory / "log5000", tree)


def verify(root: Path, tree_per_s: float) -> None:
    store = FileLogStore(root, writable=False)
    reader = LogReader(store, SIGNER.verifier, ORIGIN)
    size = reader.checkpoint().size
    per_s = rate(size, lambda: sum(1 for _ in reader.entries()))
    share, target = per_s / tree_per_s, per_s / TARGET_VERIFIED_PER_S
    print(f"verify            {per_s:>10,.0f} records/s   {share:.2f} of hash tree, {target:.1f} x target")
    rng = random.Random(2)
    indexes = [rng.randrange(size) for _ in range(1_000)]
    per_s = rate(len(indexes), lambda: [reader.verify_entry(i) for i in indexes])
    print(f"prove             {per_s:>10,.0f} proofs/s    at random indexes")
    findings: list[object] = []
    per_s = rate(size, lambda: findings.extend(fsck(store, SIGNER.verifier, ORIGIN)))
    print(f"fsck              {per_s:>10,.0f} records/s   {len(findings)} findings")
    levels = {path.name for path in (root / "public" / "tile").iterdir()} - {"entries"}
    tiles, bundles = stored_bytes(root, levels) / size, stored_bytes(root, {"entries"}) / size
    print(f"tiles             {tiles:>10.2f} bytes a record; bundles {bundles:.2f} for {RECORD_BYTES} of content")


def memory_over(root: Path, count: int) -> None:
    store = FileLogStore(root)
    writer = LogWriter.open(store, SIGNER, ORIGIN)
    pool = records(5_000, 100)
    start, next_line = time.perf_counter(), 0
    while writer.size < count:
        writer.append(pool, b"%d" % writer.size)
        writer.publish(0)
        if writer.size >= next_line:
            per_s = writer.size / (time.perf_counter() - start)
            print(f"{writer.size:>12,} records   {resident_mb():7.1f} MB resident   {per_s:,.0f} records/s")
            next_line += count // 10
    store.close()


if __name__ == "__main__":
    main()
