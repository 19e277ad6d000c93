"""Requests whose expert has lost its last replica, an expert server in a process of its own that was killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from expert_process import expert_process
from integration_mesh import run_mesh, start_expert

from expertmesh.client import Output, Sampling
from expertmesh.errors import GatewayError
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.model.no_replica import NoReplica

LOST = {7}
LONG = Sampling(max_tokens=300, ignore_eos=True)
SHORT = Sampling(max_tokens=8, ignore_eos=True)


@pytest.fixture
def mortal(make_mixtral):
    """A checkpoint, and a server of one of its experts in a process that can be killed."""
    directory = make_mixtral().directory
    with expert_process(directory, "--backend", "cpu", experts="7") as server:
        yield directory, server


@asynccontextmanager
async def mesh_with(mortal, **dispatch) -> AsyncIterator:
    directory, server = mortal
    async with run_mesh(directory, [range(7)], [server.address], dispatch=DispatchConfig(**dispatch)) as mesh:
        yield mesh


async def answer_of(mesh, prompt, sampling, policy):
    [answer] = await mesh.client.generate_answers(prompt, sampling, Output(no_replica=policy))
    return answer


async def kill_in_the_middle(mesh, server, prompt, policy, sampling=LONG):
    """Kill the server once the answer has begun; returns all pieces of it."""
    pieces = []
    async for piece in mesh.client.generate(prompt, sampling, Output(no_replica=policy)):
        if not pieces:
            server.process.kill()
            server.process.wait()
        pieces.append(piece)
    return pieces


async def lose(mesh, server):
    server.process.kill()
    while mesh.gateway.pool.ready(7):
        await asyncio.sleep(0.001)


def test_a_request_that_is_to_fail_does_so_although_the_gateway_waits(mortal, prompts):
    async def main():
        async with mesh_with(mortal, wait_seconds=3600) as mesh:
            with pytest.raises(GatewayError, match=r"UNAVAILABLE.*no replica hosts expert 7"):
                await kill_in_the_middle(mesh, mortal[1], prompts[0], "fail")
            assert not mesh.gateway.scheduler.has_work

    asyncio.run(main())


@pytest.mark.parametrize("policy", ["drop", None])
def test_a_request_goes_on_without_and_says_so(mortal, prompts, policy):
    async def main():
        default = NoReplica.WAIT if policy else NoReplica.DROP
        async with mesh_with(mortal, wait_seconds=3600, no_replica=default) as mesh:
            pieces = await kill_in_the_middle(mesh, mortal[1], prompts[0], policy)
            load = mesh.gateway.core.state.expert_load
            return pieces, [load.num_dropped[expert] for expert in range(8)]

    pieces, counts = asyncio.run(main())
    assert sum(len(piece.token_ids) for piece in pieces) == 300
    assert pieces[0].dropped_experts == {}
    dropped = [piece.dropped_experts for piece in pieces]
    assert set().union(*dropped) == LOST
    assert all(sum(piece.get(expert, 0) for piece in dropped) == counts[expert] for expert in range(8))


def test_what_was_computed_without_an_expert_is_never_reused(mortal, prompts):
    directory, server = mortal
    prompt = prompts[15] * 2

    async def undisturbed():
        async with run_mesh(directory) as mesh:
            return await mesh.ids(prompt, max_tokens=8, ignore_eos=True)

    async def main():
        async with mesh_with(mortal, wait_seconds=3600) as mesh:
            await lose(mesh, server)
            dropped = await answer_of(mesh, prompt, SHORT, "drop")
            again, _ = await start_expert(directory, sorted(LOST), listen=server.address)
            answer = await answer_of(mesh, prompt, SHORT, "wait")
            reused = await answer_of(mesh, prompt, SHORT, "wait")
            await again.aclose()
            return dropped, answer, reused

    dropped, answer, reused = asyncio.run(main())
    assert set(dropped.dropped_experts) == LOST
    assert (answer.num_cached_tokens, answer.dropped_experts) == (0, {})
    assert reused.num_cached_tokens > 0
    assert list(answer.token_ids) == list(reused.token_ids) == asyncio.run(undisturbed())


def test_one_fails_although_another_waits(mortal, prompts):
    directory, server = mortal

    async def undisturbed():
        async with run_mesh(directory) as mesh:
            return await mesh.ids(prompts[1], max_tokens=8, ignore_eos=True)

    async def main():
        async with mesh_with(mortal, wait_seconds=3600) as mesh:
            await lose(mesh, server)
            waiting = asyncio.create_task(answer_of(mesh, prompts[1], SHORT, "wait"))
            while not mesh.gateway.scheduler.has_work:
                await asyncio.sleep(0.001)
            with pytest.raises(GatewayError, match="no replica hosts expert"):
                await answer_of(mesh, prompts[0], SHORT, "fail")
            assert not waiting.done()
            again, _ = await start_expert(directory, sorted(LOST), listen=server.address)
            answer = await waiting
            await again.aclose()
            return list(answer.token_ids)

    assert asyncio.run(main()) == asyncio.run(undisturbed())
