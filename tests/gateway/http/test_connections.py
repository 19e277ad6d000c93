"""Clients that take their time, or all the connections there are, over real sockets."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import ASGIApp

from expertmesh.gateway.http.connections import MAX_HEADER_BYTES, NUM_SPARE, ConnectionLimits
from expertmesh.gateway.http.http_server import HttpServer

SECONDS = 60.0
GET = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"
OK = b"HTTP/1.1 200 OK"
# Nobody waits for these, who is to wait for something else.
PATIENT = {"header_seconds": 3600.0, "keep_alive_seconds": 3600.0, "unread_seconds": 3600.0}


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def status(self) -> bytes:
        """Read a reply with a body of known length; returns its first line."""
        async with asyncio.timeout(SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), b":0")
            await self._reader.readexactly(int(length.partition(b":")[2]))
        return head.partition(b"\r\n")[0]

    async def rest(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(SECONDS):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    async def close(self) -> None:
        self._writer.close()


Connect = Callable[[], Awaitable[Client]]


@asynccontextmanager
async def serving(app: ASGIApp, **limits: float) -> AsyncIterator[Connect]:
    server = HttpServer("127.0.0.1:0", app, limits=ConnectionLimits(**{**PATIENT, **limits}))
    await server.start()
    host, _, port = server.address.rpartition(":")
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection(host, int(port))))
        return clients[-1]

    try:
        yield connect
    finally:
        for client in clients:
            await client.close()
        await server.drain(0)


def reply(body: bytes = b"hello") -> ASGIApp:
    async def answer(scope, receive, send):
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


class Holding:
    """Answers once it is let go, and counts who waits for that."""

    def __init__(self) -> None:
        self.num_held = 0
        self.let_go = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.num_held += 1
        await self.let_go.wait()
        await reply()(scope, receive, send)

    async def wait_for(self, num_held: int) -> None:
        async with asyncio.timeout(SECONDS):
            while self.num_held < num_held:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: gateway\r\nX-Slow: ye", b"\r\n"])
def test_a_request_whose_headers_do_not_arrive_is_hung_up_on(begun: bytes):
    async def run() -> bytes:
        async with serving(reply(), header_seconds=0.05) as connect:
            client = await connect()
            client.send(begun)
            return await client.rest()

    assert asyncio.run(run()) == b""


def test_headers_that_trickle_in_are_no_exception():
    async def run() -> bytes:
        async with serving(reply(), header_seconds=0.2) as connect:
            client = await connect()
            client.send(b"GET / HTTP/1.1\r\n")
            closing = asyncio.create_task(client.rest())
            while not closing.done():
                client.send(b"X: y\r\n")
                await asyncio.sleep(0.01)
            return closing.result()

    assert asyncio.run(run()) == b""


def test_the_second_request_of_a_connection_has_as_little_time():
    async def run() -> tuple[bytes, bytes]:
        async with serving(reply(), header_seconds=1.0) as connect:
            client = await connect()
            client.send(GET)
            first = await client.status()
            client.send(GET[:10])
            return first, await client.rest()

    assert asyncio.run(run()) == (OK, b"")


def test_a_request_that_takes_long_to_answer_and_one_that_comes_later_are_answered():
    async def run() -> list[bytes]:
        holding = Holding()
        async with serving(holding, header_seconds=1.0) as connect:
            client = await connect()
            client.send(GET)
            await holding.wait_for(1)
            await asyncio.sleep(1.2)
            holding.let_go.set()
            first = await client.status()
            await asyncio.sleep(1.2)
            client.send(GET + GET)
            return [first, await client.status(), await client.status()]

    assert asyncio.run(run()) == [OK] * 3


def test_headers_without_end_are_refused():
    async def run() -> bytes:
        async with serving(reply()) as connect:
            client = await connect()
            client.send(b"GET / HTTP/1.1\r\nHost: gateway\r\n" + b"X: y\r\n" * (MAX_HEADER_BYTES // 2))
            return await client.status()

    assert asyncio.run(run()) == b"HTTP/1.1 400 Bad Request"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: gzip\r\n",
    ],
)
def test_a_body_whose_end_can_be_read_in_two_ways_is_refused_and_the_connection_closed(headers: bytes):
    async def run() -> bytes:
        async with serving(reply()) as connect:
            client = await connect()
            client.send(b"POST / HTTP/1.1\r\nHost: gateway\r\n" + headers + b"\r\n0\r\n\r\n" + GET)
            return await client.rest()

    told = asyncio.run(run())
    assert told.startswith(b"HTTP/1.1 400 Bad Request")
    assert told.count(b"HTTP/1.1") == 1


def test_a_client_that_does_not_read_is_hung_up_on():
    async def run() -> int:
        gone = asyncio.Event()

        async def endless(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            leaving = asyncio.create_task(receive())
            leaving.add_done_callback(lambda _: gone.set())
            while not gone.is_set():
                await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
                await asyncio.sleep(0)

        async with serving(endless, unread_seconds=0.05) as connect:
            client = await connect()
            client.send(GET)
            async with asyncio.timeout(SECONDS):
                await gone.wait()
            return len(await client.rest())

    assert asyncio.run(run()) >= 0


def test_where_there_is_no_room_the_connection_that_waits_longest_makes_place(caplog):
    async def run() -> tuple[bytes, bytes, list[bytes]]:
        async with serving(reply(), max_connections=4) as connect:
            silent = [await connect() for _ in range(4 + NUM_SPARE)]
            silent[0].send(GET)
            first = await silent[0].status()
            more = [await connect() for _ in range(2)]
            for client in more:
                client.send(GET)
            return first, await silent[1].rest(), [await client.status() for client in more]

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(run()) == (OK, b"", [OK, OK])
    [told] = [record.getMessage() for record in caplog.records if record.name.endswith("connections")]
    assert told.startswith(
        f"{4 + NUM_SPARE} connections are open, as many as --max-connections allows: those that wait"
    )


def test_where_all_connections_work_new_ones_are_closed():
    async def run() -> tuple[bytes, list[bytes]]:
        holding = Holding()
        async with serving(holding, max_connections=2) as connect:
            working = [await connect() for _ in range(2 + NUM_SPARE)]
            for client in working:
                client.send(GET)
            await holding.wait_for(len(working))
            refused = await (await connect()).rest()
            holding.let_go.set()
            return refused, [await client.status() for client in working]

    assert asyncio.run(run()) == (b"", [OK] * (2 + NUM_SPARE))
