"""Shards: a site's records by how long they are kept, each class a log of its own.

The main log holds what everything rests on (exchanges, revocations, activations, findings, admissions) and the records
of contracts that name no retention. Every other class has a log whose origin is the main log's, a slash and the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from isochrone.errors import InputError
from isochrone.model.fabric import Fabric
from isochrone.model.keeping import Retention, quorum_of, witnesses_of
from isochrone.record.canonical import Record
from isochrone.tlog.note import Verifier
from isochrone.tlog.quorum import TrustPolicy, policy_text

__all__ = [
    "MAIN",
    "SHARDS",
    "classes_of",
    "pruned_before_us",
    "shard_of",
    "shard_origin",
    "trust_policy",
    "verifiers_of",
    "witnessing_of",
]

MAIN = ""
SHARDS = (MAIN, *(each.value for each in Retention))


def shard_origin(main: str, shard: str) -> str:
    """Origin of one log of the site whose main log's origin is `main`; raises InputError (``record.shard``)."""
    if shard not in SHARDS:
        raise InputError(f"there is no retention class {shard!r}", code="record.shard")
    return f"{main}/{shard}" if shard else main


def classes_of(fabric: Fabric) -> dict[str, str]:
    """Contract to the shard of its records, for contracts whose records are not in the main log."""
    return {
        name: terms.on_record.retention.value
        for name, terms in fabric.contracts.items()
        if terms.on_record.retention not in (None, fabric.on_record.retention)
    }


def pruned_before_us(fabric: Fabric, now_s: float) -> dict[str, int]:
    """Shard to the start (us) before which its records have outlived their class."""
    kept = {MAIN: fabric.on_record.retention} | {each.value: each for each in Retention}
    return {shard: int((now_s - each.days * 86_400) * 1e6) for shard, each in kept.items()}


def shard_of(record: Record, classes: Mapping[str, str]) -> str:
    """Where a record belongs. An admission names no contract yet, and no person either: it stays in the main log."""
    what = record.get("what")
    return classes.get(str(what.get("contract")), MAIN) if isinstance(what, Mapping) else MAIN


@lru_cache(maxsize=1024)
def verifiers_of(vkey: str) -> Mapping[str, Verifier]:
    """Shard to verifier, from the key of a site's main log: one key signs them all, each under its own origin."""
    main = Verifier.from_vkey(vkey)
    return MappingProxyType({shard: main.named(shard_origin(main.name, shard)) for shard in SHARDS})


def witnessing_of(fabric: Fabric, site: str, witness_vkeys: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    """The quorum for a site's logs, and the key of each witness by site. A witness without a known key still counts."""
    names = witnesses_of(frozenset(fabric.sites), site)
    return quorum_of(fabric.on_record, names), {name: witness_vkeys[name] for name in names if name in witness_vkeys}


def trust_policy(log_vkey: str, quorum: int, witnesses: Mapping[str, str]) -> TrustPolicy:
    """The policy for one log.

    Raises:
        InputError: ``record.quorum``, more witnesses are asked for than are known; ``tlog.policy``, a key is malformed.
    """
    if quorum > len(witnesses):
        raise InputError(f"{quorum} witnesses are asked for, {len(witnesses)} are known", code="record.quorum")
    return TrustPolicy.parse(policy_text(log_vkey, witnesses, quorum))
