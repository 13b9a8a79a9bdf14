"""The node: one site's agent. It gathers what the site learns, hands its Envoy what follows, and keeps the log.

Level-triggered: every event changes the state, and one loop brings Envoy and the model servers to what the state says.
What the hub said last is kept on disk, so a site that starts cut off from everyone serves from its last good state.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from isochrone.authority.known_groups import known_groups
from isochrone.authority.revocation import deny_beside
from isochrone.control.authorization import Judge
from isochrone.control.node import NodeState, probed, site_view, wanted_replicas
from isochrone.control.report import SiteReport
from isochrone.control.shadow import ShadowCounts
from isochrone.errors import InputError, IsochroneError, PeerError
from isochrone.forward.filters import REVOCATION_RECENT
from isochrone.forward.listeners import counters_of
from isochrone.forward.snapshot import RECENT_FILE, bootstrap, compile_site, revocation_file
from isochrone.forward.view import Files, SiteView
from isochrone.record.canonical import Record
from isochrone.record.records import SiteIdentity
from isochrone.record.records import revocation as revocation_record
from isochrone.serve import mailbox
from isochrone.serve.alarms import Alarms
from isochrone.serve.attainment import Attainments
from isochrone.serve.authorize import Authorizer
from isochrone.serve.budgets import Accounts, Meter
from isochrone.serve.bus import Bus
from isochrone.serve.chains import Chains
from isochrone.serve.child import ChildEvent
from isochrone.serve.completeness import Completeness
from isochrone.serve.decisions import DecisionPoint
from isochrone.serve.envoy import EnvoyProcess, socket_dir
from isochrone.serve.exchange import Exchanger
from isochrone.serve.files import private_dir, replace_unsynced
from isochrone.serve.handovers import Handovers
from isochrone.serve.home import SiteHome, bus_name
from isochrone.serve.housekeeping import prune, rotate
from isochrone.serve.http import serve
from isochrone.serve.lateness import LatenessWatch
from isochrone.serve.learned import Learned, listening_of
from isochrone.serve.live import LiveFile
from isochrone.serve.logbook import Logbook
from isochrone.serve.measured import Measured
from isochrone.serve.node_api import serve_api
from isochrone.serve.peer_client import PeerClient
from isochrone.serve.prober import Prober
from isochrone.serve.process import Supervisor
from isochrone.serve.pulse import Pulse
from isochrone.serve.recording import RecordingGuard
from isochrone.serve.renewal import Renewal
from isochrone.serve.runtime import Replicas
from isochrone.serve.shown import shown_files
from isochrone.serve.staleness import Staleness
from isochrone.serve.standing import Standing
from isochrone.serve.streams import StreamCutter
from isochrone.serve.telemetry import Telemetry
from isochrone.serve.upstreams import Upstreams
from isochrone.serve.witness_desk import WitnessDesk
from isochrone.serve.witnessing import Witnessing
from isochrone.serve.xds import write_files

__all__ = ["Node"]

_logger = logging.getLogger(__name__)
_REPORT_S = 0.5
_COUNTS_AGE_S_MAX = 0.3
_ALARMS_REPORTED = 5
_RETRY_S = 1.0


class Node:
    """One site's agent: ``await Node(home, ...).run()`` until cancelled.

    Args:
        home: the enrolled site's directory.
        concurrency: Envoy's worker threads.
    """

    def __init__(self, home: SiteHome, *, concurrency: int = 1) -> None:
        document = home.document()
        self.home, self.fabric_name, self.site = home, str(document["fabric"]), str(document["site"])
        self._bus_url = str(document["bus"])
        self._concurrency = concurrency
        root = home.root.absolute()
        envoy_dir = private_dir(root / "envoy")
        self._authorizer_socket = socket_dir(envoy_dir) / "node.sock"
        files = Files(
            str(envoy_dir / "xds"), str(root / "identity"), str(root / "journal.jsonl"), "",
            str(self._authorizer_socket),
        )  # fmt: skip
        self._alarms = Alarms(self.site)
        self._pulse = Pulse(_REPORT_S)
        nothing = NodeState(self.site, files, listening_of(home, self.site, None))
        self.learned = Learned(home, nothing, self.alarm, self._enforce_revocations, self._record_revocations)
        self.boot = secrets.token_hex(4)
        self.attainments = Attainments()
        self.shadow = ShadowCounts()
        self.telemetry = Telemetry(self.site, time.time())
        self.upstreams = Upstreams(self.learned.cache)
        self.lateness = LatenessWatch(self.learned, self.upstreams.site_at, self.alarm)
        self._applied: SiteView | None = None
        self._counted_at: str | None = None
        self.bus = self._new_bus()
        self.meter = Meter(Accounts(self.bus))
        self._in_flight = 0
        self._secrets_applied: Mapping[str, bytes] = {}

    @property
    def state(self) -> NodeState:
        """All that the site knows now."""
        return self.learned.state

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled; every child is stopped at the end."""
        async with contextlib.AsyncExitStack() as stack:
            self.supervisor = await stack.enter_async_context(Supervisor(self.home.root / "logs", self._on_child_event))
            self.replicas = Replicas(self.supervisor, self._on_replicas, self.alarm)
            self.learned.load()
            self._load_upstreams()
            self._renewal = Renewal(self.home, self.learned.dirty.set, self.alarm)
            await self._renewal.renew_if_due()  # without a certificate in force, the bus does not answer
            here = await self._identity()
            journal = Path(self.state.files.journal)
            signer = self.home.log_signer(self.fabric_name, self.site)
            told, classes = self._on_records, lambda: self.state.shards
            book = Logbook(self.home.root, journal, signer, here, self.upstreams.site_at, told, classes)
            self.logbook = await stack.enter_async_context(book)
            self.standing = Standing(self.logbook, self.alarm)
            peers = PeerClient(self.site, self.home.tls, lambda site: self.state.peers.get(site))
            stack.push_async_callback(peers.close)
            cosigner = self.home.cosigner(self.fabric_name, self.site)
            record, alarm = book.record, self.alarm
            self.desk = WitnessDesk(self.home.root, here, cosigner, peers, lambda: self.state, record, alarm)
            self.witnessing = Witnessing(book, peers, lambda: self.state, alarm)
            self.handovers = Handovers(self.home.root, book, peers, lambda: frozenset(self.state.peers), alarm)
            await self.witnessing.look_back()
            self.chains = Chains(self.site, self.logbook, self.home.tls)
            stack.push_async_callback(self.chains.close)
            self.point = DecisionPoint()
            self.prober = Prober(self.site, self.home.tls, self._on_probe)
            stack.push_async_callback(self.prober.close)
            await self._serve(stack)

    async def _serve(self, stack: contextlib.AsyncExitStack) -> None:
        await stack.enter_async_context(self.bus)
        key, book = self.home.grant_key, self.logbook
        self.exchanger = Exchanger(key, book.here, book, self.chains, self.point, self.meter, lambda: self._counted_at)
        await asyncio.to_thread(self.exchanger.remember_proofs, time.time())
        envoy_bootstrap = json.loads(bootstrap(self.state.files))
        envoy_bootstrap.pop("admin", None)
        self.envoy = EnvoyProcess(
            self.site,
            self.home.root.absolute() / "envoy",
            envoy_bootstrap,
            cluster=self.fabric_name,
            concurrency=self._concurrency,
            before_start=self._before_envoy,
        )
        stack.push_async_callback(self.envoy.close)
        measured = Measured(self.site, self.envoy, self.prober, lambda: self.state)
        judge = Judge(known_groups())
        authorizer = Authorizer(judge, self.logbook, self.chains, lambda: self.state, self.point, measured)
        guard = RecordingGuard(self.envoy, self.logbook, self.home.root, self.alarm, lambda: self.state.going_on)
        completeness = Completeness(self.envoy, self.logbook, self.alarm, self._revocations)
        cutter = StreamCutter(self._envoy_pid, self.learned.denied, self.alarm)
        loops: list[Callable[[], Awaitable[None]]] = [
            partial(self.learned.follow_desired, self.bus),
            partial(self.learned.follow_sites, self.bus),
            partial(self.learned.follow_revocations, self.bus),
            partial(self.learned.acts.run, self.logbook),
            self.learned.expire_bundles,
            self.learned.tell_unbelieved,
            self.learned.apply_revocations,
            partial(self.meter.run, self._has_sequenced),
            LiveFile(Path(self.state.files.live), (cutter.take, self.lateness.running)).run,
            self.lateness.run,
            self._reconcile,
            self._report,
            partial(rotate, self.envoy, self.logbook),
            self._renewal.run,
            guard.run,
            measured.run,
            self.desk.run,
            completeness.run,
            Staleness(self.learned, self.alarm).run,
            self.handovers.run,
            partial(prune, self.logbook, lambda: self.state.fabric),
            self.witnessing.run,
        ]
        async with asyncio.TaskGroup() as group:
            group.create_task(serve_api(self, self.state.listening.node_api))
            group.create_task(serve(authorizer, self._authorizer_socket))
            for loop in loops:
                group.create_task(_forever(loop))

    def _new_bus(self) -> Bus:
        return Bus(self._bus_url, name=bus_name(self.site), tls=self.home.tls)

    async def _before_envoy(self) -> None:
        """The journal's live segment ends; and what the last Envoy counted is gone, so nothing may rest on it."""
        await asyncio.to_thread(self.logbook.begin_life)
        self.learned.change(envoy_boot=secrets.token_hex(4))
        self._applied = self._counted_at = None
        if (view := site_view(self.state)) is not None:
            await asyncio.to_thread(write_files, self.envoy.files_dir, compile_site(view).files)

    def _envoy_pid(self) -> int | None:
        return self.envoy.child.pid if self.envoy.child else None

    def _has_sequenced(self) -> bool:
        """Whether the log goes on: what the proxy wrote a moment ago is in it."""
        return self.logbook.failure is None and time.time() - self.logbook.sequenced_s < 1.0

    async def _identity(self) -> SiteIdentity:
        """What records say of this site: from the fabric the hub sealed, so that must be known before the first."""
        while (noun := self.state.noun) is None:
            async with self._new_bus() as bus:
                _logger.warning("waiting for the hub's first word of a fabric that has site %s", self.site)
                await self.learned.first_desired(bus)
        return SiteIdentity(self.site, noun.tier.value, noun.vendor, noun.jurisdiction)

    # --- what happens here ----------------------------------------------------------------------------------------

    def _enforce_revocations(self) -> None:
        """Hand Envoy the revocation map at once; the reconciler follows, confirms it and makes it durable."""
        state = self.state
        if self._applied is not None:
            recent = deny_beside(state.deny_in_force, self.learned.denied())
            replace_unsynced(Path(state.files.xds) / RECENT_FILE, revocation_file(recent, REVOCATION_RECENT))

    async def _record_revocations(self, applied: list[tuple[int, str]]) -> None:
        now_us, here = int(time.time() * 1e6), self.logbook.here
        await asyncio.gather(*(self.logbook.record(revocation_record(here, now_us, *entry)) for entry in applied))

    def _on_probe(self, peer: str, answered: bool) -> None:
        before = self.state.down
        self.learned.state = probed(self.state, peer, answered=answered)
        if self.state.down != before:
            self.learned.dirty.set()
            self._pulse.stir()

    def _on_replicas(self) -> None:
        self.learned.change(replicas=self.replicas.ready)

    def _on_child_event(self, name: str, event: ChildEvent) -> None:
        self.replicas.on_event(name, event)
        if name.startswith("envoy-") and event.kind in ("died", "gave_up"):
            self.alarm(f"Envoy {event.kind}: {event.signal or event.exit_code}")
            self._applied = None
            self.learned.dirty.set()

    def _on_records(self, records: list[Record]) -> None:
        self._pulse.stir()
        if self.state.fabric is not None:
            self.attainments.add(self.state.fabric, records)
            if self.state.candidate is not None:
                self.shadow.add(self.state.candidate, self.point(self.state.fabric, self.state.policies), records)
            self.telemetry.add(self.state.fabric, records)
            self.lateness.ended(records)
            self.meter.add(records)

    def _revocations(self) -> tuple[int, float | None]:
        """The epoch in force, and seconds since the hub was heard."""
        state = self.state.revocations
        heard_s = state.heard_s if state is not None else None
        return self.standing.in_force["epoch"], None if heard_s is None else time.time() - heard_s

    def _load_upstreams(self) -> None:
        try:
            self.upstreams.load()
        except ValueError as error:
            self.alarm(f"what addresses stood for is damaged: {error}")

    def alarm(self, text: str) -> None:
        """Something a person should look at: logged, and reported once."""
        self._alarms.add(text)
        self._pulse.stir()

    # --- what the site does ---------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        while True:
            await self.learned.dirty.wait()
            self.learned.dirty.clear()
            view = site_view(self.state)
            if view is None:
                continue
            self.replicas.set_wanted(view.fabric.workloads, wanted_replicas(self.state))
            await self.standing.place(self.state)
            self.prober.set_peers(dict(view.peers))
            self.upstreams.learn(view)
            secrets_shown = self._secrets(view)
            if view != self._applied or secrets_shown != self._secrets_applied:
                try:
                    await self._bring_into_force(view, secrets_shown)
                except IsochroneError:
                    self.learned.dirty.set()  # an Envoy that is starting answers soon
                    raise

    def _secrets(self, view: SiteView) -> Mapping[str, bytes]:
        """What the site shows; while a file of it is not good, what it showed before."""
        try:
            return shown_files(self.home, view)
        except InputError as error:
            self.alarm(f"a certificate was not taken: {error}")
            return self._secrets_applied

    async def _bring_into_force(self, view: SiteView, secrets_shown: Mapping[str, bytes]) -> None:
        snapshot = await asyncio.to_thread(compile_site, view)
        files = {**snapshot.files, **secrets_shown}
        if self.envoy.child is None:
            await self.envoy.write_files(files)
            await self.envoy.start(self.supervisor)
            result = await self.envoy.wait_in_force(timeout_s=10.0)
        else:
            result = await self.envoy.apply(files)
        if not result.ok:
            reasons = [f"Envoy keeps the last good {file}: {why[:300]}" for file, why in result.rejected.items()]
            for text in reasons or [f"not in force yet: {', '.join(sorted(result.pending))}"]:
                self.alarm(text)
            if result.rejected:
                self._pulse.news()
                await self.standing.reject(view.desired, reasons[0])
            await asyncio.sleep(_RETRY_S)
            # Envoy judges a file when it is written: a port that was taken may be free by now.
            await asyncio.to_thread(self.envoy.write_again, [*result.rejected, *result.pending])
            self.learned.dirty.set()
            return
        self._applied, self._secrets_applied = view, secrets_shown
        self._counted_at = counters_of(view)
        if view.deny is not self.state.deny_in_force:
            self.learned.change(deny_in_force=view.deny)
        self._pulse.news()
        await self.standing.confirm(view, self.state.policies)

    async def _report(self) -> None:
        while True:
            with contextlib.suppress(IsochroneError):
                self._in_flight = await self.envoy.executing(_COUNTS_AGE_S_MAX)
            with contextlib.suppress(PeerError):
                await self.bus.put(mailbox.SITES, self.site, json.dumps(self.report().to_json()).encode())
            await self._pulse.rest(is_busy=bool(self._in_flight))

    def report(self) -> SiteReport:
        """What this site tells the fabric about itself now. A model server counts once Envoy forwards to it."""
        forwarded = self._applied.replicas if self._applied else {}
        fabric, plan, now_s = self.state.fabric, self.state.plan, time.time()
        return SiteReport(
            site=self.site,
            boot=self.boot,
            at_s=round(now_s, 3),
            ingress=str(self.state.listening.ingress),
            peer=str(self.state.listening.peer),
            ready={name: len(addresses) for name, addresses in self.state.replicas.items() if name in forwarded},
            rtt=self.prober.sketches(self.telemetry.rtt(now_s)),
            attainment=self.attainments.of(),
            arrivals=self.telemetry.arrivals(fabric, now_s) if fabric else {},
            served=self.telemetry.served(plan, now_s) if plan else {},
            answered=self.telemetry.answered(now_s),
            hop=self.telemetry.hop(now_s),
            in_flight=self._in_flight,
            restrictions=self.learned.restrictions,
            log_size=self.logbook.size,
            logs=self.witnessing.report(),
            alarms=self._alarms.last(_ALARMS_REPORTED),
            desired_since_s=self.standing.desired_since_s,
            rejected=self.standing.rejected,
            shadow_number=self.shadow.number,
            shadow=self.shadow.of(),
            epoch_at_s=self.standing.epoch_at_s,
            stale_since_s=self.state.stale_since_s,
            doubted=self.state.doubted,
            **self.standing.in_force,
        )


async def _forever(loop: Callable[[], Awaitable[None]]) -> None:
    """One part of the node; an operating error in it is logged and the part starts again."""
    while True:
        try:
            await loop()
        except IsochroneError as error:
            _logger.warning("%s: %s", getattr(loop, "__qualname__", loop), error)
        await asyncio.sleep(0.2)
