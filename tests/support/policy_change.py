"""A policy changed under load: when each site has it in force, and by which revision each request was decided."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from support.fabric import AGENT, PATH, POLICY, RunningFabric, until

FORBIDS = f"""
@id("not-this-agent")
forbid (principal, action == Action::"execute", resource) when {{ principal.id == "{AGENT}" }};
"""


@dataclass
class Change:
    """What happened.

    Attributes:
        in_force_s: seconds from the hub's taking the change until each site's Envoy had confirmed it, by site.
        decided: requests by ``old`` and ``new`` revision, and by ``neither``: decided otherwise than the revision says
            that its record names, or by a revision that is none of the two.
        lost: requests that got no answer, or another one than 200 or 403.
    """

    in_force_s: dict[str, float]
    decided: Counter[str]
    lost: int


class Load:
    """Clients that call one site each, again and again; keeps execution id and status of every answer."""

    def __init__(self, fabric: RunningFabric, sites: Iterable[str]) -> None:
        self.answers: list[tuple[str, int]] = []
        self._end = threading.Event()
        calls = [(fabric.base(site) + PATH, fabric.token(site)) for site in sites]
        self._threads = [threading.Thread(target=self._run, args=call, daemon=True) for call in calls]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str, token: str) -> None:
        with httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=15.0) as client:
            while not self._end.is_set():
                try:
                    answer = client.post(url, json={})
                    self.answers.append((answer.headers.get("x-isochrone-execution", ""), answer.status_code))
                except httpx.HTTPError:
                    self.answers.append(("", 0))
                # Left room for what is measured: on few cores, clients in Python would take them all.
                time.sleep(0.01)

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def change_under_load(fabric: RunningFabric, before_s: float, after_s: float) -> Change:
    """Forbid the callers' agent while they call every site, and judge every answer by its record."""
    sites = sorted(fabric.models)
    old = _digests(fabric, sites)
    load = Load(fabric, sites)
    time.sleep(before_s)
    (fabric.directory / "bounds.cedar").write_text(POLICY + FORBIDS)
    done = fabric.run("apply", str(fabric.path), "--yes", "--json", "--state", str(fabric.state))
    assert done.returncode == 0, done.stdout + done.stderr
    time.sleep(after_s)
    load.stop()
    newest = fabric.ask_hub("GET", "/revisions")["revisions"][-1]
    new = _digests(fabric, sites) - old
    records = _records(fabric, sites, {execution for execution, _ in load.answers if execution})
    decided = Counter(_judge(records, execution, status, old, new) for execution, status in load.answers)
    lost = decided.pop("lost", 0)
    in_force_s = {site: round(at_s - newest["applied_s"], 3) for site, at_s in newest["in_force"].items()}
    return Change(in_force_s, decided, lost)


def _digests(fabric: RunningFabric, sites: list[str]) -> set[str]:
    """Policies in force at any site, by their last activation on record."""
    time.sleep(1.2)  # a checkpoint covers what is durable
    found = set()
    for site in sites:
        activations = [record for record in fabric.entries(site) if record["kind"] == "activation"]
        found.add(activations[-1]["policy"])
    return found


def _records(fabric: RunningFabric, sites: list[str], wanted: set[str]) -> dict[str, dict[str, Any]]:
    """The end of each request at the site that answered for it."""

    def found() -> dict[str, dict[str, Any]] | None:
        ends = {
            f"{site}/{record['id']}": record
            for site in sites
            for record in fabric.entries(site)
            if record["kind"] in ("outcome", "refusal")
        }
        return ends if wanted <= ends.keys() else None

    ends = until(found, "every answer has its record", every_s=0.5)
    assert ends is not None
    return ends


def _judge(records: dict[str, dict[str, Any]], execution: str, status: int, old: set[str], new: set[str]) -> str:
    if status not in (200, 403):
        return "lost"
    named = json.dumps(records[execution]["under"]["policy_in_force"]).strip('"')
    if named in old and status == 200:
        return "old"
    if named in new and status == 403:
        return "new"
    return "neither"
