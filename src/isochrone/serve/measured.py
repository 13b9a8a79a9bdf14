"""What policies may ask of the moment: the round trip from the ingress, and how full this site is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from isochrone.control.node import NodeState
from isochrone.errors import IsochroneError
from isochrone.serve.envoy import EnvoyProcess
from isochrone.serve.prober import Prober

__all__ = ["Measured"]

_EVERY_S = 0.5
_STALE_S = 3.0
_AGE_S_MAX = 0.3


class Measured:
    """One site's: ``measured(ingress)`` is `rtt_us` and `utilisation_percent`, or None while either is not known.

    Utilisation is executions that run here over the limits of the plan, in whole percent, read every half second.
    """

    def __init__(self, site: str, envoy: EnvoyProcess, prober: Prober, state: Callable[[], NodeState]) -> None:
        self._site, self._envoy, self._prober, self._state = site, envoy, prober, state
        self._read: tuple[float, int] | None = None

    async def run(self) -> None:
        """Read for ever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            # An Envoy that does not answer is starting or stopping; what was read goes stale.
            with contextlib.suppress(IsochroneError):
                if self._envoy.child is not None:
                    await self._look()

    async def _look(self) -> None:
        plan = self._state().plan
        limits = plan.limits.get(self._site, {}) if plan else {}
        if limits and sum(limits.values()):
            active = await self._envoy.executing(_AGE_S_MAX)
            self._read = (time.monotonic(), round(100 * active / sum(limits.values())))

    def __call__(self, ingress: str | None) -> Mapping[str, int] | None:
        rtt_s = 0.0 if ingress == self._site else self._prober.rtt_s_p50(ingress or "")
        if self._read is None or time.monotonic() - self._read[0] > _STALE_S or rtt_s is None:
            return None
        return {"rtt_us": round(rtt_s * 1e6), "utilisation_percent": self._read[1]}
