"""The hub's sites: who is believed, and everybody told so: the bus, the other sites, and the hub itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isochrone.authority.sites import admitted
from isochrone.model.site import server_names
from isochrone.serve import mailbox
from isochrone.serve.admission import Admission

if TYPE_CHECKING:
    from isochrone.serve.hub import Hub

__all__ = ["HubSites"]


class HubSites:
    """The roster in force.

    Args:
        certificate_life_s: of the sites' certificates.

    Attributes:
        roster: sites that are believed, with their keys: those of the roster on disk that operators' acts admitted.
    """

    def __init__(self, hub: Hub, certificate_life_s: float) -> None:
        self._hub = hub
        self.admission = Admission(hub.home, certificate_life_s)
        self.roster: dict[str, dict[str, Any]] = {}

    async def follow(self) -> None:
        """Bring into force what the roster on disk says, as far as acts admit it."""
        book = self._hub.book
        self.roster, faults = admitted(book.sites, self._hub.home.fabric, self._hub.home.roster())
        for fault in faults:
            self._hub.alarm(fault)
        self.reload_bus()
        held = await self._hub.sealed(mailbox.ROSTER_KEY)
        if held is None or held[1] != {"sites": self.roster}:
            number = 1 + (held[0] if held else 0)
            await self._hub.put_sealed(mailbox.ROSTER_KEY, number, {"sites": self.roster})
        for key in (await self._hub.bus.entries(mailbox.SITES)).keys() - self.roster.keys() - {"hub"}:
            await self._hub.bus.delete(mailbox.SITES, key)

    def reload_bus(self) -> None:
        """Have the bus take over users and certificates."""
        if not self._hub.home.bus_server().reload():
            text = f"the bus at {self._hub.bus_url} is not this hub's own: give it the users of the roster yourself"
            self._hub.alarm(text)

    def names_of(self, site: str) -> tuple[str, ...]:
        """By what names the fabric document says that clients know a site."""
        desired = self._hub.state.desired
        noun = desired.fabric.sites.get(site) if desired else None
        return () if noun is None else server_names(noun)
