"""Facts: what a record says, as one flat row for queries and analysts. Derived; the record itself is the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["COLUMNS", "Facts", "facts_of"]


class Facts(NamedTuple):
    """One record as a row; what its kind does not have is None. Times are UTC, microseconds since 1970."""

    kind: str
    id: str | None
    role: str | None
    at_us: int
    verdict: str | None
    human: str | None
    agent: str | None
    contract: str | None
    workload: str | None
    ingress: str | None
    executing_site: str | None
    status: int | None
    duration_us: int | None
    grant_id: str | None
    policy: str | None
    reason: str | None


COLUMNS: Mapping[str, str] = {
    "site": "site whose log holds the record",
    "log": "its retention class; empty for the main log",
    "entry": "number of the entry in that log",
    "kind": "kind of record",
    "id": "execution, grant or act that it is about",
    "role": "`ingress`, or `peer` for what another site handed over",
    "at_us": "when what it is about began, microseconds since 1970, UTC",
    "verdict": "`allow` or `deny`",
    "human": "person whose authority it ran under",
    "agent": "agent that asked",
    "contract": "contract",
    "workload": "workload",
    "ingress": "site where the request entered",
    "executing_site": "site that executed it; null when none did",
    "status": "HTTP status of the answer",
    "duration_us": "from its first to its last byte, microseconds",
    "grant_id": "grant it ran under, or that was given",
    "policy": "digest of the policies in force",
    "reason": "first reason of a refusal, or what was found",
}
"""Every column of a query's row, in order, and what it holds."""


def facts_of(record: Mapping[str, Any]) -> Facts:
    """The row of a record of any kind and any form: what has another type than it should is left out."""
    who, what, via = (_part(record, name) for name in ("who", "what", "via"))
    under, result, grant = (_part(record, name) for name in ("under", "result", "grant"))
    kind = str(record.get("kind"))
    reasons = record.get("reasons")
    actor = _part(grant, "act")
    return Facts(
        kind=kind,
        id=_text(record.get("id")),
        role=_text(record.get("role")),
        at_us=_whole(record.get("start_us")) or 0,
        verdict=_text(record.get("verdict")) or {"outcome": "allow", "refusal": "deny"}.get(kind),
        human=_text(who.get("human")) or _text(grant.get("sub")),
        agent=_text(who.get("agent")) or _text(actor.get("sub")),
        contract=_text(what.get("contract")) or _text(record.get("contract")),
        workload=_text(what.get("workload")) or _text(grant.get("wl")),
        ingress=_text(via.get("ingress")),
        executing_site=_text(via.get("executing_site")),
        status=_whole(result.get("status")),
        duration_us=_whole(result.get("duration_us")),
        grant_id=_text(who.get("grant")) or _text(grant.get("jti")),
        policy=_text(under.get("policy_in_force")) or _text(under.get("policy")) or _text(record.get("policy")),
        reason=_text(reasons[0] if isinstance(reasons, list) and reasons else None)
        or _text(record["what"] if kind == "finding" else None)
        or (_text(result.get("detail")) if kind == "refusal" else None),
    )


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None
