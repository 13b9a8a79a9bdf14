"""What one site has heard from the hub and the other sites: verified, kept on disk, and gathered in one `NodeState`.

Nothing that does not verify, or is older than what is held, changes anything. What is held is kept on disk, so a site
that starts cut off from everyone serves from its last good state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count, takewhile
from typing import Any

from isochrone.authority.revocation import DenyMap, RevocationState
from isochrone.authority.sites import admitted
from isochrone.control.mandate import DesiredText, mandate_faults
from isochrone.control.node import Listening, NodeState, adopt
from isochrone.control.report import SiteReport
from isochrone.control.shadow import Candidate
from isochrone.errors import IntegrityError, IsochroneError
from isochrone.forward.xds import Address
from isochrone.model.fabric import Fabric
from isochrone.plan.consistent import check_consistent
from isochrone.plan.plan import Plan
from isochrone.policy.governance import Governance, govern, own_policies
from isochrone.serve import mailbox
from isochrone.serve.act_recorder import ActRecorder
from isochrone.serve.bus import Bus
from isochrone.serve.home import SiteHome
from isochrone.serve.people import registry_from
from isochrone.serve.sealed import open_sealed
from isochrone.serve.site_cache import SiteCache

__all__ = ["Learned", "listening_of"]


class Learned:
    """One site's memory.

    Args:
        home: the enrolled site's directory.
        state: what is known before anything was heard.
        alarm: told of what was not taken, and why.
        enforce: called as soon as `state` has new revocations; must not block.
        record: called then, with the number and signed text of each that newly applies, in order.

    Attributes:
        restrictions: the site's own Cedar files, which only forbid; read once.
        dirty: set by whoever changes `state`; cleared by the loop that brings the state into force.
        acts: puts the acts that were verified on the site's record.
    """

    def __init__(
        self,
        home: SiteHome,
        state: NodeState,
        alarm: Callable[[str], None],
        enforce: Callable[[], None],
        record: Callable[[list[tuple[int, str]]], Awaitable[None]],
    ) -> None:
        self.state = state
        self.dirty = asyncio.Event()
        self.cache = SiteCache(home.root / "cache")
        document = home.document()
        self.fabric_name, self._anchor = str(document["fabric"]), str(document.get("anchor", ""))
        self.acts = ActRecorder(self.fabric_name)
        self._home, self._hub_key = home, home.hub_key
        self._alarm, self._enforce, self._record = alarm, enforce, record
        self._numbers: dict[str, int] = {}
        self._feed: dict[int, str] = {}
        self._early: bytes | None = None
        self._roster: dict[str, Any] = {}
        self._unbelieved: frozenset[str] = frozenset()
        self.restrictions = home.restrictions()
        self._own = own_policies(self.restrictions, state.site)
        self._bundles: dict[str, int] = {}
        self._bundles_expire_s = float("inf")
        self._fed = asyncio.Event()
        self._denied: tuple[object, object, DenyMap] = (None, None, {})

    def change(self, **members: Any) -> None:
        """Replace members of the state, and have it brought into force."""
        self.state = replace(self.state, **members)
        self.dirty.set()

    def load(self) -> None:
        """Take what was held before the last stop; what is damaged is heard again from the hub and the others."""
        try:
            self._bundles = self.cache.bundles()
        except ValueError as error:
            self._alarm(f"how far bundles had come is damaged: {error}")
        for kind, data in self.cache.sealed():
            self._take_sealed(kind, data, is_kept=True)
        try:
            self.change(peers=self.cache.peers())
        except ValueError as error:
            self._alarm(f"what was kept of peers is damaged: {error}")
        try:
            applied = self._revocations().apply(self.cache.feed.read())
            if not isinstance(applied, RevocationState):
                raise ValueError(str(applied.reasons[0]))
        except ValueError as error:
            self._alarm(f"what was kept of revocations is damaged, and is heard again: {error}")
            self.cache.feed.clear()
        else:
            self.change(revocations=applied if applied.seq else None)

    # --- desired state, plan, roster, people ----------------------------------------------------------------------

    async def first_desired(self, bus: Bus) -> None:
        """Return once a fabric is known that has this site: a hub that starts may tell an older one first."""
        async for entry in bus.watch(mailbox.DESIRED):
            if entry.value is not None:
                self._take_sealed(entry.key, entry.value)
                if self.state.noun is not None:
                    return

    async def follow_desired(self, bus: Bus) -> None:
        """Take the hub's documents for ever."""
        async for entry in bus.watch(mailbox.DESIRED):
            if entry.value is not None:
                self._take_sealed(entry.key, entry.value)

    def _take_sealed(self, kind: str, data: bytes, *, is_kept: bool = False) -> None:
        """A document of the hub; with `is_kept`, one that was taken before the last stop."""
        try:
            number, body = open_sealed(kind, data, self._hub_key, after=self._numbers.get(kind, 0))
            if kind == mailbox.FABRIC_KEY and not is_kept and self._is_early(number):
                self._early = data
                return
            self._take(kind, number, body, is_kept=is_kept)
        except (IsochroneError, KeyError, TypeError, ValueError) as error:
            self._alarm(f"{kind} from the hub was not taken: {str(error)[:300]}")
            return
        self._numbers[kind] = number
        self.cache.keep_sealed(kind, data)
        self.dirty.set()
        if kind == mailbox.PEOPLE_KEY and (early := self._early) is not None:
            self._early = None
            self._take_sealed(mailbox.FABRIC_KEY, early)

    def _is_early(self, revision: int) -> bool:
        """Whether the act that this desired state rests on is not known here yet."""
        known = self.state.registry.applied if self.state.registry else ()
        return not known or known[-1].revision < revision

    def _take(self, kind: str, number: int, body: dict[str, Any], *, is_kept: bool) -> None:
        if kind == mailbox.FABRIC_KEY:
            self._take_desired(number, DesiredText.from_json(body), is_kept=is_kept)
        elif kind == mailbox.PLAN_KEY:
            plan = Plan.from_json(body)
            check_consistent(plan)
            self.state = replace(self.state, plan=plan)
        elif kind == mailbox.ROSTER_KEY:
            self._roster = dict(body["sites"])
            self._believe()
        elif kind == mailbox.SHADOW_KEY:
            self.state = replace(self.state, candidate=self._candidate(number, body))
        elif kind == mailbox.PEOPLE_KEY:
            registry = registry_from(self.fabric_name, body, known=self.state.registry, anchor=self._anchor)
            self.state = replace(self.state, registry=registry)
            self.acts.take(body)
            self._believe()

    def _believe(self) -> None:
        """Of the sites that the hub lists, those that an operator's act admitted."""
        if self.state.registry is None:
            return
        sites, faults = admitted(self.state.registry.sites, self.fabric_name, self._roster)
        self._unbelieved = frozenset(faults)
        self.state = replace(
            self.state,
            jwks={"keys": [entry["jwk"] for entry in sites.values()]},
            minters={str(entry["jwk"]["kid"]): site for site, entry in sites.items()},
            log_vkeys={site: entry["vkey"] for site, entry in sites.items()},
            witness_vkeys={site: entry["witness"] for site, entry in sites.items()},
        )

    async def tell_unbelieved(self) -> None:
        """Alarm of sites that are listed and not admitted; a second later, as the act may come behind the roster."""
        told: frozenset[str] = frozenset()
        while True:
            before = self._unbelieved
            await asyncio.sleep(1.0)
            lasting = before & self._unbelieved
            for fault in sorted(lasting - told):
                self._alarm(fault)
            told = lasting

    def _candidate(self, number: int, body: dict[str, Any]) -> Candidate | None:
        if not body:
            return None
        text = DesiredText.from_json({"fabric": body["fabric"], "policies": body["policies"]})
        governance = govern(text.noun, text.policies, now_s=time.time(), revisions=self._bundles)
        policies = governance.policies + self._own
        return Candidate.of(number, int(body["base"]), self.state.site, text.noun, policies)

    def _take_desired(self, revision: int, desired: DesiredText, *, is_kept: bool) -> None:
        # What was kept had been judged when it came, by acts that need not be the last any more.
        if not is_kept:
            assert self.state.registry is not None
            if faults := mandate_faults(self.state.registry, revision, desired):
                raise IntegrityError("; ".join(map(str, faults)), code="desired.unsigned")
        governance = govern(desired.noun, desired.policies, now_s=time.time(), revisions=self._bundles)
        self._govern(governance)
        state = adopt(self.state, revision, desired.noun, governance.policies + self._own)
        self.state = replace(state, listening=listening_of(self._home, self.state.site, desired.noun))

    def _govern(self, governance: Governance) -> None:
        """Remember each bundle's revision, which never falls again, and say which workloads are refused and why."""
        seen = self._bundles | {name: bundle.revision for name, bundle in governance.bundles.items()}
        if seen != self._bundles:
            self.cache.keep_bundles(seen)
            self._bundles = seen
        self._bundles_expire_s = governance.expires_s
        for name, why in governance.refused.items():
            self._alarm(f"workload {name} is not served: {why.reasons[0]}")

    async def expire_bundles(self) -> None:
        """Stop serving under a bundle when it expires."""
        while True:
            await asyncio.sleep(1.0)
            path = self.cache.sealed_path(mailbox.FABRIC_KEY)
            if time.time() >= self._bundles_expire_s and path.exists():
                self._bundles_expire_s = float("inf")
                self._take_sealed(mailbox.FABRIC_KEY, path.read_bytes(), is_kept=True)

    # --- the other sites ------------------------------------------------------------------------------------------

    async def follow_sites(self, bus: Bus) -> None:
        """Take the other sites' reports for ever: where they are reached."""
        async for entry in bus.watch(mailbox.SITES):
            if entry.key in (self.state.site, "hub") or entry.value is None:
                continue
            try:
                self._take_report(entry.key, entry.value)
            except (IsochroneError, ValueError) as error:
                self._alarm(f"report under {entry.key} was not taken: {str(error)[:200]}")

    def _take_report(self, site: str, data: bytes) -> None:
        report = SiteReport.told_under(site, data)
        address = Address.parse(report.peer)
        if self.state.peers.get(site) != address:
            self.change(peers={**self.state.peers, site: address})
            self.cache.keep_peers(self.state.peers)

    # --- revocations ----------------------------------------------------------------------------------------------

    async def follow_revocations(self, bus: Bus) -> None:
        """Take the revocation feed and its heartbeat for ever."""
        async for entry in bus.watch(mailbox.REVOCATIONS):
            number = mailbox.entry_number(entry.key)
            if entry.value is None:
                continue
            # Signed text is ASCII; anything else does not verify either.
            text = entry.value.decode("ascii", "replace")
            if entry.key == mailbox.HEARTBEAT:
                self._hear(text)
            elif number is not None and number > self._revocations().seq:
                self._feed[number] = text
                self._fed.set()

    async def apply_revocations(self) -> None:
        """Apply entries in their order for ever; one that is missing stops here until it comes.

        What has come meanwhile is applied together: a site that joins meets thousands at once.
        """
        while True:
            await self._fed.wait()
            self._fed.clear()
            state, applied = self._following(self._revocations())
            if applied:
                self.change(revocations=state)
                self._enforce()
                await asyncio.to_thread(self.cache.feed.append, [text for _, text in applied])
                await self._record(applied)

    def denied(self) -> DenyMap:
        """All that is revoked, as headers; made anew only when that changed."""
        state = self.state
        if state.revocations is None or state.registry is None:
            return {}
        if self._denied[0] is not state.revocations.revoked or self._denied[1] is not state.registry:
            made = state.revocations.deny_map(state.registry)
            self._denied = (state.revocations.revoked, state.registry, made)
        return self._denied[2]

    def _following(self, state: RevocationState) -> tuple[RevocationState, list[tuple[int, str]]]:
        """The state after all entries at hand that come next, with those entries."""
        waiting = [self._feed[number] for number in takewhile(self._feed.__contains__, count(state.seq + 1))]
        after, first = state.apply(waiting), state.seq + 1
        if not isinstance(after, RevocationState):
            # One of them is wrong: those before it apply, those behind it wait for the right one.
            after = state
            for text in waiting:
                following = after.apply([text])
                if not isinstance(following, RevocationState):
                    self._alarm(f"revocation {after.seq + 1} was not taken: {following.reasons[0]}")
                    self._feed.pop(after.seq + 1)
                    break
                after = following
        return after, [(number, self._feed.pop(number)) for number in range(first, after.seq + 1)]

    def _hear(self, heartbeat: str) -> None:
        heard = self._revocations().hear(heartbeat, now_s=time.time())
        if isinstance(heard, RevocationState):
            self.state = replace(self.state, revocations=heard)

    def _revocations(self) -> RevocationState:
        return self.state.revocations or RevocationState(self.fabric_name, self._hub_key)


def listening_of(home: SiteHome, site: str, fabric: Fabric | None) -> Listening:
    """Listening addresses: as the fabric says, else free loopback ports, which stay the same across restarts."""
    known = home.loopback_addresses()
    noun = fabric.sites.get(site) if fabric else None
    ingress = noun.address if noun and noun.address else known["ingress"]
    peer = noun.peer_address if noun and noun.peer_address else known["peer"]
    return Listening(Address.parse(ingress), Address.parse(peer), Address.parse(known["node_api"]))
