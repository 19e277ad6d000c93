import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable

import httpx
import pytest
from certificates import Authority

from expertmesh.errors import ConfigError
from expertmesh.gateway.http.connections import ConnectionLimits
from expertmesh.gateway.http.http_server import HttpServer
from expertmesh.rpc.tls import open_client, open_server
from expertmesh.settings.tls import ClientTls

NUM_PIECES = 5


async def slow(scope, receive, send) -> None:
    """Answer any request piece by piece."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(NUM_PIECES):
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def endless(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await asyncio.Event().wait()


def serve(app, use: Callable[[HttpServer, httpx.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        server = HttpServer("127.0.0.1:0", app)
        await server.start()
        async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
            await use(server, client)
        await server.drain(0)

    asyncio.run(run())


def test_draining_lets_requests_finish_and_refuses_new_ones():
    async def use(server: HttpServer, client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/") as reply:
            draining = asyncio.create_task(server.drain(30))
            assert await reply.aread() == b"x" * NUM_PIECES
        await draining
        with pytest.raises(httpx.ConnectError):
            await client.get("/")

    serve(slow, use)


def test_draining_cancels_what_takes_longer_and_says_nothing_about_it(caplog):
    async def use(server: HttpServer, client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("GET", "/") as reply:
                draining = asyncio.create_task(server.drain(0.01))
                await reply.aread()
        await draining

    with caplog.at_level(logging.DEBUG):
        serve(endless, use)
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_draining_does_not_wait_for_idle_connections():
    async def use(server: HttpServer, client: httpx.AsyncClient) -> None:
        await client.get("/")
        async with asyncio.timeout(30):
            await server.drain(60)

    serve(slow, use)


def test_a_server_that_never_started_drains_at_once():
    asyncio.run(HttpServer("127.0.0.1:0", slow).drain(60))


@pytest.mark.parametrize("address", ["nowhere", ":8000", "127.0.0.1:http", "127.0.0.1:65536"])
def test_what_is_no_address_is_named(address):
    with pytest.raises(ConfigError, match=address):
        asyncio.run(HttpServer(address, slow).start())


def test_an_address_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=address):
            asyncio.run(HttpServer(address, slow).start())


def test_signals_stay_with_the_process():
    before = signal.getsignal(signal.SIGTERM)

    async def use(server: HttpServer, client: httpx.AsyncClient) -> None:
        await client.get("/")
        assert signal.getsignal(signal.SIGTERM) is before

    serve(slow, use)


@pytest.mark.parametrize(("keep_alive_seconds", "is_closed"), [(0.05, True), (75.0, False)])
def test_a_connection_may_idle_for_as_long_as_it_is_told(keep_alive_seconds, is_closed):
    async def run() -> None:
        server = HttpServer("127.0.0.1:0", slow, limits=ConnectionLimits(keep_alive_seconds=keep_alive_seconds))
        await server.start()
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
        await reader.readuntil(b"\r\n0\r\n\r\n")
        closing = asyncio.create_task(reader.read())
        done, _ = await asyncio.wait((closing,), timeout=30 if is_closed else 0.3)
        assert bool(done) == is_closed
        writer.close()
        await server.drain(0)
        await closing

    asyncio.run(run())


def test_over_tls_those_with_a_certificate_are_answered_and_it_is_told_of_others(tmp_path, caplog):
    authority = Authority(tmp_path)

    async def get(url, client):
        verify = open_client(client).http_context()
        async with httpx.AsyncClient(base_url=url, verify=verify, trust_env=False, timeout=30) as http:
            return (await http.get("/")).content

    async def run():
        server = HttpServer("127.0.0.1:0", slow, tls=open_server(authority.server()).http_context())
        await server.start()
        assert server.url == f"https://{server.address}"
        assert await get(server.url, authority.client()) == b"x" * NUM_PIECES
        with pytest.raises(httpx.TransportError):
            await get(server.url, ClientTls(authority.ca))
        async with httpx.AsyncClient(trust_env=False, timeout=30) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(server.url.replace("https", "http"))
        await server.drain(0)

    with caplog.at_level(logging.INFO, "expertmesh"):
        asyncio.run(run())
    without, in_the_clear = (record.message for record in caplog.records if record.name.startswith("expertmesh"))
    assert "someone who called over HTTPS was not connected" in without and "PEER_DID_NOT_RETURN" in without
    assert in_the_clear.endswith("it speaks no TLS (HTTP_REQUEST)")
