"""A candidate: policies that are evaluated beside those in force, and decide nothing.

Envoy evaluates the candidate's compiled rules on every request (RBAC `shadow_rules`) and journals what they say. Where
they say something else than what was enforced, full Cedar is asked of both: then a difference is one, and has a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from isochrone.control.report import ShadowCount
from isochrone.model.fabric import Fabric
from isochrone.policy.bounds import world_of
from isochrone.policy.compile import CompiledPolicy, compile_anywhere, compile_for_site
from isochrone.policy.pdp import PDP, Request, execution_context, hour_and_weekday
from isochrone.policy.policies import PolicySet
from isochrone.policy.verdict import Allow, Verdict
from isochrone.policy.vocabulary import AgentFacts
from isochrone.record.canonical import Record

__all__ = ["Candidate", "ShadowCounts"]


@dataclass(frozen=True)
class Candidate:
    """Policies in shadow at one site. `number` rises with each; `base` is the revision that they would change."""

    number: int
    base: int
    point: PDP
    here: CompiledPolicy
    anywhere: CompiledPolicy

    @classmethod
    def of(cls, number: int, base: int, site: str, fabric: Fabric, policies: PolicySet) -> Candidate:
        """Compile for a site of `fabric`. Raises PolicyError when it is none."""
        world = world_of(fabric)
        here = compile_for_site(policies, site, world, check_grant_sites=False)
        return cls(number, base, PDP(policies, world), here, compile_anywhere(policies, world))


@dataclass(slots=True)
class ShadowCounts:
    """What the candidate would have changed at one site, by contract; counted where a request would execute."""

    number: int = 0
    _counts: dict[str, ShadowCount] = field(default_factory=dict)

    def add(self, candidate: Candidate, point: PDP, records: Iterable[Record]) -> None:
        """Count outcomes and refusals that were judged by this candidate.

        Args:
            point: of the policies in force.
        """
        if candidate.number != self.number:
            self.number, self._counts = candidate.number, {}
        for record in records:
            if record["kind"] not in ("outcome", "refusal"):
                continue
            number, _, said = str(record["under"].get("candidate") or "").partition(" ")
            if number == str(candidate.number) and said in ("allowed", "denied") and _is_here(record):
                self._count(candidate, point, record, allowed=said == "allowed")

    def of(self) -> dict[str, ShadowCount]:
        """By contract."""
        return dict(sorted(self._counts.items()))

    def _count(self, candidate: Candidate, point: PDP, record: Record, *, allowed: bool) -> None:
        contract = str(record["what"]["contract"])
        count = self._counts.get(contract, ShadowCount())
        self._counts[contract] = count = replace(count, tried=count.tried + 1)
        enforced = not _was_denied(record)
        if allowed == enforced:
            return
        request = _request(record)
        now, then = point.verdict(request), candidate.point.verdict(request)
        if isinstance(now, Allow) == isinstance(then, Allow):
            return
        by = dict(count.by_policy)
        for name in _names(now if isinstance(then, Allow) else then):
            by[name] = by.get(name, 0) + 1
        gained = isinstance(then, Allow)
        self._counts[contract] = replace(
            count, would_allow=count.would_allow + gained, would_deny=count.would_deny + (not gained), by_policy=by
        )


def _is_here(record: Record) -> bool:
    """Whether this site executed it, or refused it by its policies: what is handed over is counted over there."""
    return record["via"]["executing_site"] == record["where"]["site"] or _was_denied(record)


def _was_denied(record: Record) -> bool:
    detail = str(record["result"]["detail"])
    return record["kind"] == "refusal" and detail.startswith(("rbac_access_denied", "ext_authz_denied"))


def _request(record: Record) -> Request:
    who, what = record["who"], record["what"]
    agent = AgentFacts(str(who["agent"]), str(who["human"]), max(1, len(who["hops"])))
    when = hour_and_weekday(record["start_us"] / 1e6)
    context: Mapping[str, Any] = execution_context(
        str(what["contract"]), str(what["workload"]), str(what["data_class"]), *when
    )
    return Request(("Agent", agent.id), "execute", ("Site", record["where"]["site"]), context, (agent,))


def _names(denied: Verdict) -> list[str]:
    """The policies that deny, or why nothing permits."""
    return sorted({reason.policy or reason.code for reason in denied.reasons})
