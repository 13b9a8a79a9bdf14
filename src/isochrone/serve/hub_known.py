"""What a hub knows, as its API tells it."""

from __future__ import annotations

import time
from typing import Any

from isochrone.control.hub import HubState
from isochrone.errors import InputError
from isochrone.plan.plan import Plan

__all__ = ["known_of", "solve_of"]


def solve_of(plan: Plan | None) -> dict[str, Any]:
    """How good the newest plan is known to be: who solved the routing, and the proven gaps to the optimum, as shares of
    the objective (currency per second); empty before the first."""
    if plan is None:
        return {}
    names = ("solver", "gap", "placement_gap", "objective")
    return {name: getattr(plan, name) for name in names}


def known_of(state: HubState, texts: tuple[str, dict[str, str]] | None) -> dict[str, Any]:
    """All that a plan follows from, for people who ask why; `now_s` is the clock that measurements are dated by.

    Raises:
        InputError: ``hub.empty``: no fabric was applied yet.
    """
    if state.desired is None or state.rtt is None or state.service is None or texts is None:
        raise InputError("the hub holds no fabric yet", code="hub.empty", hint="run `isochrone apply FILE`")
    return {
        "fabric": texts[0],
        "policies": texts[1],
        "rtt": state.rtt.to_json(),
        "service": state.service.to_json(),
        "up": sorted(state.up),
        "drained": sorted(state.drained),
        "plan": state.plan.to_json() if state.plan else None,
        "now_s": time.monotonic(),
    }
