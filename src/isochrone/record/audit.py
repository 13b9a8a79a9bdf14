"""Audit: everything in an export folder, verified offline, step by numbered step.

1. The keys in the folder are those that the auditor was given (the trust anchor).
2. Every file is as it was exported, and there is no other.
3. The registry begins with the trusted people, and every later act is signed and in order.
4. The revocations are signed by the hub, and none is left out.
5. Per log: the checkpoint is signed by the log and cosigned by its quorum, by nobody unknown; every entry that the
   manifest names is in it, is a record of that site, and no file is there that nothing needed; it goes on from what
   was exported earlier.
6. Every grant was given to a chain that leads to a person; every policy that was in force is there with its text.
7. Every execution is judged as by `trace`: grant, chain, person, time, policies, revocations, place.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from isochrone.authority.chain import ChainCache, verify_chain
from isochrone.authority.delegation import ChainRejected
from isochrone.authority.identity import Registry
from isochrone.authority.jose import PublicKey
from isochrone.authority.scope import Groups
from isochrone.errors import IntegrityError, IsochroneError
from isochrone.policy.policies import PolicySet
from isochrone.record.canonical import Record, decode
from isochrone.record.export import (
    MANIFEST,
    PEOPLE,
    REVOCATIONS,
    SUMS,
    TRUST,
    Folder,
    LogPart,
    Manifest,
    Trust,
    parse_sums,
)
from isochrone.record.revoked import PastFeed
from isochrone.record.shards import trust_policy, verifiers_of
from isochrone.record.trace import Step, judge
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.extract import Watched, read_ranges
from isochrone.tlog.note import Note
from isochrone.tlog.tiles import CHECKPOINT_PATH
from isochrone.tlog.tree import TileTree

__all__ = ["Audit", "records_in", "verify_export"]

_NAMED_MAX = 20
_FIXED = frozenset({TRUST, PEOPLE, REVOCATIONS, MANIFEST, SUMS})
_ODD = (KeyError, TypeError, ValueError, AttributeError, IndexError)


@dataclass(frozen=True, slots=True)
class Audit:
    """All checks of one folder; `kinds` counts the records that were verified."""

    steps: tuple[Step, ...]
    kinds: Mapping[str, int]

    @property
    def held(self) -> bool:
        """Whether every step held."""
        return bool(self.steps) and all(step.held for step in self.steps)


RegistryOf = Callable[[str, Mapping[str, Any], str], Registry]
"""The registry of a fabric's people document under the digest of its anchor; raises when it does not verify."""


def verify_export(
    folder: Folder, anchor: str, groups: Groups, registry_of: RegistryOf, earlier: Folder | None = None
) -> Audit:
    """Verify a folder.

    Args:
        anchor: the trust anchor, as the auditor keeps it.
        groups: areas that contain areas, for jurisdictions.
        earlier: a folder of the same fabric that was verified before: each log must go on from it.
    """
    return _Auditor(folder, anchor, groups, registry_of, earlier).run()


def records_in(folder: Folder, part: LogPart, tree: TileTree) -> Iterator[tuple[int, Record]]:
    """Number and record of each entry that the folder has of a log; raises what `read_ranges` and `decode` do."""
    for number, data in read_ranges(_Below(folder, part.folder), tree, part.ranges):
        yield number, decode(data)


@dataclass(slots=True)
class _Collected:
    """What executions rest on, from all logs."""

    exchanges: dict[str, Record] = field(default_factory=dict)
    policies: dict[str, Record] = field(default_factory=dict)
    activations: dict[str, list[tuple[int, Record]]] = field(default_factory=dict)  # site -> by time, with their text
    findings: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    acts: dict[int, str] = field(default_factory=dict)  # number -> signed text, as sites recorded it


class _Auditor:
    def __init__(
        self, folder: Folder, anchor: str, groups: Groups, registry_of: RegistryOf, earlier: Folder | None
    ) -> None:
        self._folder, self._anchor, self._earlier = folder, anchor, earlier
        self._groups, self._registry_of = groups, registry_of
        self._steps: list[Step] = []
        self._read: set[str] = set(_FIXED)
        self._trees: dict[LogPart, TileTree] = {}
        self._all = _Collected()
        self._cache = ChainCache()

    def run(self) -> Audit:
        trust = self._trusted()
        self._unchanged()
        if trust is not None:
            registry, feed = self._people(trust), self._revocations(trust)
            try:
                manifest = Manifest.parse(self._folder.read(MANIFEST))
            except IntegrityError as error:
                self._say("the manifest can be read", [str(error)], "")
            else:
                for part in manifest.logs:
                    self._log(part, trust)
                self._leftover(manifest)
                if registry is not None:
                    self._acts()
                    self._grants(registry)
                    self._policies()
                    self._executions(manifest, registry, feed)
        return Audit(tuple(self._steps), dict(self._all.kinds))

    def _say(self, title: str, wrong: list[str], right: str) -> None:
        """A step: it held if nothing is wrong. So many faults are named; the rest are counted."""
        named = wrong[:_NAMED_MAX] + ([f"and {len(wrong) - _NAMED_MAX:,} more"] if len(wrong) > _NAMED_MAX else [])
        self._steps.append(Step(len(self._steps) + 1, title, not wrong, "\n".join(named) if wrong else right))

    # --- what all rests on ----------------------------------------------------------------------------------------

    def _trusted(self) -> Trust | None:
        title = "the keys are those you were given"
        try:
            data = self._folder.read(TRUST)
            trust = Trust.parse(data)
            if trust.encode() != data or trust.anchor != self._anchor:
                raise IntegrityError(f"{TRUST} is of the anchor sha256:{sha256(data or b'').hexdigest()}")
            known = [key for vkey in trust.logs.values() for key in verifiers_of(vkey)]
            PublicKey.from_jwk(dict(trust.hub_key))
        except (IsochroneError, *_ODD) as error:
            self._say(title, [f"{error}; expected {self._anchor}"], "")
            return None
        self._say(title, [], f"{self._anchor}: {trust.fabric}, {len(trust.logs)} sites, {len(known)} possible logs")
        return trust

    def _unchanged(self) -> None:
        title = "every file is as it was exported"
        try:
            sums = parse_sums(self._folder.read(SUMS))
        except IntegrityError as error:
            self._say(title, [str(error)], "")
            return
        there = set(self._folder.paths())
        wrong = [f"{path} is in {SUMS} and missing" for path in sorted(sums.keys() - there)]
        wrong += [f"{path} is not in {SUMS}" for path in sorted(there - sums.keys() - {SUMS})]
        for path in sorted(sums.keys() & there):
            if sha256(self._folder.read(path) or b"").hexdigest() != sums[path]:
                wrong.append(f"{path} is not what {SUMS} says")
        self._say(title, wrong, f"{len(sums):,} files")

    def _people(self, trust: Trust) -> Registry | None:
        title = "the people are those you were given, and those they enrolled"
        try:
            document = json.loads(self._folder.read(PEOPLE) or b"")
            registry = self._registry_of(trust.fabric, document, trust.people)
        except (IsochroneError, RecursionError, *_ODD) as error:
            self._say(title, [f"{PEOPLE}: {error}"], "")
            return None
        self._say(title, [], f"{len(registry.people)} people and agents, {registry.seq} signed acts")
        return registry

    def _revocations(self, trust: Trust) -> PastFeed | IsochroneError:
        title = "the revocations are the hub's, and none is left out"
        try:
            lines = (self._folder.read(REVOCATIONS) or b"").decode("ascii").splitlines()
            feed = PastFeed(trust.fabric, PublicKey.from_jwk(dict(trust.hub_key)), lines)
        except (IsochroneError, *_ODD) as error:
            self._say(title, [f"{REVOCATIONS}: {error}"], "")
            return IntegrityError(f"the revocations do not verify: {error}")
        self._say(title, [], f"{feed.epoch} revocations")
        return feed

    # --- logs -----------------------------------------------------------------------------------------------------

    def _log(self, part: LogPart, trust: Trust) -> None:
        store = Watched(_Below(self._folder, part.folder))
        tree = self._checkpoint(part, trust, store)
        if tree is None:
            return
        title, count = f"{part.folder}: the entries are in the log", 0
        wrong: list[str] = []
        try:
            for number, data in read_ranges(store, tree, part.ranges):
                self._collect(part, number, data, wrong)
                count += 1
            if self._earlier is not None:
                self._goes_on(part, tree, trust)
        except (IsochroneError, ValueError) as error:
            wrong.append(str(error))
        self._read |= {f"{part.folder}/{path}" for path in store.paths}
        shown = ", ".join(f"{start} to {stop - 1}" for start, stop in part.ranges[:5])
        more = f" and {len(part.ranges) - 5} more ranges" if len(part.ranges) > 5 else ""
        self._say(title, wrong, f"{count:,} of {tree.size:,}: {shown}{more}")
        self._trees[part] = tree

    def _checkpoint(self, part: LogPart, trust: Trust, store: Watched) -> TileTree | None:
        title = f"{part.folder}: the checkpoint is signed and witnessed"
        try:
            signed = store.read(CHECKPOINT_PATH)
            if signed is None:
                raise IntegrityError("there is no checkpoint")
            verifier = verifiers_of(trust.logs[part.site])[part.shard]
            asked = trust.witnesses.get(part.site, {"quorum": 0, "keys": {}})
            policy = trust_policy(verifier.vkey, int(asked["quorum"]), asked["keys"])
            checkpoint, note = policy.verify(signed, verifier.name), Note.parse(signed)
            by = policy.cosigned_by(note)
            if note.encode() != signed or len(note.signatures) != len(by) + 1:
                raise IntegrityError("it has a signature of a key that is not known")
            tree = TileTree(store, checkpoint.size, checkpoint.root)
        except (IsochroneError, *_ODD) as error:
            self._say(title, [f"{part.folder}/{CHECKPOINT_PATH}: {error}"], "")
            return None
        told = f"{checkpoint.size:,} entries, root {checkpoint.root.hex()[:16]}…, cosigned by "
        self._say(title, [], told + (", ".join(sorted(by)) or "nobody; nobody is asked for"))
        return tree

    def _goes_on(self, part: LogPart, tree: TileTree, trust: Trust) -> None:
        """Whether the log is what it was in the earlier folder, and more."""
        assert self._earlier is not None
        signed = self._earlier.read(f"{part.folder}/{CHECKPOINT_PATH}")
        title = f"{part.folder}: it goes on from the earlier export"
        wrong: list[str] = []
        if signed is None:
            return
        verifier = verifiers_of(trust.logs[part.site])[part.shard]
        try:
            old = Checkpoint.parse_and_verify(signed, verifier, origin=verifier.name)
            if old.size > tree.size:
                wrong.append(f"it went back from {old.size} entries to {tree.size}")
            elif old.size and tree.root_at(old.size) != old.root:
                wrong.append(f"it forked: keep both folders, their checkpoints of {old.size} and {tree.size} prove it")
        except IsochroneError as error:
            wrong.append(f"{error} (a part of a log can only be compared where it has the tiles: export it whole)")
        self._say(title, wrong, "no entry of then was changed")

    def _collect(self, part: LogPart, number: int, data: bytes, wrong: list[str]) -> None:
        try:
            record = decode(data)
            kind, site = str(record["kind"]), record["where"]["site"]
            if site != part.site:
                raise ValueError(f"it is of {site}")
            if kind == "exchange" and record["grant"]:
                self._all.exchanges[str(record["id"])] = record
            elif kind == "activation":
                self._all.policies.setdefault(str(record.get("policy")), record)
                self._all.activations.setdefault(part.site, []).append((int(record["start_us"]), record))
            elif kind == "act" and record["seq"]:
                self._all.acts[int(record["seq"])] = str(record["act"])
            elif kind == "finding":
                self._all.findings[f"{site}: {record['what']}"] += 1
        except (IsochroneError, *_ODD) as error:
            wrong.append(f"entry {number} is no record: {error!r}"[:300])
            return
        self._all.kinds[kind] += 1

    def _leftover(self, manifest: Manifest) -> None:
        """A file that nothing needed is not covered by any proof."""
        extra = sorted(set(self._folder.paths()) - self._read)
        title = "nothing is in the folder that is not proven"
        self._say(title, [f"{path} is not needed for anything" for path in extra], f"asked for: {manifest.asked}")

    # --- what happened --------------------------------------------------------------------------------------------

    def _acts(self) -> None:
        """What people did last cannot be cut off unseen where a site has recorded it."""
        shown = json.loads(self._folder.read(PEOPLE) or b"")["acts"]
        wrong = [
            f"{PEOPLE} does not hold act {seq} as it is on record"
            for seq, text in sorted(self._all.acts.items())
            if seq > len(shown) or shown[seq - 1] != text
        ]
        self._say("the people's acts are those on record", wrong, f"{len(self._all.acts)} acts are on record")

    def _grants(self, registry: Registry) -> None:
        wrong: list[str] = []
        people = Counter[str]()
        for jti, exchange in self._all.exchanges.items():
            try:
                chain, at_s = exchange["chain"], exchange["start_us"] / 1e6
                verified = verify_chain(chain, registry, self._groups, now_s=at_s, cache=self._cache)
                if isinstance(verified, ChainRejected):
                    wrong.append(f"grant {jti}: {'; '.join(map(str, verified.reasons))}")
                elif (exchange["grant"]["sub"], exchange["grant"]["chd"]) != (verified.human, verified.digest):
                    wrong.append(f"grant {jti} names {exchange['grant']['sub']}, its chain {verified.human}")
                else:
                    people[verified.human] += 1
            except _ODD as error:
                wrong.append(f"grant {jti}: {error!r}"[:300])
        told = ", ".join(f"{count:,} for {name}" for name, count in people.most_common(5))
        self._say("every grant was given to a chain that leads to a person", wrong, told or "no grant was given")

    def _policies(self) -> None:
        wrong: list[str] = []
        for digest, record in self._all.policies.items():
            try:
                texts = {f"{name}.cedar": text for name, text in record["policies"].items()}
                if PolicySet.parse(texts).digest != digest:
                    wrong.append(f"the text of {digest} is of another digest")
            except (IsochroneError, *_ODD) as error:
                wrong.append(f"{digest}: {error!r}"[:300])
        title = "the policies that were in force are there, with their text"
        self._say(title, wrong, f"{len(self._all.policies)} policy sets")

    def _executions(self, manifest: Manifest, registry: Registry, feed: PastFeed | IsochroneError) -> None:
        wrong: list[str] = []
        count = 0
        for site in self._all.activations.values():
            site.sort(key=lambda each: each[0])
        for part in manifest.logs:
            judged = replace(part, ranges=part.judged)
            if part not in self._trees:
                continue
            try:
                for _, record in records_in(self._folder, judged, self._trees[part]):
                    if record["kind"] == "outcome":
                        count += 1
                        wrong += self._judge(record, part.site, registry, feed)
            except (IsochroneError, *_ODD) as error:
                wrong.append(f"{part.folder}: {error}")
        refused = self._all.kinds["refusal"]
        told = f"{count:,} executions; {refused:,} refusals, which executed nothing"
        self._say("every execution was granted, in time, in bounds and unrevoked", wrong, told)

    def _judge(self, outcome: Record, site: str, registry: Registry, feed: PastFeed | IsochroneError) -> list[str]:
        """What does not hold of one execution."""
        execution = f"{site}/{outcome['id']}"
        grant, digest = str(outcome["who"]["grant"]), str(outcome["under"]["policy_in_force"])
        records = [outcome]
        if grant in self._all.exchanges:
            records.append(self._all.exchanges[grant])
        before = self._all.activations.get(site, [])
        position = bisect_right(before, outcome["start_us"], key=lambda each: each[0])
        while position and before[position - 1][1].get("policy") != digest:
            position -= 1
        if position:
            records.append(before[position - 1][1])
        elif digest in self._all.policies:
            records.append(self._all.policies[digest])
        found = judge(records, execution, registry, self._groups, feed, self._cache)
        return [f"{execution}: {step.title}: {step.detail}" for step in found.steps if not step.held]


class _Below:
    """The files of one log in a folder."""

    def __init__(self, folder: Folder, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix

    def read(self, path: str) -> bytes | None:
        return self._folder.read(f"{self._prefix}/{path}")
