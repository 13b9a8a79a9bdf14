"""HTTP/1.1 on one kept connection, for what a node asks several times a second: an exchange takes a tenth of the
processor time that a full client's does. The door to httptools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from httptools import HttpParserError, HttpResponseParser

__all__ = ["Answer", "KeptConnection", "Opening"]

Opening = Callable[[Callable[[], asyncio.Protocol]], Awaitable[tuple[Any, Any]]]
"""Opens a connection for a protocol, as ``loop.create_connection`` does with its other arguments bound."""


@dataclass(slots=True)
class Answer:
    """One answer; names of `headers` are lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class KeptConnection:
    """One connection, opened when it is first needed and again after it was lost. One request at a time, in turn.

    Args:
        opening: opens it.
        host: what requests say in `host`.
        timeout_s: for one exchange, opening included.
        bytes_max: of one answer, head included; who says more is hung up on.
    """

    def __init__(self, opening: Opening, host: str, timeout_s: float, bytes_max: int) -> None:
        self._opening, self._host, self._timeout_s, self._bytes_max = opening, host, timeout_s, bytes_max
        self._exchange: _Exchange | None = None
        self._turn = asyncio.Lock()

    async def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        """One request without a body.

        Raises:
            OSError: no answer: `TimeoutError`, `ssl.SSLError`, a connection that was refused or lost, or an answer
                that is too long or not HTTP.
        """
        fields = {"host": self._host, **(headers or {}), **({"content-length": "0"} if method == "POST" else {})}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        request = "\r\n".join([*lines, "", ""]).encode("ascii")
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout_s):
                    if self._exchange is None or self._exchange.is_over:
                        self._exchange = (await self._opening(_Exchange))[1]
                    return await self._exchange.ask(request, self._bytes_max)
            except BaseException:
                self.close()  # an answer that comes late would be taken for the next one
                raise

    def close(self) -> None:
        """Let go of the connection; the next request opens another."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()


class _Exchange(asyncio.Protocol):
    """The connection itself: httptools calls ``on_...`` as an answer comes in."""

    def __init__(self) -> None:
        self.is_over = False
        self._transport: Any = None
        self._parser: Any = None
        self._answer = Answer()
        self._waiting: asyncio.Future[Answer] | None = None
        self._bytes_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    async def ask(self, request: bytes, bytes_max: int) -> Answer:
        self._bytes_left = bytes_max
        self._parser, self._answer = HttpResponseParser(self), Answer()
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self.close()  # nobody asked
            return
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._lose(ConnectionError("the answer is too long"))
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._lose(ConnectionError(f"the answer is not HTTP: {error}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(error if isinstance(error, OSError) else ConnectionError("the connection was closed"))

    def _lose(self, error: OSError) -> None:
        self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def close(self) -> None:
        self.is_over = True
        if self._transport is not None:
            self._transport.close()
