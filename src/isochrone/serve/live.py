"""Requests that run now: Envoy names each that runs longer than half a second in a file, again and again, with its
grant and its connections (`forward.journal.live_fields`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isochrone.authority.jose import b64u_decode
from isochrone.errors import AuthorityError

__all__ = ["Connection", "LiveFile", "Running", "running"]

_EVERY_S = 0.05
_BYTES_MAX = 4 * 1024 * 1024

Connection = tuple[str, str]
"""Local and remote address as Envoy sees them, ``host:port`` or ``[v6]:port``; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Running:
    """One request, as of one moment.

    Attributes:
        claims: of its grant; empty without one.
        client, model: the connections to its client, and to where it was sent.
        start_s, now_s: when it arrived, and the moment, seconds since 1970.
        attempts: how often it was sent so far.
        answering: whether the first byte of its answer has left.
    """

    role: str
    id: str
    claims: Mapping[str, Any]
    client: Connection
    model: Connection
    start_s: float
    now_s: float
    attempts: int
    answering: bool


def running(line: bytes) -> Running | None:
    """What one line of the file says; None for a torn one."""
    try:
        found = json.loads(line)
        claims = json.loads(b64u_decode(found["claims"])) if found["claims"] else {}
        client, model = ((str(local or ""), str(remote or "")) for local, remote in (found["client"], found["model"]))
        return Running(
            str(found["role"]), str(found["id"]), claims if isinstance(claims, dict) else {}, client, model,
            float(found["start"]), float(found["now"]), int(found["attempts"] or 0), found["first_byte_us"] is not None,
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AuthorityError):
        return None


class LiveFile:
    """The file: ``await live.run()`` until cancelled.

    Args:
        takers: each is given what was named since the last time.
    """

    def __init__(self, path: Path, takers: Sequence[Callable[[list[Running]], Awaitable[None]]]) -> None:
        self._path, self._takers, self._offset = path, takers, 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            found = [each for line in self._new_lines() if (each := running(line)) is not None]
            for take in self._takers if found else ():
                await take(found)

    def _new_lines(self) -> list[bytes]:
        """Whole lines since the last call. The file is emptied when it has grown: what runs on is named again."""
        with contextlib.suppress(OSError):
            size = self._path.stat().st_size
            return self._lines_of(size) if size != self._offset else []
        return []

    def _lines_of(self, size: int) -> list[bytes]:
        with self._path.open("rb") as file:
            file.seek(self._offset if self._offset <= size else 0)
            data = file.read(_BYTES_MAX)
            whole = data.rfind(b"\n") + 1
            self._offset = file.tell() - len(data) + whole
            if self._offset >= _BYTES_MAX:
                os.truncate(self._path, 0)
                self._offset = 0
            return data[:whole].splitlines()
