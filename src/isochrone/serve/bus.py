"""The fabric bus: a client of NATS with JetStream that is always trying to be connected. The door to nats-py.

State is kept in key-value buckets (JetStream's: every write has a revision, unique and rising within its bucket).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue

from isochrone.errors import PeerError
from isochrone.serve.bus_watch import FAILURES, Entry, WatchSession
from isochrone.serve.tls import TlsFiles

__all__ = ["Bus", "Entry", "Subscription"]

Handler = Callable[[str, bytes], Awaitable[None]]
Responder = Callable[[str, bytes], Awaitable[bytes]]
_HISTORY = 5
_RETRY_S_MAX = 1.0
_logger = logging.getLogger(__name__)


class Subscription:
    """A standing interest in a subject; it outlives reconnects. Made by `Bus.subscribe` and `Bus.reply`."""

    def __init__(self, bus: Bus, subject: str, queue: str, handler: Callable[[Msg], Awaitable[None]]) -> None:
        self.subject, self.queue, self.handler = subject, queue, handler
        self._bus = bus
        self._live: Any = None

    async def attach(self, client: Client) -> None:
        """Subscribe on this connection (used by `Bus`)."""
        self._live = await client.subscribe(self.subject, queue=self.queue, cb=self.handler)

    async def unsubscribe(self) -> None:
        """End it; twice is harmless."""
        self._bus.subscriptions.discard(self)
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(*FAILURES):
                await live.unsubscribe()


class Bus:
    """A client of the fabric bus that reconnects for ever: ``async with Bus(url, name="hub", ...) as bus``.

    Entering does not wait for the server: a site cut off from everyone must still start. Use `wait_connected`.
    Every operation raises `PeerError`: ``bus.disconnected`` at once when there is no connection (nothing is queued to
    be sent stale later) or it is lost meanwhile, ``bus.timeout`` when no answer came, ``bus.refused`` when the server
    said no. A write that was lost or timed out may have taken effect: read it back.

    Args:
        url: one server's address or several, comma-separated.
        name: who this is; answers come to subjects below ``_INBOX.<name>``.
        tls: the credential that says who this is, and whom to believe.
        on_status: called with True when connected, False when the connection is lost; must not block.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        tls: TlsFiles,
        on_status: Callable[[bool], None] | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self.url, self.name = url, name
        self.subscriptions: set[Subscription] = set()
        self.last_error = ""
        self._tls = tls
        self._on_status = on_status
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._sessions: set[WatchSession] = set()
        self._in_flight: set[asyncio.Timeout] = set()
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._buckets: dict[str, KeyValue] = {}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._stay_connected(), name=f"bus {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connected.is_set()

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait for a connection.

        Raises:
            PeerError: ``bus.disconnected`` after `timeout_s`, with the last reason.
        """
        try:
            await asyncio.wait_for(self._connected.wait(), timeout_s)
        except TimeoutError:
            raise self._disconnected() from None

    async def put(self, bucket: str, key: str, value: bytes) -> int:
        """Write; returns the new revision, durable on the server's disk."""
        async with self._answer(f"put {bucket}/{key}"):
            return int(await (await self._bucket(bucket)).put(key, value))

    async def put_if(self, bucket: str, key: str, value: bytes, revision: int) -> int | None:
        """Write only if the key's latest revision is `revision` (0: never written); None when another was first."""
        async with self._answer(f"put_if {bucket}/{key}"):
            try:
                return int(await (await self._bucket(bucket)).update(key, value, last=revision))
            except nats.js.errors.KeyWrongLastSequenceError:
                return None

    async def get(self, bucket: str, key: str) -> Entry | None:
        """The latest value of a key; None when it was never written or is deleted."""
        async with self._answer(f"get {bucket}/{key}"):
            try:
                found = await (await self._bucket(bucket)).get(key)
            except nats.js.errors.KeyNotFoundError:
                return None
            return Entry(key, found.value or b"", found.revision or 0)

    async def delete(self, bucket: str, key: str) -> None:
        """Delete a key; watchers see it with value None. Deleting what is not there is harmless."""
        async with self._answer(f"delete {bucket}/{key}"):
            await (await self._bucket(bucket)).delete(key)

    async def entries(self, bucket: str, pattern: str = ">") -> dict[str, Entry]:
        """Every key matching `pattern` (NATS wildcards ``*``, ``>``) with its latest value, without deleted ones."""
        async with self._answer(f"list {bucket}/{pattern}"):
            session = await WatchSession.open(self._js(), await self._bucket(bucket), bucket, pattern)
            try:
                found = [await session.next(self._timeout_s) for _ in range(session.snapshot_size)]
            finally:
                await session.close()
            return {e.key: e for e in found if e.value is not None}

    async def watch(
        self, bucket: str, pattern: str = ">", on_synced: Callable[[], None] | None = None
    ) -> AsyncIterator[Entry]:
        """Yield every matching key's present value first, then each change, for ever, across outages.

        After an outage only what changed meanwhile is yielded: each key's latest value, not every revision between.
        A key that is gone without trace (its bucket was lost and made anew) is yielded with value None.

        Args:
            on_synced: called each time everything present at (re)connection has been yielded.
        """
        known: dict[str, int] = {}
        incarnation = ""
        while True:
            await self._connected.wait()
            session: WatchSession | None = None
            try:
                async with self._answer(f"watch {bucket}/{pattern}"):
                    session = await WatchSession.open(self._js(), await self._bucket(bucket), bucket, pattern)
                self._sessions.add(session)
                if session.incarnation != incarnation:
                    incarnation, known = session.incarnation, dict.fromkeys(known, -1)
                async for entry in session.changes(known, on_synced):
                    yield entry
            except (*FAILURES, PeerError) as e:
                _logger.info("watch %s/%s: %s; starting again", bucket, pattern, e)
                self._buckets.pop(bucket, None)
                await asyncio.sleep(0.2)
            finally:
                if session is not None:
                    self._sessions.discard(session)
                    await session.close()

    async def publish(self, subject: str, data: bytes) -> None:
        """Send to whoever listens now; nobody listening is not an error."""
        async with self._answer(f"publish {subject}"):
            await self._connection().publish(subject, data)

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Call `handler(subject, data)` for each message, one at a time; also after reconnects.

        With `queue`, each message goes to one of the subscribers that share the queue's name. An exception in the
        handler is logged and the subscription goes on.
        """

        async def receive(message: Msg) -> None:
            try:
                await handler(message.subject, message.data)
            except Exception:
                _logger.exception("handler of %s failed", message.subject)

        return await self._listen(subject, queue, receive)

    async def reply(self, subject: str, responder: Responder, queue: str = "") -> Subscription:
        """Answer each request on `subject` with `responder(subject, data)`; when it raises, no answer is sent."""

        async def receive(message: Msg) -> None:
            try:
                await message.respond(await responder(message.subject, message.data))
            except Exception:
                _logger.exception("responder of %s failed", message.subject)

        return await self._listen(subject, queue, receive)

    async def request(self, subject: str, data: bytes, timeout_s: float | None = None) -> bytes:
        """Ask and wait for one answer.

        Raises:
            PeerError: as for every operation; ``bus.no-responder`` when nobody listens on `subject`.
        """
        async with self._answer(f"request {subject}"):
            answer = await self._connection().request(subject, data, timeout=timeout_s or self._timeout_s)
            return answer.data

    async def _listen(self, subject: str, queue: str, receive: Callable[[Msg], Awaitable[None]]) -> Subscription:
        subscription = Subscription(self, subject, queue, receive)
        self.subscriptions.add(subscription)
        if self._client is not None:
            with contextlib.suppress(*FAILURES):  # lost just now: the next connection attaches it
                await subscription.attach(self._client)
                await self._client.flush()
        return subscription

    async def _stay_connected(self) -> None:
        """One nats-py client per connection. Its own reconnecting keeps stale output and gives up on some errors."""
        failures = 0
        while True:
            client, closed = Client(), asyncio.Event()
            try:
                await self._connect(client, closed)
                failures = 0
                self._set_connected(client)
                await closed.wait()
            except Exception as e:  # nats-py raises many kinds; every one means: not connected, try again
                self.last_error = f"{type(e).__name__}: {e}"
                failures += 1
            finally:
                self._set_connected(None)
                # A connection that broke off in its handshake may never be done closing.
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(client.close(), self._timeout_s)
            await asyncio.sleep(min(_RETRY_S_MAX, 0.1 * 2.0 ** min(failures, 10)))

    async def _connect(self, client: Client, closed: asyncio.Event) -> None:
        async def on_closed() -> None:
            closed.set()

        async def on_error(error: Exception) -> None:
            self.last_error = f"{type(error).__name__}: {error}"

        await asyncio.wait_for(
            client.connect(
                self.url.split(","),
                name=self.name,
                # Read anew for each connection: certificates are renewed.
                tls=self._tls.client(),
                tls_hostname=self._tls.server_name,
                tls_handshake_first=True,
                # Answers to others are none of this party's business; the server holds each to its own.
                inbox_prefix=f"_INBOX.{self.name}".encode(),
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=5,
                max_outstanding_pings=2,
                closed_cb=on_closed,
                error_cb=on_error,
            ),
            self._timeout_s,
        )
        for subscription in tuple(self.subscriptions):
            await subscription.attach(client)
        await client.flush()

    def _set_connected(self, client: Client | None) -> None:
        before, self._client = self._client, client
        self._buckets.clear()
        if client is not None:
            self._connected.set()
        else:
            self._connected.clear()
            for session in self._sessions:
                session.lose()
            for waiting in self._in_flight:
                waiting.reschedule(0.0)
        if self._on_status is not None and (before is None) != (client is None):
            try:
                self._on_status(client is not None)
            except Exception:
                _logger.exception("on_status of bus %s failed", self.name)

    def _connection(self) -> Client:
        if self._client is None or not self._client.is_connected:
            raise self._disconnected()
        return self._client

    def _js(self) -> JetStreamContext:
        return self._connection().jetstream(timeout=self._timeout_s)

    async def _bucket(self, name: str) -> KeyValue:
        """The bucket, made on first use: file storage, one replica, a short history."""
        bucket = self._buckets.get(name)
        if bucket is None:
            js = self._js()
            try:
                bucket = await js.key_value(name)
            except nats.js.errors.BucketNotFoundError:
                bucket = await js.create_key_value(
                    KeyValueConfig(bucket=name, history=_HISTORY, replicas=1, storage=StorageType.FILE)
                )
            self._buckets[name] = bucket
        return bucket

    @contextlib.asynccontextmanager
    async def _answer(self, doing: str) -> AsyncIterator[None]:
        """Turn nats-py's errors into `PeerError`; end the wait at once when the connection is lost."""
        self._connection()
        try:
            async with asyncio.timeout(None) as until_lost:
                self._in_flight.add(until_lost)
                try:
                    yield
                finally:
                    self._in_flight.discard(until_lost)
        except FAILURES as e:
            self._buckets.clear()  # one may be gone: look again, and make it again, next time
            raise self._explain(doing, e, until_lost.expired()) from e

    def _explain(self, doing: str, error: Exception, lost: bool) -> PeerError:
        if lost or self._client is None:
            return self._disconnected()
        if isinstance(error, nats.errors.NoRespondersError | nats.js.errors.NoStreamResponseError):
            hint = "start the part that serves it; right after a server start, try again in a moment"
            return PeerError(f"bus: {doing}: nobody answers there", code="bus.no-responder", hint=hint)
        if isinstance(error, TimeoutError):
            hint = "a write may still have taken effect: read it back before writing again"
            return PeerError(f"bus: {doing}: no answer within {self._timeout_s:g} s", code="bus.timeout", hint=hint)
        return PeerError(f"bus: {doing}: {error}", code="bus.refused")

    def _disconnected(self) -> PeerError:
        reason = f" ({self.last_error})" if self.last_error else ""
        return PeerError(
            f"no connection to the bus at {self.url}{reason}",
            code="bus.disconnected",
            hint="check that the NATS server runs and that this party is enrolled; reconnecting goes on",
        )
