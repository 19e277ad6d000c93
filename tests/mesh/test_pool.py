"""The pool against small gRPC servers that answer every call with a failure of one kind."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import numpy as np
import pytest
import torch

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.discovery.picker import MAX_CONSECUTIVE_ERRORS
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.mesh.replica import Replica
from expertmesh.rpc.server import RpcServer
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, encode_response
from expertmesh.wire.failures import CallFailure, FailureCode
from expertmesh.wire.info import ServerInfo, encode_info

INFO = ServerInfo("model", (0,), 1, 1, 8, "none", "reference", "cpu", 0, "0", "", False)


class FailingExperts(expert_pb2_grpc.ExpertServiceServicer):
    """Hosts expert 0 and answers each call with ``code``."""

    def __init__(self, code: FailureCode) -> None:
        self._code = code

    async def GetInfo(self, request: expert_pb2.GetInfoRequest, context) -> expert_pb2.GetInfoResponse:
        return encode_info(INFO)

    async def Dispatch(self, requests: AsyncIterable[expert_pb2.DispatchRequest], context) -> None:
        async for request in requests:
            await context.write(encode_response(request.request_id, CallFailure(self._code, "as told")))


@asynccontextmanager
async def pool_of(*codes: FailureCode) -> AsyncIterator[tuple[ReplicaPool, list[Replica]]]:
    """Run a server for each code; yields a pool that is connected to all, and its replicas in that order."""
    async with AsyncExitStack() as stack:
        addresses = []
        for code in codes:
            server = RpcServer("127.0.0.1:0")
            add = expert_pb2_grpc.add_ExpertServiceServicer_to_server
            server.register("expertmesh.v1.ExpertService", add, FailingExperts(code))
            await server.start()
            stack.push_async_callback(server.drain, 0.1)
            addresses.append(server.address)
        pool = ReplicaPool(StaticDiscovery(frozenset(addresses)), "model")
        following = asyncio.create_task(pool.run())
        async with asyncio.timeout(20):
            await pool.wait_until(lambda: len(pool.ready(0)) == len(codes))
        yield pool, sorted(pool.replicas, key=lambda replica: addresses.index(replica.endpoint))
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def fail_call(replica: Replica) -> None:
    call = ExpertCall(0, torch.zeros(1, 8), np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32))
    ticket = replica.send(call)
    with pytest.raises(CallFailure):
        await ticket.answer
    replica.settle(ticket)


@pytest.mark.parametrize("code", [FailureCode.DEADLINE_EXCEEDED, FailureCode.COMPUTE_FAILED])
def test_a_replica_that_fails_again_and_again_is_left_alone_and_comes_back(code):
    async def run() -> None:
        async with pool_of(code, FailureCode.BUSY) as (pool, (failing, busy)):
            for _ in range(MAX_CONSECUTIVE_ERRORS):
                assert set(pool.ready(0)) == {failing, busy}
                await fail_call(failing)
            assert pool.ready(0) == [busy]
            async with asyncio.timeout(20):
                await pool.wait_until(lambda: len(pool.ready(0)) == 2)
            assert failing.started_at == failing.health.ejected_until

    asyncio.run(run())


def test_the_last_replica_is_never_left_alone():
    async def run() -> None:
        async with pool_of(FailureCode.DEADLINE_EXCEEDED) as (pool, (only,)):
            for _ in range(MAX_CONSECUTIVE_ERRORS):
                await fail_call(only)
            assert pool.ready(0) == [only]

    asyncio.run(run())


@pytest.mark.parametrize("code", [FailureCode.BUSY, FailureCode.INVALID_REQUEST])
def test_refusals_do_not_count_against_a_replica(code):
    async def run() -> None:
        async with pool_of(code, FailureCode.BUSY) as (pool, (replica, _)):
            for _ in range(2 * MAX_CONSECUTIVE_ERRORS):
                await fail_call(replica)
            assert replica in pool.ready(0)
            assert replica.stats.num_failed_calls == 2 * MAX_CONSECUTIVE_ERRORS

    asyncio.run(run())


def test_a_replica_that_drains_gets_nothing_new():
    async def run() -> None:
        async with pool_of(FailureCode.DRAINING, FailureCode.BUSY) as (pool, (draining, busy)):
            await fail_call(draining)
            assert pool.ready(0) == [busy]
            assert not draining.is_ready

    asyncio.run(run())
