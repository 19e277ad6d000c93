"""Replicas that come, go and drain under load: every request is answered, with the text of an undisturbed mesh."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from fake_api_server import SELECTOR, FakeApiServer, listen, make_slice, pod
from following import ToldDiscovery, until
from integration_mesh import QUARTERS, Mesh, run_mesh, start_expert
from kubernetes.aio.client import Configuration

from expertmesh.discovery.endpoints import Discovery
from expertmesh.discovery.kubernetes import KubernetesDiscovery
from expertmesh.discovery.slice_api import SliceQuery
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.replica import Replica

NUM_CLIENTS = 3


@pytest.fixture(scope="module")
def directory(make_mixtral) -> Path:
    return make_mixtral().directory


async def ask(mesh: Mesh, prompt: Sequence[int]) -> list[int]:
    return await mesh.ids(prompt, max_tokens=24, ignore_eos=True)


def undisturbed(directory: Path, prompts: list[list[int]]) -> list[list[int]]:
    async def run() -> list[list[int]]:
        async with run_mesh(directory, hosts=None) as mesh:
            return [await ask(mesh, prompt) for prompt in prompts]

    return asyncio.run(run())


@asynccontextmanager
async def load(mesh: Mesh, prompts: list[list[int]]) -> AsyncIterator[list[list[list[int]]]]:
    """Ask without a pause inside the ``async with``; yields the answers by prompt, complete after it."""
    answers: list[list[list[int]]] = [[] for _ in prompts]
    is_over = False

    async def client(number: int) -> None:
        while not is_over:
            answers[number].append(await ask(mesh, prompts[number]))

    async with asyncio.TaskGroup() as clients:
        for number in range(len(prompts)):
            clients.create_task(client(number))
        yield answers
        is_over = True


def replica_at(mesh: Mesh, address: str) -> Replica | None:
    assert mesh.gateway.pool is not None
    return next((replica for replica in mesh.gateway.pool.replicas if replica.endpoint == address), None)


async def until_called(mesh: Mesh, address: str) -> Replica:
    """Wait until the replica has answered a few calls, and return it."""
    await until(lambda: (found := replica_at(mesh, address)) is not None and found.stats.num_calls > 5)
    replica = replica_at(mesh, address)
    assert replica is not None
    return replica


@asynccontextmanager
async def servers(directory: Path, *hosts: Sequence[int]) -> AsyncIterator[list[tuple[AsyncExitStack, str]]]:
    async with AsyncExitStack() as stack:
        started = [await start_expert(directory, hosted) for hosted in hosts]
        for stop, _ in started:
            stack.push_async_callback(stop.aclose)
        yield started


def assert_equal_answers(answers: list[list[list[int]]], expected: list[list[int]]) -> None:
    for found, right in zip(answers, expected, strict=True):
        assert found and all(ids == right for ids in found)


# Without any waiting: a call that fails anywhere would fail its request.
@pytest.mark.parametrize("are_terminating", [True, False], ids=["terminating", "gone"])
def test_replicas_that_come_and_go_fail_no_call(directory, prompts, are_terminating):
    async def run() -> list[list[list[int]]]:
        async with servers(directory, range(8), range(8)) as ((_, first), (_, second)):
            discovery = ToldDiscovery(first)
            strict = DispatchConfig(wait_seconds=0)
            async with (
                run_mesh(directory, (), discovery=discovery, dispatch=strict) as mesh,
                load(mesh, prompts[:NUM_CLIENTS]) as answers,
            ):
                used = []
                for stays, leaves in [(second, first), (first, second)] * 2:
                    discovery.say(stays, leaves)
                    used += [await until_called(mesh, stays), await until_called(mesh, leaves)]
                    discovery.say(stays, terminating=[leaves] if are_terminating else [])
                    await until(lambda leaves=leaves: replica_at(mesh, leaves) is None)
            assert {replica.stats.num_failed_calls for replica in used} == {0}
            return answers

    assert_equal_answers(asyncio.run(run()), undisturbed(directory, prompts[:NUM_CLIENTS]))


def test_draining_every_server_in_turn_fails_no_request(directory, prompts):
    async def run() -> list[list[list[int]]]:
        async with servers(directory, *QUARTERS, *QUARTERS) as started, AsyncExitStack() as successors:
            discovery = ToldDiscovery(*(address for _, address in started))
            async with (
                run_mesh(directory, (), discovery=discovery) as mesh,
                load(mesh, prompts[:NUM_CLIENTS]) as answers,
            ):
                for (stop, address), hosted in zip(started[:4], QUARTERS, strict=True):
                    await until_called(mesh, address)
                    # Nobody told the gateway before.
                    await stop.aclose()
                    again, _ = await start_expert(directory, hosted, listen=address)
                    successors.push_async_callback(again.aclose)
                    await until(lambda address=address: bool((found := replica_at(mesh, address)) and found.is_ready))
            return answers

    assert_equal_answers(asyncio.run(run()), undisturbed(directory, prompts[:NUM_CLIENTS]))


def test_pods_of_kubernetes_are_followed_and_requests_do_not_need_the_api_server(directory, prompts):
    def make(name: str, address: str, **conditions: bool) -> dict:
        host, _, port = address.rpartition(":")
        return make_slice(name, pod(host, **conditions), port=int(port))

    def follow(api_server: FakeApiServer) -> Discovery:
        async def set_host(configuration: Configuration) -> None:
            configuration.host = api_server.url
            configuration.api_key["BearerToken"] = f"Bearer {api_server.token}"

        return KubernetesDiscovery(SliceQuery("mesh", SELECTOR), "grpc", set_host)

    async def run() -> list[list[list[int]]]:
        api_server = FakeApiServer()
        async with AsyncExitStack() as up, servers(directory, range(8), range(8)) as ((stop, first), (_, second)):
            await up.enter_async_context(listen(api_server))
            api_server.put(make("experts-a", first))
            discovery = follow(api_server)
            async with (
                run_mesh(directory, (), discovery=discovery, dispatch=DispatchConfig(wait_seconds=0)) as mesh,
                load(mesh, prompts[:NUM_CLIENTS]) as answers,
            ):
                await until(lambda: api_server.num_watches == 1)
                api_server.put(make("experts-b", second))
                await until_called(mesh, second)
                api_server.put(make("experts-a", first, ready=False, serving=True, terminating=True))
                await until(lambda: replica_at(mesh, first) is None)
                await stop.aclose()
                await up.aclose()
                assert mesh.gateway.pool is not None
                pool = mesh.gateway.pool
                await until(lambda: pool.discovery_age_seconds > 1)
            return answers

    assert_equal_answers(asyncio.run(run()), undisturbed(directory, prompts[:NUM_CLIENTS]))
