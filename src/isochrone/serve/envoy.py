"""One site's Envoy as a supervised child: its files, its admin endpoint, and proof of what is in force."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isochrone.errors import PeerError, ProcessError
from isochrone.serve import binaries
from isochrone.serve.child import Child, ChildSpec
from isochrone.serve.envoy_admin import EnvoyAdmin
from isochrone.serve.files import atomic_write, private_dir, replace_unsynced, sweep_temporaries
from isochrone.serve.process import Supervisor
from isochrone.serve.xds import (
    Target,
    backends_of,
    keep_removed_clusters,
    rejections_of,
    target_of,
    versions_of,
    write_files,
)

__all__ = ["EnvoyProcess", "InForce", "validate"]

# A Unix socket's path must fit sockaddr_un (108 bytes on Linux, 104 on macOS).
_SOCKET_PATH_BYTES_MAX = 100
_AFTER_REJECTION_S = 0.5
_STOPPED = r"^listener_manager\.listener_stopped$"
_VERSIONS = r"version_text$|update_rejected$|update_failure$|config_fail$|warming"
# One line per log entry, so that a reason that quotes a configuration stays whole.
_LOG_ARGS = ("--log-format", "%Y-%m-%dT%T.%e %l %n %v", "--log-format-escaped")
# Without hot restart no base id and no shared memory is taken: any number of Envoys live on one host.
# Unknown fields in dynamic files are only a warning by default, and a misspelt enum value becomes its default.
_ALWAYS = ("--disable-hot-restart", "--reject-unknown-dynamic-fields")
_REASON = re.compile(r"(?:config update rejected: |update failure: |config rejected: |Unknown field: )(.*)")


@dataclass(frozen=True, slots=True)
class InForce:
    """What became of files: `in_force` and `pending` by version, `rejected` by reason (last good stays in force)."""

    in_force: Mapping[str, str]
    rejected: Mapping[str, str] = field(default_factory=dict)
    pending: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is in force."""
        return not self.rejected and not self.pending


class EnvoyProcess(EnvoyAdmin):
    """An Envoy that reads its configuration from `directory` and whose admin endpoint only this user can reach.

    Layout: ``bootstrap.json``, ``xds/`` (the files given to `write_files`), and the admin socket in a 0700 directory.

    Args:
        site: the site's name; becomes the Envoy's node id.
        directory: private state directory of this Envoy.
        bootstrap: static configuration without `admin`, which is set here. Paths in it may be relative to `directory`.
        cluster: `--service-cluster`, needed by ECDS as the node id is.
        concurrency: worker threads.
        drain_s: whole seconds over which `drain` lets clients move away.
        before_start: called before every start and restart, e.g. to close the journal's live segment.
        journal_flush_s: how long an access-log line may wait in memory before it is written.
    """

    def __init__(
        self,
        site: str,
        directory: Path,
        bootstrap: Mapping[str, Any],
        *,
        cluster: str = "isochrone",
        concurrency: int = 1,
        journal_flush_s: float = 0.05,
        binary: Path | None = None,
        drain_s: float = 5.0,
        before_start: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.files_dir = self.directory / "xds"
        self.binary = binary or binaries.envoy()
        self.child: Child | None = None
        self._bootstrap = dict(bootstrap)
        self._before_start = before_start
        self._options = {
            "--service-node": site,
            "--service-cluster": cluster,
            "--concurrency": str(concurrency),
            "--file-flush-interval-msec": str(max(1, round(journal_flush_s * 1000))),
            "--drain-time-s": str(max(1, round(drain_s))),
        }
        private_dir(self.directory)
        private_dir(self.files_dir)
        super().__init__(site, socket_dir(self.directory) / "admin.sock")
        for path in (self.files_dir, *(p for p in self.files_dir.rglob("*") if p.is_dir())):
            sweep_temporaries(path)
        self._baseline: tuple[int, dict[Target, int]] = (0, {})
        self._log_byte = 0
        self._good: tuple[int, dict[str, bytes]] = (0, {})

    async def start(self, supervisor: Supervisor) -> Child:
        """Write the bootstrap, start, and wait until Envoy says it is live.

        Live does not mean that every file was accepted: an Envoy whose listener's port is taken is live without it.
        Follow with `wait_in_force`.

        Raises:
            ProcessError: it could not start; the message quotes its log.
        """
        path = self.directory / "bootstrap.json"
        atomic_write(path, self._bootstrap_bytes(), 0o600)
        self.admin_socket.unlink(missing_ok=True)
        options = [word for pair in self._options.items() for word in pair]
        spec = ChildSpec(
            f"envoy-{self.site}",
            [str(self.binary), "-c", str(path), *options, *_ALWAYS, *_LOG_ARGS],
            ready=self.ready,
            before_start=self._before_start,
            cwd=self.directory,
        )
        self.child = await supervisor.start(spec)
        return self.child

    async def drain(self, timeout_s: float = 15.0) -> bool:
        """Stop serving without cutting anyone off; True when done within `timeout_s`. The process stays.

        For `drain_s` (see the class) new requests are still answered, more and more with ``connection: close``; then
        the listeners close (Envoy goes on counting them as active), and what is in flight may end.
        """
        deadline_s = time.monotonic() + timeout_s
        before = await self.stats(_STOPPED)
        await self._ask("POST", "/drain_listeners", {"graceful": ""})
        while time.monotonic() < deadline_s:
            stats = await self.stats(rf"{_STOPPED}|^http\..*downstream_rq_active$")
            stopped = any(stats[name] != count for name, count in before.items())
            if stopped and not any(n for name, n in stats.items() if _is_busy(name)):
                return True
            await asyncio.sleep(0.05)
        return False

    async def write_files(self, files: Mapping[str, bytes], remove: Collection[str] = ()) -> list[str]:
        """Put files into place (see `xds.write_files`), remembering Envoy's rejection counts and log as of now."""
        await self._mark()
        return await asyncio.to_thread(write_files, self.files_dir, files, remove)

    def write_again(self, files: Collection[str]) -> None:
        """Replace files by themselves, so that Envoy reads them anew."""
        for file in files:
            path = self.files_dir / file
            if path.is_file():
                replace_unsynced(path, path.read_bytes(), 0o600)

    async def apply(self, files: Mapping[str, bytes], timeout_s: float = 5.0) -> InForce:
        """Make `files` the whole configuration, without a moment in which a route points at a cluster that is gone.

        New clusters are in force before routes are written; clusters that go are kept until the new routes are in
        force; then they and files no longer named are removed. When a file is rejected, what depends on it is not
        written (and is `pending`), nothing is removed, and the last good stays in force. What is in force already is
        left alone.
        """
        pid = self.child.pid if self.child else 0
        good = self._good[1] if pid and self._good[0] == pid else {}
        old = await asyncio.to_thread(self._read_files)
        if good == files == old:
            return InForce(_versions(files))
        result = await self._replace(old, files, good, timeout_s)
        self._good = (pid, dict(files)) if result.ok else (0, {})
        return result

    async def _replace(
        self, old: Mapping[str, bytes], files: Mapping[str, bytes], good: Mapping[str, bytes], timeout_s: float
    ) -> InForce:
        bridge = dict(files)
        for file in files.keys() & old.keys():
            if target_of(file, files[file])[0].kind == "cds":
                bridge[file] = keep_removed_clusters(old[file], files[file]) or files[file]
        backends = backends_of(bridge)
        if any(good.get(file) != data for file, data in backends.items()):
            await self.write_files(backends)
            # A secret that only a listener names is not read before that listener is.
            awaited = {file: data for file, data in backends.items() if target_of(file, data)[0].kind != "sds"}
            result = await self.wait_in_force(_versions(awaited), timeout_s)
            if not result.ok:
                return replace(result, pending={**_versions(_without(files, awaited)), **result.pending})
        result = await self._put(bridge, timeout_s)
        if result.ok and bridge != dict(files):
            result = await self._put(files, timeout_s)
        if result.ok:
            await self.write_files({}, remove=old.keys() - files.keys())
        return result

    async def _put(self, files: Mapping[str, bytes], timeout_s: float) -> InForce:
        await self.write_files(files)
        return await self.wait_in_force(_versions(files), timeout_s)

    async def in_force(self) -> dict[str, str]:
        """The `version_info` that Envoy has accepted, by file; a file that was never accepted is missing."""
        versions = versions_of(await self.stats(r"version_text$"))
        found = {}
        for file, data in (await asyncio.to_thread(self._read_files)).items():
            accepted = versions.get(target_of(file, data)[0], set()) - {""}
            if len(accepted) == 1:
                found[file] = accepted.pop()
        return found

    async def wait_in_force(self, versions: Mapping[str, str] | None = None, timeout_s: float = 5.0) -> InForce:
        """Wait until Envoy has accepted or rejected each version.

        Args:
            versions: file to `version_info`; None means every file as it now stands in `files_dir`.

        Returns:
            Never raises for a rejection: it is in `rejected` with Envoy's reason; what did neither is `pending`
            (a new cluster or listener that still waits for its endpoints or routes counts as pending).

        Raises:
            PeerError: the admin endpoint does not answer.
        """
        files = await asyncio.to_thread(self._read_files, versions)
        expected = _versions(files) if versions is None else dict(versions)
        targets = {file: target_of(file, files[file])[0] for file in expected if file in files}
        started_s, pause_s = time.monotonic(), 0.015
        deadline_s = started_s + timeout_s
        while True:
            result = self._judge(expected, targets, await self.stats(_VERSIONS, used_only=True))
            if not result.pending or time.monotonic() >= deadline_s:
                return result
            if result.rejected:  # what depends on a rejected file never comes: do not wait for it to the end
                deadline_s = min(deadline_s, started_s + _AFTER_REJECTION_S)
            await asyncio.sleep(pause_s)
            pause_s = min(0.1, pause_s * 1.5)

    def _judge(
        self, expected: Mapping[str, str], targets: Mapping[str, Target], stats: Mapping[str, int | str]
    ) -> InForce:
        versions, counts = versions_of(stats), rejections_of(stats)
        warming = {
            "cds": bool(stats.get("cluster_manager.warming_clusters")),
            "lds": bool(stats.get("listener_manager.total_listeners_warming")),
        }
        pid, baseline = self._baseline
        if self.child is None or pid != self.child.pid:
            baseline = {}  # a new process counts from zero
        in_force, rejected, pending = {}, {}, {}
        for file, version in expected.items():
            target = targets.get(file)
            if target is None:
                pending[file] = version
            elif versions.get(target) == {version} and not warming.get(target.kind):
                in_force[file] = version
            elif counts.get(target, 0) > baseline.get(target, 0) and versions.get(target) != {version}:
                rejected[file] = self._reason(file, target)
            else:
                pending[file] = version
        return InForce(in_force, rejected, pending)

    def _reason(self, file: str, target: Target) -> str:
        """Envoy's own words, from its log since the last write: those that name the file or resource, else the last."""
        reasons = [m.group(1).strip() for m in map(_REASON.search, self._log_since_mark()) if m]
        naming = [r for r in reasons if file in r or (target.name and target.name in r)]
        return (naming or reasons or ["Envoy gave no reason in its log"])[-1][:2000]

    async def _mark(self) -> None:
        if self.child is None:
            return
        try:
            counts = rejections_of(await self.stats(_VERSIONS, used_only=True))
        except PeerError:
            counts = {}  # restarting: it will read the new files when it is back, and count from zero
        self._baseline = (self.child.pid, counts)
        self._log_byte = os.stat(self.child.log_path).st_size

    def _log_since_mark(self) -> list[str]:
        if self.child is None:
            return []
        with self.child.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(self._log_byte if self._log_byte <= size else 0)  # shorter than the mark: rotated meanwhile
            return log.read(1_000_000).decode("utf-8", "replace").splitlines()

    def _read_files(self, names: Collection[str] | None = None) -> dict[str, bytes]:
        if names is None:
            paths = sorted(p for p in self.files_dir.rglob("*.json") if not p.name.startswith("."))
        else:
            paths = [p for p in (self.files_dir / name for name in names) if p.is_file()]
        return {p.relative_to(self.files_dir).as_posix(): p.read_bytes() for p in paths}

    def _bootstrap_bytes(self) -> bytes:
        admin = {"address": {"pipe": {"path": str(self.admin_socket), "mode": 0o600}}}
        return json.dumps({**self._bootstrap, "admin": admin}, indent=1, sort_keys=True).encode()


async def validate(bootstrap: Mapping[str, Any], binary: Path | None = None) -> None:
    """Have Envoy itself check a bootstrap without opening a port.

    Raises:
        ProcessError: ``envoy.invalid-config`` with Envoy's reason.
    """
    await asyncio.to_thread(_validate, json.dumps(dict(bootstrap)), binary or binaries.envoy())


def _validate(bootstrap: str, binary: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="isochrone-") as scratch:
        path = Path(scratch, "bootstrap.json")
        path.write_text(bootstrap)
        node = ("--service-node", "validate", "--service-cluster", "validate")
        command = [str(binary), "--mode", "validate", "-c", str(path), *node, "-l", "warning", *_ALWAYS, *_LOG_ARGS]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        reason = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise ProcessError(f"Envoy refuses this configuration:\n  {reason}", code="envoy.invalid-config")


def _versions(files: Mapping[str, bytes]) -> dict[str, str]:
    return {file: target_of(file, data)[1] for file, data in files.items()}


def _is_busy(stat: str) -> bool:
    return stat.endswith(".downstream_rq_active") and not stat.startswith("http.admin.")


def _without(files: Mapping[str, bytes], others: Mapping[str, bytes]) -> dict[str, bytes]:
    return {file: data for file, data in files.items() if file not in others}


def socket_dir(directory: Path) -> Path:
    """A 0700 directory for Unix sockets: inside `directory`, or a short one when that path is too long."""
    inside = directory / "admin"
    if len(os.fsencode(inside / "admin.sock")) <= _SOCKET_PATH_BYTES_MAX:
        return private_dir(inside)
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return private_dir(private_dir(Path(tempfile.gettempdir()) / f"isochrone-{os.getuid()}") / name)
