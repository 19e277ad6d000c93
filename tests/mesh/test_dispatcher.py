"""Dispatch and combine against real expert servers in this process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from integration_mesh import QUARTERS, start_expert
from spans import keeping

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.errors import ComputeError, ExpertUnavailableError
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.model.experts import LayerCall, LocalExperts

HIDDEN, NUM_EXPERTS = 128, 8


@pytest.fixture(scope="module")
def directory(make_mixtral) -> Path:
    return make_mixtral().directory


def make_step(num_rows: int, seed: int = 0, layer: int = 1) -> LayerCall:
    generator = torch.Generator().manual_seed(seed)
    topk_ids = torch.rand(num_rows, NUM_EXPERTS, generator=generator).argsort(1)[:, :2]
    topk_weights = torch.rand(num_rows, 2, generator=generator)
    return LayerCall(layer, torch.randn(num_rows, HIDDEN, generator=generator), topk_ids, topk_weights)


def run_local(directory: Path, step: LayerCall) -> torch.Tensor:
    checkpoint = Checkpoint.open(directory)
    backend = ReferenceBackend(torch.device("cpu"))
    local = LocalExperts.load(checkpoint.model, checkpoint, backend)
    return asyncio.run(local(step))


@asynccontextmanager
async def serving(
    directory: Path, hosts: Sequence[Sequence[int]]
) -> AsyncIterator[tuple[ReplicaPool, list[AsyncExitStack]]]:
    """Run an expert server for each of ``hosts`` and a pool that knows them all; yields what stops each, too."""
    async with AsyncExitStack() as stack:
        servers = [await start_expert(directory, hosted) for hosted in hosts]
        for stop, _ in servers:
            stack.push_async_callback(stop.aclose)
        endpoints = frozenset(address for _, address in servers)
        pool = ReplicaPool(StaticDiscovery(endpoints), fingerprint(Checkpoint.open(directory)))
        following = asyncio.create_task(pool.run())
        async with asyncio.timeout(20):
            await pool.wait_until(lambda: sum(replica.is_ready for replica in pool.replicas) == len(hosts))
        yield pool, [stop for stop, _ in servers]
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


@pytest.mark.parametrize(
    "hosts",
    [(range(8),), QUARTERS, ((0, 2, 4, 6), (1, 3, 5, 7)), (*QUARTERS, (0, 1), range(8))],
    ids=["one server", "pairs", "interleaved", "replicas"],
)
@pytest.mark.parametrize("max_message_bytes", [2**20, 3 * HIDDEN * 4])
def test_remote_experts_equal_local_ones(directory, hosts, max_message_bytes):
    steps = [make_step(num_rows, seed=num_rows) for num_rows in (1, 2, 33)]

    async def run() -> list[torch.Tensor]:
        async with serving(directory, hosts) as (pool, _):
            remote = RemoteExperts(pool, DispatchConfig(max_message_bytes=max_message_bytes), ExpertLoadCounter(10, 8))
            answers = [await remote(step) for step in steps]
            assert {replica.inflight_rows for replica in pool.replicas} == {0}
            return answers

    for step, answer in zip(steps, asyncio.run(run()), strict=True):
        torch.testing.assert_close(answer, run_local(directory, step), rtol=1e-5, atol=1e-6)


def test_a_replica_gets_each_row_once_and_only_rows_that_chose_its_experts(directory):
    step = replace(make_step(3, layer=0), topk_ids=torch.tensor([[0, 1], [0, 2], [2, 3]]))

    async def run() -> list[int]:
        async with serving(directory, QUARTERS) as (pool, _):
            remote = RemoteExperts(pool, DispatchConfig(), ExpertLoadCounter(1, 8))
            answer = asyncio.ensure_future(remote(step))
            while not (answer.done() or any(replica.inflight_rows for replica in pool.replicas)):
                await asyncio.sleep(0)
            sent = [pool.ready(expert)[0].inflight_rows for expert in (0, 2, 4, 6)]
            await answer
            return sent

    assert asyncio.run(run()) == [2, 2, 0, 0]


def test_another_replica_gives_the_same_bytes(directory):
    step = make_step(16)

    async def run() -> list[torch.Tensor]:
        async with serving(directory, [*QUARTERS, (0, 1)]) as (pool, stops):
            remote = RemoteExperts(pool, DispatchConfig(), ExpertLoadCounter(10, 8))
            before = await remote(step)
            await stops[0].aclose()
            return [before, await remote(step)]

    assert torch.equal(*asyncio.run(run()))


def test_an_expert_that_nobody_hosts_is_named(directory):
    step = replace(make_step(1), topk_ids=torch.tensor([[0, 7]]))

    async def run() -> None:
        async with serving(directory, QUARTERS[:3]) as (pool, _):
            remote = RemoteExperts(pool, DispatchConfig(wait_seconds=0.1), ExpertLoadCounter(10, 8))
            with pytest.raises(ExpertUnavailableError, match=r"expert 7; waited 0\.1 s"):
                await remote(step)
            assert {replica.inflight_rows for replica in pool.replicas} == {0}

    asyncio.run(run())


def test_what_no_replica_could_answer_is_not_asked_again(directory):
    step = make_step(4, layer=9)

    async def run() -> None:
        async with serving(directory, [range(8)]) as (pool, _):
            with pytest.raises(ComputeError, match="layer 9 on 127.0.0.1"):
                await RemoteExperts(pool, DispatchConfig(), ExpertLoadCounter(10, 8))(step)
            (replica,) = pool.replicas
            assert (replica.stats.num_failed_calls, replica.inflight_rows) == (1, 0)

    asyncio.run(run())


def test_a_call_whose_answer_nobody_waits_for_ends_its_span(directory):
    async def run() -> list[str]:
        with keeping() as kept:
            async with serving(directory, QUARTERS) as (pool, _):
                remote = RemoteExperts(pool, DispatchConfig(), ExpertLoadCounter(10, 8), tracer=kept.tracer)
                parent = kept.tracer.start("layer dispatch", "", {})
                asking = asyncio.ensure_future(remote(replace(make_step(4), traceparent=parent.traceparent)))
                while not (asking.done() or any(replica.inflight_rows for replica in pool.replicas)):
                    await asyncio.sleep(0)
                num_calls = sum(replica.inflight_rows > 0 for replica in pool.replicas)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            assert [span.name for span in kept.spans] == ["expert rpc"] * num_calls
            return [str(span.attributes["error.type"]) for span in kept.spans]

    assert set(asyncio.run(run())) == {"CancelledError"}
