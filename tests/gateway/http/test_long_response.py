"""Replies over a socket: their lengths, others' turns meanwhile, and clients that leave."""

import asyncio
import json

import httpx
from starlette.types import ASGIApp

from expertmesh.gateway.http.http_server import HttpServer
from expertmesh.gateway.http.long_json import Long, LongReply, Mapped
from expertmesh.gateway.http.long_response import long_response


class Numbers(LongReply):
    numbers: Long[str]


class Counting:
    """Answers with so many numbers; knows how many were made."""

    def __init__(self, num_numbers: int) -> None:
        self._num_numbers = num_numbers
        self.num_made = 0

    async def __call__(self, scope, receive, send):
        response = long_response(Numbers(numbers=Mapped(self._make, range(self._num_numbers))))
        await response(scope, receive, send)

    def _make(self, number: int) -> str:
        self.num_made += 1
        return f"{number:0100}"


def run(app: ASGIApp, use) -> None:
    async def serve() -> None:
        server = HttpServer("127.0.0.1:0", app)
        await server.start()
        async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=60) as client:
            await use(client)
        await server.drain(5)

    asyncio.run(serve())


def test_a_short_reply_has_its_length_and_a_long_one_comes_in_chunks():
    async def use(client: httpx.AsyncClient) -> None:
        replies[:] = [await client.get("/"), await client.head("/")]

    replies: list[httpx.Response] = []
    for num_numbers, announced in ((3, True), (100_000, False)):
        run(Counting(num_numbers), use)
        whole, head = replies
        assert whole.headers["content-type"] == "application/json"
        assert json.loads(whole.content)["numbers"] == [f"{number:0100}" for number in range(num_numbers)]
        assert ("content-length" in whole.headers, "transfer-encoding" in whole.headers) == (announced, not announced)
        assert (head.status_code, head.content) == (200, b"")


def test_a_client_that_leaves_has_no_more_made():
    async def use(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/") as reply:
            await anext(reply.aiter_bytes())

    app = Counting(1_000_000)
    run(app, use)
    assert app.num_made < 1_000_000
