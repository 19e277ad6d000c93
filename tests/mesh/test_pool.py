"""The pool against small gRPC servers that answer every call with a failure of one kind, or with nothing."""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from following import ToldDiscovery, until

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.mesh.health import MAX_CONSECUTIVE_ERRORS
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.rpc.server import RpcServer
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, encode_response
from expertmesh.wire.failures import CallFailure, FailureCode
from expertmesh.wire.info import ServerInfo, decode_info, encode_info

CALL = ExpertCall(0, torch.zeros(1, 8), np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32))
INFO = ServerInfo("model", (0,), 1, 1, 8, "none", "reference", "cpu", 0, "0", "", False)


class FailingExperts(expert_pb2_grpc.ExpertServiceServicer):
    """Hosts expert 0, says what cannot be ``num_lies`` times, and answers each call with ``code``, if there is one."""

    def __init__(self, code: FailureCode | None, num_lies: int = 0) -> None:
        self._code = code
        self.num_lies = num_lies

    async def GetInfo(self, request: expert_pb2.GetInfoRequest, context) -> expert_pb2.GetInfoResponse:
        self.num_lies -= 1
        return encode_info(INFO if self.num_lies < 0 else replace(INFO, experts=(0, 4_000_000_000)))

    async def Dispatch(self, requests: AsyncIterable[expert_pb2.DispatchRequest], context) -> None:
        async for request in requests:
            if self._code is not None:
                await context.write(encode_response(request.request_id, CallFailure(self._code, "as told")))


@dataclass
class Pooled:
    """A pool that is connected to servers, and its replicas in the order of these."""

    pool: ReplicaPool
    discovery: ToldDiscovery
    servers: list[RpcServer]
    replicas: list[Replica]


async def start_server(stack: AsyncExitStack, experts: FailingExperts) -> RpcServer:
    """Run a server for as long as ``stack`` is open."""
    server = RpcServer("127.0.0.1:0")
    add = expert_pb2_grpc.add_ExpertServiceServicer_to_server
    server.register("expertmesh.v1.ExpertService", add, experts)
    await server.start()
    stack.push_async_callback(server.drain, 0.1)
    return server


@asynccontextmanager
async def pool_of(*codes: FailureCode | None, num_lies: int = 0) -> AsyncIterator[Pooled]:
    """Run a server for each code, and a pool that knows all, once they tell no lies any more."""
    async with AsyncExitStack() as stack:
        servers = [await start_server(stack, FailingExperts(code, num_lies)) for code in codes]
        addresses = [server.address for server in servers]
        discovery = ToldDiscovery(*addresses)
        pool = ReplicaPool(discovery, "model")
        following = asyncio.create_task(pool.run())
        async with asyncio.timeout(20):
            await pool.wait_until(lambda: len(pool.ready(0)) == len(codes))
        replicas = sorted(pool.replicas, key=lambda replica: addresses.index(replica.endpoint))
        yield Pooled(pool, discovery, servers, replicas)
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


def fail_call(replica: Replica) -> None:
    with pytest.raises(CallFailure, match="as told"):
        replica.receive(replica.send(CALL), timeout_seconds=20)


def test_a_replica_that_fails_again_and_again_is_left_alone_and_comes_back():
    async def run() -> None:
        async with pool_of(FailureCode.DEADLINE_EXCEEDED, FailureCode.BUSY) as mesh:
            pool, [failing, busy] = mesh.pool, mesh.replicas
            for _ in range(MAX_CONSECUTIVE_ERRORS):
                assert set(pool.ready(0)) == {failing, busy}
                await asyncio.to_thread(fail_call, failing)
            assert pool.ready(0) == [busy]
            async with asyncio.timeout(20):
                await pool.wait_until(lambda: len(pool.ready(0)) == 2)
            assert failing.started_at == failing.health.ejected_until

    asyncio.run(run())


@pytest.mark.parametrize("error", [None, AttributeError("what nobody thought of")], ids=["damaged", "unexpected"])
def test_a_damaged_answer_about_a_server_is_not_the_end_of_its_replica(error, monkeypatch, caplog):
    def fail_once(message: expert_pb2.GetInfoResponse) -> ServerInfo:
        monkeypatch.setattr("expertmesh.mesh.open_link.decode_info", decode_info)
        raise error

    async def run() -> None:
        if error:
            monkeypatch.setattr("expertmesh.mesh.open_link.decode_info", fail_once)
        async with pool_of(FailureCode.BUSY, num_lies=0 if error else 2) as mesh:
            [replica] = mesh.replicas
            assert replica.state is ReplicaState.READY

    asyncio.run(run())
    assert ("an unexpected error ended its connection" in caplog.text) is bool(error)


def test_a_replica_that_drains_gets_nothing_new():
    async def run() -> None:
        async with pool_of(FailureCode.DRAINING, FailureCode.BUSY) as mesh:
            pool, [draining, busy] = mesh.pool, mesh.replicas
            await asyncio.to_thread(fail_call, draining)
            assert pool.ready(0) == [busy]
            assert not draining.is_ready

    asyncio.run(run())


def test_what_does_not_come_in_time_may_still_come_until_it_is_given_up():
    async def run() -> None:
        async with pool_of(None) as mesh:
            [replica] = mesh.replicas
            ticket = replica.send(CALL)
            with pytest.raises(TimeoutError, match="did not answer in time"):
                await asyncio.to_thread(replica.receive, ticket, timeout_seconds=0.05)
            assert (replica.inflight_rows, replica.is_ready) == (1, True)
            replica.give_up(ticket)
            assert (replica.inflight_rows, replica.is_ready, replica.health.num_ejections) == (0, True, 1)

    asyncio.run(run())


def test_a_server_that_ends_is_not_ready_and_what_it_owes_is_lost():
    async def run() -> None:
        async with pool_of(None) as mesh:
            [replica] = mesh.replicas
            receiving = asyncio.create_task(asyncio.to_thread(replica.receive, replica.send(CALL), 20))
            await asyncio.sleep(0.05)
            await mesh.servers[0].drain(0)
            with pytest.raises(LinkLostError, match=replica.endpoint):
                await receiving
            assert not mesh.pool.ready(0)

    asyncio.run(run())


def test_a_replica_that_owes_an_answer_retires_after_it():
    async def run() -> None:
        async with pool_of(FailureCode.BUSY) as mesh:
            [replica] = mesh.replicas
            assert replica.hold()
            mesh.discovery.say()
            await until(lambda: not mesh.pool.ready(0))
            assert replica.state is ReplicaState.RETIRED
            await asyncio.sleep(0.1)
            await asyncio.to_thread(fail_call, replica)
            assert list(mesh.pool.replicas) == [replica]
            replica.release()
            await until(lambda: not mesh.pool.replicas)

    asyncio.run(run())


def test_the_end_of_a_pool_wakes_those_who_wait():
    async def run() -> None:
        pool = ReplicaPool(StaticDiscovery(frozenset()), "model")
        following = asyncio.create_task(pool.run())
        waiting = asyncio.create_task(asyncio.to_thread(pool.roster.wait_for, 0, 20))
        await asyncio.sleep(0.05)
        following.cancel()
        async with asyncio.timeout(30):
            assert not await waiting

    asyncio.run(run())


def test_who_wants_a_direct_link_that_a_server_lacks_is_told_once(caplog):
    async def run() -> None:
        async with AsyncExitStack() as stack:
            server = await start_server(stack, FailingExperts(None))
            pool = ReplicaPool(StaticDiscovery(frozenset({server.address})), "model", transport="direct")
            following = asyncio.create_task(pool.run())
            await asyncio.sleep(1)  # for some attempts
            assert not pool.ready(0)
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    asyncio.run(run())
    ours = [record for record in caplog.records if record.name.startswith("expertmesh.")]
    [message] = [record.message for record in ours if record.levelno >= logging.WARNING]
    assert "no direct link" in message
    assert "choose the transport auto" in message
