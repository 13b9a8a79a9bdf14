"""Do real children start, restart, stop in order, and leave a log that explains a failure?"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from isochrone.errors import ProcessError
from isochrone.serve.process import (
    Backoff,
    ChildEvent,
    ChildSpec,
    Supervisor,
    free_port,
    listening,
    run_until_signal,
)

QUICK = Backoff(initial_s=0.02, max_s=0.05)


async def never() -> bool:
    return False


async def until(what: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, "did not happen"
        await asyncio.sleep(0.01)


def shell(name: str, script: str, **settings: object) -> ChildSpec:
    return ChildSpec(name, ["sh", "-c", script], **settings)  # type: ignore[arg-type]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=factory) as each:
            each.run(main)  # type: ignore[arg-type]

    return runner


def test_a_child_starts_restarts_and_stops(run: Callable[[Awaitable[None]], None], tmp_path: Path) -> None:
    events: list[tuple[str, ChildEvent]] = []

    async def main() -> None:
        async with Supervisor(tmp_path, lambda name, event: events.append((name, event))) as supervisor:
            child = await supervisor.start(shell("a", "sleep 100 & wait", backoff=QUICK))
            first = child.pid
            group = [p.pid for p in psutil.process_iter() if _group(p.pid) == first]
            child.kill()
            await until(lambda: child.restarts == 1)
            assert child.pid != first
            await until(lambda: not any(_alive(pid) for pid in group))
            last = child.pid
        assert not _alive(last)

    run(main())
    assert [e.kind for _, e in events] == ["started", "ready", "died", "started", "ready", "restarted", "stopped"]
    assert events[2][1].signal == "SIGKILL"


def test_children_stop_in_reverse_order(tmp_path: Path) -> None:
    events: list[tuple[str, str]] = []

    async def main() -> None:
        async with Supervisor(tmp_path, lambda name, event: events.append((name, event.kind))) as supervisor:
            for name in "abc":
                await supervisor.start(shell(name, "exec sleep 100"))

    asyncio.run(main())
    assert [name for name, kind in events if kind == "stopped"] == ["c", "b", "a"]


def test_a_child_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            spec = shell("stubborn", "trap '' TERM; sleep 100 & echo $!; while :; do sleep 1; done", stop_grace_s=0.3)
            child = await supervisor.start(spec)
            await until(lambda: child.log_path.read_text().strip().isdigit())
            grandchild, pid = int(child.log_path.read_text()), child.pid
            await supervisor.stop("stubborn")
            await until(lambda: not _alive(pid) and not _alive(grandchild))

    asyncio.run(main())


def test_a_child_that_dies_early_is_explained_by_its_own_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            for _ in range(2):  # the second time, the first run's lines must not be quoted
                with pytest.raises(ProcessError) as caught:
                    await supervisor.start(shell("b", "echo cannot read $$; exit 3", ready=never))
                assert caught.value.code == "process.died"
                assert "exit status 3" in str(caught.value)
                assert str(caught.value).count("cannot read") == 1
            assert supervisor.children == {}

    asyncio.run(main())


def test_a_child_that_is_never_ready_is_stopped_and_the_reason_named(tmp_path: Path) -> None:
    async def broken() -> bool:
        raise ConnectionRefusedError("nobody there")

    async def main() -> None:
        pids = []
        async with Supervisor(tmp_path, lambda name, event: pids.append(event.pid)) as supervisor:
            with pytest.raises(ProcessError) as caught:
                await supervisor.start(shell("c", "exec sleep 100", ready=broken, ready_timeout_s=0.3))
            assert caught.value.code == "process.not-ready"
            assert "nobody there" in str(caught.value)
            assert not _alive(pids[0])

    asyncio.run(main())


def test_a_missing_executable_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            with pytest.raises(ProcessError) as caught:
                await supervisor.start(ChildSpec("d", ["no-such-program"]))
            assert caught.value.code == "process.binary-missing"

    asyncio.run(main())


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            async with Supervisor(tmp_path) as supervisor:
                spec = ChildSpec("web", [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port], ready=never)
                with pytest.raises(ProcessError) as caught:
                    await supervisor.start(spec)
                assert caught.value.code == "process.port-in-use"

    asyncio.run(main())


def test_a_crash_is_explained_by_the_lines_above_its_backtrace(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            reason = "x critical assert raise fs.inotify.max_user_instances"
            script = f"echo {reason}; seq -f 'x critical backtrace #%g' 50; exit 1"
            with pytest.raises(ProcessError) as caught:
                await supervisor.start(shell("crash", script, ready=never))
            assert caught.value.code == "process.inotify-limit"
            assert "critical assert" in str(caught.value)
            assert "backtrace" not in str(caught.value)

    asyncio.run(main())


def test_giving_up_after_too_many_deaths(tmp_path: Path) -> None:
    kinds: list[str] = []

    async def main() -> None:
        async with Supervisor(tmp_path, lambda name, event: kinds.append(event.kind)) as supervisor:
            backoff = Backoff(initial_s=0.01, max_s=0.01, failures_max=2)
            child = await supervisor.start(shell("e", "exit 1", backoff=backoff))
            await asyncio.wait_for(child.wait(), 10)
            assert child.state == "failed"

    asyncio.run(main())
    assert kinds[-1] == "gave_up"
    assert kinds.count("died") == 3


def test_never_restarted_when_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            child = await supervisor.start(shell("f", "exit 0", restart="never"))
            await asyncio.wait_for(child.wait(), 10)
            assert (child.state, child.restarts) == ("failed", 0)

    asyncio.run(main())


def test_before_start_runs_before_every_start(tmp_path: Path) -> None:
    calls: list[int] = []

    async def before() -> None:
        calls.append(len(calls))

    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            child = await supervisor.start(shell("g", "exec sleep 100", before_start=before, backoff=QUICK))
            child.kill()
            await until(lambda: child.restarts == 1)

    asyncio.run(main())
    assert len(calls) == 2


def test_a_failing_event_callback_does_not_stop_supervision(tmp_path: Path) -> None:
    def fail(name: str, event: ChildEvent) -> None:
        raise RuntimeError("callback")

    async def main() -> None:
        async with Supervisor(tmp_path, fail) as supervisor:
            child = await supervisor.start(shell("h", "exec sleep 100", backoff=QUICK))
            child.kill()
            await until(lambda: child.restarts == 1)

    asyncio.run(main())


def test_a_large_log_is_rotated_under_the_running_child(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.001; done"
            child = await supervisor.start(shell("i", script, log_bytes_max=500, log_backups=1))
            await until(lambda: child.log_path.stat().st_size > 500)
            child.log.rotate_if_large()
            assert tmp_path.joinpath("i.log.1").stat().st_size > 500
            await until(lambda: child.log_path.stat().st_size > 0)

    asyncio.run(main())


def test_outside_the_main_thread_is_refused(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    async def main() -> None:
        async with Supervisor(tmp_path):
            pass

    def work() -> None:
        try:
            asyncio.run(main())
        except RuntimeError as e:
            caught.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_backoff_doubles_up_to_its_limit() -> None:
    assert [Backoff(1, 5).delay_s(n) for n in (1, 2, 3, 4, 1000)] == [1, 2, 4, 5, 5]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_until_signal_cleans_up(number: signal.Signals) -> None:
    cleaned = []

    async def work() -> str:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
            return "finished"
        finally:
            cleaned.append(True)

    async def quick() -> str:
        return "finished"

    assert asyncio.run(run_until_signal(work())) is None
    assert cleaned == [True]
    assert asyncio.run(run_until_signal(quick())) == "finished"


def test_listening_tells_an_open_port_from_a_closed_one() -> None:
    async def main() -> None:
        port = free_port()
        assert not await listening("127.0.0.1", port)
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", port)
        assert await listening("127.0.0.1", port)
        server.close()

    asyncio.run(main())


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
