"""Taking authority back: a signed, sequenced feed that every site follows, and what each site denies because of it.

Two signatures, because two parties answer for a revocation. Someone entitled signs a *request*; the fabric's feed key
signs the *entry* that gives it a number, and names the digest of the entry before, so that entries cannot be left out,
reordered, rolled back or told differently to two sites unnoticed. A signed *heartbeat* repeats number and digest of the
last entry: a site is fresh while it has heard one lately and holds everything that it speaks of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from isochrone.authority.delegation import HOPS_MAX, VerifiedChain
from isochrone.authority.grant import CLAIM_HEADERS, HOP_HEADERS, KEY_HEADERS, tag
from isochrone.authority.identity import Registry
from isochrone.authority.jose import PrivateKey, PublicKey, parse_compact, sign_compact
from isochrone.authority.reasons import Reason
from isochrone.authority.scope import check_identifier
from isochrone.errors import AuthorityError
from isochrone.model.contract import WhenUnheard

__all__ = [
    "DEGRADED_LIFE_S",
    "DEGRADED_S",
    "PUSH_S",
    "STREAM_CUT_S",
    "DenyMap",
    "FeedRejected",
    "Kind",
    "Revocation",
    "RevocationState",
    "bound_s",
    "deny_beside",
    "is_denied",
    "sign_entry",
    "sign_heartbeat",
]

PUSH_S = 1.0
"""An entry is in force at every connected site within this time."""

STREAM_CUT_S = 1.0
"""An open stream of something revoked is cut within this time of its revocation's entry into force at its site."""

DEGRADED_S = 600.0
DEGRADED_LIFE_S = 15
"""While it hears nothing, a site mints for contracts that degrade: for so long, in grants that live so long."""

ENTRY_TYP = "revocation+jwt"
HEARTBEAT_TYP = "heartbeat+jwt"
ENTRY_BYTES_MAX = 4096

Kind = Literal["hop", "agent", "human", "key", "grant", "contract", "workload", "fabric"]
KINDS: tuple[str, ...] = get_args(Kind)
STOPS = frozenset({"contract", "workload", "fabric"})
"""Kinds that are switches: an operator can lift them again. All other revocations are final."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """One entry of the feed.

    Attributes:
        seq: its number, from 1.
        at_s: when it was entered, seconds since 1970.
        kind, id: what is revoked: a hop's or chain's digest, an agent, a human, a key's thumbprint, a grant's `jti`, a
            contract, a workload, or the whole fabric.
        reason: why, in words; never empty.
        by: thumbprint of the key that signed the request.
        request: digest of the request, which the log holds.
        depth: depth of the hop that is revoked, when evidence showed it: a proxy then looks in one place, not in eight.
        until_s: when what is revoked would have expired anyway, after which the entry can be forgotten; None for never.
        is_lifted: True for an entry that ends an earlier stop of the same kind and id.
    """

    seq: int
    at_s: int
    kind: Kind
    id: str
    reason: str
    by: str
    request: str
    depth: int | None = None
    until_s: int | None = None
    is_lifted: bool = False

    def claims(self, fabric: str, prev: str) -> dict[str, Any]:
        """The claims of the signed entry."""
        claims: dict[str, Any] = {
            "aud": fabric,
            "seq": self.seq,
            "prev": prev,
            "iat": self.at_s,
            "kind": self.kind,
            "id": self.id,
            "reason": self.reason,
            "by": self.by,
            "req": self.request,
        }
        if self.depth is not None:
            claims["depth"] = self.depth
        if self.until_s is not None:
            claims["until"] = self.until_s
        if self.is_lifted:
            claims["lift"] = True
        return claims

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> Revocation:
        """Read an entry.

        Raises:
            AuthorityError: it is malformed.
        """
        match claims:
            case {
                "seq": int(seq),
                "iat": int(at_s),
                "kind": kind,
                "id": str(item),
                "reason": str(reason),
                "by": str(by),
                "req": str(request),
            } if kind in KINDS and reason:
                depth, until_s, lift = claims.get("depth"), claims.get("until"), claims.get("lift", False)
                is_good = until_s is None or type(until_s) is int
                is_good &= depth is None or (kind == "hop" and depth in range(HOPS_MAX))
                if is_good and type(lift) is bool and (kind in STOPS or not lift):
                    return cls(seq, at_s, kind, check_identifier(item, "id"), reason, by, request, depth, until_s, lift)
        raise AuthorityError("not an entry of a revocation feed", code="authority.malformed")


DenyMap = Mapping[str, frozenset[str]]
"""Header -> values to refuse."""


@dataclass(frozen=True, slots=True)
class FeedRejected:
    """The feed cannot be followed further; the state stays as it was and grows stale."""

    reasons: tuple[Reason, ...]


def sign_entry(revocation: Revocation, state: RevocationState, feed_key: PrivateKey) -> str:
    """The next entry of the feed that `state` has followed to its end."""
    if revocation.seq != state.seq + 1:
        raise ValueError(f"the next entry is number {state.seq + 1}")
    return sign_compact(revocation.claims(state.fabric, state.head), feed_key, typ=ENTRY_TYP)


def sign_heartbeat(state: RevocationState, feed_key: PrivateKey, now_s: float) -> str:
    """A heartbeat for the end of the feed, in whole milliseconds."""
    claims = {"aud": state.fabric, "seq": state.seq, "prev": state.head, "at_ms": int(now_s * 1000)}
    return sign_compact(claims, feed_key, typ=HEARTBEAT_TYP)


@dataclass(frozen=True, slots=True)
class RevocationState:
    """All that a site knows of the feed.

    Attributes:
        fabric: whose feed.
        feed_key: the key that signs it.
        seq: number of the last entry applied: the revocation epoch.
        head: digest of the last entry applied; empty before the first.
        heard_s: time of the newest heartbeat that found this state complete; None before the first.
        revoked: (kind, id) -> the entry in force.
    """

    fabric: str
    feed_key: PublicKey
    seq: int = 0
    head: str = ""
    heard_s: float | None = None
    revoked: Mapping[tuple[str, str], Revocation] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Number of the last entry applied."""
        return self.seq

    def apply(self, entries: Iterable[str]) -> RevocationState | FeedRejected:
        """The state after these entries, in order: all of them or none. The last one applied may come again."""
        revoked, seq, head = dict(self.revoked), self.seq, self.head
        for text in entries:
            try:
                document = parse_compact(text, typ=ENTRY_TYP, bytes_max=ENTRY_BYTES_MAX)
                if not document.is_signed_by(self.feed_key):
                    return _rejected("signature", "the feed's key did not sign this entry")
                if document.digest == head:
                    continue  # A bus that delivers at least once may deliver the newest entry twice.
                faults = _order_faults(document.claims, self.fabric, seq + 1, head)
                if faults:
                    return FeedRejected(tuple(faults))
                entry = Revocation.from_claims(document.claims)
            except AuthorityError as error:
                return FeedRejected((Reason.of(error),))
            seq, head = entry.seq, document.digest
            if entry.is_lifted:
                revoked.pop((entry.kind, entry.id), None)
            else:
                revoked[entry.kind, entry.id] = entry
        return replace(self, seq=seq, head=head, revoked=revoked)

    def hear(self, heartbeat: str, *, now_s: float, skew_s: float = 1.0) -> RevocationState | FeedRejected:
        """The state after a heartbeat.

        One that speaks of entries not held here leaves the state as stale as it was: a gap. One that speaks of fewer,
        or is older than the last, is a roll-back; one with another digest for the same number is a fork; one from the
        future would keep a cut-off site fresh for too long.
        """
        try:
            document = parse_compact(heartbeat, typ=HEARTBEAT_TYP, bytes_max=ENTRY_BYTES_MAX)
        except AuthorityError as error:
            return FeedRejected((Reason.of(error),))
        if not document.is_signed_by(self.feed_key):
            return _rejected("signature", "the feed's key did not sign this heartbeat")
        at_ms = document.claims.get("at_ms")
        if type(at_ms) is not int:
            return _rejected("claim", "the heartbeat has no time")
        faults = _order_faults(document.claims, self.fabric, self.seq, self.head)
        if at_ms / 1000 > now_s + skew_s:
            faults.append(Reason("future", f"the heartbeat is {at_ms / 1000 - now_s:.0f} s in the future"))
        if self.heard_s is not None and at_ms / 1000 < self.heard_s:
            faults.append(Reason("rollback", "the heartbeat is older than the last one heard"))
        return FeedRejected(tuple(faults)) if faults else replace(self, heard_s=at_ms / 1000)

    def is_fresh(self, now_s: float, stale_after_s: float) -> bool:
        """Whether grants may still be minted: a heartbeat made at most `stale_after_s` ago found nothing missing.

        Counted from when the heartbeat was signed, not from when it came: one that was held back keeps nobody fresh.
        """
        return self.heard_s is not None and now_s - self.heard_s <= stale_after_s

    def prune(self, now_s: float) -> RevocationState:
        """Without the entries whose object has expired by itself. Number and digest stay."""
        kept = {key: r for key, r in self.revoked.items() if r.until_s is None or r.until_s > now_s}
        return self if len(kept) == len(self.revoked) else replace(self, revoked=kept)

    def chain_refusals(self, chain: VerifiedChain) -> list[Reason]:
        """Why no grant may be minted from this chain."""
        elements = [("fabric", self.fabric), ("human", chain.human)]
        elements += [("key", key) for key in chain.keys]
        elements += [(kind, item) for hop in chain.hops for kind, item in (("hop", hop.id), ("agent", hop.agent))]
        return [_revoked(self.revoked[element]) for element in elements if element in self.revoked]

    def use_refusals(self, contract: str, workload: str) -> list[Reason]:
        """Why nothing may run under this contract or workload now."""
        stops = [("fabric", self.fabric), ("contract", contract), ("workload", workload)]
        return [_revoked(self.revoked[stop]) for stop in stops if stop in self.revoked]

    def deny_map(self, registry: Registry) -> DenyMap:
        """Header -> values to refuse: what a site's proxy enforces on grants minted before it knew.

        An agent stands for every key it ever had, because a grant names only its last agent but all of its keys. An
        agent that nobody enrolled has no keys here; it is matched by name where it acts itself, and otherwise its
        chains stop at the next exchange: revoke the hop, or the key, to stop it everywhere at once.
        """
        denied: dict[str, set[str]] = {}

        def deny(headers: Sequence[str], value: str) -> None:
            for header in headers:
                denied.setdefault(header, set()).add(value)

        for (kind, item), entry in self.revoked.items():
            if kind == "hop":
                deny(HOP_HEADERS if entry.depth is None else (HOP_HEADERS[entry.depth],), tag(item))
            elif kind == "key":
                deny(KEY_HEADERS, tag(item))
            else:
                deny((CLAIM_HEADERS[_CLAIMS[kind]],), item)
            if kind == "agent" and (agent := registry.people.get(item)) is not None:
                for key in agent.keys:
                    deny(KEY_HEADERS, tag(key.key.thumbprint))
        return {header: frozenset(values) for header, values in denied.items()}


def deny_beside(held: DenyMap, wanted: DenyMap) -> DenyMap:
    """What must be denied beside `held`, so that all that is `wanted` is."""
    missing = {header: values - held.get(header, frozenset()) for header, values in wanted.items()}
    return {header: values for header, values in missing.items() if values}


def is_denied(headers: Mapping[str, str], denied: DenyMap) -> bool:
    """Whether a deny map refuses a request with these headers: what a proxy does with the map."""
    return any(headers.get(header) in values for header, values in denied.items())


_CLAIMS = {"agent": "act.sub", "human": "sub", "grant": "jti", "contract": "ctr", "workload": "wl", "fabric": "aud"}


def _rejected(code: str, text: str) -> FeedRejected:
    return FeedRejected((Reason(code, text),))


def _revoked(revocation: Revocation) -> Reason:
    return Reason("revoked", f"{revocation.kind} {revocation.id} was revoked: {revocation.reason}")


def _order_faults(claims: Mapping[str, Any], fabric: str, seq: int, head: str) -> list[Reason]:
    """Whether an entry or heartbeat of number `seq` that names `head` comes next."""
    got = claims.get("seq")
    if claims.get("aud") != fabric:
        return [Reason("audience", f"the feed is of {claims.get('aud')!r}, not of {fabric}")]
    if type(got) is not int:
        return [Reason("claim", "no sequence number")]
    if got > seq:
        return [Reason("gap", f"number {got} came where {seq} was due: entries are missing")]
    if got < seq:
        return [Reason("rollback", f"number {got} came where {seq} was due: the feed goes back")]
    if claims.get("prev") != head:
        return [Reason("fork", f"number {got} belongs to another history than the one followed here")]
    return []


def bound_s(
    *,
    stale_after_s: float,
    grant_life_s: float,
    push_s: float = PUSH_S,
    is_connected: bool,
    when_unheard: WhenUnheard = WhenUnheard.STOP,
) -> float:
    """Longest time from a revocation's entry to the last request it should have refused, at one site.

    Connected: `push_s`, the time to deliver an entry and bring it into force. Cut off: the site mints for
    `stale_after_s` more at most, and the last grant lives `grant_life_s`; a contract that degrades is minted for
    `DEGRADED_S`, in grants of `DEGRADED_LIFE_S`; one that continues has no bound. Clocks that differ by d add d to what
    holds cut off. An open stream ends within `STREAM_CUT_S` of its revocation's entry into force.
    """
    if is_connected:
        return push_s
    if when_unheard is WhenUnheard.CONTINUE:
        return math.inf
    if when_unheard is WhenUnheard.DEGRADE:
        # The last full grant is minted just before the feed goes stale.
        return max(DEGRADED_S + DEGRADED_LIFE_S, stale_after_s + grant_life_s) + push_s
    return stale_after_s + grant_life_s + push_s
