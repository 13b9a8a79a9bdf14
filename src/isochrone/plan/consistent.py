"""What a plan must be before anything is forwarded by it: a site keeps the one it has rather than take another."""

from __future__ import annotations

from collections.abc import Iterator

from isochrone.errors import InputError
from isochrone.plan.plan import Plan, Rung

__all__ = ["check_consistent"]

# Shares are ten-thousandths that sum to one; so much is left to the rounding of floating point.
_TOLERANCE = 1e-9


def check_consistent(plan: Plan) -> None:
    """Refuse a plan that contradicts itself.

    Raises:
        InputError: ``plan.inconsistent``, with the first contradiction.
    """
    for fault in _faults(plan):
        raise InputError(f"plan {plan.revision} contradicts itself: {fault}", code="plan.inconsistent")


def _faults(plan: Plan) -> Iterator[str]:
    if plan.revision < 1:
        yield f"its revision is {plan.revision}"
    for site, row in plan.limits.items():
        yield from (f"{name} is limited to {most} at {site}" for name, most in row.items() if most < 1)
    for site, row in plan.placements.items():
        yield from (f"{count} replicas of {name} at {site}" for name, count in row.items() if count < 1)
    for ingress, routes in plan.routes.items():
        for name, rungs in routes.items():
            yield from (f"{name} from {ingress}: {fault}" for fault in _rungs(rungs))


def _rungs(rungs: tuple[Rung, ...]) -> Iterator[str]:
    deadlines = [rung.deadline_ms for rung in rungs]
    if not rungs or deadlines != sorted(set(deadlines)) or deadlines[0] <= 0:
        yield f"deadlines {deadlines} ms are not each tighter than the next"
    for rung in rungs:
        yield from (f"{fault}, within {rung.deadline_ms:g} ms" for fault in _rung(rung))


def _rung(rung: Rung) -> Iterator[str]:
    serving = [share.site for share in rung.shares]
    tried = [*serving, *rung.fallbacks]
    if bool(rung.shares) == (rung.refusal is not None):
        yield "neither served nor refused" if not rung.shares else "served and refused"
    if rung.fallbacks and not rung.shares:
        yield "fallbacks of nobody"
    if len(set(tried)) < len(tried):
        yield f"a site twice among {', '.join(tried)}"
    if any(share.share <= 0 for share in rung.shares):
        yield "a share of nothing"
    total = sum(share.share for share in rung.shares)
    if rung.shares and abs(total - 1) > _TOLERANCE:
        yield f"shares that sum to {total:g}"
    if rung.tries < 1 or (rung.hedge_ms is not None and not 0 < rung.hedge_ms < rung.deadline_ms):
        yield f"{rung.tries} tries, hedged after {rung.hedge_ms} ms"
