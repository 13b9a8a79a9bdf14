"""Round trips to other sites, measured through the same listeners, mutual TLS and distances as executions."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from isochrone.errors import InputError
from isochrone.forward.headers import EXECUTION, INGRESS
from isochrone.forward.routes import PROBE_PATH
from isochrone.forward.xds import Address
from isochrone.latency.recent import RecentSketch
from isochrone.latency.sketch import Sketch
from isochrone.serve.kept_connection import KeptConnection, Opening
from isochrone.serve.telemetry import RTT_FILTER
from isochrone.serve.tls import TlsFiles

__all__ = ["Prober"]

_EVERY_S = 0.5
_TIMEOUT_S = 1.0
# The answer to a probe has no body; a peer that says more is not listened to.
_ANSWER_BYTES_MAX = 16 * 1024


class Prober:
    """Probes every peer on a kept connection.

    Args:
        tls: this site's credential, and whom it believes.
        on_probe: called with the peer and whether it answered; must not block.
    """

    def __init__(self, site: str, tls: TlsFiles, on_probe: Callable[[str, bool], None]) -> None:
        self._site, self._tls, self._on_probe = site, tls, on_probe
        self._tasks: dict[str, tuple[Address, asyncio.Task[None]]] = {}
        self._sketches: dict[str, RecentSketch] = {}

    def set_peers(self, peers: dict[str, Address]) -> None:
        """Probe these, and only these."""
        for name in list(self._tasks):
            if peers.get(name) != self._tasks[name][0]:
                self._tasks.pop(name)[1].cancel()
        for name, address in peers.items():
            if name not in self._tasks:
                self._tasks[name] = (address, asyncio.create_task(self._probe(name, address), name=f"probe {name}"))

    def sketches(self, seen: Mapping[str, Sketch]) -> dict[str, dict[str, object]]:
        """Round trips by peer since they last changed, in plain form.

        Args:
            seen: those that executions have shown, which are as good as a probe's: merged.
        """
        now = time.monotonic()
        taken = {name: sketch.window(now)[0] for name, sketch in self._sketches.items()}
        for name in taken.keys() & seen.keys():
            taken[name].merge(seen[name])
        taken = {**seen, **taken}
        return {name: sketch.to_json() for name, sketch in sorted(taken.items()) if sketch.count}

    def rtt_s_p50(self, peer: str) -> float | None:
        """The median of recent round trips to a peer; None when there are none."""
        window = self._sketches.get(peer)
        return window.window(time.monotonic())[0].quantile(0.5) if window else None

    async def close(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        self._tasks = {}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _probe(self, name: str, address: Address) -> None:
        while True:
            with contextlib.suppress(OSError, InputError):
                # Names of sites are URIs, which `ssl` cannot match: the execution header, set by the site that ended
                # the connection, says who answered.
                opening = _opening(address, self._tls.client(names=False))
                with contextlib.closing(
                    KeptConnection(opening, str(address), _TIMEOUT_S, _ANSWER_BYTES_MAX)
                ) as connection:
                    await self._series(connection, name)
            self._on_probe(name, False)
            await asyncio.sleep(_EVERY_S)

    async def _series(self, connection: KeptConnection, name: str) -> None:
        recent: deque[float] = deque(maxlen=RTT_FILTER)
        first = True
        while True:
            start_s = time.monotonic()
            answer = await connection.ask("GET", PROBE_PATH, {INGRESS: self._site})
            taken_s = time.monotonic() - start_s
            if answer.status != 200 or not answer.headers.get(EXECUTION, "").startswith(f"{name}/"):
                return
            self._on_probe(name, True)
            # The first exchange also opens the connection: it measures handshakes, not the distance.
            if not first:
                recent.append(taken_s)
                window = self._sketches.setdefault(name, RecentSketch(bucket_s=2.0, buckets_n=45))
                window.add(min(recent), time.monotonic())
            first = False
            await asyncio.sleep(_EVERY_S)


def _opening(address: Address, context: ssl.SSLContext) -> Opening:
    async def opening(protocol: Any) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        return await loop.create_connection(protocol, address.host, address.port, ssl=context)

    return opening
