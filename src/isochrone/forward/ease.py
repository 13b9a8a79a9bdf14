"""A FIB with less for sites that this ingress holds for late: to the other sites of the same entry, and never beyond.

What the plan left out for a contract (out of bounds, out of time, kept apart) is in no entry, so nothing reaches it.
How much a site takes is its own limit, which its own proxy holds. Where every site of an entry is doubted the entry
stays as planned: to leave all is to serve nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from isochrone.forward.fib import Entry, Fib, paths_for, weights_of

__all__ = ["eased", "shares_of"]


def eased(fib: Fib, doubted: Mapping[str, Mapping[str, float]]) -> Fib:
    """The FIB with doubted sites at a part of their weight, and last among those that take over.

    Args:
        doubted: contract to site to the part of its weight that it keeps, 0 to 1.
    """
    if not doubted:
        return fib
    return replace(fib, entries=tuple(_eased(entry, doubted.get(entry.contract, {})) for entry in fib.entries))


def shares_of(fib: Fib) -> dict[str, dict[str, float]]:
    """Contract to site to its share of the entry with the loosest deadline; 0 for those that only take over."""
    found: dict[str, dict[str, float]] = {}
    for entry in sorted(fib.entries, key=lambda entry: entry.deadline_ms):
        total = sum(path.weight for path in entry.paths)
        weights = {path.sites[0]: path.weight / total for path in entry.paths}
        found[entry.contract] = {site: weights.get(site, 0.0) for site in entry.candidates}
    return found


def _eased(entry: Entry, parts: Mapping[str, float]) -> Entry:
    sound = [site for site in entry.candidates if site not in parts]
    if not sound or len(sound) == len(entry.candidates):
        return entry
    planned = {path.sites[0]: float(path.weight) for path in entry.paths}
    kept = {site: weight * parts.get(site, 1.0) for site, weight in planned.items()}
    freed = sum(planned.values()) - sum(kept.values())
    takers = {site: planned[site] for site in sound if site in planned} or {sound[0]: 1.0}
    for site, weight in takers.items():
        kept[site] = kept.get(site, 0.0) + freed * weight / sum(takers.values())
    weights = weights_of({site: weight for site, weight in kept.items() if weight > 0})
    candidates = tuple(sorted(entry.candidates, key=lambda site: site in parts))  # stable: otherwise as planned
    return replace(entry, paths=paths_for(weights, candidates), candidates=candidates)
