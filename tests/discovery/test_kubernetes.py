"""The official client against a fake API server that misbehaves."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from fake_api_server import SELECTOR, FakeApiServer, listen, make_slice, pod, run_api_server
from following import until
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config
from waiting import no_thread_left

from expertmesh.discovery.endpoints import Endpoints
from expertmesh.discovery.kubernetes import KubernetesDiscovery
from expertmesh.discovery.slice_api import SliceQuery
from expertmesh.errors import ConfigError

A, B, C = "10.0.0.1:50051", "10.0.0.2:50051", "10.0.0.3:50051"


def pods(*numbers: int) -> list[dict]:
    return [pod(f"10.0.0.{number}") for number in numbers]


def test_lists_in_pages_then_follows_the_watch(follow):
    async def run() -> list[Endpoints]:
        async with run_api_server(page_size=2) as server:
            for number in range(1, 6):
                server.put(make_slice(f"experts{number}", *pods(number)))
            async with follow(server) as follower:
                await follower.until(lambda endpoints: len(endpoints.eligible) == 5)
                await until(lambda: server.num_watches == 1)
                for number in (3, 4, 5):
                    server.delete(f"experts{number}")
                await follower.until_eligible(A, B)
                server.put(make_slice("experts1", pod("10.0.0.1", False, serving=True, terminating=True)))
                server.put(make_slice("experts9", *pods(3)))
                await follower.until_eligible(B, C)
                lists = [query for query in server.requests if "watch" not in query]
                assert [query.get("continue") for query in lists] == [None, "2", "4"]
                watch = server.requests[-1]
                assert {query["labelSelector"] for query in server.requests} == {SELECTOR}
                assert (watch["resourceVersion"], watch["allowWatchBookmarks"]) == ("105", "true")
                assert 240 <= int(watch["timeoutSeconds"]) <= 480
                return follower.snapshots

    assert asyncio.run(run())[-1] == Endpoints(frozenset({B, C}), frozenset({A}))


def test_two_slices_of_one_service_are_one_and_null_is_empty(follow):
    async def run() -> None:
        async with run_api_server() as server:
            server.put(make_slice("experts-a", *pods(1)))
            server.put(make_slice("experts-b", *pods(2)))
            server.put(make_slice("experts-c", empty=None))
            async with follow(server) as follower:
                await follower.until_eligible(A, B)
                server.put(make_slice("experts-a", empty=None))
                await follower.until_eligible(B)

    asyncio.run(run())


def test_an_empty_namespace_is_a_snapshot_too(follow):
    async def run() -> None:
        async with run_api_server() as server, follow(server) as follower:
            await follower.until_eligible()
            server.put(make_slice("experts", *pods(1)))
            await follower.until_eligible(A)

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["500", "403", "410", "not json", "drop", "hang"])
def test_a_list_that_fails_is_asked_again(follow, fault):
    async def run() -> None:
        async with run_api_server(faults=[fault]) as server:
            server.put(make_slice("experts", *pods(1)))
            async with follow(server, request=0.5) as follower:
                await follower.until_eligible(A)

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["500", "410", "drop", "hang"])
def test_a_watch_that_cannot_be_opened_is_asked_again(follow, fault):
    async def run() -> None:
        async with run_api_server(faults=["", fault]) as server:
            server.put(make_slice("experts", *pods(1)))
            async with follow(server, request=0.5) as follower:
                await until(lambda: server.num_watches == 1)
                server.put(make_slice("experts", *pods(1, 2)))
                await follower.until_eligible(A, B)
                # 410 lists again, the others go on from the version they had.
                assert sum("watch" not in query for query in server.requests) == (2 if fault == "410" else 1)

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["cut", "cut politely", "410", "500"])
def test_a_watch_that_breaks_loses_no_change(follow, fault):
    async def run() -> list[Endpoints]:
        async with run_api_server() as server:
            server.put(make_slice("experts", *pods(1)))
            async with follow(server) as follower:
                await until(lambda: server.num_watches == 1)
                server.break_watches(fault)
                server.put(make_slice("experts", *pods(1, 2)))
                await follower.until_eligible(A, B)
                return follower.snapshots

    assert [len(endpoints.eligible) for endpoints in asyncio.run(run())] == [1, 2]


def test_a_version_that_expired_while_the_server_was_away_is_listed_again(follow):
    async def run() -> None:
        async with run_api_server() as server:
            server.put(make_slice("experts", *pods(1)))
            async with follow(server) as follower:
                await until(lambda: server.num_watches == 1)
                server.break_watches("cut")
                server.forget_silently("experts")
                server.put(make_slice("others", *pods(2)))
                server.expire()
                await follower.until_eligible(B)

    asyncio.run(run())


def test_a_watch_without_a_word_is_opened_again_and_one_with_bookmarks_is_not(follow):
    async def run() -> None:
        async with run_api_server() as server, follow(server, quiet_watch=2.0) as follower:
            await follower.until_eligible()
            await until(lambda: server.num_watches == 1)
            for _ in range(8):
                server.bookmark()
                await asyncio.sleep(0.3)
            assert (server.num_watches, follower.discovery.age_seconds < 2.0) == (1, True)
            await until(lambda: server.num_watches == 2)
            # It goes on from the last bookmark.
            assert server.requests[-1]["resourceVersion"] == "108"
            assert follower.snapshots == [Endpoints()]

    asyncio.run(run())


def test_a_watch_that_ends_in_time_goes_on_and_what_no_event_told_is_found_by_listing_again(follow):
    async def run() -> None:
        async with run_api_server() as server:
            server.put(make_slice("experts", *pods(1)))
            async with follow(server, min_watch=1, max_watch=1, relist=1.5) as follower:
                await follower.until_eligible(A)
                server.forget_silently("experts")
                await follower.until_eligible()
                assert [("watch" in query) for query in server.requests[:4]] == [False, True, True, False]

    asyncio.run(run())


def test_credentials_that_expired_are_read_again(follow, kubeconfig):
    async def run() -> None:
        async with run_api_server() as server, follow(server) as follower:
            await until(lambda: server.num_watches == 1)
            server.token = "new"
            server.break_watches("cut")
            num_requests = len(server.requests)
            await until(lambda: len(server.requests) > num_requests)
            kubeconfig(server.url, "new")
            server.put(make_slice("experts", *pods(1)))
            await follower.until_eligible(A)

    asyncio.run(run())


def test_while_the_api_server_is_away_the_last_known_set_stays_and_ages(follow):
    async def run() -> None:
        server = FakeApiServer()
        server.put(make_slice("experts", *pods(1)))
        async with AsyncExitStack() as up:
            await up.enter_async_context(listen(server))
            async with follow(server) as follower:
                await until(lambda: server.num_watches == 1)
                await up.aclose()
                await until(lambda: follower.discovery.age_seconds > 1)
                assert follower.snapshots == [Endpoints(frozenset({A}))]
                async with listen(server, port=int(server.url.rpartition(":")[2])):
                    server.put(make_slice("experts", *pods(2)))
                    await follower.until_eligible(B)

    asyncio.run(run())


def test_what_the_api_server_refuses_is_named(follow, caplog):
    async def run() -> None:
        async with run_api_server(faults=["403"]) as server, follow(server) as follower:
            await follower.until_eligible()

    asyncio.run(run())
    assert "answered 403 Forbidden: as told; asking again in 0." in caplog.text


@pytest.mark.parametrize("fault", ["drop", "500"])
def test_there_is_a_pause_before_every_attempt(follow, caplog, fault):
    async def run() -> int:
        async with run_api_server(faults=[fault, fault]) as server, follow(server) as follower:
            await follower.until_eligible()
            return sum("watch" not in query for query in server.requests)

    assert asyncio.run(run()) == 3
    assert sum("asking again in" in record.message for record in caplog.records) == 2


def test_ends_at_once_and_leaves_neither_task_nor_thread(follow):
    async def run() -> set[asyncio.Task]:
        async with run_api_server() as server:
            async with follow(server) as follower:
                await follower.until_eligible()
                await until(lambda: server.num_watches == 1)
            return {task for task in asyncio.all_tasks() if "expertmesh" in str(task.get_coro())}

    with no_thread_left():
        assert asyncio.run(run()) == set()


def test_without_a_kubeconfig_there_is_nothing_to_follow(tmp_path):
    async def load(configuration: Configuration) -> None:
        await load_kube_config(str(tmp_path / "none"), client_configuration=configuration)

    async def run() -> None:
        async for _ in KubernetesDiscovery(SliceQuery("mesh", SELECTOR), "grpc", load).watch():
            pass

    with pytest.raises(ConfigError, match="cannot follow EndpointSlices"):
        asyncio.run(run())
