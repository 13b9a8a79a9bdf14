"""Trace: from an execution to a named human, verified offline, step by numbered step.

What is verified comes from sites that need not be trusted. What must be trusted is small and given apart: the log keys
of the sites (`vkeys`) and the identity registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from isochrone.authority.approval import is_live
from isochrone.authority.chain import ChainCache, verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.explain import explain_chain
from isochrone.authority.grant import tag
from isochrone.authority.identity import Registry
from isochrone.authority.scope import Groups
from isochrone.errors import IsochroneError
from isochrone.policy.policies import PolicySet
from isochrone.record.canonical import Record, decode
from isochrone.record.revoked import PastFeed, elements_of
from isochrone.record.shards import MAIN, trust_policy, verifiers_of
from isochrone.tlog.note import Note
from isochrone.tlog.proof import Proof
from isochrone.tlog.quorum import TrustPolicy

__all__ = ["UNREVOKED", "WITNESSED", "Step", "Trace", "judge", "trace"]

UNREVOKED = "nothing of it was revoked"

WITNESSED = "the other sites have seen the same log"
"""Title of the step that asks for a quorum of cosignatures: a record of a moment ago may still wait for them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """One check: what it asks, whether it held, and what was found."""

    number: int
    title: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Trace:
    """All checks of one execution, and what they led to."""

    steps: tuple[Step, ...]
    outcome: Record | None
    chain: VerifiedChain | None
    activation: Record | None

    @property
    def held(self) -> bool:
        """Whether every step held."""
        return bool(self.steps) and all(step.held for step in self.steps)


def trace(
    evidence: Sequence[Mapping[str, Any]],
    execution: str,
    vkeys: Mapping[str, str],
    registry: Registry,
    groups: Groups,
    witnesses: Mapping[str, Mapping[str, Any]] | None = None,
    feed: PastFeed | IsochroneError | None = None,
) -> Trace:
    """Verify what sites say of one execution.

    Args:
        evidence: answers of sites' evidence endpoints: site, and records with their proofs.
        execution: ``<site>/<id>`` as the answer's header gave it.
        vkeys: site to the verifier key of its log, as enrolled.
        witnesses: site to ``quorum`` and ``keys`` (witness to verifier key) of its logs; whoever is left out needs
            none, and None asks for none at all.
        feed: the revocations, or why they cannot be verified; None does not ask for them.
    """
    return _Tracer(execution, vkeys, registry, groups, witnesses or {}, feed).run(evidence)


def judge(
    records: Sequence[Record],
    execution: str,
    registry: Registry,
    groups: Groups,
    feed: PastFeed | IsochroneError | None,
    cache: ChainCache,
) -> Trace:
    """As `trace`, on records that were proven before: the outcome, the exchange behind it, the last activation."""
    return _Tracer(execution, {}, registry, groups, {}, feed, cache).judge(records)


class _Tracer:
    def __init__(
        self,
        execution: str,
        vkeys: Mapping[str, str],
        registry: Registry,
        groups: Groups,
        witnesses: Mapping[str, Mapping[str, Any]],
        feed: PastFeed | IsochroneError | None,
        cache: ChainCache | None = None,
    ) -> None:
        self._site, _, self._id = execution.partition("/")
        self._feed, self._cache = feed, cache
        self._vkeys, self._registry, self._groups, self._witnesses = vkeys, registry, groups, witnesses
        self._cosigned: dict[str, tuple[bool, str]] = {}
        self._steps: list[Step] = []

    def run(self, evidence: Sequence[Mapping[str, Any]]) -> Trace:
        found = [self._prove(*each) for each in _records_of(evidence)]
        records = [record for record in found if record is not None]
        if self._cosigned:
            met = all(held for held, _ in self._cosigned.values())
            self._say(WITNESSED, met, "\n".join(d for _, d in self._cosigned.values()))
        return self.judge(records)

    def judge(self, records: Sequence[Record]) -> Trace:
        """What proven records say of the execution."""
        outcome = self._check("the execution has a record", self._outcome, records)
        chain, activation = None, None
        if outcome is not None:
            exchange = self._check("its grant was recorded when it was given", self._exchange, records, outcome)
            if exchange is not None:
                chain = self._check("the chain leads to a human", self._authority, exchange, outcome)
                self._check("the people required approved it", self._oversight, exchange)
            activation = self._check("the policies in force are on record", self._policy, records, outcome)
            if chain is not None and outcome["kind"] == "outcome" and self._feed is not None:
                self._check(UNREVOKED, self._unrevoked, outcome, chain, activation)
            self._check("it ran where the grant allows", self._bounds, outcome, exchange)
        return Trace(tuple(self._steps), outcome, chain, activation)

    def _check(self, title: str, check: Callable[..., T | None], *arguments: Any) -> T | None:
        """One check. A site may log what it likes under its own key: a record of the wrong shape breaks the step."""
        try:
            return check(*arguments)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            self._say(title, False, f"a record is not of the form it should have: {error!r}"[:300])
            return None

    def _say(self, title: str, held: bool, detail: str) -> None:
        self._steps.append(Step(len(self._steps) + 1, title, held, detail))

    def _prove(self, site: str, each: Mapping[str, Any]) -> Record | None:
        """The record, if its site's log holds exactly these bytes."""
        title = f"record {each.get('entry')} of {site} is in its log"
        try:
            verifier = verifiers_of(self._vkeys[site])[str(each.get("log", MAIN))]
            data = str(each["record"]).encode()
            proof = Proof.parse(str(each["proof"]).encode())
            checkpoint = proof.verify(data, TrustPolicy((verifier,)), verifier.name)
            record = decode(data)
            if record["where"]["site"] != site:
                raise ValueError(f"it names {record['where']}")
            kind = record["kind"]
            self._look_at_witnesses(site, verifier.name, verifier.vkey, proof.checkpoint)
        except (IsochroneError, KeyError, TypeError, ValueError) as error:
            self._say(title, False, f"not proven: {error}")
            return None
        root = checkpoint.root.hex()[:16]
        self._say(title, True, f"{kind}, proven in the checkpoint of size {checkpoint.size}, root {root}…")
        return record

    def _look_at_witnesses(self, site: str, origin: str, vkey: str, checkpoint: bytes) -> None:
        """Whether a quorum of the log's witnesses has cosigned the checkpoint that a proof leads to."""
        asked = self._witnesses.get(site)
        if asked is None or not asked["quorum"]:
            return
        quorum, keys = int(asked["quorum"]), dict(asked["keys"])
        policy, note = trust_policy(vkey, quorum, keys), Note.parse(checkpoint)
        names = ", ".join(sorted(policy.cosigned_by(note))) or "nobody"
        held = policy.is_met(note) and self._cosigned.get(origin, (True, ""))[0]
        detail = f"{origin}: cosigned by {names}; {quorum} of {len(keys)} witnesses are asked for"
        self._cosigned[origin] = (held, detail if held else f"{detail}: NOT met")

    def _outcome(self, records: Sequence[Record]) -> Record | None:
        """The outcome (or refusal) at the site that answers for the execution."""
        about = [r for r in records if r["kind"] in ("outcome", "refusal") and r["id"] == self._id]
        mine = [record for record in about if record["where"]["site"] == self._site]
        if not mine:
            self._say("the execution has a record", False, f"{self._site} shows none for {self._id}")
            return None
        result, what = mine[0]["result"], mine[0]["what"]
        detail = (
            f"{mine[0]['kind']}: contract {what['contract']}, status {result['status']}, {result['duration_us']} us"
        )
        self._say("the execution has a record", True, detail)
        return mine[0]

    def _exchange(self, records: Sequence[Record], outcome: Record) -> Record | None:
        """The exchange that minted the grant which the execution ran under."""
        title, grant = "its grant was recorded when it was given", outcome["who"]["grant"]
        exchanges = [r for r in records if r["kind"] == "exchange" and r["id"] == grant and r["grant"]]
        if grant is None or not exchanges:
            self._say(title, False, f"no exchange for grant {grant} is proven")
            return None
        found = exchanges[0]
        self._say(title, True, f"grant {grant}, given at {found['where']['site']} for {found['contract']}")
        return found

    def _authority(self, exchange: Record, outcome: Record) -> VerifiedChain | None:
        """The chain behind the exchange, and whether the execution was the chain's own and in time."""
        verified = verify_chain(
            exchange["chain"], self._registry, self._groups, now_s=exchange["start_us"] / 1e6, cache=self._cache
        )
        if isinstance(verified, ChainRejected):
            self._say("the chain leads to a human", False, "; ".join(map(str, verified.reasons)))
            return None
        self._say("the chain leads to a human", True, f"{verified.human_name}\n{explain_chain(verified.hops)}")
        who = outcome["who"]
        same = (
            who["human"] == verified.human
            and who["agent"] == verified.last.agent
            and who["chain"] == verified.digest
            and who["hops"] == [tag(hop.id) for hop in verified.hops]
            and outcome["what"]["contract"] == exchange["contract"]
        )
        self._say("the record names this chain and nobody else", same, f"{who['agent']} for {who['human']}")
        end_us, start_us = exchange["grant"]["exp"] * 1_000_000, outcome["start_us"]
        in_time = exchange["grant"]["iat"] * 1_000_000 - 1_000_000 <= start_us <= end_us + 1_000_000
        self._say(
            "the grant was valid when the execution began", in_time, f"{(end_us - start_us) / 1e6:.1f} s were left"
        )
        return verified

    def _oversight(self, exchange: Record) -> None:
        """Each approval that the exchange names is a person's signed act, of this contract, and counted then."""
        oversight = exchange.get("oversight")
        if oversight is None:
            return
        at_s, named = exchange["start_us"] / 1e6, oversight["approvals"]
        known = [self._registry.approvals[each] for each in named if each in self._registry.approvals]
        good = [each for each in known if each.contract == exchange["contract"] and is_live(each, at_s)]
        names = {each.by: self._registry.people[each.by].name for each in good}
        lines = [f"{names[each.by]} ({each.by}): {each.reason}" for each in good]
        held = len(good) == len(named) and len(names) >= oversight["required"]
        self._say("the people required approved it", held, "\n".join(lines) or "no approval of theirs is proven")

    def _policy(self, records: Sequence[Record], outcome: Record) -> Record | None:
        """The policies in force: their text gives the digest that the record names."""
        named = outcome["under"]["policy_in_force"]
        for record in records:
            if record["kind"] != "activation" or record.get("policy") != named:
                continue
            try:
                digest = PolicySet.parse({f"{name}.cedar": text for name, text in record["policies"].items()}).digest
            except IsochroneError as error:
                self._say("the policies in force are on record", False, str(error))
                return None
            names = ", ".join(sorted(record["policies"]))
            self._say("the policies in force are on record", digest == named, f"{named[:23]}…: {names}")
            return record
        self._say("the policies in force are on record", False, f"no activation of {named} is proven")
        return None

    def _unrevoked(self, outcome: Record, chain: VerifiedChain, activation: Record | None) -> None:
        """By the revocations that were in force here: those its grant was given under, or confirmed since."""
        if not isinstance(self._feed, PastFeed):
            self._say(UNREVOKED, False, str(self._feed))
            return
        epochs = [int(outcome["under"]["epoch_granted"] or 0)]
        if activation is not None and activation["start_us"] <= outcome["start_us"]:
            epochs.append(activation["epoch"])
        epoch, begun_s = max(epochs), outcome["start_us"] / 1e6
        if epoch > self._feed.epoch:
            shown = f"{epoch} revocations were in force, {self._feed.epoch} are shown"
            self._say(UNREVOKED, False, shown)
            return
        elements = list(elements_of(chain, outcome, self._registry.fabric))
        found = [entry for element in elements if (entry := self._feed.revoked(element, epoch))]
        waiting = [entry for element in elements if (entry := self._feed.later(element, epoch, begun_s))]
        lines = [f"by revocation {epoch}, the last one in force at {self._site}"]
        lines += [f"{e.kind} {e.id} was revoked by number {e.seq}: {e.reason}" for e in found]
        lines += [f"number {e.seq} of {begun_s - e.at_s:.0f} s before was not in force here yet" for e in waiting]
        self._say(UNREVOKED, not found, "\n".join(lines))

    def _bounds(self, outcome: Record, exchange: Record | None) -> None:
        """Where it ran is where the grant, as it was recorded when it was given, allowed."""
        if outcome["kind"] == "refusal":
            self._say("nothing was executed", True, f"refused: {outcome['result']['detail']}")
            return
        ran = outcome["via"]["executing_site"]
        granted = str(exchange["grant"]["sites"]) if exchange is not None else ""
        where = outcome["where"]
        detail = f"ran at {ran} ({where['vendor']}, {where['jurisdiction']}); the grant allows {granted or 'nothing'}"
        held = granted == outcome["under"]["sites_granted"] and (granted == "*" or f"|{ran}|" in granted)
        self._say("it ran where the grant allows", held, detail)


def _records_of(evidence: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Site and record of every answer that has the form of one."""
    for answer in evidence:
        records = answer.get("records") if isinstance(answer, Mapping) else None
        for each in records if isinstance(records, list) else ():
            if isinstance(each, Mapping):
                yield str(answer.get("site")), each
