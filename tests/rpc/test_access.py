import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from expertmesh.errors import ForbiddenError, UnauthenticatedError
from expertmesh.rpc.access import RequireAuthorization
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.forwarded import parse_proxies
from expertmesh.rpc.server import RpcServer
from expertmesh.v1 import expert_pb2, expert_pb2_grpc

SERVICE = "expertmesh.v1.ExpertService"


class Open(expert_pb2_grpc.ExpertServiceServicer):
    async def GetInfo(self, request, context):
        return expert_pb2.GetInfoResponse(version="open")

    async def Dispatch(self, request_iterator, context):
        yield expert_pb2.DispatchResponse(request_id=1)


def check(method: str, authorization: str) -> None:
    if authorization not in ("word", "small word"):
        raise UnauthenticatedError("say the word", "unknown")
    if authorization == "small word" and method.endswith("Dispatch"):
        raise ForbiddenError(f"too small for {method}", "small")


def with_server(use, refused=None, proxies=""):
    def note(error, address) -> None:
        if refused is not None:
            refused.append((error.reason, address))

    async def main():
        server = RpcServer("127.0.0.1:0", [RequireAuthorization(check, note, parse_proxies(proxies))])
        server.register(SERVICE, expert_pb2_grpc.add_ExpertServiceServicer_to_server, Open())
        async with server, open_channel(server.address) as channel:
            return await use(channel)

    return asyncio.run(main())


def test_with_the_word_everything_is_open():
    async def use(channel):
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        metadata = (("authorization", "word"),)
        info = await stub.GetInfo(expert_pb2.GetInfoRequest(), metadata=metadata)
        return info.version, [response.request_id async for response in stub.Dispatch(iter(()), metadata=metadata)]

    assert with_server(use) == ("open", [1])


@pytest.mark.parametrize("metadata", [(), (("authorization", "other"),), (("x-authorization", "word"),)])
def test_without_it_no_service_of_ours_answers(metadata):
    async def use(channel):
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await stub.GetInfo(expert_pb2.GetInfoRequest(), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            await stub.Dispatch(iter(()), metadata=metadata).read()
        return {error.value.code() for error in (unary, stream)}, unary.value.details()

    refused = []
    assert with_server(use, refused) == ({grpc.StatusCode.UNAUTHENTICATED}, "say the word")
    assert refused == [("unknown", "127.0.0.1")] * 2


def test_a_word_may_open_some_rpcs_only():
    async def use(channel):
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        metadata = (("authorization", "small word"),)
        await stub.GetInfo(expert_pb2.GetInfoRequest(), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Dispatch(iter(()), metadata=metadata).read()
        return error.value.code(), error.value.details()

    refused = []
    assert with_server(use, refused) == (grpc.StatusCode.PERMISSION_DENIED, f"too small for /{SERVICE}/Dispatch")
    assert refused == [("small", "127.0.0.1")]


@pytest.mark.parametrize(("proxies", "address"), [("", "127.0.0.1"), ("127.0.0.0/8", "198.51.100.7")])
def test_a_proxy_says_who_was_refused(proxies, address):
    async def use(channel):
        metadata = (("x-forwarded-for", "203.0.113.5"), ("x-forwarded-for", "198.51.100.7"))
        with pytest.raises(grpc.aio.AioRpcError):
            await expert_pb2_grpc.ExpertServiceStub(channel).GetInfo(expert_pb2.GetInfoRequest(), metadata=metadata)

    refused = []
    with_server(use, refused, proxies)
    assert refused == [("unknown", address)]


def test_health_and_reflection_stay_open():
    async def use(channel):
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        return health.status, len((await call.read()).list_services_response.service)

    assert with_server(use) == (health_pb2.HealthCheckResponse.SERVING, 3)
