"""Every file operation of the log failing in turn, crashes at every named step, and flipped bits in every file.

After each fault the log is opened again and the application continues after the log's cursor; then the log must hold
every entry that was promised, once, in order, and fsck must find nothing wrong.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isochrone.errors import IntegrityError, StorageError
from isochrone.serve.logstore import FAULT_POINTS, Disk, FileLogStore, FileWitnessStore
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import Cosigner
from isochrone.tlog.fsck import fsck
from isochrone.tlog.note import Signer
from isochrone.tlog.reader import LogReader
from isochrone.tlog.store import MemoryStore
from isochrone.tlog.tiles import Tile
from isochrone.tlog.witness import AddCheckpointRequest, Witness
from isochrone.tlog.writer import LogWriter

ORIGIN = "faulty.example/log"
SIGNER = Signer(ORIGIN, b"F" * 32)


class Crash(BaseException):
    """The machine stops here."""


def journal_entry(index: int) -> bytes:
    return b"journal line %d " % index * (index % 5)


def work(writer: LogWriter, batches: list[int], promised: list[int]) -> None:
    """Sequence the journal from the log's cursor on, publish after each batch; note what has been promised."""
    for stop in batches:
        start = int(writer.cursor or b"0")
        if start < stop:
            writer.append([journal_entry(i) for i in range(start, stop)], b"%d" % stop)
        promised.append(stop)
        writer.publish(stop)


def check(store: FileLogStore | MemoryStore, promised: int) -> None:
    """The log holds the journal's first entries, at least `promised` of them, and nothing is wrong with it."""
    assert [f for f in fsck(store, SIGNER.verifier, ORIGIN) if f.severity == "error"] == []
    writer = LogWriter.open(store, SIGNER, ORIGIN)
    assert writer.size == int(writer.cursor or b"0") >= promised
    writer.publish(1)
    entries = list(LogReader(store, SIGNER.verifier, ORIGIN).entries())
    assert entries == [journal_entry(i) for i in range(writer.size)]
    assert fsck_errors(store) == []


def fsck_errors(store: FileLogStore | MemoryStore) -> list[str]:
    return [f.path for f in fsck(store, SIGNER.verifier, ORIGIN) if f.severity == "error"]


BATCHES = [3, 200, 256, 300, 900]


# A disk that loses what was not synced ------------------------------------------------------------------------------


class LossyDisk(Disk):
    """Files in memory. A crash keeps what was synced, and of the rest whatever `rng` likes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.contents: dict[int, bytearray] = {}  # inode -> bytes as the running process sees them
        self.durable: dict[int, bytes] = {}  # inode -> bytes as of its last sync
        self.names: dict[Path, int] = {}  # as the running process sees them
        self.durable_names: dict[Path, int] = {}
        self.pending: list[tuple[Path, Path, int]] = []  # renames not yet durable, in order
        self.directories: set[Path] = set()
        self.durable_directories: set[Path] = set()
        self.steps = 0
        self.crash_at = -1

    def reach(self, point: str) -> None:
        if self.steps == self.crash_at:
            raise Crash(point)
        self.steps += 1

    def crash(self) -> None:
        """Stop the machine, and start it again with what is left."""
        names = dict(self.durable_names)
        for source, target, inode in self.pending:
            if self.rng.random() < 0.5:
                names[target] = inode
                names.pop(source, None)
        kept_directories: set[Path] = set()
        for directory in sorted(self.directories):  # a directory comes after its parent, and is lost with it
            durable = directory in self.durable_directories or self.rng.random() < 0.5
            if durable and (directory.parent in kept_directories or directory.parent == directory):
                kept_directories.add(directory)
        self.directories = kept_directories
        contents: dict[int, bytearray] = {}
        for inode, seen in self.contents.items():
            kept = bytearray(self.durable.get(inode, b""))
            if bytes(kept) != seen and self.rng.random() < 0.5:
                kept = seen[: self.rng.randrange(len(seen) + 1)]  # a torn write
            contents[inode] = kept
        self.contents, self.durable = contents, {inode: bytes(data) for inode, data in contents.items()}
        self.names = {name: inode for name, inode in names.items() if name.parent in self.directories}
        self.durable_names, self.durable_directories = dict(self.names), set(self.directories)
        self.pending, self.crash_at = [], -1

    def read(self, path: Path) -> bytes:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return bytes(self.contents[self.names[path]])

    def create(self, path: Path) -> int:
        if path.parent not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory")
        inode = len(self.contents) + 1
        self.contents[inode] = bytearray()
        self.names[path] = inode
        return inode

    def write(self, descriptor: int, data: memoryview) -> int:
        count = self.rng.randint(1, len(data))
        self.contents[descriptor] += data[:count]
        return count

    def sync(self, descriptor: int) -> None:
        self.durable[descriptor] = bytes(self.contents[descriptor])

    def close(self, descriptor: int) -> None:
        pass

    def rename(self, source: Path, target: Path) -> None:
        inode = self.names.pop(source)
        self.names[target] = inode
        self.pending.append((source, target, inode))

    def make_directories(self, path: Path) -> None:
        self.directories |= {path, *path.parents}

    def sync_directory(self, path: Path) -> None:
        for source, target, inode in self.pending:
            if target.parent == path:
                self.durable_names[target] = inode
                self.durable_names.pop(source, None)
        self.pending = [rename for rename in self.pending if rename[1].parent != path]
        self.durable_directories |= {d for d in self.directories if d.parent == path}

    def remove_tree(self, path: Path) -> None:
        for names in (self.names, self.durable_names):
            for name in [name for name in names if path in name.parents]:
                del names[name]

    def remove(self, path: Path) -> None:
        for names in (self.names, self.durable_names):
            names.pop(path, None)

    def files(self, root: Path) -> Iterator[Path]:
        return iter([name for name in self.names if root in name.parents])


def lossy_store(disk: LossyDisk, root: Path) -> FileLogStore:
    for directory in (root / "public", root / "private"):
        disk.make_directories(directory)
        disk.durable_directories |= {directory, *directory.parents}
    return FileLogStore(root, disk=disk)


def steps_of_a_whole_run(root: Path) -> int:
    disk = LossyDisk(random.Random(0))
    store = lossy_store(disk, root)
    work(LogWriter.open(store, SIGNER, ORIGIN), BATCHES, [])
    store.close()
    return disk.steps


def test_a_machine_that_stops_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    total = steps_of_a_whole_run(tmp_path / "probe")
    assert total > 100
    for step in range(total):
        for seed in (1, 2):
            disk = LossyDisk(random.Random(step * 10 + seed))
            promised = [0]
            store = lossy_store(disk, tmp_path / "log")
            disk.crash_at = step
            with pytest.raises(Crash):
                work(LogWriter.open(store, SIGNER, ORIGIN), BATCHES, promised)
            store.close()
            disk.crash()
            store = lossy_store(disk, tmp_path / "log")
            check(store, promised[-1])
            work(LogWriter.open(store, SIGNER, ORIGIN), BATCHES, promised)
            check(store, BATCHES[-1])
            store.close()


def test_random_crashes_over_a_long_run(tmp_path: Path) -> None:
    rng = random.Random(42)
    disk, promised, crashes = LossyDisk(rng), [0], 0
    while promised[-1] < 20_000:
        store = lossy_store(disk, tmp_path / "log")
        disk.crash_at = disk.steps + rng.randrange(1, 120)
        try:
            writer = LogWriter.open(store, SIGNER, ORIGIN)
            while promised[-1] < 20_000:
                work(writer, [int(writer.cursor or b"0") + rng.choice((1, 10, 256, 700))], promised)
        except Crash:
            crashes += 1
            disk.crash()
        store.close()
    disk.crash_at = -1
    store = lossy_store(disk, tmp_path / "log")
    check(store, promised[-1])
    store.close()
    assert crashes > 10


# Operations that fail -----------------------------------------------------------------------------------------------


class FailingDisk(Disk):
    """A real disk whose operation number `fail_at` raises; `short` writes half of what it is given, then nothing."""

    def __init__(self, code: int, *, short: bool = False) -> None:
        self.code, self.short, self.count, self.fail_at = code, short, 0, -1

    def _count(self) -> None:
        self.count += 1
        if self.count - 1 == self.fail_at:
            raise OSError(self.code, os.strerror(self.code))

    def read(self, path: Path) -> bytes:
        self._count()
        return super().read(path)

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def write(self, descriptor: int, data: memoryview) -> int:
        if self.short and self.count == self.fail_at and len(data) > 1:
            super().write(descriptor, data[: len(data) // 2])
        self._count()
        return super().write(descriptor, data[: 1 + len(data) // 2] if self.short else data)

    def sync(self, descriptor: int) -> None:
        self._count()
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)

    def make_directories(self, path: Path) -> None:
        self._count()
        super().make_directories(path)

    def sync_directory(self, path: Path) -> None:
        self._count()
        super().sync_directory(path)

    def remove_tree(self, path: Path) -> None:
        self._count()
        super().remove_tree(path)


@pytest.mark.parametrize(
    ("code", "short"), [(errno.ENOSPC, False), (errno.EIO, False), (errno.ENOSPC, True)], ids=["ENOSPC", "EIO", "short"]
)
def test_every_operation_failing_in_turn(tmp_path: Path, code: int, short: bool) -> None:
    batches = [3, 300]
    disk = FailingDisk(code, short=short)
    store = FileLogStore(tmp_path / "probe", disk=disk)
    work(LogWriter.open(store, SIGNER, ORIGIN), batches, [])
    store.close()
    codes = []
    for step in range(disk.count):
        disk = FailingDisk(code, short=short)
        disk.fail_at = step
        root, promised = tmp_path / f"log{step}", [0]
        store = None
        try:
            store = FileLogStore(root, disk=disk)
            work(LogWriter.open(store, SIGNER, ORIGIN), batches, promised)
        except StorageError as error:
            codes.append((error.code, bool(error.hint)))
        finally:
            if store is not None:
                store.close()
        store = FileLogStore(root)
        check(store, promised[-1])
        work(LogWriter.open(store, SIGNER, ORIGIN), batches, promised)
        check(store, batches[-1])
        store.close()
    assert set(codes) == {("storage.full" if code == errno.ENOSPC else "storage", True)}
    assert len(codes) > 40


def test_a_prune_that_fails_anywhere_can_be_done_again(tmp_path: Path) -> None:
    class Stopping(FailingDisk):
        def remove(self, path: Path) -> None:
            self._count()
            super().remove(path)

    for step in range(30):
        root, disk = tmp_path / f"log{step}", Stopping(errno.EIO)
        make_log(root, (700, 1100))
        store = FileLogStore(root, disk=disk)
        writer = LogWriter.open(store, SIGNER, ORIGIN)
        disk.count, disk.fail_at = 0, step
        try:
            writer.prune(1030)
            done = True
        except StorageError:
            done = False
        store.close()
        store = FileLogStore(root)
        assert fsck_errors(store) == []
        writer = LogWriter.open(store, SIGNER, ORIGIN)
        assert writer.prune(1030) == 1024
        assert fsck(store, SIGNER.verifier, ORIGIN) == []
        assert list(LogReader(store, SIGNER.verifier, ORIGIN).entries(1024)) == [
            journal_entry(i) for i in range(1024, 1100)
        ]
        store.close()
        if done:
            break
    assert done
    assert step > 8


# Processes that are killed ------------------------------------------------------------------------------------------

_CHILD = """
import os, signal, sys
from pathlib import Path
from isochrone.serve.logstore import Disk, FileLogStore
from isochrone.tlog.note import Signer
from isochrone.tlog.writer import LogWriter
root, point, occurrence = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
class Killing(Disk):
    seen = 0
    def reach(self, name):
        if name == point:
            Killing.seen += 1
            if Killing.seen == occurrence:
                os.kill(os.getpid(), signal.SIGKILL)
signer = Signer("faulty.example/log", b"F" * 32)
writer = LogWriter.open(FileLogStore(root, disk=Killing()), signer, signer.name)
for stop in (3, 300, 600):
    start = int(writer.cursor or b"0")
    if start < stop:
        writer.append([b"journal line %d " % i * (i % 5) for i in range(start, stop)], b"%d" % stop)
    print(stop, flush=True)
    writer.publish(stop)
"""


@pytest.mark.parametrize("point", [p for p in FAULT_POINTS if not p.startswith("witness")])
def test_a_process_killed_at_every_named_point(tmp_path: Path, point: str) -> None:
    occurrence = 3 if point.startswith("tile") else 2
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "log"), point, str(occurrence)], capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    promised = [0, *map(int, child.stdout.split())]
    store = FileLogStore(tmp_path / "log")  # the dead process does not hold the lock
    check(store, promised[-1])
    work(LogWriter.open(store, SIGNER, ORIGIN), [3, 300, 600], promised)
    check(store, 600)
    store.close()


# Damage -------------------------------------------------------------------------------------------------------------


def make_log(root: Path, sizes: tuple[int, ...] = (100, 300, 520)) -> None:
    store = FileLogStore(root)
    writer = LogWriter.open(store, SIGNER, ORIGIN)
    for stop in sizes:
        writer.append([journal_entry(i) for i in range(writer.size, stop)], b"%d" % stop)
        writer.publish(stop)
    store.close()


def log_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != "lock")


def read_all(root: Path) -> list[bytes]:
    store = FileLogStore(root, writable=False)
    reader = LogReader(store, SIGNER.verifier, ORIGIN)
    return [*reader.entries(), *(reader.verify_entry(i).entry for i in (0, 255, 256, 519))]


def test_a_flipped_bit_in_any_file_is_found_by_fsck_and_never_read_as_good(tmp_path: Path) -> None:
    root = tmp_path / "log"
    make_log(root)
    store = FileLogStore(root, writable=False)
    assert fsck_errors(store) == []
    good = read_all(root)
    files = log_files(root)
    assert {"checkpoint", "state"} < {path.name for path in files}
    rng = random.Random(7)
    for path in files:
        data = path.read_bytes()
        positions = {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(8))}
        for position in sorted(positions):
            damaged = bytearray(data)
            damaged[position] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            assert fsck_errors(store), f"{path.name} byte {position}"
            try:
                seen = read_all(root)
            except (IntegrityError, StorageError):
                continue
            assert seen == good
        path.write_bytes(data)
    assert fsck_errors(store) == []


def test_a_missing_file_is_found_by_name(tmp_path: Path) -> None:
    root = tmp_path / "log"
    make_log(root)
    store = FileLogStore(root, writable=False)
    for path in log_files(root / "public" / "tile"):
        data = path.read_bytes()
        path.unlink()
        partial = Tile.parse(path.relative_to(root / "public").as_posix())
        assert partial is not None
        findings = fsck(store, SIGNER.verifier, ORIGIN)
        if partial.is_full or partial.width in (520 % 256, 2):
            assert [f.code for f in findings if f.path == partial.path] == ["missing"]
        path.write_bytes(data)
    (root / "private" / "state").unlink()
    assert {f.code for f in fsck(store, SIGNER.verifier, ORIGIN) if f.severity == "error"} == {"rollback"}


def test_files_that_do_not_belong_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "log"
    make_log(root)
    for name in ("tile/0/005", "tile/9/000", "tile/odd", "tile/0/000.p/7", "extra"):
        path = root / "public" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = {f.path: (f.severity, f.code) for f in fsck(FileLogStore(root, writable=False), SIGNER.verifier, ORIGIN)}
    assert found["tile/0/005"] == found["tile/9/000"] == ("note", "uncommitted")
    assert found["tile/odd"] == found["extra"] == ("error", "stray")
    assert found["tile/0/000.p/7"][0] in ("error", "note")


def test_an_attacker_who_rewrites_everything_but_has_no_key(tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    forged = MemoryStore()
    writer = LogWriter.open(forged, Signer(ORIGIN, b"X" * 32), ORIGIN)
    writer.append([b"forged"] * 520, b"520")
    writer.publish(1)
    for path, data in forged.files.items():
        target = tmp_path / "log" / "public" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    assert forged.state is not None
    (tmp_path / "log" / "private" / "state").write_bytes(forged.state)
    store = FileLogStore(tmp_path / "log")
    assert "checkpoint" in fsck_errors(store)
    with pytest.raises(IntegrityError):
        LogWriter.open(store, SIGNER, ORIGIN)
    store.close()


# The store itself ---------------------------------------------------------------------------------------------------


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path / "log")
    with pytest.raises(StorageError) as caught:
        FileLogStore(tmp_path / "log")
    assert caught.value.code == "storage.locked"
    reading = FileLogStore(tmp_path / "log", writable=False)
    for write in (
        lambda: reading.write_state(b""),
        lambda: reading.write_checkpoint(b""),
        lambda: reading.write_tiles([("tile/0/000", b"")]),
        lambda: reading.remove_partials("tile/0/000"),
    ):
        with pytest.raises(StorageError) as caught:
            write()
        assert caught.value.code == "storage.read-only"
    store.close()
    FileLogStore(tmp_path / "log").close()


def test_a_place_where_no_log_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for open_store in (
        lambda: FileLogStore(tmp_path / "file" / "log"),
        lambda: FileWitnessStore(tmp_path / "file" / "w"),
    ):
        with pytest.raises(StorageError):
            open_store()


@pytest.mark.parametrize("point", [p for p in FAULT_POINTS if p.startswith("witness")])
def test_a_witness_that_stops_at_any_step_never_goes_back(tmp_path: Path, point: str) -> None:
    log = MemoryStore()
    writer = LogWriter.open(log, SIGNER, ORIGIN)
    cosigner = Cosigner.ed25519("w.example", b"W" * 32)

    class Stopping(Disk):
        armed = False

        def reach(self, name: str) -> None:
            if self.armed and name == point:
                raise Crash(name)

    def request(old: int, size: int) -> bytes:
        writer.append([journal_entry(i) for i in range(writer.size, size)], b"")
        signed = writer.publish(size)
        return AddCheckpointRequest(old, tuple(writer.consistency_proof(old)), signed).encode()

    disk = Stopping()
    witness = Witness(FileWitnessStore(tmp_path / "w", disk=disk), [cosigner], {ORIGIN: [SIGNER.verifier]})
    assert witness.add_checkpoint(request(0, 10), 1).status == 200
    disk.armed = True
    body = request(10, 20)
    with pytest.raises(Crash):
        witness.add_checkpoint(body, 2)
    again = Witness(FileWitnessStore(tmp_path / "w"), [cosigner], {ORIGIN: [SIGNER.verifier]})
    response = again.add_checkpoint(body, 3)
    if response.status == 409:  # it was stored before the stop: the log asks again from there
        assert response.body == b"20\n"
        response = again.add_checkpoint(request(20, 20), 3)
    assert response.status == 200


def test_the_checkpoint_is_never_ahead_of_the_state(tmp_path: Path) -> None:
    """What is signed is durable first, at every step of a run."""

    class Watching(Disk):
        def reach(self, point: str) -> None:
            store = FileLogStore(tmp_path / "log", writable=False)
            signed, state = store.read("checkpoint"), store.read_state()
            if signed is not None:
                size = Checkpoint.parse_and_verify(signed, SIGNER.verifier).size
                assert state is not None
                assert int(state.split(b"\n")[2]) >= size

    store = FileLogStore(tmp_path / "log", disk=Watching())
    work(LogWriter.open(store, SIGNER, ORIGIN), BATCHES, [])
    store.close()
