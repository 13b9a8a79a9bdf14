"""The hub's candidate: desired state that every site evaluates beside what is in force, and that decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isochrone.control.mandate import DesiredText
from isochrone.serve import mailbox

if TYPE_CHECKING:
    from isochrone.serve.hub import Hub

__all__ = ["HubShadow"]


class HubShadow:
    """At most one candidate; a change of desired state ends it.

    Attributes:
        candidate: the revision it would change (``base``) and its documents; None while there is none.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.candidate: dict[str, Any] | None = None

    async def restore(self) -> None:
        """What ran before this hub started."""
        held = await self._hub.sealed(mailbox.SHADOW_KEY)
        self.candidate = (held[1] or None) if held else None

    async def put(self, document: dict[str, Any] | None) -> dict[str, Any]:
        """Have every site evaluate a candidate; None ends it.

        Returns:
            Its number, the revision it would change, and the changes.

        Raises:
            DocumentError: with every mistake; nothing changes.
            InputError: ``apply.fabric``, ``apply.not-enrolled``, ``apply.form``, ``hub.empty``.
        """
        desired = DesiredText.from_json(document) if document else None
        async with self._hub.applying:
            if desired is None:
                await self.end()
                return {}
            _, _, answer = self._hub.compare(desired.fabric, dict(desired.policies))
            self.candidate = {"base": answer["revision"], **desired.to_json()}
            return answer | {"number": await self._publish()}

    async def end(self) -> None:
        """As if it had never been."""
        if self.candidate is not None:
            self.candidate = None
            await self._publish()

    async def _publish(self) -> int:
        held = await self._hub.sealed(mailbox.SHADOW_KEY)
        number = 1 + (held[0] if held else 0)
        await self._hub.put_sealed(mailbox.SHADOW_KEY, number, self.candidate or {})
        return number
