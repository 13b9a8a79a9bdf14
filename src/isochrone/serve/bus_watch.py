"""One watch of one key-value bucket over one connection; `Bus.watch` strings sessions together across outages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.kv import KV_DEL, KV_OP, KV_PURGE, KeyValue

from isochrone.errors import PeerError

__all__ = ["FAILURES", "Entry", "WatchSession"]

FAILURES = (nats.errors.Error, OSError, TimeoutError)
"""What nats-py raises when the server does not answer or says no."""
_SILENCE_S = 3.0
_INBOX_MESSAGES = 1024


class Entry(NamedTuple):
    """One key of a bucket: `value` is None when it is deleted; `revision` rises with every write in the bucket."""

    key: str
    value: bytes | None
    revision: int


class WatchSession:
    """One ephemeral consumer on one bucket: a snapshot of the latest values, then changes, without a gap.

    The consumer's own sequence number shows a lost message; silence is checked against the server's count.
    """

    def __init__(self, js: JetStreamContext, prefix: str, incarnation: str) -> None:
        self.incarnation = incarnation
        self.snapshot_size = 0
        self._js, self._prefix = js, prefix
        self._subscription: Any = None
        self._seen = 0
        self._inbox: asyncio.Queue[Msg | None] = asyncio.Queue(_INBOX_MESSAGES)
        self._lost = False

    @classmethod
    async def open(cls, js: JetStreamContext, bucket: KeyValue, name: str, pattern: str) -> WatchSession:
        info = (await bucket.status()).stream_info
        prefix = f"$KV.{name}."
        session = cls(js, prefix, str(info.created))
        session._subscription = await js.subscribe(
            prefix + pattern,
            stream=f"KV_{name}",
            cb=session._inbox.put,
            manual_ack=True,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                ack_policy=AckPolicy.NONE,
                mem_storage=True,
                inactive_threshold=60.0,
            ),
        )
        consumer = await session._subscription.consumer_info()
        delivered = consumer.delivered.consumer_seq if consumer.delivered is not None else 0
        session.snapshot_size = delivered + (consumer.num_pending or 0)
        return session

    async def next(self, timeout_s: float) -> Entry:
        """The next entry, in the order of revisions.

        Raises:
            TimeoutError: nothing came.
            PeerError: a message or the connection was lost; open a new session.
        """
        message = None if self._lost else await asyncio.wait_for(self._inbox.get(), timeout_s)
        if message is None:
            raise PeerError("bus: connection lost", code="bus.disconnected")
        sequence = message.metadata.sequence
        if sequence.consumer != self._seen + 1:
            raise PeerError(f"bus: lost {sequence.consumer - self._seen - 1} updates", code="bus.gap")
        self._seen = sequence.consumer
        headers = message.headers or {}
        deleted = headers.get(KV_OP) in (KV_DEL, KV_PURGE) or "Nats-Marker-Reason" in headers
        key = message.subject.removeprefix(self._prefix)
        return Entry(key, None if deleted else message.data, sequence.stream)

    async def changes(self, known: dict[str, int], on_synced: Callable[[], None] | None) -> AsyncIterator[Entry]:
        """Entries newer than `known` (updated as they pass), until an error says to open a new session."""
        present: set[str] = set()
        revision = 0
        while self._seen < self.snapshot_size:
            entry = await self.next(_SILENCE_S)
            present.add(entry.key)
            revision = entry.revision
            if self._news(entry, known):
                yield entry
        for key in sorted(known.keys() - present):
            del known[key]
            yield Entry(key, None, revision)
        if on_synced is not None:
            on_synced()
        while True:
            try:
                entry = await self.next(_SILENCE_S)
            except TimeoutError:
                await self._check_silence()
                continue
            if self._news(entry, known):
                yield entry

    @staticmethod
    def _news(entry: Entry, known: dict[str, int]) -> bool:
        """Whether this is newer than what was yielded; a first sight of a deleted key is not news."""
        before = known.get(entry.key)
        if before is not None and entry.revision <= before:
            return False
        known[entry.key] = entry.revision
        return before is not None or entry.value is not None

    async def _check_silence(self) -> None:
        """Raises an error of nats-py when the consumer is gone, `PeerError` when it sent more than arrived."""
        consumer = await self._subscription.consumer_info()
        sent = consumer.delivered.consumer_seq if consumer.delivered is not None else 0
        if sent > self._seen and self._subscription.pending_msgs == 0 and self._inbox.empty():
            raise PeerError(f"bus: {sent - self._seen} updates did not arrive", code="bus.gap")

    def lose(self) -> None:
        """Tell whoever waits in `next` that the connection is gone."""
        self._lost = True
        with contextlib.suppress(asyncio.QueueFull):  # full: `next` is not waiting and sees the flag
            self._inbox.put_nowait(None)

    async def close(self) -> None:
        """Drop the consumer; the server would do so by itself after a minute."""
        with contextlib.suppress(*FAILURES):
            await self._subscription.unsubscribe()
