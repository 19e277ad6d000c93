import asyncio

import pytest
import torch
from integration_mesh import QUARTERS, cache_bytes, run_mesh

from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.mesh.dispatch_config import TRANSPORTS, DispatchConfig


def generate_each(directory, prompts, num_tokens=48, **mesh_config) -> list[list[int]]:
    """Generate from the prompts one after the other."""

    async def run() -> list[list[int]]:
        async with run_mesh(directory, **mesh_config) as mesh:
            return [await mesh.ids(prompt, max_tokens=num_tokens, ignore_eos=True) for prompt in prompts]

    return asyncio.run(run())


def generate_together(directory, prompts, num_tokens=48, sampling=(), **mesh_config) -> list[list[int]]:
    """Generate from the prompts at the same time."""

    async def run() -> list[list[int]]:
        async with run_mesh(directory, **mesh_config) as mesh:
            jobs = (
                mesh.ids(prompt, max_tokens=num_tokens, ignore_eos=True, **dict(sampling), seed=i)
                for i, prompt in enumerate(prompts)
            )
            return await asyncio.gather(*jobs)

    return asyncio.run(run())


@pytest.mark.parametrize("group_size", [None, 64], ids=["float32", "awq"])
def test_local_equals_remote(make_mixtral, prompts, isa, group_size):
    directory = make_mixtral(group_size=group_size).directory
    local = generate_each(directory, prompts[:4], isa=isa, hosts=None)
    remote = generate_each(directory, prompts[:4], isa=isa, hosts=QUARTERS)
    assert local == remote
    assert all(len(ids) == 48 for ids in local)


@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_every_transport_gives_the_same_ids(make_mixtral, prompts, num_micro_batches):
    directory = make_mixtral(group_size=64).directory
    local = generate_together(directory, prompts, hosts=None)
    for transport in TRANSPORTS:
        dispatch = DispatchConfig(transport=transport)
        assert local == generate_together(directory, prompts, dispatch=dispatch, num_micro_batches=num_micro_batches)


def test_bfloat16_activations_travel_unchanged(make_mixtral, prompts, isa):
    directory = make_mixtral(dtype=torch.bfloat16).directory
    local = generate_each(directory, prompts[:2], isa=isa, hosts=None, dtype="bfloat16")
    assert local == generate_each(directory, prompts[:2], isa=isa, hosts=QUARTERS, dtype="bfloat16")


def test_any_placement_gives_the_same_ids(make_mixtral, prompts, isa):
    directory = make_mixtral().directory
    whole = generate_each(directory, prompts[:3], isa=isa, hosts=[range(8)])
    assert whole == generate_each(directory, prompts[:3], isa=isa, hosts=[[expert] for expert in range(8)])
    assert whole == generate_each(directory, prompts[:3], isa=isa, hosts=[range(8), range(8), (0, 3, 5)])


def test_batched_equals_single(make_mixtral, prompts, isa):
    directory = make_mixtral().directory
    assert generate_together(directory, prompts, isa=isa) == generate_each(directory, prompts, isa=isa)


def test_preempted_equals_undisturbed(make_mixtral, prompts, isa):
    directory = make_mixtral().directory
    tight = generate_together(
        directory, prompts, isa=isa, hosts=None, kv_cache_bytes=cache_bytes(20, isa), max_model_len=128
    )
    assert tight == generate_each(directory, prompts, isa=isa, hosts=None)


def test_chunked_equals_whole(make_mixtral, prompts, isa):
    directory = make_mixtral().directory
    chunked = generate_together(
        directory, prompts, isa=isa, hosts=None, scheduler=SchedulerConfig(max_num_batched_tokens=7)
    )
    assert chunked == generate_each(directory, prompts, isa=isa, hosts=None)


def test_seeded_sampling_does_not_depend_on_neighbours(make_mixtral, prompts, isa):
    directory = make_mixtral().directory
    sampling = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}.items()
    together = generate_together(directory, prompts, isa=isa, sampling=sampling)

    async def alone() -> list[int]:
        async with run_mesh(directory, isa=isa) as mesh:
            return await mesh.ids(prompts[5], max_tokens=48, ignore_eos=True, seed=5, **dict(sampling))

    assert together[5] == asyncio.run(alone())
    greedy = generate_together(directory, prompts[5:6], isa=isa)
    assert together[5] != greedy[0]
