"""The node's own path from a journal line to a cosignable checkpoint, at a rate, on real files.

A writer appends lines as Envoy does (a start and an end line a request, flushed every 50 ms) to a journal; the real
logbook tails, makes records, sequences and publishes. What is measured is the time from the moment an end line was
due to the first checkpoint that covers its record: flush, sequencing and the wait for the next checkpoint included;
Envoy itself and the disk of another machine are not. Peer: the same lines only parsed, canonicalised and hashed.

    python benchmarks/tlog_node.py --rps 5000 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from isochrone.record.canonical import encode
from isochrone.record.records import SiteIdentity, from_journal
from isochrone.serve.logbook import Logbook
from isochrone.tlog.merkle import leaf_hashes
from isochrone.tlog.note import Signer

HERE = SiteIdentity("konstanz", "edge", "seewerk", "DE")
FLUSH_S = 0.05
TARGET_P99_S = 2.0
CLAIMS = {
    "iss": "isochrone:lakeside", "aud": "lakeside", "sub": "human:ada", "act": {"sub": "agent:caller"}, "jti": "g" * 16,
    "chd": "d" * 43, "ctr": "assistant", "wl": "chat", "dc": "internal", "sites": "|ashburn|frankfurt|konstanz|",
    "pol": "sha256:f0a5372af040fc199", "epo": 3, "h1": "h" * 12, "k0": "k" * 12, "k1": "k" * 12,
}  # fmt: skip


def lines(number: int) -> tuple[str, str]:
    """A start and an end line of the size that Envoy writes (about 1.3 KB together)."""
    base = {
        "v": 3, "site": "konstanz", "role": "ingress", "id": f"{number:08x}-0000-4000-8000-000000000000",
        "start": f"{time.time():.6f}", "method": "POST", "path": "/v1/chat/completions",
    }  # fmt: skip
    claims = base64.urlsafe_b64encode(json.dumps(CLAIMS).encode()).decode().rstrip("=")
    end = base | {
        "type": "DownstreamEnd", "policy": "sha256:" + "f0" * 32, "claims": claims, "deadline_ms": None,
        "ingress": "konstanz", "plan": "10", "peer": None, "client": "127.0.0.1", "status": 200, "flags": "-",
        "detail": "via_upstream", "upstream": "10.0.0.1:80", "cluster": "exec/assistant", "attempts": 1,
        "attempted": "10.0.0.1:80", "received_bytes": 60, "sent_bytes": 643, "first_byte_us": 1200,
        "duration_us": 1300, "upstream_first_byte_us": 900, "upstream_us": 1000,
    }  # fmt: skip
    return json.dumps(base | {"type": "DownstreamStart"}), json.dumps(end)


def write(journal: Path, rps: int, seconds: float) -> None:
    """Append at the rate, a flush at a time, in a process of its own."""
    begun_s, written = time.monotonic(), 0
    with journal.open("a", buffering=1 << 20) as file:
        while (elapsed_s := time.monotonic() - begun_s) < seconds:
            for number in range(written, int(elapsed_s * rps)):
                file.write("\n".join(lines(number)) + "\n")
                written = number + 1
            file.flush()
            time.sleep(FLUSH_S)


async def run(folder: Path, rps: int, seconds: float) -> tuple[list[float], int, float]:
    """Seconds from end to checkpoint of each request, records, and CPU seconds of this process."""
    journal = folder / "journal.jsonl"
    waiting: list[float] = []
    covered: list[float] = []

    def sequenced(records: list[dict[str, Any]]) -> None:
        waiting.extend(r["start_us"] / 1e6 + r["result"]["duration_us"] / 1e6 for r in records if "result" in r)

    signer = Signer("isochrone.invalid/bench/konstanz", bytes(32))
    cpu_s = time.process_time()
    async with Logbook(folder, journal, signer, HERE, lambda _: "konstanz", sequenced) as book:
        writer = multiprocessing.get_context("fork").Process(target=write, args=(journal, rps, seconds))
        writer.start()
        end_s = time.monotonic() + seconds + 3.0
        while time.monotonic() < end_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(book.published.wait(), 0.5)
            if book.published.is_set():
                book.published.clear()
                now_s = time.time()
                covered += [now_s - ended_s for ended_s in waiting]
                waiting.clear()
        writer.join()
        size = book.size
    return covered, size, time.process_time() - cpu_s


def limits(count: int = 20_000) -> dict[str, float]:
    """Records a CPU second of each step alone."""
    pairs = [lines(number) for number in range(count // 2)]
    texts = [text for pair in pairs for text in pair]
    found = {}
    start = time.process_time()
    parsed = [json.loads(text) for text in texts]
    found["parsed"] = count / (time.process_time() - start)
    start = time.process_time()
    records = [from_journal(line, HERE, lambda _: "konstanz") for line in parsed]
    found["made into records"] = count / (time.process_time() - start)
    start = time.process_time()
    data = [encode(record) for record in records]
    found["canonicalised"] = count / (time.process_time() - start)
    start = time.process_time()
    leaf_hashes(data)
    found["hashed"] = count / (time.process_time() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rps", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        covered, size, cpu_s = asyncio.run(run(Path(folder), options.rps, options.seconds))
    covered.sort()
    p50, p99 = (covered[int(share * (len(covered) - 1))] for share in (0.5, 0.99))
    met = "met" if p99 < TARGET_P99_S else "NOT met"
    print(f"{len(covered):,} requests ({size:,} records) at {options.rps:,}/s asked for, {options.seconds:g} s")
    print(
        f"end of request to covered by a checkpoint: p50 {p50:.2f} s, p99 {p99:.2f} s, {met} (target {TARGET_P99_S} s)"
    )
    per_s, memory_mib = size / cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{per_s:,.0f} records a CPU second of the node, {memory_mib} MiB")
    for step, rate in limits().items():
        print(f"  of {rate:>9,.0f} that can be {step} alone: {per_s / rate:6.1%}")
    sys.exit(met != "met")


if __name__ == "__main__":
    main()
