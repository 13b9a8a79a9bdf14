"""Which policies can matter to a request: those that, at its site and under its contract, may apply or err at all.

Cedar evaluates every policy that it is given, about 2 us each. Most policies are about other contracts or other places:
what the compiler proves of them (`specialise`: neither applies nor errs, whatever the request) need not be asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isochrone.policy.environment import Specialiser
from isochrone.policy.formula import FALSE
from isochrone.policy.policies import PolicySet
from isochrone.policy.specialise import specialise
from isochrone.policy.values import Known, Uid
from isochrone.policy.vocabulary import FACTS, World

__all__ = ["Slicer"]

_PRINCIPAL = {"execute": "Agent", "exchange": "Agent", "place": "Human"}


class Slicer:
    """Slices of one policy set in one world."""

    def __init__(self, policies: PolicySet, world: World) -> None:
        self._policies = policies
        self._specialiser = Specialiser.of(world)
        self._sites = {site.id for site in world.sites}

    def key(
        self,
        principal: tuple[str, str],
        action: str,
        resource: tuple[str, str],
        context: Mapping[str, Any],
        known: bool,
    ) -> tuple[str, str, str] | None:
        """Action, site and contract of a request that the compiler's facts describe; None for any other.

        Args:
            known: whether the principal's entity is one that the request brings along.
        """
        kind, site = resource
        contract = context.get("contract")
        if kind != "Site" or site not in self._sites or _PRINCIPAL.get(action) != principal[0] or not known:
            return None
        if not isinstance(contract, Mapping) or not _within_domains(context):
            return None
        return action, site, str(contract.get("__entity", {}).get("id"))

    def slice(self, action: str, site: str, contract: str) -> PolicySet:
        """The policies that can matter there."""
        env = self._specialiser.environment(site, action, {"context.contract": Known(Uid("Contract", contract))})
        residuals = [specialise(policy, env) for policy in self._policies.policies]
        return PolicySet(tuple(r.policy for r in residuals if r.applies != FALSE or r.error != FALSE))


def _within_domains(context: Mapping[str, Any]) -> bool:
    """Whether small numbers are what the vocabulary says they can be, which the compiler takes for granted."""
    for name in ("hour_utc", "weekday"):
        value = context.get(name)
        if value is not None and (type(value) is not int or str(value) not in FACTS[f"context.{name}"].domain):
            return False
    return True
