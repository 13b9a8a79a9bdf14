"""What one site has in force, since when, and what it did not take: on record as it changes, for the site's reports."""

from __future__ import annotations

import time
from collections.abc import Callable

from isochrone.control.node import NodeState, refused_placements
from isochrone.forward.view import SiteView
from isochrone.policy.policies import PolicySet
from isochrone.record.records import activation, finding, runs_here
from isochrone.serve.logbook import Logbook

__all__ = ["Standing"]


class Standing:
    """One site's.

    Attributes:
        in_force: revisions of `desired`, `plan` and `epoch` that Envoy has confirmed; 0 before the first.
        desired_since_s, epoch_at_s: since when `desired` and `epoch` are, seconds since 1970; 0 before the first.
        rejected: why the newest configuration is not in force though it came; empty when it is.
    """

    def __init__(self, logbook: Logbook, alarm: Callable[[str], None]) -> None:
        self.in_force = {"desired": 0, "plan": 0, "epoch": 0}
        self.desired_since_s = 0.0
        self.epoch_at_s = 0.0
        self.rejected = ""
        self._logbook, self._alarm = logbook, alarm
        self._activated: tuple[dict[str, int], str] | None = None
        self._rejected_revision = 0
        self._refused: dict[str, tuple[str, ...]] = {}

    async def confirm(self, view: SiteView, policies: PolicySet | None) -> None:
        """Envoy follows this view now."""
        if view.desired != self.in_force["desired"]:
            self.desired_since_s = round(time.time(), 3)
        if view.epoch != self.in_force["epoch"]:
            self.epoch_at_s = round(time.time(), 3)
        self.in_force = {"desired": view.desired, "plan": view.plan, "epoch": view.epoch}
        self.rejected, self._rejected_revision = "", 0
        activated = (self.in_force, view.policy_digest)
        if activated != self._activated:
            self._activated = activated
            texts = {policy.id: policy.text for policy in policies.policies} if policies else {}
            made = activation(self._logbook.here, _now_us(), policies=texts, **self.in_force)
            runs = runs_here(view.fabric, view.site)
            await self._logbook.record(made | {"policy": view.policy_digest} | runs)

    async def reject(self, revision: int, reason: str) -> None:
        """Envoy keeps the last good: the fabric learns it with the next report, and the log once."""
        self.rejected = f"revision {revision}: {reason}"
        if self._rejected_revision != revision:
            self._rejected_revision = revision
            await self._logbook.record(finding(self._logbook.here, _now_us(), "rejected", self.rejected))

    async def place(self, state: NodeState) -> None:
        """What the plan places here and policies do not allow is not carried out: the log has it once."""
        before, self._refused = self._refused, refused_placements(state)
        for workload, reasons in self._refused.items():
            if workload not in before and state.plan is not None and state.policies is not None:
                why = "; ".join(reasons)
                self._alarm(f"{workload} is not placed here: {why[:300]}")
                what = (
                    f"plan {state.plan.revision} places {workload} here; policies {state.policies.digest} deny: {why}"
                )
                await self._logbook.record(finding(self._logbook.here, _now_us(), "placement", what))


def _now_us() -> int:
    return int(time.time() * 1e6)
