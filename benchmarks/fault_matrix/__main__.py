"""What is left after a fault at each step from a journal line to a cosigned checkpoint?

    python -m benchmarks.fault_matrix

Three tables. *Write path*: at each named step (`serve/write_path.py`) the node is killed (SIGKILL), Envoy's journal
ends within a line, both, or the operation fails (no space, I/O error, half written); then the site is started again,
the journal sequenced to its end, and judged: `fsck` of every log, each line and each promised record there exactly
once, no checkpoint behind one that was published. *Flipped bits*: one bit in each kind of file of a site, and what says
so. *Clock*: the wall clock set between batches. Exits with 1 if anything was lost, doubled, rolled back or silent.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fault_matrix import clock, damage
from benchmarks.fault_matrix.driver import FAILED, FAULTS, judge, run, said

from isochrone.serve.write_path import POINTS

_CHILDREN = multiprocessing.get_context("forkserver")
_CHILDREN.set_forkserver_preload(["benchmarks.fault_matrix.driver", "benchmarks.fault_matrix.clock"])
_CHILD_S_MAX = 120.0
_FILES = {f"{kind}.write" for kind in ("tile", "state", "checkpoint", "witness")}


def child(folder: Path, *fault: object) -> int:
    """One life of the node in a process of its own; its exit code."""
    process = _CHILDREN.Process(target=run, args=(folder, *fault))
    process.start()
    process.join(_CHILD_S_MAX)
    if process.exitcode is None:
        process.kill()
        process.join()
        return -1
    return int(process.exitcode)


def cell(root: Path, point: str, nth: int, fault: str) -> list[str]:
    """What is wrong after this fault: empty when nothing is."""
    folder = root / f"{point}-{nth}-{fault}".replace(" ", "-")
    folder.mkdir()
    expected = {"kill node": -signal.SIGKILL, "kill both": -signal.SIGKILL, "kill Envoy": 0, "EIO, goes on": 0}
    code = child(folder, point, nth, fault)
    if code != expected.get(fault, FAILED):
        return [f"the node ended with {code} {said(folder, 'failed')}"]
    code = child(folder)
    return [f"the next start ended with {code} {said(folder, 'failed')}"] if code else judge(folder)


def occurrences(hits: int, count: int) -> Iterator[int]:
    """At most `count` of the times a point is reached, spread from the first to the last."""
    yield from sorted({1 + round(step * (hits - 1) / max(1, count - 1)) for step in range(count)})


def write_path(root: Path, count: int, every: int) -> int:
    """Print the table; the number of cells in which something is wrong."""
    probe = root / "probe"
    probe.mkdir()
    if child(probe):
        raise SystemExit(f"without a fault the write path fails: {said(probe, 'failed')}")
    hits: Counter[str] = Counter(said(probe, "hits")[-1])
    unnamed, unreached = sorted(set(hits) - set(POINTS)), sorted(set(POINTS) - set(hits))
    problems = [f"{each}: reached, but not named" for each in unnamed] + [
        f"{each}: never reached" for each in unreached
    ]
    problems += judge(probe)
    print(f"{'write path':28}" + "".join(f"{fault:>13}" for fault in FAULTS))
    runs = number = 0
    for point in POINTS:
        row = ""
        for fault in FAULTS:
            if fault == "short write" and point not in _FILES:
                row += f"{'-':>13}"
                continue
            number += 1
            if number % every:
                row += f"{'.':>13}"
                continue
            wrong = []
            for nth in occurrences(hits[point], count):
                runs += 1
                wrong += [f"{point} ({nth}), {fault}: {each}" for each in cell(root, point, nth, fault)]
            problems += wrong
            row += f"{'WRONG' if wrong else 'ok':>13}"
        print(f"{point:28}{row}", flush=True)
    print(f"{runs} faults at {len(POINTS)} points, {len(problems)} wrong\n")
    print("\n".join(problems))
    return len(problems)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--times", type=int, default=3, help="at how many of the times that a step is reached")
    arguments.add_argument("--every", type=int, default=1, help="only every so many-th cell of the first table")
    arguments.add_argument("--bits", type=int, default=40, help="bits flipped in each kind of file")
    arguments.add_argument("--directory", type=Path)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        root = Path(name)
        problems = write_path(root, options.times, options.every)
        problems += damage.table(root / "damage", options.bits)
        problems += clock.table(root / "clock")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
