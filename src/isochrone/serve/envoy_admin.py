"""Envoy's admin endpoint on its Unix socket: what it counts and has in force, and what it can be told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from isochrone.errors import PeerError
from isochrone.forward.journal import OWN_STATS
from isochrone.serve.kept_connection import KeptConnection

__all__ = ["WRITE_FAILED", "EnvoyAdmin"]

WRITE_FAILED = "filesystem.write_failed"
_EXECUTING = ".upstream_rq_active"
"""How the names of those counters end that say how many executions run here, one for each contract."""
_LISTENERS = r"http\.(ingress|peer)\.downstream_rq_(total|active)"
_COUNTERS = rf"^({WRITE_FAILED}|cluster\.exec/[^/]+\{_EXECUTING}|{_LISTENERS}|{OWN_STATS}\..*)$"
_TIMEOUT_S = 5.0
# A whole configuration of a large fabric is some megabytes.
_ANSWER_BYTES_MAX = 256 * 1024 * 1024


class EnvoyAdmin:
    """Every operation raises `PeerError` ``envoy.admin`` when the endpoint does not answer.

    Args:
        site: whose Envoy it is.
        admin_socket: where the endpoint listens.
    """

    def __init__(self, site: str, admin_socket: Path) -> None:
        self.site, self.admin_socket = site, admin_socket

        async def opening(protocol: Any) -> tuple[Any, Any]:
            return await asyncio.get_running_loop().create_unix_connection(protocol, str(admin_socket))

        self._admin = KeptConnection(opening, "envoy", _TIMEOUT_S, _ANSWER_BYTES_MAX)
        self._counted: tuple[float, Mapping[str, int]] = (float("-inf"), {})

    async def close(self) -> None:
        """Close the connection; the process itself belongs to its supervisor."""
        self._admin.close()

    async def ready(self) -> bool:
        """Whether Envoy says LIVE."""
        try:
            return (await self._admin.ask("GET", "/ready")).status == 200
        except OSError:
            return False

    async def stats(self, pattern: str = "", *, used_only: bool = False) -> dict[str, int | str]:
        """Counters, gauges and text readouts whose name matches the regular expression `pattern`, by name.

        Args:
            used_only: without those that were never counted or set: Envoy passes over these three times as fast.
        """
        query = ({"usedonly": ""} if used_only else {}) | ({"filter": pattern} if pattern else {})
        return _parsed(await self._ask("GET", "/stats", query))

    async def counters(self, age_s_max: float = 0.0) -> Mapping[str, int]:
        """What the node looks at again and again, in one question: `WRITE_FAILED`, executions that run here, requests
        by listener. What has never counted anything is missing.

        Args:
            age_s_max: an answer to another that is not older will do; 0 asks now.
        """
        if not age_s_max or time.monotonic() - self._counted[0] > age_s_max:
            asked_s = time.monotonic()
            found = await self.stats(_COUNTERS, used_only=True)
            self._counted = (asked_s, {name: value for name, value in found.items() if isinstance(value, int)})
        return self._counted[1]

    async def executing(self, age_s_max: float = 0.0) -> int:
        """Executions that run at this site now, wherever they entered."""
        counters = await self.counters(age_s_max)
        return sum(value for name, value in counters.items() if name.endswith(_EXECUTING))

    async def config_dump(self) -> dict[str, Any]:
        """Envoy's whole configuration as it is in force, endpoints included."""
        dump: dict[str, Any] = json.loads(await self._ask("GET", "/config_dump", {"include_eds": ""}))
        return dump

    async def reopen_logs(self) -> None:
        """Make Envoy open its access logs anew, after a rename."""
        await self._ask("POST", "/reopen_logs")

    async def set_runtime(self, key: str, value: str) -> None:
        """Override a runtime value until Envoy ends; it is in force at once."""
        await self._ask("POST", "/runtime_modify", {key: value})

    async def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None) -> str:
        hint = f"it may be restarting: see the log of envoy-{self.site}"
        try:
            answer = await self._admin.ask(method, f"{path}?{urlencode(query)}" if query else path)
        except OSError as e:
            what = f"the Envoy of site {self.site} did not answer {path}: {e or type(e).__name__}"
            raise PeerError(what, code="envoy.admin", hint=hint) from e
        if answer.status != 200:
            raise PeerError(f"the Envoy of site {self.site} answered {path} with {answer.status}", code="envoy.admin")
        return answer.body.decode()


def _parsed(text: str) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(": ")
        if value[:1] == '"':
            found[name] = value[1:-1]
        elif value.lstrip("-").isdigit():
            found[name] = int(value)
    return found
