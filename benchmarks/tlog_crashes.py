"""A log whose sequencer is killed again and again (SIGKILL, at random moments): is anything lost or doubled?

    python benchmarks/tlog_crashes.py [--records 1000000] [--seed 1] [--directory DIR]

A child process sequences a journal whose line i can be told from i alone, in batches of random size, each with the
journal's offset as its cursor, and publishes after each tenth batch. It reports what was promised (each append that
returned) on a pipe. The parent kills it after a random time and starts it again, until the journal is in the log. Then
every line is read back, verified, and compared with the journal; fsck judges the files.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from isochrone.serve.logstore import FileLogStore
from isochrone.tlog.fsck import fsck
from isochrone.tlog.note import Signer
from isochrone.tlog.reader import LogReader
from isochrone.tlog.writer import LogWriter

ORIGIN = "crashes.example/log"
SIGNER = Signer(ORIGIN, bytes(32))
RUN_S_MAX = 1.0
LINE_BYTES = 100


def line(index: int) -> bytes:
    return (b"%d %s" % (index, sha256(b"%d" % index).hexdigest().encode())).ljust(LINE_BYTES)


def sequence(root: Path, count: int, seed: int) -> None:
    """The child: continue after the cursor until the journal is sequenced."""
    rng = random.Random(seed)
    writer = LogWriter.open(FileLogStore(root), SIGNER, ORIGIN)
    batches = 0
    while (start := int(writer.cursor or b"0")) < count:
        stop = min(count, start + rng.choice((1, 20, 300, 3_000)))
        writer.append([line(i) for i in range(start, stop)], b"%d" % stop)
        print(stop, flush=True)
        batches += 1
        if batches % 10 == 0:
            writer.publish(0)
    writer.publish(0)


def run_and_kill(root: Path, count: int, rng: random.Random) -> tuple[int, bool]:
    """One life of the child; returns the last promise it made and whether it was killed."""
    command = [
        sys.executable,
        __file__,
        "--child",
        str(root),
        "--records",
        str(count),
        "--seed",
        str(rng.random())[2:9],
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        time.sleep(0.15 + rng.random() * RUN_S_MAX)
        killed = child.poll() is None
        child.kill()
        promises = child.communicate()[0].split(b"\n")[:-1]
    return int(promises[-1]) if promises else 0, killed


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--directory", type=Path)
    arguments.add_argument("--child", type=Path)
    options = arguments.parse_args()
    if options.child:
        sequence(options.child, options.records, options.seed)
        return
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        root, kills, broken, size = Path(name) / "log", 0, 0, 0
        while size < options.records:
            promised, killed = run_and_kill(root, options.records, rng)
            kills += killed
            store = FileLogStore(root)
            size = LogWriter.open(store, SIGNER, ORIGIN).size
            broken += size < promised
            store.close()
        store = FileLogStore(root)
        LogWriter.open(store, SIGNER, ORIGIN).publish(0)
        entries = LogReader(store, SIGNER.verifier, ORIGIN).entries()
        wrong = sum(entry != line(index) for index, entry in enumerate(entries))
        errors = [f for f in fsck(store, SIGNER.verifier, ORIGIN) if f.severity == "error"]
        print(
            f"{size:,} records through {kills} kills: {broken} promises broken, {wrong} lost, doubled or out of place, "
            f"{len(errors)} fsck errors"
        )
        store.close()
    sys.exit(bool(broken or wrong or errors or size != options.records))


if __name__ == "__main__":
    main()
