"""Witnessing the other sites' logs: cosign what extends what was cosigned before, and look for histories that disagree.

A witness alone sees one history of each log. So every few seconds it asks another site what that one has cosigned, and
holds the two against each other: a log that shows different histories to different sites is convicted by two
checkpoints that it signed itself. They are kept as a file in ``forks/``, which anyone can verify offline.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from isochrone.control.node import NodeState
from isochrone.errors import IntegrityError, IsochroneError, PeerError
from isochrone.record.canonical import Record
from isochrone.record.records import SiteIdentity, finding
from isochrone.record.shards import verifiers_of
from isochrone.serve.files import atomic_write, private_dir
from isochrone.serve.logstore import FileWitnessStore
from isochrone.serve.peer_client import PeerClient
from isochrone.serve.witnessing import CHECKPOINTS
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import Cosigner
from isochrone.tlog.evidence import ForkEvidence, compare
from isochrone.tlog.note import Note, NoteVerifier
from isochrone.tlog.witness import AddCheckpointRequest, Response, Witness

__all__ = ["WitnessDesk"]

_COMPARE_S = 5.0
_DISPUTED_MAX = 10_000


class WitnessDesk:
    """One site as a witness of the others.

    Args:
        directory: the site's; what was cosigned is in ``witness/``, evidence of forks in ``forks/``.
        state: what the site knows now: the other sites' log keys.
        record: puts a finding on this site's own record.
    """

    def __init__(
        self,
        directory: Path,
        here: SiteIdentity,
        cosigner: Cosigner,
        peers: PeerClient,
        state: Callable[[], NodeState],
        record: Callable[[Record], Awaitable[int]],
        alarm: Callable[[str], None],
    ) -> None:
        self._store = FileWitnessStore(private_dir(directory / "witness"))
        self._forks = private_dir(directory / "forks")
        self._here, self._cosigner, self._peers, self._state = here, cosigner, peers, state
        self._record, self._alarm = record, alarm
        self._disputed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0

    # --- what other sites ask -------------------------------------------------------------------------------------

    async def add_checkpoint(self, body: bytes) -> Response:
        """Answer a tlog-witness call; what is cosigned was stored durably before."""
        logs = {origin: [verifier] for origin, (_, _, verifier) in self._logs().items()}
        witness = Witness(self._store, [self._cosigner], logs)
        answer = await asyncio.to_thread(witness.add_checkpoint, body, int(time.time()))
        if answer.status in (409, 422):
            self._look_into(body)
        return answer

    def checkpoints(self) -> dict[str, str]:
        """The last checkpoint cosigned here of every log, by origin."""
        held = {origin: self._store.load(origin) for origin in self._logs()}
        return {origin: note.decode() for origin, note in held.items() if note is not None}

    # --- histories that disagree ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Compare with the other sites, one after another, until cancelled."""
        while True:
            await asyncio.sleep(_COMPARE_S)
            peers = sorted(self._state().peers)
            if not peers:
                continue
            self._turn = (self._turn + 1) % len(peers)
            # One that is away is asked again in its turn.
            with contextlib.suppress(PeerError, ValueError):
                answer = await self._peers.ask(peers[self._turn], "GET", CHECKPOINTS)
                if answer.status_code == 200 and isinstance(shown := answer.json(), dict):
                    for origin, note in shown.items():
                        await self._hold_against(str(origin), str(note).encode())

    def _look_into(self, body: bytes) -> None:
        """A log asked for a cosignature that this witness must refuse: see what the log itself shows."""
        shown = AddCheckpointRequest.parse(body).checkpoint
        task = asyncio.create_task(self._hold_against(Checkpoint.parse(Note.parse(shown).text).origin, shown))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hold_against(self, origin: str, shown: bytes) -> None:
        """Compare a checkpoint with the one cosigned here; record what does not agree, once."""
        log, held = self._logs().get(origin), self._store.load(origin)
        if log is None or held is None or held == shown:
            return
        site, shard, verifier = log
        try:
            evidence = await asyncio.to_thread(self._compare, site, shard, verifier, held, shown)
        except PeerError:
            return
        except IsochroneError as error:
            await self._dispute(origin, site, held, shown, str(error))
            return
        if evidence is not None:
            await self._convict(origin, site, evidence)

    def _compare(self, site: str, shard: str, verifier: NoteVerifier, held: bytes, shown: bytes) -> ForkEvidence | None:
        Checkpoint.parse_and_verify(shown, verifier)  # before anything is fetched on its account
        files = self._peers.log(site, shard)
        try:
            return compare(held, shown, [verifier], files)
        finally:
            files.close()

    async def _convict(self, origin: str, site: str, evidence: ForkEvidence) -> None:
        sizes = [Checkpoint.parse(Note.parse(note).text).size for note in (evidence.first, evidence.second)]
        path = self._forks / f"{origin.replace('/', '_')}-{sizes[0]}-{sizes[1]}.json"
        if path.exists():
            return
        await asyncio.to_thread(atomic_write, path, evidence.encode(), 0o600)
        self._alarm(f"the log of {site} FORKED: {origin} signed two histories; the proof is {path.name}")
        detail = f"{origin} signed two histories, of {sizes[0]} and {sizes[1]} entries:\n{evidence.encode().decode()}"
        await self._record(finding(self._here, int(time.time() * 1e6), "log-forked", detail))

    async def _dispute(self, origin: str, site: str, held: bytes, shown: bytes, why: str) -> None:
        """Two signed checkpoints, and a log that does not show how one follows from the other."""
        key = f"{origin} {Checkpoint.parse(Note.parse(held).text).size}"
        if key in self._disputed or len(self._disputed) >= _DISPUTED_MAX:
            return
        with contextlib.suppress(IntegrityError):
            Checkpoint.parse_and_verify(shown, self._logs()[origin][2])
            self._disputed.add(key)
            self._alarm(f"the log of {site} does not show that two of its checkpoints are one history: {origin}")
            detail = f"{origin}: {why[:300]}\ncosigned here:\n{held.decode()}\nshown:\n{shown.decode()}"
            await self._record(finding(self._here, int(time.time() * 1e6), "log-disputed", detail))

    def _logs(self) -> dict[str, tuple[str, str, NoteVerifier]]:
        """Every log of every other site: origin to site, shard and the log's key."""
        return {
            verifier.name: (site, shard, verifier)
            for site, vkey in self._state().log_vkeys.items()
            if site != self._here.name
            for shard, verifier in verifiers_of(vkey).items()
        }
