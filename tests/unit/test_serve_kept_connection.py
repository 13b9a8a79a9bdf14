"""Does a kept connection give each request its own answer, and open another after it was lost?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from isochrone.serve.kept_connection import KeptConnection

BYTES_MAX = 10_000
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_server(talk: Talk, scene: Callable[[KeptConnection, list[int]], Awaitable[None]]) -> None:
    """Run `scene` against a server that does `talk` on each connection; the list has one entry a connection."""

    async def main() -> None:
        connections: list[int] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(1)
            try:
                await talk(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def opening(protocol: Any) -> tuple[Any, Any]:
            return await asyncio.get_running_loop().create_connection(protocol, "127.0.0.1", port)

        async with server:
            connection = KeptConnection(opening, "here", 2.0, BYTES_MAX)
            try:
                await scene(connection, connections)
            finally:
                connection.close()

    asyncio.run(main())


async def target_of(reader: asyncio.StreamReader) -> bytes:
    """The next request's target; empty when the client has gone."""
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    return head.split(b" ")[1] if head else b""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the target, chunked and in pieces, as long as the client asks."""
    try:
        while target := await target_of(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Who: Me\r\n\r\n%x\r\n" % len(target))
            await asyncio.sleep(0.01)
            writer.write(target + b"\r\n0\r\n\r\n")
    except asyncio.IncompleteReadError:
        return


def test_requests_take_turns_on_one_connection_and_each_gets_its_own_answer() -> None:
    async def scene(connection: KeptConnection, connections: list[int]) -> None:
        targets = [f"/{number}" for number in range(5)]
        answers = await asyncio.gather(*(connection.ask("GET", target) for target in targets))
        assert [(each.status, each.body.decode(), each.headers["x-who"]) for each in answers] == [
            (200, target, "Me") for target in targets
        ]
        assert len(connections) == 1

    with_server(echo, scene)


def test_a_connection_that_the_server_ends_is_opened_again() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await target_of(reader)
        writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    async def scene(connection: KeptConnection, connections: list[int]) -> None:
        for _ in range(2):
            answer = await connection.ask("POST", "/")
            assert (answer.status, answer.body) == (503, b"no")
        assert len(connections) == 2

    with_server(once, scene)


@pytest.mark.parametrize(
    "said", [b"", b"220 mail.example ESMTP\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"]
)
def test_what_is_no_whole_answer_is_an_error_and_the_next_request_starts_anew(said: bytes) -> None:
    first = [said]

    async def broken_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if first:
            await target_of(reader)
            writer.write(first.pop())
        else:
            await echo(reader, writer)

    async def scene(connection: KeptConnection, connections: list[int]) -> None:
        with pytest.raises(OSError):
            await connection.ask("GET", "/first")
        assert (await connection.ask("GET", "/second")).body == b"/second"
        assert len(connections) == 2

    with_server(broken_once, scene)


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one() -> None:
    late = [True]

    async def slow_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if late.pop() if late else False:
            await target_of(reader)
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        else:
            await echo(reader, writer)

    async def scene(connection: KeptConnection, connections: list[int]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await connection.ask("GET", "/first")
        assert (await connection.ask("GET", "/second")).body == b"/second"

    with_server(slow_once, scene)


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await target_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore")
        await reader.read()

    async def scene(connection: KeptConnection, connections: list[int]) -> None:
        assert (await connection.ask("GET", "/")).body == b"ok"
        await asyncio.sleep(0.1)
        assert (await connection.ask("GET", "/")).body == b"ok"
        assert len(connections) == 2

    with_server(chatty, scene)


@pytest.mark.parametrize(
    "head", [b"Content-Length: 1000000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"X-Long: "]
)
def test_who_never_stops_talking_is_hung_up_on(head: bytes) -> None:
    """A site that is asked for its round trip must not fill the memory of who asks."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await target_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + head)
        try:
            while True:
                writer.write(b"3e8\r\n" + b"a" * 1000 + b"\r\n" if b"chunked" in head else b"a" * 1007)
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            return

    async def scene(connection: KeptConnection, connections: list[int]) -> None:
        with pytest.raises(ConnectionError):
            await connection.ask("GET", "/")
        assert len(connections) == 1

    with_server(talk, scene)
