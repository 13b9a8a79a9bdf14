"""Names of what travels on the bus: buckets, keys, subjects."""

from __future__ import annotations

__all__ = [
    "APPLY",
    "BUDGETS",
    "DESIRED",
    "FABRIC_KEY",
    "HEARTBEAT",
    "PEOPLE_KEY",
    "PLAN_KEY",
    "REVOCATIONS",
    "REVOKE",
    "ROSTER_KEY",
    "SHADOW_KEY",
    "SITES",
    "entry_key",
    "entry_number",
]

DESIRED = "desired"  # bucket: documents the hub seals
FABRIC_KEY = "fabric"  # fabric document and policies
PLAN_KEY = "plan"  # the plan
ROSTER_KEY = "roster"  # keys of enrolled sites
SHADOW_KEY = "shadow"  # a candidate for desired state, which decides nothing
PEOPLE_KEY = "people"  # identity registry: anchor and acts

SITES = "sites"  # bucket: one report per site, written by that site alone
REVOCATIONS = "revocations"  # bucket: feed entries, and the heartbeat
HEARTBEAT = "heartbeat"
BUDGETS = "budgets"  # bucket: one account per limited hop, changed by every site by compare-and-set

APPLY = "hub.apply"  # request: change desired state
REVOKE = "hub.revoke"  # request: enter a revocation


def entry_key(seq: int) -> str:
    """Key of a feed entry; sorts by number."""
    return f"entry.{seq:012d}"


def entry_number(key: str) -> int | None:
    """The number in a feed entry's key; None for any other key."""
    number = key.removeprefix("entry.")
    return int(number) if key.startswith("entry.") and number.isascii() and number.isdigit() else None
