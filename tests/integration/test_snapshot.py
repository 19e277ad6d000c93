"""A snapshot of a mesh at work, and what becomes of it when it is sent elsewhere."""

import asyncio
import random
import time
from contextlib import AsyncExitStack

import msgspec
from integration_mesh import Mesh, run_mesh, start_expert

from expertmesh.gateway.snapshot import Snapshot
from expertmesh.gateway.state import take_snapshot
from expertmesh.mesh.health import MAX_CONSECUTIVE_ERRORS
from expertmesh.mesh.replica_state import ReplicaState


async def snapshot_in_flight(mesh: Mesh) -> Snapshot:
    """Take one while rows are on their way to replicas."""
    async with asyncio.timeout(20):
        while True:
            snapshot = take_snapshot(mesh.gateway.core.state)
            if any(expert.inflight_rows for expert in snapshot.mesh.experts):
                return snapshot
            await asyncio.sleep(0)


def test_what_is_decoded_equals_what_was_taken_from_a_busy_mesh(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> Snapshot:
        async with AsyncExitStack() as stack:
            addresses = ["127.0.0.1:1"]
            for experts in ((0, 1, 2, 3), (4, 5, 6, 7)):
                server, address = await start_expert(directory, experts, chaos_delay_seconds=0.02)
                await stack.enter_async_context(server)
                addresses.append(address)
            mesh = await stack.enter_async_context(run_mesh(directory, (), addresses))
            await mesh.ids(prompts[0], max_tokens=4, ignore_eos=True)
            asking = asyncio.create_task(mesh.ids(prompts[1], max_tokens=50, ignore_eos=True))
            snapshot = await snapshot_in_flight(mesh)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            return snapshot

    snapshot = asyncio.run(run())
    assert msgspec.msgpack.Decoder(Snapshot).decode(msgspec.msgpack.encode(snapshot)) == snapshot
    engine, mesh = snapshot.engine, snapshot.mesh
    assert (engine.num_running, engine.num_finished["length"]) == (1, 1)
    assert engine.kv_cache_usage > 0
    assert sum(engine.step_seconds.counts) >= 4
    assert sorted(replica.experts for replica in mesh.replicas) == [(), (0, 1, 2, 3), (4, 5, 6, 7)]
    for replica in mesh.replicas:
        assert replica.is_ready == (replica.state is ReplicaState.READY) == bool(replica.experts)
        assert len(replica.recent) == replica.num_calls
        assert bool(replica.recent) == replica.is_ready
    assert (
        {expert.num_ready for expert in mesh.experts}
        == {expert.replicas[ReplicaState.READY] for expert in mesh.experts}
        == {1}
    )


def test_an_ejected_replica_that_is_the_last_one_is_ready_and_says_that_it_is_ejected(make_mixtral):
    directory = make_mixtral().directory

    async def run() -> Snapshot:
        async with run_mesh(directory, hosts=[range(8)]) as mesh:
            [replica] = mesh.gateway.pool.replicas
            for _ in range(MAX_CONSECUTIVE_ERRORS):
                replica.health = replica.health.after_error(time.monotonic(), random.Random(0))
            return take_snapshot(mesh.gateway.core.state)

    mesh = asyncio.run(run()).mesh
    assert [(replica.is_ready, replica.state) for replica in mesh.replicas] == [(True, ReplicaState.EJECTED)]
    assert {(expert.num_ready, expert.replicas[ReplicaState.EJECTED]) for expert in mesh.experts} == {(1, 1)}
