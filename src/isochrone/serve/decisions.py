"""The site's decision point: full Cedar on the policies in force here, prepared once for each revision."""

from __future__ import annotations

from isochrone.control.node import NodeState
from isochrone.policy.bounds import world_of
from isochrone.policy.pdp import PDP

__all__ = ["DecisionPoint"]


class DecisionPoint:
    """``point(state)`` is the PDP for the policies and fabric of `state`, which must hold both."""

    def __init__(self) -> None:
        self._prepared: tuple[int, PDP] | None = None

    def __call__(self, state: NodeState) -> PDP:
        assert state.policies is not None
        assert state.fabric is not None
        if self._prepared is None or self._prepared[0] != state.desired:
            self._prepared = (state.desired, PDP(state.policies, world_of(state.fabric)))
        return self._prepared[1]
