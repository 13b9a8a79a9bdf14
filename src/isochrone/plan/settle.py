"""What of a new plan a site is told: a change that sends nothing elsewhere waits, since telling costs every request.

Measurements move fallbacks, tries and the rungs of deadlines tighter than the contract's all the time. A proxy that is
handed new files works for a moment beside its requests; so such changes are told together, once in `DWELL_S`. Where
traffic goes, who serves at all, limits and placements are told at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

from isochrone.plan.plan import Plan, Rung, difference

__all__ = ["DWELL_S", "settle"]

DWELL_S = 15.0


def settle(before: Plan, after: Plan, is_open: Mapping[str, Set[str]], now_s: float) -> Plan:
    """`after` of the same fabric, with what stands in `before` wherever that is as good for now.

    Args:
        is_open: contract to the sites that nothing bars; who forwards to another one is told at once.
    """
    change = difference(before, after)
    told = {site for site, *_ in (*change.placements, *change.limits)}
    for ingress, contract in change.routes:
        rested = now_s - before.site_changed_s.get(ingress, float("-inf")) >= DWELL_S
        old = before.routes.get(ingress, {}).get(contract, ())
        if rested or _matters(old, after.routes.get(ingress, {}).get(contract, ()), is_open.get(contract, frozenset())):
            told.add(ingress)
    changed = set(change.routes)
    routes = {
        ingress: {
            contract: rungs
            if ingress in told and (ingress, contract) in changed
            else before.routes.get(ingress, {}).get(contract, rungs)
            for contract, rungs in row.items()
        }
        for ingress, row in after.routes.items()
    }
    return replace(
        after,
        routes=routes,
        site_revisions={
            site: after.revision if site in told else before.forwarding_revision(site) for site in after.routes
        },
        site_changed_s={
            site: now_s if site in told else before.site_changed_s.get(site, before.solved_s) for site in after.routes
        },
    )


def _matters(old: tuple[Rung, ...], new: tuple[Rung, ...], is_open: Set[str]) -> bool:
    """Whether traffic goes elsewhere at the contract's own deadline, may still go where it must not, or had no other
    way to go and has one now."""
    if not old or not new or [rung.deadline_ms for rung in old] != [rung.deadline_ms for rung in new]:
        return True
    here, there = old[-1], new[-1]
    if here.shares != there.shares or (here.refusal is None) != (there.refusal is None):
        return True
    if there.fallbacks and not here.fallbacks:
        return True
    return any(site not in is_open for rung in old for site in rung.sites)
