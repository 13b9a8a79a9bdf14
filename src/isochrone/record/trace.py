"""Trace: from an execution to a named human, verified offline, step by numbered step.

What is verified comes from sites that need not be trusted. What must be trusted is small and given apart: the log keys
of the sites (`vkeys`) and the identity registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isochrone.authority.chain import verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.explain import explain_chain
from isochrone.authority.grant import tag
from isochrone.authority.identity import Registry
from isochrone.authority.scope import Groups
from isochrone.errors import IsochroneError
from isochrone.policy.policies import PolicySet
from isochrone.record.canonical import Record, decode
from isochrone.tlog.note import Verifier
from isochrone.tlog.proof import Proof
from isochrone.tlog.quorum import TrustPolicy

__all__ = ["Step", "Trace", "trace"]


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
) -> Trace:
    """Verify what sites say of one execution.

    Args:
        evidence: answers of sites' evidence endpoints: site, and records with their proofs.
        execution: ``<site>/<id>`` as the answer's header gave it.
        vkeys: site to the verifier key of its log, as enrolled.
    """
    return _Tracer(execution, vkeys, registry, groups).run(evidence)


class _Tracer:
    def __init__(self, execution: str, vkeys: Mapping[str, str], registry: Registry, groups: Groups) -> None:
        self._site, _, self._id = execution.partition("/")
        self._vkeys, self._registry, self._groups = vkeys, registry, groups
        self._steps: list[Step] = []

    def run(self, evidence: Sequence[Mapping[str, Any]]) -> Trace:
        proven = [self._prove(site, each) for site in evidence for each in site.get("records", ())]
        records = [found for found in proven if found is not None]
        outcome = self._outcome(records)
        chain, activation = None, None
        if outcome is not None:
            chain = self._authority(records, outcome)
            activation = self._policy(records, outcome)
            self._bounds(outcome)
        return Trace(tuple(self._steps), outcome, chain, activation)

    def _say(self, title: str, held: bool, detail: str) -> None:
        self._steps.append(Step(len(self._steps) + 1, title, held, detail))

    def _prove(self, answer: Mapping[str, Any], each: Mapping[str, Any]) -> Record | None:
        """The record, if its site's log holds exactly these bytes."""
        site = str(answer.get("site"))
        title = f"record {each.get('entry')} of {site} is in its log"
        try:
            verifier = Verifier.from_vkey(self._vkeys[site])
            data = str(each["record"]).encode()
            proof = Proof.parse(str(each["proof"]).encode())
            checkpoint = proof.verify(data, TrustPolicy((verifier,)), verifier.name)
            record = decode(data)
            if record.get("where", {}).get("site") != site:
                raise KeyError(f"it names {record.get('where')}")
        except (IsochroneError, KeyError, ValueError) as error:
            self._say(title, False, f"not proven: {error}")
            return None
        root = checkpoint.root.hex()[:16]
        self._say(title, True, f"{record['kind']}, proven in the checkpoint of size {checkpoint.size}, root {root}…")
        return record

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

    def _authority(self, records: Sequence[Record], outcome: Record) -> VerifiedChain | None:
        """The exchange behind the grant, and the chain behind the exchange."""
        grant = outcome["who"]["grant"]
        exchanges = [r for r in records if r["kind"] == "exchange" and r["id"] == grant and r["grant"]]
        if grant is None or not exchanges:
            self._say("its grant was recorded when it was given", False, f"no exchange for grant {grant} is proven")
            return None
        exchange = exchanges[0]
        where = f"grant {grant}, given at {exchange['where']['site']} for {exchange['contract']}"
        self._say("its grant was recorded when it was given", True, where)
        verified = verify_chain(exchange["chain"], self._registry, self._groups, now_s=exchange["start_us"] / 1e6)
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

    def _bounds(self, outcome: Record) -> None:
        """Where it ran is where the grant allowed."""
        if outcome["kind"] == "refusal":
            self._say("nothing was executed", True, f"refused: {outcome['result']['detail']}")
            return
        ran, granted = outcome["via"]["executing_site"], outcome["under"]["sites_granted"] or ""
        where = outcome["where"]
        detail = f"ran at {ran} ({where['vendor']}, {where['jurisdiction']}); the grant allows {granted}"
        self._say("it ran where the grant allows", granted == "*" or f"|{ran}|" in granted, detail)
