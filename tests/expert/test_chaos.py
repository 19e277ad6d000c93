import asyncio
import threading
import time
from dataclasses import replace
from functools import partial

import pytest

from expertmesh.expert.batcher import Batcher
from expertmesh.expert.chaos import DelayedExecutor
from expertmesh.expert.executor import Executor
from expertmesh.expert.job import CallJob, Seat
from expertmesh.wire.calls import ExpertResult
from expertmesh.wire.failures import CallFailure

DELAY_SECONDS = 0.2


@pytest.fixture
def executor(mesh):
    with Executor(mesh.make_store(), Batcher(64, 1000), 100) as executor:
        yield DelayedExecutor(executor, DELAY_SECONDS)


def run_for(executor, calls):
    """Run calls one after the other in this thread; returns how long that took, and the threads that replied."""
    seat, threads = Seat(), []
    started = time.monotonic()
    for call in calls:
        executor.run(seat.job(call), seat, lambda outcome: threads.append(threading.current_thread()))
    return time.monotonic() - started, threads


def test_a_thread_that_waits_sleeps_before_each_answer(mesh, executor):
    seconds, threads = run_for(executor, [mesh.make_call(seed=seed) for seed in range(2)])
    assert seconds >= 2 * DELAY_SECONDS
    assert threads == [threading.current_thread()] * 2


def test_a_thread_that_waits_is_refused_late(mesh, executor):
    started = time.monotonic()
    with pytest.raises(CallFailure, match="layer 9 is out of range"):
        run_for(executor, [mesh.make_call(layer=9)])
    assert time.monotonic() - started >= DELAY_SECONDS


def test_answers_that_no_thread_waits_for_are_late_beside_one_another(mesh, executor):
    num_calls = 10

    async def main():
        started, late = time.monotonic(), asyncio.Queue()
        for seed in range(num_calls):
            executor.submit(CallJob(mesh.make_call(seed=seed), partial(note, late, started)))
        return [await late.get() for _ in range(num_calls)]

    def note(late, started, outcome):
        assert isinstance(outcome, ExpertResult)
        late.put_nowait(time.monotonic() - started)

    late = asyncio.run(main())
    assert min(late) >= DELAY_SECONDS
    assert max(late) < num_calls * DELAY_SECONDS


def test_calls_of_one_stream_are_late_beside_one_another_and_refusals_are_not(mesh):
    num_calls = 10

    async def main():
        async with mesh.serving(mesh.make_store(), chaos_delay_seconds=DELAY_SECONDS) as client:
            started = time.monotonic()
            for number in range(num_calls):
                await client.send(number, mesh.make_call(seed=number))
            await client.send(num_calls, replace(mesh.make_call(), layer=9))
            return [(await client.receive(), time.monotonic() - started) for _ in range(num_calls + 1)]

    (refused, _), *answered = asyncio.run(main())
    assert isinstance(refused[1], CallFailure)
    assert all(isinstance(outcome, ExpertResult) for (_, outcome), _ in answered)
    late = [seconds for _, seconds in answered]
    assert min(late) >= DELAY_SECONDS
    assert max(late) < num_calls * DELAY_SECONDS


def test_taking_back_and_draining_reach_the_executor(mesh):
    store = mesh.make_store(wrap=mesh.Held)

    async def main(executor):
        done = asyncio.Queue()
        jobs = [CallJob(mesh.make_call(seed=seed), done.put_nowait) for seed in range(2)]
        for job in jobs:
            executor.submit(job)
        assert executor.cancel(jobs[1])
        executor.drain()
        with pytest.raises(CallFailure, match="shutting down"):
            executor.submit(CallJob(mesh.make_call(), done.put_nowait))
        store.layers[0].door.release()
        assert isinstance(await done.get(), ExpertResult)
        await asyncio.sleep(2 * DELAY_SECONDS)
        assert done.empty()

    with Executor(store, Batcher(64, 1000), 100) as executor:
        asyncio.run(main(DelayedExecutor(executor, DELAY_SECONDS)))
