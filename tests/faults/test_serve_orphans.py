"""Is anything left running after the parent, the reaper, or a middle generation is killed with SIGKILL?"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

PARENT = """
import asyncio, json, sys
from pathlib import Path
from isochrone.serve.process import ChildSpec, Supervisor

async def main(folder, depth):
    async with Supervisor(folder) as supervisor:
        if depth:
            again = [sys.executable, __file__, str(folder / "inner"), str(depth - 1)]
            await supervisor.start(ChildSpec("inner", again))
        await supervisor.start(ChildSpec("group", ["sh", "-c", "sleep 300 & exec sleep 300"]))
        await supervisor.start(ChildSpec("deaf", ["sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"]))
        reaper = supervisor._reaper.pid
        (folder / "up").write_text(json.dumps(reaper))
        await asyncio.sleep(300)

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""

ENGINES = """
import asyncio, sys
from pathlib import Path
from isochrone.serve.envoy import EnvoyProcess
from isochrone.serve.nats_server import NatsServer, NatsUser
from isochrone.serve.process import Supervisor, free_port
sys.path.insert(0, sys.argv[2])
from support.parties import Parties

async def main(folder):
    async with Supervisor(folder / "log") as supervisor:
        tls = Parties(folder / "parties").party("spiffe://pair/hub")
        await supervisor.start(NatsServer(folder / "nats", free_port(), (NatsUser("spiffe://pair/hub"),), tls).spec())
        await EnvoyProcess("edge", folder / "envoy", {}).start(supervisor)
        (folder / "up").write_text("up")
        await asyncio.sleep(300)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Marks every descendant, and ends whatever a failing test would leave."""
    monkeypatch.setenv("MARK", str(tmp_path))
    yield
    for process in psutil.process_iter():
        if process.pid != os.getpid() and _marked(process, str(tmp_path)):
            process.kill()


def start(folder: Path, depth: int) -> "subprocess.Popen[bytes]":
    script = folder / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen([sys.executable, str(script), str(folder), str(depth)])
    last = folder.joinpath(*["inner"] * depth, "up")
    deadline_s = time.monotonic() + 30
    while not (last.exists() and last.stat().st_size and (folder / "up").exists()):
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.02)
    return process


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("depth", [0, 1])
def test_no_orphan_after_the_parent_dies(tmp_path: Path, depth: int, number: signal.Signals) -> None:
    parent = start(tmp_path, depth)
    deadline_s = time.monotonic() + 10
    while len(below := descendants(parent.pid)) < 5 * (depth + 1):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    parent.send_signal(number)
    parent.wait()
    assert gone(below) == []


@pytest.mark.parametrize("moment_s", [0.0, 0.005, 0.01, 0.02, 0.04])
def test_no_orphan_when_the_parent_dies_while_starting_children(tmp_path: Path, moment_s: float) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    log_dir = tmp_path / "state"
    command = [sys.executable, str(tmp_path / "parent.py"), str(log_dir), "0"]
    parent = subprocess.Popen(command)
    while not log_dir.exists():
        time.sleep(0.001)
    time.sleep(moment_s)
    parent.kill()
    parent.wait()
    deadline_s = time.monotonic() + 10
    while left := [p for p in psutil.process_iter() if _marked(p, str(tmp_path))]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


def test_the_real_engines_go_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "engines.py"
    script.write_text(ENGINES)
    tests = str(Path(__file__).parents[1])
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), tests])
    deadline_s = time.monotonic() + 30
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline_s
        assert parent.poll() is None
        time.sleep(0.02)
    below = descendants(parent.pid)
    assert {"envoy", "nats-server"} <= {p.name() for p in below}
    parent.kill()
    parent.wait()
    assert gone(below) == []


def _is_reaper(process: psutil.Process) -> bool:
    try:
        return "reap" in process.cmdline()
    except psutil.Error:
        return False


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("MARK") == mark
    except psutil.Error:
        return False


def test_no_orphan_when_the_reaper_was_killed_before(tmp_path: Path) -> None:
    parent = start(tmp_path, 0)
    first = json.loads((tmp_path / "up").read_text())
    os.kill(first, signal.SIGKILL)
    deadline_s = time.monotonic() + 10
    while not any(_is_reaper(p) and p.pid != first for p in psutil.Process(parent.pid).children()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    time.sleep(0.3)  # the new reaper is told the list right after it starts
    below = descendants(parent.pid)
    parent.kill()
    parent.wait()
    assert gone(below) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_direct_children_go_even_with_parent_and_reaper_killed_at_once(tmp_path: Path) -> None:
    parent = start(tmp_path, 0)
    reaper = json.loads((tmp_path / "up").read_text())
    direct = [p for p in psutil.Process(parent.pid).children() if p.pid != reaper]
    os.kill(reaper, signal.SIGKILL)
    parent.kill()
    parent.wait()
    assert gone(direct) == []


def test_a_launcher_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    from isochrone.serve import launcher

    read, write = os.pipe()
    mark = tmp_path / "ran"
    command = [sys.executable, "-I", "-S", launcher.__file__, "launch", "1", str(write), "touch", str(mark)]
    done = subprocess.run(command, pass_fds=(write,), check=False)
    os.close(write)
    assert done.returncode == 125
    assert os.read(read, 100) == b""
    os.close(read)
    assert not mark.exists()
