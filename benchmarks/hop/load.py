"""The two load generators: `wrk` in a closed loop (as fast as it goes) and `h2load` at a fixed rate."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.hop.processes import CORE_OF_LOAD, pinned

PATH = "/v1/chat/completions"
BODY = json.dumps(
    {"model": "bench", "messages": [{"role": "user", "content": "Is the arm clear of the belt?"}], "max_tokens": 8}
)
_REPORT = """
done = function(summary, latency, _)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.status + e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What came out of one run; `failed` counts answers that were not 2xx or 3xx and broken connections."""

    rps: float
    latency_s_p50: float
    latency_s_p99: float
    requests: int
    failed: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def missing_tools() -> list[str]:
    return [tool for tool in ("wrk", "h2load", "nginx", "taskset") if shutil.which(tool) is None]


def header_words(headers: dict[str, str]) -> list[str]:
    pairs = {"content-type": "application/json"} | headers
    return [word for name, value in pairs.items() for word in ("-H", f"{name}: {value}")]


def closed_loop(port: int, headers: dict[str, str], *, seconds: float, connections: int, folder: Path) -> Load:
    """As many requests as `connections` clients get answered, each sending its next when it has its answer."""
    script = folder / "wrk.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.body = [[{BODY}]]\n{_REPORT}")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "--latency", "-s", str(script)]
    command += [*header_words(headers), f"http://127.0.0.1:{port}{PATH}"]
    out = _run(command, seconds)
    line = next(line for line in out.splitlines() if line.startswith("RESULT "))
    requests, duration_us, p50_us, p99_us, failed = (float(word) for word in line.split()[1:])
    return Load(requests / duration_us * 1e6, p50_us / 1e6, p99_us / 1e6, int(requests), int(failed))


def fixed_rate(
    port: int, headers: dict[str, str], *, rps: float, seconds: float, connections: int, folder: Path
) -> Load:
    """`rps` requests a second in all, over `connections` connections with one request each at a time.

    A proxy that cannot keep up is sent fewer: `rps` of the answer says how many it got. Latency runs from sending.
    """
    body, log = folder / "body.json", folder / "h2load.log"
    body.write_text(BODY)
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{max(1, round(seconds))}", f"--rps={rps / connections}"]
    command += ["-d", str(body), f"--log-file={log}", *header_words(headers), f"http://127.0.0.1:{port}{PATH}"]
    _run(command, seconds)
    # One line a request: start in us since the epoch, HTTP status, response time in us.
    rows = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    good = sorted(took_us for _, status, took_us in rows if 200 <= status < 300)
    if not good:
        return Load(0.0, float("nan"), float("nan"), 0, len(rows))
    p50_us, p99_us = (good[min(len(good) - 1, int(q * len(good)))] for q in (0.5, 0.99))
    return Load(len(good) / max(1, round(seconds)), p50_us / 1e6, p99_us / 1e6, len(good), len(rows) - len(good))


def _run(command: list[str], seconds: float) -> str:
    done = subprocess.run(
        pinned(CORE_OF_LOAD, command), capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
