"""A site's certificate kept fresh: renewed at half its life, by the site itself."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from functools import partial

from isochrone.errors import IsochroneError
from isochrone.serve.home import SiteHome
from isochrone.serve.hub_link import ask_to_renew
from isochrone.serve.joining import renew

__all__ = ["Renewal"]

_LOOK_S_MIN, _LOOK_S_MAX = 0.25, 60.0
_LOOKS_A_LIFE = 24


class Renewal:
    """Looks often enough to try a dozen times between half of a certificate's life and its end.

    Args:
        on_look: called after each look, renewed or not (an operator's own files may have changed as well); must not
            block. alarm: told what stands in the way.
    """

    def __init__(self, home: SiteHome, on_look: Callable[[], None], alarm: Callable[[str], None]) -> None:
        self._home, self._on_look, self._alarm = home, on_look, alarm

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            left_s = await self.renew_if_due()
            self._on_look()
            await asyncio.sleep(max(_LOOK_S_MIN, min(_LOOK_S_MAX, left_s / _LOOKS_A_LIFE)))

    async def renew_if_due(self) -> float:
        """Renew where it is time; what is left of the certificate in use, in seconds.

        Raises:
            InputError: there is no certificate that can be read.
        """
        now = dt.datetime.now(dt.UTC)
        held = self._home.credential
        if held.is_due(now):
            try:
                await asyncio.to_thread(renew, self._home, partial(ask_to_renew, self._home))
            except IsochroneError as error:
                left_s = (held.ends - now).total_seconds()
                state = f"ends in {left_s:.0f} s" if left_s > 0 else "has ended: other sites refuse this one"
                self._alarm(f"this site's certificate {state} and was not renewed: {error}")
            else:
                held = self._home.credential
        return (held.ends - now).total_seconds()
