"""The stage: a running fabric, people and agents on it, and clients that call it as any program would."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from isochrone.authority.scope import Scope
from isochrone.cli.common import site_urls
from isochrone.cli.delegate import issue
from isochrone.serve.child import ChildSpec
from isochrone.serve.client import GrantSource
from isochrone.serve.hub_client import HubClient
from isochrone.serve.keyring import Keyring
from isochrone.serve.process import Supervisor

__all__ = ["Answer", "Device", "Stage", "percentile"]

INFER = "/v2/models/silero-vad/infer"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a client saw it. `status` 0 means the connection failed."""

    status: int
    taken_s: float
    site: str
    body: dict[str, Any] = field(default_factory=dict)
    execution: str = ""


@dataclass(slots=True)
class Stage:
    """A running fabric and how to act on it."""

    state: Path
    supervisor: Supervisor
    bases: dict[str, str]
    _specs: dict[str, ChildSpec] = field(default_factory=dict)
    _grants: dict[tuple[str, str, str], GrantSource] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Path, supervisor: Supervisor, status: dict[str, Any]) -> Stage:
        bases = site_urls(status)
        return cls(state, supervisor, bases)

    @property
    def ring(self) -> Keyring:
        return Keyring(self.state)

    def delegate(self, giver: str, agent: str, *, depth: int = 0, **members: Sequence[str]) -> list[str]:
        """Delegate as `isochrone delegate` does."""
        sets: dict[str, Any] = {name: frozenset(values) for name, values in members.items()}
        return issue(self.state, self.ring, giver, agent, Scope(**sets, may_delegate=depth > 0), depth, 3600)

    async def token(self, agent: str, contract: str, site: str) -> str:
        """A fresh grant, exchanged at one site."""
        key = (agent, contract, site)
        if key not in self._grants:
            holder = self.ring.get(agent)
            self._grants[key] = GrantSource([self.bases[site]], holder.chain, holder.key, contract)
        return await asyncio.to_thread(self._grants[key].token)

    async def wait_reports(self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = 30.0) -> dict[str, Any]:
        """The hub's status once `wanted` holds of it."""
        client, deadline_s = HubClient(self.state), time.monotonic() + timeout_s
        while True:
            status = await client.status()
            if wanted(status) or time.monotonic() > deadline_s:
                return status
            await asyncio.sleep(0.1)

    async def kill(self, site: str) -> None:
        """Kill a site without warning: node, Envoy and model servers die at once and stay dead."""
        child = self.supervisor.children[f"node-{site}"]
        self._specs[site] = child.spec
        child.kill(signal.SIGKILL)
        await self.supervisor.stop(f"node-{site}")

    async def revive(self) -> None:
        """Start every killed site again and wait until it forwards."""
        for site, spec in list(self._specs.items()):
            await self.supervisor.start(spec)
            del self._specs[site]
        await self.settle()

    async def settle(self) -> None:
        """Wait until every site is up, with the newest plan in force and its model servers forwarded to."""

        def is_settled(status: dict[str, Any]) -> bool:
            rows = status["placements"].items()
            ready = all(status["sites"][site]["ready"].get(w, 0) >= n for site, row in rows for w, n in row.items())
            agreed = all(report["plan"] == status["plan"] for report in status["sites"].values())
            return agreed and ready and set(status["up"]) == set(self.bases)

        await self.wait_reports(is_settled)

    async def infer(self, client: httpx.AsyncClient, site: str, token: str, chunk: list[int]) -> Answer:
        """One voice-activity inference over the Open Inference Protocol."""
        return await call(client, self.bases[site] + INFER, token, _asked(chunk))


class Device:
    """What a device on the line does: one kept connection and plain, blocking calls. A full HTTP client takes a few
    milliseconds of its own for each request, which is much of what is promised here.

    Args:
        base: address of the site where it is connected.
    """

    def __init__(self, base: str, token: str) -> None:
        host = urlsplit(base)
        self._wire = http.client.HTTPConnection(str(host.hostname), host.port, timeout=10.0)
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def infer(self, chunk: list[int]) -> Answer:
        """One voice-activity inference over the Open Inference Protocol."""
        body = json.dumps(_asked(chunk))
        start_s = time.perf_counter()
        try:
            self._wire.request("POST", INFER, body, self._headers)
            answer = self._wire.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self._wire.close()
            return Answer(0, time.perf_counter() - start_s, "")
        taken_s = time.perf_counter() - start_s
        execution = answer.headers.get("x-isochrone-execution", "")
        return Answer(answer.status, taken_s, execution.partition("/")[0], json.loads(data), execution)


def _asked(chunk: list[int]) -> dict[str, Any]:
    return {"inputs": [{"name": "audio", "shape": [len(chunk)], "datatype": "INT16", "data": chunk}]}


async def call(client: httpx.AsyncClient, url: str, token: str, body: dict[str, Any]) -> Answer:
    """One POST; a refusal's problem document is the body."""
    start_s = time.perf_counter()
    try:
        answer = await client.post(url, json=body, headers={"authorization": f"Bearer {token}"})
    except httpx.HTTPError:
        return Answer(0, time.perf_counter() - start_s, "")
    taken_s = time.perf_counter() - start_s
    execution = answer.headers.get("x-isochrone-execution", "")
    document = answer.json() if "json" in answer.headers.get("content-type", "") else {}
    return Answer(answer.status_code, taken_s, execution.partition("/")[0], document, execution)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that a share of all do not exceed; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def tally(answers: Sequence[Answer]) -> str:
    """Where answers came from, in words."""
    sites = Counter(answer.site for answer in answers if answer.status == 200)
    return ", ".join(f"{count} at {site}" for site, count in sorted(sites.items())) or "nowhere"
