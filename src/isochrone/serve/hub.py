"""The hub: holds desired state, identities and the revocation feed, hears every site, and publishes plans."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
import time
from dataclasses import replace
from hashlib import sha256
from typing import Any

from isochrone.authority.acts import apply_subject
from isochrone.authority.identity import Registry
from isochrone.authority.jose import PublicKey
from isochrone.control.hub import Alarm, Desired, Drain, Event, HubState, Publish, Reported, Resumed, Tick, step
from isochrone.control.mandate import DesiredText
from isochrone.control.report import SiteReport
from isochrone.errors import InputError, IsochroneError, PeerError
from isochrone.forward.xds import Address
from isochrone.model.difference import difference
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Plan
from isochrone.policy.pdp import PDP
from isochrone.policy.policies import PolicySet
from isochrone.record.shards import witnessing_of
from isochrone.serve import mailbox
from isochrone.serve.act_book import ActBook
from isochrone.serve.bus import Bus
from isochrone.serve.ceremonies import Origin
from isochrone.serve.decisions import DecisionPoint
from isochrone.serve.desired import desired_in_force, read_desired, validate_desired
from isochrone.serve.feed import Feed
from isochrone.serve.files import atomic_write
from isochrone.serve.home import HubHome
from isochrone.serve.hub_api import serve_hub_api
from isochrone.serve.hub_known import known_of, solve_of
from isochrone.serve.hub_shadow import HubShadow
from isochrone.serve.hub_sites import HubSites
from isochrone.serve.hub_web import HubWeb, Views
from isochrone.serve.newest import Newest
from isochrone.serve.pki import SITE_LIFE_S
from isochrone.serve.rollout import Rollouts
from isochrone.serve.sealed import open_sealed, seal
from isochrone.serve.signing import ActSigner
from isochrone.serve.site_api import serve_site_api

__all__ = ["Hub", "read_desired", "validate_desired"]

_logger = logging.getLogger(__name__)
_TICK_S = 0.25
_HEARTBEAT_S = 1.0
_HEAR_S = 0.02


class Hub:
    """The control plane's brain: ``await Hub(home, bus_url, ...).run()`` until cancelled.

    Args:
        home: the hub's directory.
        api: where operators' commands reach it.
        origin: where people's browsers reach it, which their passkeys are bound to.
        views: what its pages look like.
        sites_at: where sites join and renew; as enrolment told them, when left out.
        certificate_life_s: of the sites' certificates.
    """

    def __init__(
        self,
        home: HubHome,
        bus_url: str,
        api: Address,
        origin: Origin,
        views: Views,
        sites_at: Address | None = None,
        certificate_life_s: float = SITE_LIFE_S,
    ) -> None:
        self.home, self.api = home, api
        self.bus_url = bus_url
        self.sites = HubSites(self, certificate_life_s)
        self._sites_at = sites_at or Address.parse(home.addresses()["sites"])
        self._key = home.key
        self.book = ActBook(home)
        self.web = HubWeb(self, origin, views)
        self.feed = Feed(home.root / "feed", home.fabric, self._key)
        self.state = HubState()
        self.texts: tuple[str, dict[str, str]] | None = None
        self.alarms: list[str] = []
        self._point = DecisionPoint()
        self.rollouts = Rollouts(home.root / "revisions")
        self.shadow = HubShadow(self)
        self._lock = asyncio.Lock()
        self.applying = asyncio.Lock()
        self._deaf = True
        self._unpublished: Plan | None = None
        self._reports = Newest(_HEAR_S)

    async def run(self, first: tuple[str, dict[str, str]] | None = None, sign: ActSigner | None = None) -> None:
        """Run until cancelled.

        Args:
            first: desired state as files say, applied when none is in force, or when the files were edited since they
                were last applied at a start. So a restart undoes nothing that was applied in between.
            sign: an operator's key that is on this machine, to sign that with.
        """
        self.home.renew_credential(dt.datetime.now(dt.UTC))
        async with Bus(self.bus_url, name="hub", tls=self.home.tls, on_status=self._on_bus) as self.bus:
            await self.bus.wait_connected(15.0)
            await self._restore()
            await self._publish_people()
            await self.sites.follow()
            await self.feed.publish_all(self.bus)
            await self.feed.heartbeat(self.bus)
            for bucket in (mailbox.SITES, mailbox.BUDGETS):  # sites may write into them and not make them
                await self.bus.put(bucket, "hub", b"{}")
            if first is not None:
                await self._apply_first(*first, sign)
            await self.bus.reply(mailbox.REVOKE, self._on_revoke)
            async with asyncio.TaskGroup() as group:
                group.create_task(serve_hub_api(self))
                group.create_task(serve_site_api(self, self._sites_at))
                group.create_task(self._follow_sites())
                group.create_task(self._hear_sites())
                group.create_task(self._tick())
                group.create_task(self._heartbeat())

    # --- desired state --------------------------------------------------------------------------------------------

    async def apply(
        self,
        text: str,
        policies: dict[str, str],
        *,
        act: str = "",
        dry_run: bool = False,
        expected: int | None = None,
    ) -> dict[str, Any]:
        """Change desired state; with `dry_run` only say what would change.

        Args:
            act: an operator's signed act that applies exactly these documents.
            expected: the revision whose difference was shown; when another came between, nothing changes.

        Raises:
            DocumentError: with every mistake; nothing changes.
            InputError: ``apply.fabric``, ``apply.not-enrolled``, ``apply.overtaken``, ``apply.unsigned``.
            AuthorityError: ``act.refused``: the act does not apply these documents, or its signer may not.
        """
        async with self.applying:
            fabric, parsed, answer = self.compare(text, policies, expected)
            if dry_run or not answer["changes"]:
                return answer
            if not act:
                raise InputError(
                    "nobody signed this change", code="apply.unsigned", hint="use `isochrone apply`, as an operator"
                )
            desired = DesiredText(text, policies, DesiredText(*self.texts) if self.texts else None)
            revision = self.book.enter_desired(act, desired)
            self.rollouts.keep(revision, text, policies, time.time())
            await self._publish_desired(revision, desired)
            self.texts = (text, policies)
            await self._take(Desired(revision, fabric, parsed))
            await self.shadow.end()
            return answer | {"revision": revision}

    def compare(
        self, text: str, policies: dict[str, str], expected: int | None = None
    ) -> tuple[Fabric, PolicySet, dict[str, Any]]:
        """Documents as they were read, with how they differ from what is in force; raises as `apply`."""
        fabric, parsed = validate_desired(text, policies)
        if fabric.name != self.home.fabric:
            raise InputError(
                f"this is fabric {self.home.fabric}, the document is for {fabric.name}", code="apply.fabric"
            )
        before = self.state.desired
        changes = difference(before.fabric if before else None, fabric, self.texts[1] if self.texts else {}, policies)
        answer = {"changes": [str(change) for change in changes], "revision": before.revision if before else 0}
        if expected is not None and expected != answer["revision"]:
            raise InputError(
                f"revision {answer['revision']} came between: what was shown was the difference to {expected}",
                code="apply.overtaken",
                hint="run the command again and look at the difference to what is in force now",
            )
        self._check_enrolled(fabric)
        return fabric, parsed, answer

    async def _publish_desired(self, revision: int, desired: DesiredText) -> None:
        """The act goes first: without it no site takes the documents."""
        await self._publish_people()
        await self.put_sealed(mailbox.FABRIC_KEY, revision, desired.to_json())

    async def _apply_first(self, text: str, policies: dict[str, str], sign: ActSigner | None) -> None:
        mark = self.home.root / "started-with"
        digest = sha256(json.dumps([text, policies], sort_keys=True).encode()).hexdigest()
        if self.texts is not None and mark.exists() and mark.read_text() == digest:
            return
        if (await self.apply(text, policies, dry_run=True))["changes"]:
            subject = apply_subject(self.book.revision + 1, text, policies)
            act = sign(self.book.registry, "apply", subject) if sign else ""
            if not act:
                self.alarm("the files differ from what is in force, and no operator's key is here: `isochrone apply`")
                return
            await self.apply(text, policies, act=act)
        atomic_write(mark, digest.encode())

    def _check_enrolled(self, fabric: Fabric) -> None:
        missing = sorted(set(fabric.sites) - self.sites.roster.keys() - self.sites.admission.invited())
        if missing:
            raise InputError(
                f"not enrolled: {', '.join(missing)}", code="apply.not-enrolled",
                hint="run `isochrone enrol --site NAME` first",
            )  # fmt: skip

    async def _restore(self) -> None:
        """What was in force before this hub started: desired state, and the plan, so that revisions go on."""
        held = self.book.desired()
        if held is None:
            return
        revision, desired = held
        entry = await self.sealed(mailbox.FABRIC_KEY)
        if entry is None or entry[0] < revision:
            await self._publish_desired(revision, desired)
        self.texts = (desired.fabric, dict(desired.policies))
        fabric, governance = desired_in_force(*self.texts)
        self.state = replace(self.state, drained=self.book.registry.drained)
        plan = await self.sealed(mailbox.PLAN_KEY)
        if plan is not None:
            self.state = replace(self.state, plan=Plan.from_json(plan[1]))
        self.rollouts.keep(revision, *self.texts, time.time())
        await self.shadow.restore()
        await self._take(Desired(revision, fabric, governance.policies))

    async def sealed(self, kind: str) -> tuple[int, dict[str, Any]] | None:
        entry = await self.bus.get(mailbox.DESIRED, kind)
        return None if entry is None or entry.value is None else open_sealed(kind, entry.value, self._key.public)

    def point(self) -> PDP:
        """Full Cedar on the policies in force. Raises InputError while there are none."""
        desired = self.state.desired
        return self._point(desired.fabric if desired else None, desired.policies if desired else None)

    # --- who is who -----------------------------------------------------------------------------------------------

    def registry(self) -> Registry:
        return self.book.registry

    async def enter_act(self, act: str) -> Registry:
        """Keep an act that concerns people, approvals or sites, and tell every site; see `ActBook.enter`."""
        sites = self.book.sites
        registry = self.book.enter(act, DesiredText(*self.texts) if self.texts else None)
        await self._publish_people()
        if registry.sites != sites:
            await self.sites.follow()
            await self._take(Drain(registry.drained))
        return registry

    async def _publish_people(self) -> None:
        document = self.book.document
        if document["anchor"]:
            number = 1 + len(document["acts"])
            await self.put_sealed(mailbox.PEOPLE_KEY, number, document)

    async def put_sealed(self, kind: str, number: int, body: dict[str, Any]) -> None:
        await self.bus.put(mailbox.DESIRED, kind, seal(kind, number, body, self._key))

    async def revoke(self, document: dict[str, Any]) -> dict[str, Any]:
        """Enter a revocation; see `Feed.enter`."""
        keys = [PublicKey.from_jwk(_bare(entry["jwk"])) for entry in self.sites.roster.values()]
        return await self.feed.enter(self.bus, document, self.registry(), keys)

    async def _on_revoke(self, _: str, data: bytes) -> bytes:
        try:
            answer = await self.revoke(dict(json.loads(data)))
        except (IsochroneError, ValueError, TypeError) as error:
            answer = {"refused": [str(error)]}
        return json.dumps(answer).encode()

    # --- the loop -------------------------------------------------------------------------------------------------

    async def _take(self, event: Event) -> None:
        """One step of the control loop; solving runs in a thread, one step at a time."""
        async with self._lock:
            events = [Resumed(), event] if self._deaf else [event]
            self._deaf = False
            for each in events:
                self.state, effects = await asyncio.to_thread(step, self.state, each, time.monotonic())
                for effect in effects:
                    if isinstance(effect, Publish):
                        self._unpublished = effect.plan
                    elif isinstance(effect, Alarm):
                        self.alarm(effect.text)
            if self._unpublished is not None:
                # Kept until the bus has it: what did not change is not planned, hence not published, again.
                await self.put_sealed(mailbox.PLAN_KEY, self._unpublished.revision, self._unpublished.to_json())
                self._unpublished = None

    def _on_bus(self, connected: bool) -> None:
        """While it is cut off itself, the hub judges nobody; nor by what it last heard before, once it is back."""
        self._deaf = True
        if connected:
            self.sites.reload_bus()  # one that was starting may have read its users just before they changed

    async def _follow_sites(self) -> None:
        async for entry in self.bus.watch(mailbox.SITES):
            if entry.key in self.sites.roster or (entry.value is None and entry.key != "hub"):
                self._reports.put(entry.key, entry.value)

    async def _hear_sites(self) -> None:
        async for site, value in self._reports:
            try:
                report = None if value is None else SiteReport.told_under(site, value)
                if report is not None:
                    self.rollouts.heard(report)
                    self.feed.confirm(report.site, report.epoch, report.epoch_at_s)
                await self._take(Reported(site, report))
            except (IsochroneError, ValueError) as error:
                self.alarm(f"{site}: {error}")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if not self.bus.connected:
                continue
            try:
                await self._take(Tick())
            except IsochroneError as error:
                self.alarm(str(error))

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            with contextlib.suppress(PeerError):
                await self.feed.heartbeat(self.bus)

    def alarm(self, text: str) -> None:
        if not self.alarms or self.alarms[-1] != text:
            _logger.warning("hub: %s", text)
            self.alarms = [*self.alarms, text][-20:]

    def status(self) -> dict[str, Any]:
        """Everything `isochrone status` shows."""
        state = self.state
        fabric = state.desired.fabric if state.desired else None
        revision = state.desired.revision if state.desired else 0
        return {
            "fabric": self.home.fabric,
            "desired": revision,
            "plan": state.plan.revision if state.plan else 0,
            "epoch": self.feed.state.epoch,
            "up": sorted(state.up),
            "drained": sorted(state.drained),
            "sites": {name: report.to_json() for name, report in sorted(state.reports.items())},
            "nouns": fabric.model_dump(mode="json", exclude_none=True) if fabric else {},
            "placements": {k: dict(v) for k, v in state.plan.placements.items()} if state.plan else {},
            "shortfalls": [each.to_json() for each in state.plan.shortfalls] if state.plan else [],
            "solve": solve_of(state.plan),
            "hub_key": self.home.key.public.jwk,
            "vkeys": {name: entry["vkey"] for name, entry in self.sites.roster.items()},
            "rollout": self.rollouts.status(revision, fabric.sites if fabric else (), state.reports),
            "shadow": {"base": candidate["base"]} if (candidate := self.shadow.candidate) else None,
            "witnesses": self._witnesses(fabric) if fabric else {},
            "alarms": self.alarms,
        }

    def _witnesses(self, fabric: Fabric) -> dict[str, Any]:
        """Who must have cosigned each site's logs: what a trace verifies cosignatures against."""
        keys = {name: entry["witness"] for name, entry in self.sites.roster.items() if "witness" in entry}
        asked = {site: witnessing_of(fabric, site, keys) for site in fabric.sites}
        return {site: {"quorum": quorum, "keys": known} for site, (quorum, known) in asked.items()}

    def known(self) -> dict[str, Any]:
        """All that a plan follows from; see `known_of`."""
        return known_of(self.state, self.texts)


def _bare(jwk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in jwk.items() if name in ("kty", "crv", "x", "y")}
