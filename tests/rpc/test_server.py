import asyncio
import socket
from pathlib import Path

import grpc
import pytest
from following import until
from grpc._cython import cygrpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from expertmesh.errors import ConfigError
from expertmesh.rpc.channels import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES, open_channel
from expertmesh.rpc.running_rpcs import TOO_LATE
from expertmesh.rpc.server import LIVENESS, SERVER_OPTIONS, RpcServer
from expertmesh.v1 import expert_pb2, expert_pb2_grpc, tensor_pb2

SERVICE = "expertmesh.v1.ExpertService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Echo(expert_pb2_grpc.ExpertServiceServicer):
    """Answers with the bytes it was sent, GetInfo and the end of OpenLink after a while; notes what it let go."""

    def __init__(self):
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.released = []

    async def Forward(self, request, context):
        return expert_pb2.ForwardResponse(result=expert_pb2.ExpertResult(partial=request.call.hidden))

    async def GetInfo(self, request, context):
        self.entered.set()
        await self.release.wait()
        return expert_pb2.GetInfoResponse(version="slow")

    async def OpenLink(self, request, context):
        try:
            yield expert_pb2.OpenLinkResponse(token=b"first")
            await self.release.wait()
        finally:
            self.released.append("OpenLink")


def make_server(servicer, address="127.0.0.1:0"):
    server = RpcServer(address)
    server.register(SERVICE, expert_pb2_grpc.add_ExpertServiceServicer_to_server, servicer)
    return server


async def check(channel, service):
    request = health_pb2.HealthCheckRequest(service=service)
    return (await health_pb2_grpc.HealthStub(channel).Check(request)).status


def test_health_is_answered_per_service_and_follows_set_serving():
    async def main():
        async with make_server(Echo()) as server, open_channel(f"127.0.0.1:{server.port}") as channel:
            before = [await check(channel, name) for name in ("", SERVICE)]
            await server.set_serving(False)
            after = [await check(channel, name) for name in ("", SERVICE)]
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await check(channel, "no.such.Service")
        return before, after, unknown.value.code()

    assert asyncio.run(main()) == ([SERVING] * 2, [NOT_SERVING] * 2, grpc.StatusCode.NOT_FOUND)


def test_liveness_does_not_follow_set_serving():
    async def main():
        async with make_server(Echo()) as server, open_channel(f"127.0.0.1:{server.port}") as channel:
            await server.set_serving(False)
            return await check(channel, LIVENESS)

    assert asyncio.run(main()) == SERVING


def test_a_server_that_has_to_load_is_alive_from_then_on():
    async def run() -> list[int]:
        server = RpcServer("127.0.0.1:0")
        await server.start(is_serving=False, is_alive=False)
        async with open_channel(server.address) as channel:
            before = await check(channel, LIVENESS)
            await server.set_alive()
            after = await check(channel, LIVENESS)
        await server.drain(0)
        return [before, after]

    assert asyncio.run(run()) == [NOT_SERVING, SERVING]


def test_reflection_lists_the_services():
    async def main():
        async with make_server(Echo()) as server, open_channel(f"127.0.0.1:{server.port}") as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for response in stub.ServerReflectionInfo(iter([request])):
                return {service.name for service in response.list_services_response.service}

    names = {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert asyncio.run(main()) == names


def test_messages_beyond_the_default_limit_pass_both_ways_and_beyond_ours_do_not():
    async def main():
        async with make_server(Echo()) as server, open_channel(f"127.0.0.1:{server.port}") as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            data = bytes(9 * 1024 * 1024)
            request = expert_pb2.ForwardRequest(call=expert_pb2.ExpertCall(hidden=tensor_pb2.Tensor(data=data)))
            response = await stub.Forward(request)
            request.call.hidden.data = bytes(MAX_MESSAGE_BYTES)
            with pytest.raises(grpc.aio.AioRpcError) as too_big:
                await stub.Forward(request)
        return response.result.partial.data == data, too_big.value.code()

    assert asyncio.run(main()) == (True, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_drain_says_not_serving_first_and_lets_the_running_call_finish():
    async def main():
        servicer = Echo()
        server = make_server(servicer)
        await server.start()
        async with open_channel(f"127.0.0.1:{server.port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == SERVING
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            running = asyncio.ensure_future(stub.GetInfo(expert_pb2.GetInfoRequest()))
            await servicer.entered.wait()
            drained = asyncio.ensure_future(server.drain(grace_seconds=20))
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()
            assert not drained.done()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Forward(expert_pb2.ForwardRequest(), timeout=30)
            servicer.release.set()
            answer = await running
            await drained
        return refused.value.code(), answer.version

    refused, version = asyncio.run(main())
    assert refused in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}, "which of them depends on the moment"
    assert version == "slow"


def test_a_drain_ends_what_does_not_finish_within_the_grace(caplog):
    """Rpcs of every kind: a coroutine, a coroutine that writes, and a generator."""

    async def main():
        servicer = Echo()
        server = make_server(servicer)
        await server.start()
        async with open_channel(f"127.0.0.1:{server.port}") as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            info = stub.GetInfo(expert_pb2.GetInfoRequest())
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            offers = stub.OpenLink(expert_pb2.OpenLinkRequest())
            assert (await watch.read()).status == SERVING
            assert (await offers.read()).token == b"first"
            await servicer.entered.wait()
            await server.drain(grace_seconds=0.1)
            assert servicer.released == ["OpenLink"]
            assert (await watch.read()).status == NOT_SERVING
            for rest in (watch.read(), offers.read(), info):
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await rest
                assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.UNAVAILABLE, TOO_LATE)

    asyncio.run(main())
    assert not caplog.records


def test_an_unknown_method_is_told_as_such():
    async def main():
        async with make_server(Echo()) as server, open_channel(f"127.0.0.1:{server.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await channel.unary_unary(f"/{SERVICE}/NoSuchMethod")(b"")
        return unknown.value.code()

    assert asyncio.run(main()) == grpc.StatusCode.UNIMPLEMENTED


def test_a_client_that_leaves_ends_its_rpc(caplog):
    async def main():
        servicer = Echo()
        async with make_server(servicer) as server, open_channel(f"127.0.0.1:{server.port}") as channel:
            offers = expert_pb2_grpc.ExpertServiceStub(channel).OpenLink(expert_pb2.OpenLinkRequest())
            await offers.read()
            offers.cancel()
            await until(lambda: servicer.released)

    asyncio.run(main())
    assert not caplog.records


def test_a_port_in_use_is_named_and_grpc_prints_nothing(capfd):
    async def main():
        async with make_server(Echo()) as first:
            address = f"127.0.0.1:{first.port}"
            with pytest.raises(ConfigError, match=f"cannot listen on {address}: .*in use"):
                await make_server(Echo(), address).start()
        async with make_server(Echo(), address) as second:
            return second.port, address

    port, address = asyncio.run(main())
    assert address.endswith(f":{port}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("address", ["50051", "localhost", "localhost:", "127.0.0.1:70000", "no-such-host.invalid:1"])
def test_an_address_that_cannot_be_right_is_named(address):
    async def main():
        await RpcServer(address).start()

    with pytest.raises(ConfigError, match=f"cannot listen on '?{address}"):
        asyncio.run(main())


def test_ipv6_addresses_bind():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")

    async def main():
        async with make_server(Echo(), "[::1]:0") as server, open_channel(f"[::1]:{server.port}") as channel:
            return await check(channel, SERVICE)

    assert asyncio.run(main()) == SERVING


def test_channel_limits_are_explicit():
    options = dict(CHANNEL_OPTIONS)
    assert options["grpc.max_send_message_length"] == options["grpc.max_receive_message_length"] == 64 * 2**20


def test_grpc_knows_every_option():
    # It ignores those that it does not know.
    library = Path(cygrpc.__file__).read_bytes()
    names = {name for name, _ in (*CHANNEL_OPTIONS, *SERVER_OPTIONS)}
    assert {name for name in names if name.encode() + b"\0" not in library} == set()


def test_a_client_without_calls_may_ping_as_often_as_it_does(monkeypatch):
    intervals = ("grpc.keepalive_time_ms", "grpc.http2.min_ping_interval_without_data_ms")

    def hurry(options):
        return [(name, value // 120 if name in intervals else value) for name, value in options]

    monkeypatch.setattr("expertmesh.rpc.server.SERVER_OPTIONS", hurry(SERVER_OPTIONS))

    async def main():
        async with (
            make_server(Echo()) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=hurry(CHANNEL_OPTIONS)) as channel,
        ):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            first = await watch.read()
            await asyncio.sleep(4)  # a dozen pings; a few that are unwelcome would end the connection
            await server.set_serving(False)
            return [first.status, (await watch.read()).status]

    assert asyncio.run(main()) == [SERVING, NOT_SERVING]


async def read_silently(server: RpcServer) -> bytes:
    """Connect, say nothing, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_who_says_nothing_is_hung_up_on():
    async def run() -> bytes:
        async with RpcServer("127.0.0.1:0", more_options=(("grpc.server_handshake_timeout_ms", 100),)) as server:
            return await read_silently(server)

    assert asyncio.run(run()) != b""  # the server's settings


def test_connections_and_messages_beyond_the_options_are_refused():
    async def run() -> tuple[bytes, grpc.StatusCode]:
        options = (("grpc.max_allowed_incoming_connections", 1), ("grpc.max_receive_message_length", 10))
        async with RpcServer("127.0.0.1:0", more_options=options) as server, open_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)).status == SERVING
            told = await read_silently(server)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.Check(health_pb2.HealthCheckRequest(service="x" * 100), timeout=30)
            return told, error.value.code()

    assert asyncio.run(run()) == (b"", grpc.StatusCode.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_stream"])
def test_a_request_that_is_no_message_is_refused_in_a_line(kind, caplog):
    """The service of reflection takes a stream, the others one message."""
    method = {
        "unary_unary": f"/{SERVICE}/Forward",
        "unary_stream": f"/{SERVICE}/OpenLink",
        "stream_stream": "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }[kind]

    async def main():
        async with make_server(Echo()) as server, open_channel(f"127.0.0.1:{server.port}") as channel:
            requests = b"\xff\xff" if not kind.startswith("stream") else iter([b"\xff\xff"])
            call = getattr(channel, kind)(method)(requests)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await (call if kind.endswith("unary") else call.read())
        return refused.value

    with caplog.at_level("INFO"):
        refused = asyncio.run(main())
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request is no message: Error parsing message" in refused.details()
    assert [(record.exc_info, method in record.message) for record in caplog.records] == [(None, True)]
