import asyncio

import pytest
from integration_mesh import QUARTERS, run_mesh, start_expert

from expertmesh.errors import ExpertmeshError, GatewayError
from expertmesh.mesh.dispatch_config import DispatchConfig


def generate(mesh, prompt):
    return mesh.ids(prompt, max_tokens=400, ignore_eos=True)


async def after_some_tokens(mesh) -> None:
    """Wait until the running requests have got through some steps."""
    while mesh.gateway.core.state.stats.num_generation_tokens < 4:
        await asyncio.sleep(0.001)


def undisturbed(directory, prompt) -> list[int]:
    async def run() -> list[int]:
        async with run_mesh(directory) as mesh:
            return await generate(mesh, prompt)

    return asyncio.run(run())


def test_a_lost_replica_with_a_second_one_changes_nothing(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> list[int]:
        async with run_mesh(directory, hosts=[*QUARTERS, (0, 1)]) as mesh:
            answer = asyncio.create_task(generate(mesh, prompts[0]))
            await after_some_tokens(mesh)
            await mesh.experts[0].aclose()
            assert not answer.done()
            return await answer

    assert asyncio.run(run()) == undisturbed(directory, prompts[0])


def test_a_request_waits_for_the_only_replica_to_come_back(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> list[int]:
        async with run_mesh(directory) as mesh:
            address = mesh.gateway.pool.ready(0)[0].endpoint
            answer = asyncio.create_task(generate(mesh, prompts[0]))
            await after_some_tokens(mesh)
            await mesh.experts[0].aclose()
            await asyncio.sleep(0.5)
            assert not answer.done()
            again, _ = await start_expert(directory, (0, 1), listen=address)
            ids = await answer
            await again.aclose()
            return ids

    assert asyncio.run(run()) == undisturbed(directory, prompts[0])


def test_without_waiting_a_missing_expert_ends_the_request_and_frees_it(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> None:
        async with run_mesh(directory, dispatch=DispatchConfig(wait_seconds=0.3)) as mesh:
            await mesh.experts[1].aclose()
            with pytest.raises(GatewayError, match=r"UNAVAILABLE.*expert.* [23]"):
                await generate(mesh, prompts[0])
            assert mesh.gateway.blocks.num_free == mesh.gateway.blocks.num_blocks
            assert not mesh.gateway.scheduler.has_work

    asyncio.run(run())


def test_a_replica_of_another_model_is_never_asked(make_mixtral, prompts, caplog):
    directory = make_mixtral().directory
    other = make_mixtral(seed=1).directory

    async def run() -> list[int]:
        stranger, address = await start_expert(other, range(8))
        async with run_mesh(directory, extra=[address]) as mesh:
            ids = await generate(mesh, prompts[0])
            replica = next(r for r in mesh.gateway.pool.replicas if r.endpoint == address)
            assert not replica.is_ready
            assert replica.stats.num_calls == 0
        await stranger.aclose()
        return ids

    assert asyncio.run(run()) == undisturbed(directory, prompts[0])
    assert "refusing replica" in caplog.text


def test_a_client_that_leaves_frees_what_it_held(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> None:
        async with run_mesh(directory) as mesh:
            stays = asyncio.create_task(generate(mesh, prompts[1]))
            leaves = asyncio.create_task(generate(mesh, prompts[0]))
            await after_some_tokens(mesh)
            leaves.cancel()
            ids = await stays
            async with asyncio.timeout(30):
                while mesh.gateway.scheduler.has_work:
                    await asyncio.sleep(0.01)
            assert mesh.gateway.blocks.num_free == mesh.gateway.blocks.num_blocks
            assert ids == await generate(mesh, prompts[1])

    asyncio.run(run())


def test_nothing_is_left_running(make_mixtral, prompts):
    directory = make_mixtral().directory

    async def run() -> set[str]:
        async with run_mesh(directory) as mesh:
            await mesh.ids(prompts[0], max_tokens=3)
        await asyncio.sleep(0.1)
        current = asyncio.current_task()
        return {task.get_name() for task in asyncio.all_tasks() if task is not current}

    assert {name for name in asyncio.run(run()) if not name.startswith("Task-")} == set()
    assert issubclass(GatewayError, ExpertmeshError)
