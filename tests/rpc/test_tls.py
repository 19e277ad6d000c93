"""gRPC servers with TLS: who is let in, under which certificate, and what is new once files change."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from certificates import EXPERTS, GATEWAY, SPIFFE, Authority, replace_file
from following import until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from expertmesh.errors import ConfigError
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.tls import open_client, open_server
from expertmesh.rpc.tls_failures import explain_failure
from expertmesh.settings.tls import ClientTls, ServerTls
from expertmesh.v1 import expert_pb2, expert_pb2_grpc, tensor_pb2

SERVICE = "expertmesh.v1.ExpertService"
SECONDS = 30.0


class Echo(expert_pb2_grpc.ExpertServiceServicer):
    async def GetInfo(self, request, context):
        return expert_pb2.GetInfoResponse(version="here")

    async def Forward(self, request, context):
        return expert_pb2.ForwardResponse(result=expert_pb2.ExpertResult(partial=request.call.hidden))

    async def OpenLink(self, request, context):
        yield expert_pb2.OpenLinkResponse(token=b"first")

    async def Dispatch(self, requests, context):
        async for request in requests:
            await context.write(expert_pb2.DispatchResponse(request_id=request.request_id))


@asynccontextmanager
async def serving(tls: ServerTls, **options):
    server = RpcServer("127.0.0.1:0", tls=open_server(tls), **options)
    server.register(SERVICE, expert_pb2_grpc.add_ExpertServiceServicer_to_server, Echo())
    async with server:
        yield server


async def ask(address, client: ClientTls):
    """What a new connection is answered with."""
    async with open_channel(address, open_client(client)) as channel:
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        return (await stub.GetInfo(expert_pb2.GetInfoRequest(), timeout=SECONDS)).version


async def refusal(address, client: ClientTls):
    """The status and words that a new connection ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(address, client)
    return refused.value.code(), refused.value.details()


async def ask_everything(channel, says_something=True):
    """Call a method of each kind, health and reflection; returns what each answers or raises.

    Who is refused had better not write to streams, or it may see grpc.aio fail at that: INTERNAL.
    """
    stub, health = expert_pb2_grpc.ExpertServiceStub(channel), health_pb2_grpc.HealthStub(channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)

    def stream_of(request):
        return iter([request]) if says_something else None

    streams = (
        stub.Dispatch(stream_of(expert_pb2.DispatchRequest(request_id=1)), timeout=SECONDS),
        stub.OpenLink(expert_pb2.OpenLinkRequest(), timeout=SECONDS),
        reflection.ServerReflectionInfo(stream_of(reflection_pb2.ServerReflectionRequest(list_services=""))),
    )
    calls = (
        stub.GetInfo(expert_pb2.GetInfoRequest(), timeout=SECONDS),
        stub.Forward(expert_pb2.ForwardRequest(call=expert_pb2.ExpertCall(hidden=tensor_pb2.Tensor()))),
        health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=SECONDS),
        *(stream.read() for stream in streams),
    )
    return await asyncio.gather(*calls, return_exceptions=True)


def codes(outcomes):
    return {outcome.code() if isinstance(outcome, grpc.aio.AioRpcError) else None for outcome in outcomes}


@pytest.mark.parametrize("name", [GATEWAY, SPIFFE, GATEWAY.upper()])
def test_a_named_caller_may_ask_everything(name, tmp_path):
    authority = Authority(tmp_path)

    async def main():
        async with serving(authority.server(allow=["another.test", name])) as server:
            tls = open_client(authority.client(names=["more.test", name]))
            async with open_channel(server.address, tls) as channel:
                return codes(await ask_everything(channel))

    assert asyncio.run(main()) == {None}


def test_a_caller_of_another_name_may_ask_nothing_not_even_health(tmp_path, caplog):
    authority = Authority(tmp_path)

    async def main():
        async with serving(authority.server(allow=[GATEWAY, SPIFFE])) as server:
            for names in ((f"not-{GATEWAY}",), (f"{SPIFFE}/more",), (f"x.{GATEWAY}",), ()):
                tls = open_client(authority.client(names=names))
                async with open_channel(server.address, tls) as channel:
                    assert codes(await ask_everything(channel, says_something=False)) == {
                        grpc.StatusCode.PERMISSION_DENIED
                    }
            return await refusal(server.address, authority.client(names=["someone.test"]))

    _, details = asyncio.run(main())
    assert details == f"a certificate for ['someone.test'] may not call here; one for any of {[GATEWAY, SPIFFE]} may"
    assert "refusing an rpc of ipv4:127.0.0.1" in caplog.messages[-1] and details in caplog.messages[-1]


def test_who_has_no_certificate_or_one_of_another_authority_is_not_connected(tmp_path):
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    foreign = other.issue("foreign", [GATEWAY])

    async def main():
        async with serving(authority.server(allow=[GATEWAY])) as server:
            assert await ask(server.address, authority.client()) == "here"
            return [
                await refusal(server.address, client)
                for client in (
                    ClientTls(authority.ca),
                    ClientTls(authority.ca, foreign.cert, foreign.key),
                    ClientTls(),
                    ClientTls(other.ca),
                    authority.client(server_name="else.test"),
                )
            ]

    outcomes = asyncio.run(main())
    assert {code for code, _ in outcomes} == {grpc.StatusCode.UNAVAILABLE}
    has_tls = (True, True, False, True, True)
    for (_, details), one, words in zip(
        outcomes,
        has_tls,
        (
            "wants a certificate",
            "wants a certificate",
            "speaks TLS: this end does not",
            "not of an authority",
            "another name",
        ),
        strict=True,
    ):
        assert words in explain_failure(details, one)


def test_without_authorities_everybody_is_let_in_over_tls(tmp_path):
    authority = Authority(tmp_path)
    issued = authority.issue("experts")

    async def main():
        async with serving(ServerTls(issued.cert, issued.key)) as server:
            return await ask(server.address, ClientTls(authority.ca))

    assert asyncio.run(main()) == "here"


def test_a_server_in_the_clear_is_told_from_one_with_tls(tmp_path):
    authority = Authority(tmp_path)

    async def main():
        async with serving(ServerTls()) as server:
            return await refusal(server.address, authority.client())

    code, details = asyncio.run(main())
    assert code is grpc.StatusCode.UNAVAILABLE
    assert explain_failure(details, has_tls=True) == "it speaks no TLS, this end does; both or none would be right"


@pytest.mark.parametrize("details", [None, "", "queue is full", "Socket closed", "Connection refused"])
def test_other_failures_are_not_explained_by_tls(details):
    assert explain_failure(details, True) == explain_failure(details, False) == ""


def test_health_has_a_port_of_its_own_where_there_is_nothing_else(tmp_path):
    authority = Authority(tmp_path)

    async def main():
        async with (
            serving(authority.server(allow=[GATEWAY]), health_address="127.0.0.1:0") as server,
            open_channel(server.health_address) as channel,
        ):
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            stub = health_pb2_grpc.HealthStub(channel)
            states = [(await stub.Check(request, timeout=SECONDS)).status]
            await server.set_serving(False)
            states.append((await stub.Check(request, timeout=SECONDS)).status)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await expert_pb2_grpc.ExpertServiceStub(channel).GetInfo(expert_pb2.GetInfoRequest())
            return states, refused.value.code()

    status = health_pb2.HealthCheckResponse
    assert asyncio.run(main()) == ([status.SERVING, status.NOT_SERVING], grpc.StatusCode.UNIMPLEMENTED)


def test_a_health_port_that_is_taken_is_named():
    async def main():
        async with serving(ServerTls()) as server, serving(ServerTls(), health_address=server.address):
            pass

    with pytest.raises(ConfigError, match="cannot listen on 127.0.0.1:"):
        asyncio.run(main())


def test_certificates_are_replaced_under_load_and_no_call_fails(tmp_path):
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    both, callers = tmp_path / "both.pem", tmp_path / "callers.pem"
    both.write_bytes(old.ca.read_bytes() + new.ca.read_bytes())
    callers.write_bytes(old.ca.read_bytes())
    issued, before = old.issue("experts"), old.client()

    async def main():
        async with serving(ServerTls(issued.cert, issued.key, callers, (GATEWAY,))) as server:
            load = Load(server.address, before)
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                await load.some_calls()
                # First both authorities are trusted, then the certificates change, then the old authority goes.
                replace_file(callers, both.read_bytes())
                load.client = ClientTls(both, before.cert, before.key)
                await load.some_calls()
                new.issue("experts")
                await load.some_calls()
                after = new.client("after")
                load.client = ClientTls(both, after.cert, after.key)
                await load.some_calls()
                replace_file(callers, new.ca.read_bytes())
                await load.some_calls()
                load.is_over = True
            return [
                explain_failure((await refusal(server.address, client))[1], has_tls=True)
                for client in (before, ClientTls(new.ca, before.cert, before.key))
            ]

    trusts_old, shows_old = asyncio.run(main())
    assert "not of an authority" in trusts_old and "wants a certificate, or another one" in shows_old


class Load:
    """Calls over a connection that stays, and over new ones of ``client``."""

    def __init__(self, address, client):
        self.client, self.num_calls, self.is_over = client, 0, False
        self._address, self._first = address, open_client(client)

    async def run(self):
        async with open_channel(self._address, self._first) as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            while not self.is_over:
                await stub.GetInfo(expert_pb2.GetInfoRequest(), timeout=SECONDS)
                assert await ask(self._address, self.client) == "here"
                self.num_calls += 1

    async def some_calls(self):
        wanted = self.num_calls + 3
        await until(lambda: self.num_calls >= wanted)


@pytest.mark.parametrize("name", [EXPERTS, "127.0.0.1"])
def test_a_server_is_known_by_the_name_that_is_expected_of_it(name, tmp_path):
    authority = Authority(tmp_path)

    async def main():
        async with serving(authority.server()) as server:
            return await ask(server.address, authority.client(server_name=name))

    assert asyncio.run(main()) == "here"
