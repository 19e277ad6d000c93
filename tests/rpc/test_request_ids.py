import asyncio

import grpc
import pytest

from expertmesh.errors import AccessDeniedError, QueueFullError, UnauthenticatedError
from expertmesh.rpc.access import RequireAuthorization
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.forwarded import Proxies
from expertmesh.rpc.metadata import REQUEST_ID_KEY, choose_request_id
from expertmesh.rpc.request_ids import RequestIds
from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.status import report_errors
from expertmesh.v1 import expert_pb2, expert_pb2_grpc

SERVICE = expert_pb2.DESCRIPTOR.services_by_name["ExpertService"].full_name
KEY = ("authorization", "Bearer sesame")


class Service(expert_pb2_grpc.ExpertServiceServicer):
    """Answers one rpc and fails at the other; ``names`` are those of the requests."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def GetInfo(self, request, context):
        async with report_errors(context):
            raise QueueFullError("9 wait")

    async def Dispatch(self, request_iterator, context):
        self.names += [value for key, value in context.trailing_metadata() if key == REQUEST_ID_KEY]
        yield expert_pb2.DispatchResponse(request_id=1)


def check(method: str, authorization: str) -> None:
    if authorization != KEY[1]:
        raise UnauthenticatedError("another key would be right", "wrong")


def hear(error: AccessDeniedError, address: str) -> None:
    pass


async def ask(*metadata: tuple[str, str]) -> tuple[list[str], list[tuple[str, str]], grpc.StatusCode]:
    """Return the ids of a stream and of a refusal, all that trails the latter, and its status."""
    service = Service()
    server = RpcServer("127.0.0.1:0", [RequestIds(), RequireAuthorization(check, hear, Proxies())])
    server.register(SERVICE, expert_pb2_grpc.add_ExpertServiceServicer_to_server, service)
    async with server, open_channel(f"127.0.0.1:{server.port}") as channel:
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        names = []
        if KEY in metadata:
            stream = stub.Dispatch(iter(()), metadata=metadata)
            assert [response.request_id async for response in stream] == [1]
            names.append((await stream.trailing_metadata())[REQUEST_ID_KEY])
            assert names == service.names
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetInfo(expert_pb2.GetInfoRequest(), metadata=metadata)
    assert not refused.value.initial_metadata(), "an answer that has begun is not retried"
    trailing = refused.value.trailing_metadata()
    return [*names, trailing[REQUEST_ID_KEY]], list(trailing), refused.value.code()


def test_every_status_names_its_request_and_a_refusal_says_when_to_come_back_too():
    names, trailing, code = asyncio.run(ask(KEY, (REQUEST_ID_KEY, "job 7")))
    assert (names, code) == (["job 7", "job 7"], grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "grpc-retry-pushback-ms" in dict(trailing)


def test_rpcs_without_a_name_get_one_each():
    names, _, _ = asyncio.run(ask(KEY))
    assert len(set(names)) == 2
    assert all(len(name) == 32 for name in names)


def test_strangers_hear_the_name_too():
    names, _, code = asyncio.run(ask((REQUEST_ID_KEY, "job 7")))
    assert (names, code) == (["job 7"], grpc.StatusCode.UNAUTHENTICATED)


@pytest.mark.parametrize("given", ["", "a" * 129, "a\tb", "é", "a\x7f"])
def test_a_name_that_is_not_sane_is_replaced(given):
    assert choose_request_id(given) != given
    assert choose_request_id("a" * 128) == "a" * 128
