"""The way from a command to the hub; apart from the hub, so that commands start fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from isochrone.errors import PeerError
from isochrone.serve.tls import trusting_nobody

__all__ = ["HubClient"]


class HubClient:
    """Calls the hub's API from the same machine; finds it by the state directory.

    Raises (every call):
        PeerError: no hub runs on this state directory.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / "hub" / "api.json"
        self._token = state / "hub" / "api.token"

    async def ask(self, method: str, path: str, body: object = None, timeout_s: float = 30.0) -> dict[str, Any]:
        """The JSON answer; an error status is part of it as ``status_code``."""
        try:
            url = json.loads(self._path.read_bytes())["url"]
            headers = {"authorization": f"Bearer {self._token.read_text()}"}
            async with httpx.AsyncClient(timeout=timeout_s, verify=trusting_nobody()) as client:
                answer = await client.request(method, url + path, json=body, headers=headers)
            return dict(answer.json()) | {"status_code": answer.status_code}
        except (OSError, KeyError, ValueError, httpx.HTTPError) as error:
            raise PeerError(
                f"no hub answers for {self._path.parent.parent}: {error or type(error).__name__}",
                code="hub.unreachable",
                hint="start it with `isochrone up fabric.yaml`, or name its directory with --state",
            ) from error

    async def status(self) -> dict[str, Any]:
        """See `Hub.status`."""
        return await self.ask("GET", "/status", timeout_s=5.0)
