"""A delegation in words: what a person reads before approving it, and what `delegations show` prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from isochrone.authority.delegation import Delegation
from isochrone.authority.scope import Scope

__all__ = ["explain_chain", "explain_scope", "explain_tree"]

_NOUNS = {
    "workloads": "workload",
    "contracts": "contract",
    "sites": "site",
    "jurisdictions": "jurisdiction",
    "vendors": "vendor",
    "hardware_classes": "hardware class",
    "data_classes": "data class",
}


def explain_scope(scope: Scope) -> list[str]:
    """One line for each member of the vocabulary: unrestricted ones too, since silence is what people overlook."""
    lines = []
    for member, noun in _NOUNS.items():
        names = getattr(scope, member)
        lines.append(f"any {noun}" if names is None else f"only {noun} {' or '.join(sorted(names))}")
    lines.append("at any rate" if scope.rate_rps_max is None else f"at most {scope.rate_rps_max:g} requests/s")
    lines.append("any number of tokens" if scope.tokens_max is None else f"at most {scope.tokens_max:,} tokens in all")
    lines.append("at any cost" if scope.cost_max is None else f"at most {scope.cost_max} in all")
    if scope.not_before_s is not None:
        lines.append(f"not before {_time(scope.not_before_s)}")
    if scope.not_after_s is not None:
        lines.append(f"not from {_time(scope.not_after_s)} on")
    lines.append("may be delegated further" if scope.may_delegate else "may not be delegated further")
    return lines


def explain_chain(hops: tuple[Delegation, ...]) -> str:
    """The chain as a tree, each hop with what it says differently from the one before.

    Whether it is true is not said here: explain what was verified.
    """
    return explain_tree([hops])


def explain_tree(chains: Sequence[tuple[Delegation, ...]]) -> str:
    """As `explain_chain` for several chains: a hop that several of them share stands once."""
    shown: list[str] = []
    seen: set[str] = set()
    for hops in sorted(chains, key=lambda hops: (hops[0].human, [(hop.iat_s, hop.id) for hop in hops])):
        shown += [] if hops[0].human in seen else [hops[0].human]
        before: set[str] = set()
        for depth, hop in enumerate(hops):
            indent, lines = "   " * depth, explain_scope(hop.scope)
            if hop.id not in seen:
                shown.append(f"{indent}└─ {hop.agent}  {hop.id[:12]}  until {_time(hop.exp_s)}")
                shown += [f"{indent}      {line}" for line in lines if line not in before]
            seen |= {hops[0].human, hop.id}
            before = set(lines)
    return "\n".join(shown)


def _time(at_s: int) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"second {at_s}"
