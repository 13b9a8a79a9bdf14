"""Having one's own logs witnessed: each new checkpoint goes to the other sites, and their cosignatures come back.

Every pair of log and witness goes at its own pace, so one that is slow or cut off holds up nobody. A witness that was
away is asked for the newest checkpoint only: one cosignature covers all that waited.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from isochrone.control.node import NodeState
from isochrone.control.report import LogReport
from isochrone.errors import InputError, IntegrityError, IsochroneError, PeerError
from isochrone.record.records import finding
from isochrone.record.shards import trust_policy, witnessing_of
from isochrone.serve.logbook import Logbook
from isochrone.serve.peer_client import PeerClient
from isochrone.serve.shard import Shard
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import note_verifier
from isochrone.tlog.note import Note
from isochrone.tlog.quorum import TrustPolicy
from isochrone.tlog.witness import AddCheckpointRequest, Conflict, Cosigned, Refused, read_response

__all__ = ["ADD_CHECKPOINT", "CHECKPOINTS", "Witnessing"]

ADD_CHECKPOINT = "witness/add-checkpoint"
CHECKPOINTS = "witness/checkpoints"
_RETRY_S = 2.0
_LOOK_BACK_S = 2.0
_NOTES_KEPT = 16
# So long may a quorum be missing before a person is told.
_UNCOSIGNED_S_MAX = 30.0


@dataclass(slots=True)
class _Progress:
    """What is known of the cosigning of one log."""

    witnessed: dict[str, int] = field(default_factory=dict)  # witness -> size it has cosigned, as far as we know
    notes: dict[int, Note] = field(default_factory=dict)  # size -> checkpoint with what cosignatures came
    by: tuple[str, ...] = ()
    at_s: float = 0.0
    waiting_since_s: float | None = None
    told: bool = False


class Witnessing:
    """One site's side of having its logs witnessed: ``await witnessing.run()`` until cancelled.

    Args:
        state: what the site knows now: who witnesses, by which keys.
        alarm: told of refusals, and of a quorum that is missing for long.
    """

    def __init__(
        self, logbook: Logbook, peers: PeerClient, state: Callable[[], NodeState], alarm: Callable[[str], None]
    ) -> None:
        self._logbook, self._peers, self._state, self._alarm = logbook, peers, state, alarm
        self._progress: dict[str, _Progress] = {}
        self._asking: set[tuple[str, str]] = set()
        self._not_before_s: dict[tuple[str, str], float] = {}

    async def look_back(self) -> None:
        """Ask every witness that answers what it has cosigned, before anything is added to a log that was put back."""
        asked = [self._seen_by(shard, name) for shard in self._logbook.shards.values() for name in self._witnesses()[1]]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), _LOOK_BACK_S)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._logbook.published.wait(), 1.0)
                self._logbook.published.clear()
                for shard in list(self._logbook.shards.values()):
                    await self._watch_gap(shard)
                    for name, vkey in self._witnesses()[1].items():
                        if self._is_due(shard, name):
                            self._asking.add((shard.name, name))
                            group.create_task(self._ask(shard, name, vkey))

    def report(self) -> dict[str, LogReport]:
        """Each log by the name of its shard: how much is published and cosigned, and what waits since when."""
        quorum = self._witnesses()[0]
        made = {}
        for name, shard in self._logbook.shards.items():
            progress = self._of(name)
            made[name or "main"] = LogReport(
                size=shard.writer.published_size,
                cosigned_size=shard.cosigned_size,
                cosigned_at_s=progress.at_s,
                by=progress.by,
                quorum=quorum,
                waiting_since_s=progress.waiting_since_s,
            )
        return made

    # --- one log and one witness ----------------------------------------------------------------------------------

    def _is_due(self, shard: Shard, name: str) -> bool:
        key = (shard.name, name)
        is_behind = self._of(shard.name).witnessed.get(name, -1) < shard.writer.published_size
        is_free = key not in self._asking and self._logbook.failure is None
        return is_behind and is_free and time.monotonic() >= self._not_before_s.get(key, 0.0)

    async def _ask(self, shard: Shard, name: str, vkey: str) -> None:
        key = (shard.name, name)
        try:
            # A witness that has seen another size than we thought says so, and is asked again from there, once.
            if not await self._ask_once(shard, name, vkey):
                await self._ask_once(shard, name, vkey)
        except PeerError:
            self._not_before_s[key] = time.monotonic() + _RETRY_S
        except (IsochroneError, ValueError) as error:
            self._not_before_s[key] = time.monotonic() + _RETRY_S
            self._alarm(f"{shard.signer.name} is not cosigned by {name}: {str(error)[:200]}")
        finally:
            self._asking.discard(key)

    async def _ask_once(self, shard: Shard, name: str, vkey: str) -> bool:
        """One add-checkpoint call; False when it should be made again from another size."""
        progress = self._of(shard.name)
        request, size = await asyncio.to_thread(_request, shard, max(0, progress.witnessed.get(name, 0)))
        answer = await self._peers.ask(name, "POST", ADD_CHECKPOINT, request.encode())
        kind, verifier = answer.headers.get("content-type", ""), note_verifier(vkey)
        result = read_response(answer.status_code, kind, answer.content, request.checkpoint, [verifier])
        match result:
            case Cosigned():
                progress.witnessed[name] = size
                await self._take(shard, size, request.checkpoint, result)
                return True
            case Conflict(known) if known > size:
                await self._seen_by(shard, name)
                return True
            case Conflict(known):
                progress.witnessed[name] = known
                return False
            case Refused(status, reason):
                if status >= 500:
                    raise PeerError(f"{name} answered {status}", code="peer.witness")
                raise IntegrityError(f"{status}: {reason}", code="log.refused")

    async def _take(self, shard: Shard, size: int, checkpoint: bytes, answer: Cosigned) -> None:
        progress = self._of(shard.name)
        note = progress.notes.get(size) or Note.parse(checkpoint)
        progress.notes[size] = note = note.merged(answer.signatures)
        for old in sorted(progress.notes)[:-_NOTES_KEPT]:
            del progress.notes[old]
        policy = self._policy(shard)
        by = policy.cosigned_by(note)
        if size < shard.cosigned_size or not policy.is_met(note):
            return
        is_first = size > shard.cosigned_size
        await asyncio.to_thread(shard.keep_cosigned, note.encode())
        progress.by, progress.at_s = tuple(sorted(by)), round(time.time(), 3)
        if is_first:
            verifiers = tuple(policy.witnesses.values())
            await self._logbook.add_cosignatures(shard, size, b"".join(s.encode() for s in note.signatures), verifiers)

    async def _seen_by(self, shard: Shard, name: str) -> None:
        """If a witness shows our own signature under more entries than this log holds, the log was put back."""
        answer = await self._peers.ask(name, "GET", CHECKPOINTS)
        signed = str(answer.json().get(shard.signer.name, "")).encode() if answer.status_code == 200 else b""
        if not signed:
            return
        checkpoint = Checkpoint.parse_and_verify(signed, shard.signer.verifier, origin=shard.signer.name)
        if checkpoint.size <= shard.writer.size:
            return
        reason = (
            f"{shard.signer.name} holds {shard.writer.size} entries, and {name} has cosigned {checkpoint.size}: the "
            "site's directory was put back to an older copy"
        )
        self._alarm(reason)
        self._logbook.condemn(
            IntegrityError(reason, code="tlog.rollback", hint="restore the newest copy of the directory")
        )

    # --- the gap --------------------------------------------------------------------------------------------------

    async def _watch_gap(self, shard: Shard) -> None:
        """Tell when a quorum is missing for long, and record for how long it was."""
        progress, quorum = self._of(shard.name), self._witnesses()[0]
        if not quorum or shard.cosigned_size >= shard.writer.published_size:
            if progress.told and self._logbook.failure is None:
                since_s = progress.waiting_since_s or 0.0
                detail = f"{shard.signer.name} was not cosigned by {quorum} witnesses for {time.time() - since_s:.0f} s"
                made = finding(self._logbook.here, int(since_s * 1e6), "log-uncosigned", detail)
                progress.told = False
                with contextlib.suppress(IsochroneError):  # the log has stopped: its own alarm says so
                    await self._logbook.record(made)
            progress.waiting_since_s = None
        elif progress.waiting_since_s is None:
            progress.waiting_since_s = round(time.time(), 3)
        elif not progress.told and time.time() - progress.waiting_since_s > _UNCOSIGNED_S_MAX:
            progress.told = True
            at = time.strftime("%H:%M:%SZ", time.gmtime(progress.waiting_since_s))
            self._alarm(f"{shard.signer.name} is not cosigned by {quorum} witnesses since {at}")

    # --- who ------------------------------------------------------------------------------------------------------

    def _of(self, shard: str) -> _Progress:
        return self._progress.setdefault(shard, _Progress())

    def _witnesses(self) -> tuple[int, dict[str, str]]:
        state = self._state()
        if state.fabric is None:
            return 0, {}
        return witnessing_of(state.fabric, state.site, state.witness_vkeys)

    def _policy(self, shard: Shard) -> TrustPolicy:
        quorum, keys = self._witnesses()
        try:
            return trust_policy(shard.signer.vkey, quorum, keys)
        except InputError as error:
            raise IntegrityError(f"the quorum cannot be met: {error}", code="log.quorum") from error


def _request(shard: Shard, old_size: int) -> tuple[AddCheckpointRequest, int]:
    """A request for the newest checkpoint, and its size."""
    reader = shard.reader()
    checkpoint = reader.checkpoint()
    old_size = min(old_size, checkpoint.size)
    proof = reader.consistency_proof(old_size, checkpoint.size) if old_size else []
    return AddCheckpointRequest(old_size, tuple(proof), reader.signed_checkpoint), checkpoint.size
