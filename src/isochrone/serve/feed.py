"""The keeper of the revocation feed: numbers entries, signs them and the heartbeat, and keeps them on disk first."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from isochrone.authority.chain import verify_chain
from isochrone.authority.delegation import ChainRejected, VerifiedChain
from isochrone.authority.entitlement import RevocationRefused, may_revoke
from isochrone.authority.grant import Grant, verify_grant
from isochrone.authority.identity import Registry
from isochrone.authority.jose import PrivateKey, PublicKey
from isochrone.authority.revocation import RevocationState, sign_entry, sign_heartbeat
from isochrone.authority.scope import Groups
from isochrone.errors import StorageError
from isochrone.policy.vocabulary import jurisdiction_groups
from isochrone.serve import mailbox
from isochrone.serve.bus import Bus
from isochrone.serve.files import atomic_write

__all__ = ["Feed"]


class Feed:
    """The fabric's one revocation feed."""

    def __init__(self, path: Path, fabric: str, key: PrivateKey) -> None:
        self._path, self._key = path, key
        self._entries: list[str] = json.loads(path.read_bytes()) if path.exists() else []
        state = RevocationState(fabric, key.public).apply(self._entries)
        if not isinstance(state, RevocationState) or state.seq != len(self._entries):
            why = "an entry stands twice" if isinstance(state, RevocationState) else str(state.reasons[0])
            raise StorageError(f"{path} does not verify: {why}", code="feed.damaged", hint="restore the newest copy")
        self.state = state
        self._lock = asyncio.Lock()

    async def publish_all(self, bus: Bus) -> None:
        """Put entries the bus does not hold (a new or lost store) there."""
        present = await bus.entries(mailbox.REVOCATIONS)
        for seq, entry in enumerate(self._entries, start=1):
            if mailbox.entry_key(seq) not in present:
                await bus.put(mailbox.REVOCATIONS, mailbox.entry_key(seq), entry.encode())

    async def heartbeat(self, bus: Bus) -> None:
        """Say how far the feed goes, now."""
        await bus.put(
            mailbox.REVOCATIONS, mailbox.HEARTBEAT, sign_heartbeat(self.state, self._key, time.time()).encode()
        )

    async def enter(
        self, bus: Bus, document: dict[str, Any], registry: Registry, site_keys: list[PublicKey]
    ) -> dict[str, Any]:
        """Enter a revocation that its asker is entitled to.

        Args:
            document: ``{"request": signed request, "chain": [hops] or absent, "grant": token or absent}``.

        Returns:
            ``{"seq": number}``, or ``{"refused": [reasons]}``.
        """
        async with self._lock:
            chain = self._chain(document.get("chain"), registry)
            grant = self._grant(document.get("grant"), site_keys, registry.fabric)
            entry = may_revoke(
                str(document.get("request", "")), registry,
                seq=self.state.seq + 1, now_s=time.time(), chain=chain, grant=grant,
            )  # fmt: skip
            if isinstance(entry, RevocationRefused):
                return {"refused": [str(reason) for reason in entry.reasons]}
            signed = sign_entry(entry, self.state, self._key)
            state = self.state.apply([signed])
            assert isinstance(state, RevocationState)
            atomic_write(self._path, json.dumps([*self._entries, signed]).encode(), 0o600)
            self._entries.append(signed)
            self.state = state
            await bus.put(mailbox.REVOCATIONS, mailbox.entry_key(entry.seq), signed.encode())
            await self.heartbeat(bus)
            return {"seq": entry.seq}

    def _chain(self, hops: Any, registry: Registry) -> VerifiedChain | None:
        """The chain given as evidence, judged at a time when it was valid."""
        if not isinstance(hops, list) or not all(isinstance(hop, str) for hop in hops) or not hops:
            return None
        groups = Groups({group.id: group.members for group in jurisdiction_groups()})
        verified = verify_chain(hops, registry, groups, now_s=time.time())
        return None if isinstance(verified, ChainRejected) else verified

    def _grant(self, token: Any, site_keys: list[PublicKey], fabric: str) -> Grant | None:
        if not isinstance(token, str):
            return None
        verified = verify_grant(token, site_keys, fabric=fabric, now_s=time.time())
        return verified if isinstance(verified, Grant) else None
