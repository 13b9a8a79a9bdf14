"""Records: what happened at one site, as plain values. Digests and sizes only, never prompts or answers.

| kind | made from | says |
|---|---|---|
| admission | the journal's start line | a request entered a listener |
| authorization | Envoy's question to the node | the verdict on a request, before it was forwarded |
| outcome | the journal's end line | who, what, where, when, under what, and how it ended |
| attempt | the journal, where requests are hedged | one of several attempts: where, and how it ended |
| refusal | the journal's end line | the same, for a request that nothing executed here, with the reason |
| exchange | the token endpoint | a chain, whole, and the grant minted from it or the reasons against |
| act | the registry | one signed act of a person, as this site verified it; first of all, who was enrolled before |
| revocation | the feed | one signed entry, as applied here |
| activation | a configuration that came into force | plan, policies with their text, epoch |
| interval | the node, every minute | requests counted and journaled, the clock, how fresh revocations are |
| finding | the journal, the log, the proxy | something that does not add up |
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isochrone.model.fabric import Fabric
from isochrone.record.canonical import Record

__all__ = [
    "RECORD_VERSION",
    "SiteIdentity",
    "act",
    "activation",
    "anchor",
    "authorization",
    "exchange",
    "finding",
    "from_journal",
    "interval",
    "revocation",
    "runs_here",
]

RECORD_VERSION = 1
_KINDS = {"DownstreamStart": "admission", "UpstreamEnd": "attempt"}
_HOPS = tuple(f"h{number}" for number in range(1, 9))
_KEYS = tuple(f"k{number}" for number in range(9))
_WHAT = (("contract", "ctr"), ("workload", "wl"), ("data_class", "dc"))


@dataclass(frozen=True, slots=True)
class SiteIdentity:
    """What every record of a site says of it; from its enrolment, not from itself."""

    name: str
    tier: str
    vendor: str
    jurisdiction: str

    def to_json(self) -> Record:
        return {"site": self.name, "tier": self.tier, "vendor": self.vendor, "jurisdiction": self.jurisdiction}


def from_journal(line: Mapping[str, Any], here: SiteIdentity, site_at: Callable[[str], str | None]) -> Record:
    """The record of one journal line.

    Args:
        line: a line as `forward.journal.start_fields` or `end_fields` lays it out.
        site_at: names the site whose listener or model server answers at an address, None when unknown.
    """
    kind = _KINDS.get(_text(line, "type"), "outcome")
    base: Record = {
        "v": RECORD_VERSION,
        "kind": kind,
        "id": _text(line, "id"),
        "role": _text(line, "role"),
        "where": here.to_json(),
        "start_us": _microseconds(line.get("start")),
        "request": {"method": _text(line, "method"), "path": _text(line, "path")},
    }
    if kind == "admission":
        return base
    if kind == "attempt":
        return base | _attempt(line, site_at)
    claims = _claims(line)
    upstream = line.get("upstream")
    executing = site_at(str(upstream)) if upstream else None
    if executing is None:
        base["kind"] = "refusal"
    return base | {
        "who": _who(line, claims),
        "what": {
            **{name: _claim(claims, claim) for name, claim in _WHAT},
            "received_bytes": _whole(line, "received_bytes"),
            "sent_bytes": _whole(line, "sent_bytes"),
        },
        "via": {"ingress": line.get("ingress"), "executing_site": executing, "peer": line.get("peer")}
        | {"attempted": _attempted(line, site_at)},
        "under": {
            "policy_granted": _claim(claims, "pol"),
            "policy_in_force": line.get("policy"),
            "plan": line.get("plan"),
            "epoch_granted": _claim(claims, "epo"),
            "sites_granted": _claim(claims, "sites"),
            "deadline_ms": line.get("deadline_ms"),
            **({"candidate": line["candidate"]} if line.get("candidate") else {}),
        },
        "result": {
            "status": _whole(line, "status"),
            "detail": line.get("detail"),
            "flags": line.get("flags"),
            "attempts": _whole(line, "attempts"),
            "first_byte_us": line.get("first_byte_us"),
            "duration_us": line.get("duration_us"),
            "upstream_first_byte_us": line.get("upstream_first_byte_us"),
            "upstream_us": line.get("upstream_us"),
            "model_first_byte_us": _said_us(line.get("model_us")),
        },
    }


def _attempted(line: Mapping[str, Any], site_at: Callable[[str], str | None]) -> list[str]:
    """The sites that were tried, in order; an address that is no site's any more stays an address."""
    return [site_at(address) or address for address in _text(line, "attempted").split(",") if address]


def _attempt(line: Mapping[str, Any], site_at: Callable[[str], str | None]) -> Record:
    upstream = line.get("upstream")
    return {
        "via": {"executing_site": site_at(str(upstream)) if upstream else None},
        "result": {
            "status": _whole(line, "status"),
            "detail": line.get("detail"),
            "flags": line.get("flags"),
            "duration_us": line.get("duration_us"),
        },
    }


def exchange(
    here: SiteIdentity,
    at_us: int,
    chain: Sequence[str],
    contract: str,
    grant: Mapping[str, Any] | None,
    reasons: Sequence[str],
    proof: str | None = None,
    oversight: Mapping[str, Any] | None = None,
) -> Record:
    """A token exchange: the chain is evidence and is kept whole; `grant` holds the claims when one was minted.

    Args:
        proof: names the proof of possession that was used up: it is not taken again, also after a restart.
        oversight: where the contract asks for approvals: of how many people (`required`), and the ids of those that
            counted (`approvals`).
    """
    shown: Record = {"oversight": dict(oversight)} if oversight else {}
    return shown | {
        "v": RECORD_VERSION,
        "kind": "exchange",
        "id": grant["jti"] if grant else None,
        "where": here.to_json(),
        "start_us": at_us,
        "contract": contract,
        "chain": list(chain),
        "grant": dict(grant) if grant else None,
        "verdict": "allow" if grant else "deny",
        "reasons": list(reasons),
        "proof": proof,
    }


def authorization(
    here: SiteIdentity,
    at_us: int,
    claims: Mapping[str, Any],
    told: Record,
    *,
    allowed: bool,
    reasons: Sequence[str],
    policy: str,
    plan: int,
    epoch: int,
    synchronous: bool,
) -> Record:
    """The node's verdict on a request that its Envoy asked about.

    Args:
        claims: of the verified grant. told: `id`, `role`, `request` and `here`, as Envoy told them.
        policy: digest of the policies that were asked. synchronous: whether forwarding waited for this record.
    """
    base: Record = {"v": RECORD_VERSION, "kind": "authorization", "where": here.to_json(), "start_us": at_us, **told}
    return base | {
        "who": _who({}, claims),
        "what": {name: _claim(claims, claim) for name, claim in _WHAT},
        "under": {"policy": policy, "policy_granted": _claim(claims, "pol"), "plan": plan, "epoch": epoch},
        "evidence": "synchronous" if synchronous else "streamed",
        "verdict": "allow" if allowed else "deny",
        "reasons": list(reasons),
    }


def revocation(here: SiteIdentity, at_us: int, seq: int, entry: str) -> Record:
    """A feed entry, as this site put it into force."""
    base = {"v": RECORD_VERSION, "kind": "revocation", "where": here.to_json(), "start_us": at_us}
    return base | {"seq": seq, "entry": entry}


def act(here: SiteIdentity, at_us: int, seq: int, digest: str, text: str) -> Record:
    """A signed act of a person, number `seq`, as this site took it; its id is its digest."""
    base = {"v": RECORD_VERSION, "kind": "act", "id": digest, "where": here.to_json(), "start_us": at_us}
    return base | {"seq": seq, "act": text}


def anchor(here: SiteIdentity, at_us: int, digest: str, identities: Sequence[Mapping[str, Any]]) -> Record:
    """Who was enrolled before the first act: not proven, but from then on not to be changed unseen."""
    base = {"v": RECORD_VERSION, "kind": "act", "id": digest, "where": here.to_json(), "start_us": at_us}
    return base | {"seq": 0, "anchor": [dict(each) for each in identities]}


def activation(
    here: SiteIdentity, at_us: int, desired: int, plan: int, epoch: int, policies: Mapping[str, str]
) -> Record:
    """A configuration that Envoy confirmed to be in force. Policies are kept with their text."""
    return {
        "v": RECORD_VERSION,
        "kind": "activation",
        "where": here.to_json(),
        "start_us": at_us,
        "desired": desired,
        "plan": plan,
        "epoch": epoch,
        "policies": dict(policies),
    }


def runs_here(fabric: Fabric, site: str) -> Record:
    """What is the same for every record under one activation: hardware classes of the site, and models by digest."""
    models = {name: each.model.model_dump(mode="json", exclude_none=True) for name, each in fabric.workloads.items()}
    return {"hardware": sorted(fabric.sites[site].hardware), "models": models}


def finding(here: SiteIdentity, at_us: int, what: str, detail: str) -> Record:
    """Something that does not add up, kept where it was seen."""
    base = {"v": RECORD_VERSION, "kind": "finding", "where": here.to_json(), "start_us": at_us}
    return base | {"what": what, "detail": detail[:4000]}


def interval(
    here: SiteIdentity,
    start_us: int,
    end_us: int,
    counts: Mapping[str, Mapping[str, int]],
    clock: Mapping[str, Any],
    epoch: int,
    heard_s_ago: float | None,
) -> Record:
    """What the site says of itself every minute: requests counted by the proxy and journaled, since that proxy began;
    its clock; the revocations in force, and how long ago the hub was heard."""
    return {
        "v": RECORD_VERSION,
        "kind": "interval",
        "where": here.to_json(),
        "start_us": start_us,
        "end_us": end_us,
        "requests": {role: dict(row) for role, row in counts.items()},
        "clock": dict(clock),
        "revocations": {
            "epoch": epoch,
            "heard_us_ago": None if heard_s_ago is None else max(0, int(heard_s_ago * 1e6)),
        },
    }


def _claims(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """The claims of the grant that the proxy verified, from the one field that holds them; none without a grant."""
    text = _text(line, "claims")
    try:
        claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return claims if isinstance(claims, Mapping) else {}


def _claim(claims: Mapping[str, Any], name: str) -> str | None:
    """A scalar claim as text, the way the proxy's own header of it reads."""
    value = claims.get(name)
    if not isinstance(value, str | int) or value == "":
        return None
    return str(value).encode("utf-8", "replace").decode()  # JSON can escape half a character; a record cannot hold it


def _who(line: Mapping[str, Any], claims: Mapping[str, Any]) -> Record:
    actor = claims.get("act")
    return {
        "human": _claim(claims, "sub"),
        "agent": _claim(actor, "sub") if isinstance(actor, Mapping) else None,
        "grant": _claim(claims, "jti"),
        "chain": _claim(claims, "chd"),
        "hops": [tag for hop in _HOPS if (tag := _claim(claims, hop))],
        "keys": [tag for key in _KEYS if (tag := _claim(claims, key))],
        "client": line.get("client"),
    }


def _text(line: Mapping[str, Any], key: str) -> str:
    return str(line.get(key) or "")


def _whole(line: Mapping[str, Any], key: str) -> int:
    value = line.get(key)
    return value if isinstance(value, int) else 0


def _said_us(text: object) -> int | None:
    """Microseconds of a header that another site set; None when it is no such number."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 12 else None


def _microseconds(text: object) -> int:
    """`%START_TIME(%s.%6f)%` as whole microseconds since 1970; 0 when it is not one."""
    seconds, _, fraction = str(text or "").partition(".")
    if not seconds.isdigit() or not fraction.isdigit():
        return 0
    return int(seconds) * 1_000_000 + int(fraction[:6].ljust(6, "0"))
