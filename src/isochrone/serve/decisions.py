"""The decision point of a site or hub: full Cedar on the policies in force, prepared once for each revision."""

from __future__ import annotations

from isochrone.errors import InputError
from isochrone.model.fabric import Fabric
from isochrone.policy.bounds import world_of
from isochrone.policy.pdp import PDP
from isochrone.policy.policies import PolicySet

__all__ = ["DecisionPoint"]

_SLICES_MAX = 4096


class DecisionPoint:
    """``point(fabric, policies)`` is the PDP for these two, the same one as long as they are the same objects.

    Raises (when called):
        InputError: one of them is not known yet.
    """

    def __init__(self) -> None:
        self._prepared: tuple[Fabric, PolicySet, PDP] | None = None

    def __call__(self, fabric: Fabric | None, policies: PolicySet | None) -> PDP:
        if fabric is None or policies is None:
            raise InputError("no policies are in force yet", code="policy.none", hint="ask again in a few seconds")
        if self._prepared is None or self._prepared[0] is not fabric or self._prepared[1] is not policies:
            self._prepared = (fabric, policies, PDP(policies, world_of(fabric), slices_max=_SLICES_MAX))
        return self._prepared[2]
