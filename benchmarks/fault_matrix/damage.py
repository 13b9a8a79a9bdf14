"""One bit flipped in each kind of file of a site, which is then started again: what says so?"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fault_matrix.driver import SIGNER, FaultyDisk, cosign, drive, open_book

from isochrone.authority.jose import PrivateKey
from isochrone.errors import IsochroneError
from isochrone.record.canonical import decode
from isochrone.serve.logbook import Logbook
from isochrone.serve.sealed import open_sealed, seal
from isochrone.serve.site_cache import SiteCache
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.evidence import ForkEvidence
from isochrone.tlog.fsck import fsck

__all__ = ["table"]

KINDS = {
    "hash tile": "log*/public/tile/[0-9]*/**/*",
    "entry bundle": "log*/public/tile/entries/**/*",
    "state and bookmark": "log*/private/state",
    "checkpoint": "log*/public/checkpoint",
    "cosigned checkpoint": "cosigned/*",
    "witness's memory": "witness/[0-9a-f]*",
    "proof of a fork": "forks/*",
    "document of the hub, kept": "cache/fabric.jwt",
    "addresses of sites, kept": "cache/peers.json",
    "journal, not sequenced": "journal.jsonl",
    "journal, sequenced": "journal-*.jsonl",
    "index": "index.sqlite",
}
UNSEEN = {
    "addresses of sites, kept": "another address, until it is heard again; mutual TLS refuses whoever is there",
    "journal, not sequenced": "recorded as it reads: Envoy signs nothing",
    "index": "a query may miss or misname a record; proofs do not rest on it; delete it to have it made again",
}
"""Kinds whose damage may go unseen, and what follows."""

HUB = PrivateKey.generate()


def make(folder: Path) -> None:
    """A site that has stopped, with ten lines in its journal that it had not read."""
    folder.mkdir(parents=True)
    asyncio.run(drive(folder, FaultyDisk()))
    (folder / "promises").unlink()
    with (folder / "journal.jsonl").open("a") as journal:
        for number in range(10):
            entry = {"type": "DownstreamEnd", "role": "ingress", "upstream": "x", "id": f"late{number}"}
            journal.write(json.dumps(entry) + "\n")
    notes = [Checkpoint(SIGNER.name, 7, bytes([fill]) * 32).sign(SIGNER, now_s=1) for fill in (1, 2)]
    (folder / "forks").mkdir()
    (folder / "forks" / "fork.json").write_bytes(ForkEvidence(*notes).encode())
    cache = SiteCache(folder / "cache")
    cache.keep_sealed("fabric", seal("fabric", 3, {"fabric": "lakeside"}, HUB))
    (folder / "cache" / "peers.json").write_text(json.dumps({"zurich": "192.0.2.7:8443", "ulm": "192.0.2.9:8443"}))


def table(root: Path, bits: int) -> int:
    """Print what came of each flipped bit; the number that nobody could have seen where somebody should."""
    make(root / "whole")
    rng, problems = random.Random(5), 0
    good = _facts(root / "whole-copy", root / "whole")[1]
    print(f"{'one bit flipped in':28}outcome")
    for kind, pattern in KINDS.items():
        files = sorted(path for path in (root / "whole").glob(pattern) if path.is_file() and path.stat().st_size)
        outcomes: Counter[str] = Counter()
        for turn in range(bits):
            outcomes[_flip(root / f"{kind}-{turn}", root / "whole", rng.choice(files), rng, good)] += 1
        said = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
        if outcomes["UNSEEN"]:
            problems += outcomes["UNSEEN"] if kind not in UNSEEN else 0
            said += f" ({UNSEEN.get(kind, 'WRONG')})"
        print(f"{kind:28}{said}", flush=True)
    print()
    return problems


def _flip(folder: Path, whole: Path, file: Path, rng: random.Random, good: object) -> str:
    def damage() -> None:
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / file.relative_to(whole)).write_bytes(data)

    outcome, facts = _facts(folder, whole, damage)
    shutil.rmtree(folder)
    return outcome or ("no harm" if facts == good else "UNSEEN")


def _facts(folder: Path, whole: Path, damage: object = None) -> tuple[str, object]:
    """What says that a copy of the site is damaged, if anything does; and all that it then holds to be true."""
    shutil.copytree(whole, folder)
    if callable(damage):
        damage()
    try:
        book = open_book(folder)
    except (IsochroneError, OSError) as error:
        return _named("start refused", error), None
    try:
        return asyncio.run(_use(folder, book))
    except (IsochroneError, AssertionError, sqlite3.Error) as error:
        return _named("refused", error), None
    finally:
        book.close()


async def _use(folder: Path, book: Logbook) -> tuple[str, object]:
    before, index = book.size, (folder / "index.sqlite").stat().st_ino
    await asyncio.to_thread(book._begin)
    if (folder / "index.sqlite").stat().st_ino != index:
        return "made again", None
    for shard in book.shards.values():
        if [each for each in fsck(shard.store, shard.signer.verifier, shard.signer.name) if each.severity == "error"]:
            return "found by fsck", None
    await book._recover_and_step(publish=True)
    for shard in book.shards.values():
        await cosign(folder, book, shard)
    reader = book.reader()
    reader.checkpoint()
    records = [decode(data) for data in reader.entries()]
    late = [{name: value for name, value in each.items() if name != "start_us"} for each in records[-10:]]
    found = [str(each["what"]) for each in records if each["kind"] == "finding" and "journal" in str(each["what"])]
    if found:
        return f"finding {found[0]}", None
    others = sorted(book.index.others())
    rows = [(log, entry, facts._replace(at_us=0)) for log, entry, facts in book.index.rows({}) if entry < before]
    return "", (sorted(map(repr, rows)), others, late, *_kept(folder))


def _kept(folder: Path) -> Iterator[object]:
    """What is kept beside the logs, as those who use it read it."""
    evidence = ForkEvidence.parse((folder / "forks" / "fork.json").read_bytes())
    if not evidence.holds([SIGNER.verifier]):
        raise AssertionError("the proof of a fork does not hold")
    cache = SiteCache(folder / "cache")
    for kind, data in cache.sealed():
        yield open_sealed(kind, data, HUB.public)
    try:
        yield sorted((name, str(address)) for name, address in cache.peers().items())
    except ValueError as error:
        raise AssertionError("what was kept of peers is damaged") from error


def _named(what: str, error: BaseException) -> str:
    code = getattr(error, "code", "")
    return f"{what}: {code or str(error)[:40]}"
