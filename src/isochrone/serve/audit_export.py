"""Exporting for an audit: logs are read over HTTP as any tlog-tiles client does, and verified on the way.

What is written is what was read: a site that shows something else than its log's key signed is not exported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from isochrone.errors import InputError, IntegrityError, PeerError
from isochrone.forward.headers import NODE_PREFIX
from isochrone.record.canonical import Record, decode
from isochrone.record.export import MANIFEST, PEOPLE, REVOCATIONS, TRUST, LogPart, Manifest, Trust, log_folder
from isochrone.record.shards import SHARDS, trust_policy, verifiers_of
from isochrone.serve.audit_folder import FolderOnDisk
from isochrone.serve.people import anchor_digest
from isochrone.tlog.extract import Range, Watched, first_index, merged, read_ranges
from isochrone.tlog.note import Note
from isochrone.tlog.store import LogReadStore
from isochrone.tlog.tiles import CHECKPOINT_PATH
from isochrone.tlog.tree import TileTree

__all__ = ["Asked", "Fabric", "export"]

_COSIGNED_S_MAX = 15.0
_LogName = tuple[str, str]  # site and shard


@dataclass(frozen=True, slots=True)
class Asked:
    """What to export: all of `sites`' logs, or of these what began in [`from_us`, `to_us`), or one `execution`."""

    sites: tuple[str, ...]
    execution: str = ""
    from_us: int | None = None
    to_us: int | None = None

    def __str__(self) -> str:
        if self.execution:
            return f"execution {self.execution}"
        times = [f"{word} {_iso(at)}" for word, at in (("from", self.from_us), ("to", self.to_us)) if at is not None]
        return " ".join(["sites", ", ".join(self.sites), *times])


class Fabric:
    """What a running fabric shows to an auditor.

    Args:
        status, people: as the hub answers. bases: site to the URL of its ingress. client: for the sites.

    Raises:
        PeerError: from every method, when a site does not answer.
    """

    def __init__(
        self, status: dict[str, Any], people: dict[str, Any], bases: dict[str, str], client: httpx.Client
    ) -> None:
        self.bases, self._client = bases, client
        self.people = {"anchor": people["anchor"], "acts": people["acts"]}
        anchor = anchor_digest(status["fabric"], self.people)
        self.trust = Trust(status["fabric"], anchor, status["hub_key"], status["vkeys"], status["witnesses"])

    def feed(self) -> bytes:
        """The revocation feed, from the site that has followed it furthest."""
        return max((self.get(site, "revocations") or b"" for site in self.bases), key=lambda feed: feed.count(b"\n"))

    def store(self, name: _LogName) -> LogReadStore:
        """The files of one log."""
        return _HttpLog(self, *name)

    def places(self, identifier: str) -> Iterator[tuple[_LogName, int]]:
        """Where records about an execution or a grant are, and the activation before them."""
        for site in self.bases:
            answer = self.get(site, f"evidence/{identifier}")
            for each in json.loads(answer)["records"] if answer else ():
                yield (site, str(each["log"])), int(each["entry"])

    def get(self, site: str, path: str) -> bytes | None:
        url = f"{self.bases[site]}{NODE_PREFIX}{path}"
        try:
            answer = self._client.get(url)
        except httpx.HTTPError as error:
            raise PeerError(f"{site} does not answer at {url}: {error!r}", code="audit.unreachable") from error
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise PeerError(f"{url} answers {answer.status_code}: {answer.text[:200]}", code="audit.unreachable")
        return answer.content


def export(fabric: Fabric, asked: Asked, directory: Path) -> str:
    """Write an export folder; returns its trust anchor.

    Raises:
        InputError: ``audit.nothing``, there is no such site, or no record of it; ``audit.folder``.
        IntegrityError: a log is not what its key signed. PeerError, StorageError: a site or the disk failed.
    """
    unknown = set(asked.sites) - fabric.bases.keys()
    if unknown:
        raise InputError(f"no site {', '.join(sorted(unknown))} is known and up", code="audit.nothing")
    return _Export(fabric, asked, FolderOnDisk.empty(directory)).run()


class _Export:
    def __init__(self, fabric: Fabric, asked: Asked, folder: FolderOnDisk) -> None:
        self._fabric, self._asked, self._folder = fabric, asked, folder
        self._logs: dict[_LogName, _Log] = {}
        self._judged: dict[_LogName, list[Range]] = {}
        self._beside: dict[_LogName, set[int]] = {}

    def run(self) -> str:
        self._choose()
        if not any(self._judged.values()):
            raise InputError(f"nothing is recorded of {self._asked}", code="audit.nothing")
        self._complete()
        parts = tuple(self._write(name) for name in sorted(self._judged.keys() | self._beside.keys()))
        manifest = Manifest(str(self._asked), int(time.time()), parts)
        self._folder.write(TRUST, self._fabric.trust.encode())
        self._folder.write(PEOPLE, json.dumps(self._fabric.people, indent=1).encode())
        self._folder.write(REVOCATIONS, self._fabric.feed())
        self._folder.write(MANIFEST, manifest.encode())
        self._folder.seal()
        return self._fabric.trust.anchor

    def _choose(self) -> None:
        """What is judged: one execution's records, or the entries of whole logs or of a time."""
        if self._asked.execution:
            found: dict[_LogName, set[int]] = {}
            for name, entry in self._fabric.places(self._asked.execution.partition("/")[2]):
                found.setdefault(name, set()).add(entry)
            self._judged = {name: merged(entries) for name, entries in found.items()}
            return
        for name in ((site, shard) for site in self._asked.sites for shard in SHARDS):
            log = self._log(name)
            if log is not None:
                self._judged[name] = log.between(self._asked.from_us, self._asked.to_us)

    def _complete(self) -> None:
        """The grants and policies that the judged executions rest on, wherever they are recorded."""
        outcomes: list[Record] = []
        grants: set[str] = set()
        policies: set[tuple[str, str]] = set()
        for (site, _), record in self._records():
            if record["kind"] == "outcome":
                outcomes.append({"id": record["id"], "site": site, "who": record["who"], "under": record["under"]})
            elif record["kind"] == "exchange":
                grants.add(str(record["id"]))
            elif record["kind"] == "activation":
                policies.add((site, str(record.get("policy"))))
        for outcome in outcomes:
            grant, policy = str(outcome["who"]["grant"]), (outcome["site"], str(outcome["under"]["policy_in_force"]))
            for is_there, identifier in ((grant in grants, grant), (policy in policies, str(outcome["id"]))):
                if not is_there:
                    for name, entry in self._fabric.places(identifier):
                        self._beside.setdefault(name, set()).add(entry)
            grants.add(grant)
            policies.add(policy)

    def _records(self) -> Iterator[tuple[_LogName, Record]]:
        for name, ranges in self._judged.items():
            log = self._log(name)
            assert log is not None
            for _, data in read_ranges(log.store, log.tree, ranges):
                yield name, decode(data)

    def _write(self, name: _LogName) -> LogPart:
        log = self._log(name)
        if log is None:
            raise IntegrityError(f"{name[0]} shows no checkpoint of its log {name[1] or 'main'}", code="audit.log")
        judged = self._judged.get(name, [])
        entries = self._beside.get(name, set()) - {n for start, stop in judged for n in range(start, stop)}
        ranges = sorted([*judged, *merged(entries)])
        below = log_folder(*name)
        watched = Watched(log.store, lambda path, data: self._folder.write(f"{below}/{path}", data))
        tree = TileTree(watched, log.tree.size, log.tree.root)
        for _ in read_ranges(watched, tree, ranges):
            pass
        self._folder.write(f"{below}/{CHECKPOINT_PATH}", log.signed)
        return LogPart(*name, tuple(ranges), tuple(judged))

    def _log(self, name: _LogName) -> _Log | None:
        """One log at a checkpoint that stays the same for the whole export; None for one that does not exist."""
        if name not in self._logs:
            opened = _Log.open(self._fabric.store(name), self._fabric.trust, name)
            if opened is None:
                return None
            self._logs[name] = opened
        return self._logs[name]


@dataclass(frozen=True, slots=True)
class _Log:
    """A log as of one checkpoint that its quorum has cosigned; `signed` carries known signatures only."""

    store: LogReadStore
    tree: TileTree
    signed: bytes

    @classmethod
    def open(cls, store: LogReadStore, trust: Trust, name: _LogName) -> _Log | None:
        """Wait until the newest checkpoint is cosigned; the next one comes within a second."""
        site, shard = name
        verifier = verifiers_of(trust.logs[site])[shard]
        asked = trust.witnesses.get(site, {"quorum": 0, "keys": {}})
        policy = trust_policy(verifier.vkey, int(asked["quorum"]), asked["keys"])
        end_s = time.monotonic() + _COSIGNED_S_MAX
        while (signed := store.read(CHECKPOINT_PATH)) is not None:
            try:
                checkpoint = policy.verify(signed, verifier.name)
            except IntegrityError as error:
                if error.code != "tlog.quorum" or time.monotonic() > end_s:
                    raise
                time.sleep(0.1)
                continue
            note = Note.parse(signed)
            known = Note(note.text, note.valid([verifier, *policy.witnesses.values()]))
            return cls(store, TileTree(store, checkpoint.size, checkpoint.root), known.encode())
        return None

    def between(self, from_us: int | None, to_us: int | None) -> list[Range]:
        """The one range of entries that holds every record of a time; records of other times may lie among them."""
        start, stop = first_index(self.store, self.tree.size), self.tree.size
        if from_us is not None or to_us is not None:
            inside = [number for number, at_us in self._times((start, stop)) if _is_in(at_us, from_us, to_us)]
            start, stop = (inside[0], inside[-1] + 1) if inside else (0, 0)
        return [(start, stop)] if stop > start else []

    def _times(self, whole: Range) -> Iterator[tuple[int, int]]:
        for number, data in read_ranges(self.store, self.tree, [whole]):
            yield number, int(decode(data).get("start_us") or 0)


class _HttpLog:
    """A log's public files, as a site serves them."""

    def __init__(self, fabric: Fabric, site: str, shard: str) -> None:
        self._fabric, self._site = fabric, site
        self._prefix = f"log/{shard}/" if shard else "log/"

    def read(self, path: str) -> bytes | None:
        return self._fabric.get(self._site, f"{self._prefix}{path}")


def _is_in(at_us: int, from_us: int | None, to_us: int | None) -> bool:
    return (from_us is None or at_us >= from_us) and (to_us is None or at_us < to_us)


def _iso(at_us: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_us / 1e6))
