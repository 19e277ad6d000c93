"""LoadService through a real mesh and its client."""

import asyncio
from contextlib import aclosing

import pytest
from integration_mesh import run_mesh

from expertmesh.client import LoadUpdate
from expertmesh.errors import InvalidRequestError

FIXED = {"max_tokens": 8, "ignore_eos": True}


@pytest.fixture
def directory(make_mixtral):
    return make_mixtral().directory


def test_load_says_what_the_gateway_and_its_replicas_did(directory, prompts):
    async def run() -> None:
        async with run_mesh(directory, hosts=[(0, 1, 2, 3), (4, 5, 6, 7)]) as mesh:
            await mesh.ids(prompts[0], **FIXED)
            load = await mesh.client.load()
            assert (load.gateway.prompt_tokens, load.gateway.generation_tokens) == (len(prompts[0]), 8)
            assert (load.gateway.running, load.gateway.waiting, load.gateway.kv_cache_usage) == (0, 0, 0)
            assert sum(expert.tokens for expert in load.experts) == (len(prompts[0]) + 7) * 2 * 2
            assert {tuple(expert.replicas.items()) for expert in load.experts} == {(("ready", 1),)}
            for replica in load.replicas:
                assert replica.state == "ready"
                assert 0 < replica.compute_p50_ns <= replica.latency_p99_ns
                assert replica.latency_p50_ns <= replica.latency_p99_ns
                hosted = [load.experts[expert] for expert in replica.experts]
                assert {(e.latency_p50_ns, e.latency_p99_ns) for e in hosted} == {
                    (replica.latency_p50_ns, replica.latency_p99_ns)
                }

    asyncio.run(run())


def test_watching_gives_the_load_at_once_and_then_rates(directory, prompts):
    async def run() -> list[LoadUpdate]:
        async with run_mesh(directory, hosts=None) as mesh, aclosing(mesh.client.watch_load(0.1)) as updates:
            seen = [await anext(updates)]
            await mesh.ids(prompts[0], **FIXED)
            while sum(expert.tokens for expert in seen[-1].load.experts) < (len(prompts[0]) + 7) * 2 * 2:
                seen.append(await anext(updates))
            return seen

    first, *later = asyncio.run(run())
    assert first.rates is None
    assert sum(expert.tokens for expert in first.load.experts) == 0
    assert all(update.rates.seconds >= 0.1 for update in later)
    generated = sum(update.rates.generation_tokens_per_second * update.rates.seconds for update in later)
    assert generated == pytest.approx(8)
    for expert in range(8):
        rows = sum(update.rates.experts[expert].tokens_per_second * update.rates.seconds for update in later)
        assert rows == pytest.approx(later[-1].load.experts[expert].tokens)


@pytest.mark.parametrize("seconds", [0.01, 61.0, -1.0])
def test_an_interval_out_of_range_is_refused(directory, seconds):
    async def run() -> None:
        async with run_mesh(directory, hosts=None) as mesh:
            with pytest.raises(InvalidRequestError, match="interval_ms|WatchLoadRequest"):
                await anext(mesh.client.watch_load(seconds))

    asyncio.run(run())


def test_a_replica_that_is_gone_is_known_and_not_ready(directory):
    async def run() -> None:
        async with run_mesh(directory, hosts=[(0, 1, 2, 3), (4, 5, 6, 7)]) as mesh:
            await mesh.experts[0].aclose()
            async with asyncio.timeout(20), aclosing(mesh.client.watch_load(0.1)) as updates:
                async for update in updates:
                    if update.load.experts[0].ready_replicas == 0:
                        break
            assert [expert.replicas for expert in update.load.experts] == [{"connecting": 1}] * 4 + [{"ready": 1}] * 4

    asyncio.run(run())
