import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expertmesh.expert.batcher import Batcher
from expertmesh.expert.executor import Executor
from expertmesh.expert.job import CallJob
from expertmesh.wire.calls import ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode


def run_queued(store, calls, max_batch_rows=64):
    """Outcomes, in the order of ``calls``, of calls that all wait when the device thread starts."""

    async def main():
        loop, batcher = asyncio.get_running_loop(), Batcher(max_batch_rows, 1000)
        outcomes = [loop.create_future() for _ in calls]
        for call, outcome in zip(calls, outcomes, strict=True):
            batcher.submit(CallJob(call, outcome.set_result))
        with Executor(store, batcher, loop):
            return await asyncio.gather(*outcomes)

    return asyncio.run(main())


def partials(outcomes):
    assert all(isinstance(outcome, ExpertResult) for outcome in outcomes), outcomes
    return [outcome.partial for outcome in outcomes]


def test_coalesced_equals_single(mesh):
    store = mesh.make_store(experts=(1, 2, 5))
    calls = [mesh.make_call(num_rows, seed=num_rows, experts=(1, 2, 5)) for num_rows in (1, 4, 2, 7)]
    together = run_queued(store, calls)
    assert len({outcome.compute_seconds for outcome in together}) == 1, "they did not run together"
    for call, partial in zip(calls, partials(together), strict=True):
        torch.testing.assert_close(partial, mesh.run_direct(store, call), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(partial, partials(run_queued(store, [call]))[0], rtol=1e-5, atol=1e-6)


def test_calls_of_other_layers_dtypes_and_numbers_of_choices_keep_apart(mesh):
    store = mesh.make_store()
    wide = mesh.make_call(3, seed=4)
    calls = [
        mesh.make_call(2, layer=0, seed=1),
        mesh.make_call(2, layer=1, seed=2),
        mesh.make_call(2, layer=0, seed=3, dtype=torch.bfloat16),
        replace(wide, topk_ids=wide.topk_ids[:, :1], topk_weights=wide.topk_weights[:, :1]),
    ]
    for call, partial in zip(calls, partials(run_queued(store, calls)), strict=True):
        assert partial.dtype == torch.float32
        assert torch.equal(partial, mesh.run_direct(store, call))


def test_choices_that_another_server_answers_add_nothing(mesh):
    store = mesh.make_store(experts=(0, 4))
    call = mesh.make_call(4, experts=(0, 4))
    call.topk_ids[1, 0] = call.topk_ids[3, 0] = call.topk_ids[3, 1] = -1
    [partial] = partials(run_queued(store, [call]))
    only = replace(call, topk_weights=call.topk_weights * (call.topk_ids >= 0), topk_ids=call.topk_ids.clip(min=0))
    torch.testing.assert_close(partial, mesh.run_direct(store, only))
    assert torch.equal(partial[3], torch.zeros_like(partial[3]))


def test_what_is_not_finite_hits_only_the_guilty_call(mesh):
    store = mesh.make_store()
    store.layers[1].weights[6][2, 0, 0] = float("nan")
    good = mesh.make_call(3, layer=1, seed=1, experts=range(6))
    bad = mesh.make_call(3, layer=1, seed=2, experts=range(6))
    bad.topk_ids[1] = 6, 2
    first, failure, last = run_queued(store, [good, bad, good])
    assert isinstance(failure, CallFailure)
    assert failure.code == FailureCode.COMPUTE_FAILED
    assert failure.message == "layer 1, experts [2, 6]: values that are not finite in rows [1]"
    for partial in partials([first, last]):
        torch.testing.assert_close(partial, mesh.run_direct(store, good), rtol=1e-5, atol=1e-6)


def test_rows_that_came_in_not_finite_are_the_callers_fault(mesh):
    call = mesh.make_call(3)
    call.hidden[2, 3] = float("inf")
    [failure] = run_queued(mesh.make_store(), [call])
    assert (failure.code, failure.message) == (
        FailureCode.INVALID_REQUEST,
        "hidden or topk_weights of rows [2] are not finite",
    )


def test_large_finite_values_whose_sum_overflows_are_fine(mesh):
    store, call = mesh.make_store(), mesh.make_call(1)
    scale = np.float32(3e38 / mesh.run_direct(store, call).abs().max())
    hidden, ids, weights = call.hidden.repeat(64, 1), call.topk_ids.repeat(64, 0), call.topk_weights.repeat(64, 0)
    many = replace(call, hidden=hidden, topk_ids=ids, topk_weights=weights * scale)
    [partial] = partials(run_queued(store, [many]))
    assert partial.isfinite().all()
    assert not partial.sum().isfinite()


def test_a_launch_that_breaks_is_repeated_call_by_call(mesh, caplog):
    store = mesh.make_store(wrap=mesh.Raising)
    good, bad = mesh.make_call(2, seed=1), mesh.make_call(2, seed=2)
    bad.hidden[0, 0] = 1000.0
    first, failure, last = run_queued(store, [good, bad, good])
    assert failure.code == FailureCode.COMPUTE_FAILED
    assert failure.message.endswith("kernels raised RuntimeError: illegal memory access")
    assert failure.message.startswith(f"layer 0, experts {sorted(set(bad.topk_ids.ravel().tolist()))}")
    assert [torch.equal(partial, mesh.run_direct(store, good)) for partial in partials([first, last])] == [True, True]
    assert [record.message for record in caplog.records] == ["the kernels failed"]


async def submit(executor, batcher, call, is_alone):
    """Submit to a thread that sleeps; returns the outcome, and whether it was there at once."""
    async with asyncio.timeout(10):
        while not batcher.is_idle:
            await asyncio.sleep(0.001)
    outcomes = asyncio.Queue()
    executor.submit(CallJob(call, outcomes.put_nowait), is_alone)
    was_inline = not outcomes.empty()
    return await outcomes.get(), was_inline


@pytest.mark.parametrize(
    ("is_alone", "max_inline_seconds", "is_inline"), [(True, 60, True), (False, 60, False), (True, 0, False)]
)
def test_short_calls_of_a_lone_caller_run_at_once(mesh, is_alone, max_inline_seconds, is_inline):
    store, call, seen = mesh.make_store(), mesh.make_call(3), []

    async def main():
        loop, batcher = asyncio.get_running_loop(), Batcher(64, 1000)
        observer = SimpleNamespace(answered=seen.extend)
        with Executor(store, batcher, loop, observer, max_inline_seconds) as executor:
            return [await submit(executor, batcher, call, is_alone) for _ in range(2)]

    (first, first_inline), (second, second_inline) = asyncio.run(main())
    # Nothing is known of the first one's time.
    assert (first_inline, second_inline) == (False, is_inline)
    assert torch.equal(second.partial, mesh.run_direct(store, call))
    assert [answer for _, answer in seen] == [first, second]


def test_the_last_launch_tells_how_long_a_call_takes(mesh):
    store, seconds = mesh.make_store(wrap=mesh.Held), iter([0.4, 0.0, 0.0])
    held = store.layers[0]

    async def main():
        batcher = Batcher(64, 1000)
        with Executor(store, batcher, asyncio.get_running_loop(), max_inline_seconds=0.3) as executor:

            async def run():
                threading.Timer(next(seconds), held.door.release).start()
                _, was_inline = await submit(executor, batcher, mesh.make_call(1), is_alone=True)
                return was_inline

            return [await run() for _ in range(3)]

    assert asyncio.run(main()) == [False, False, True]


def test_an_expired_call_of_a_lone_caller_is_not_run_either(mesh):
    store = mesh.make_store(wrap=mesh.Held)

    async def main():
        batcher = Batcher(64, 1000)
        with Executor(store, batcher, asyncio.get_running_loop(), max_inline_seconds=60) as executor:
            store.layers[0].door.release()
            await submit(executor, batcher, mesh.make_call(), is_alone=True)
            return await submit(executor, batcher, mesh.make_call(timeout_seconds=1e-9), is_alone=True)

    outcome, was_inline = asyncio.run(main())
    assert was_inline
    assert outcome.code == FailureCode.DEADLINE_EXCEEDED
    assert len(store.layers[0].launches) == 1


def test_nothing_runs_at_once_while_the_device_is_busy(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    held = store.layers[0]

    async def main():
        loop, batcher, outcomes = asyncio.get_running_loop(), Batcher(64, 1000), asyncio.Queue()
        with Executor(store, batcher, loop, max_inline_seconds=60) as executor:
            held.door.release()
            await submit(executor, batcher, mesh.make_call(), is_alone=True)
            held.entered.acquire()
            batcher.submit(CallJob(mesh.make_call(), outcomes.put_nowait))
            assert await asyncio.to_thread(held.entered.acquire, timeout=10)
            executor.submit(CallJob(mesh.make_call(), outcomes.put_nowait), is_alone=True)
            waiting = batcher.num_waiting_rows
            held.door.release(2)
            for _ in range(2):
                await outcomes.get()
        return waiting

    assert asyncio.run(main()) == 2


def test_a_draining_server_runs_nothing_at_once(mesh):
    store = mesh.make_store()

    async def main():
        batcher = Batcher(64, 1000)
        with Executor(store, batcher, asyncio.get_running_loop(), max_inline_seconds=60) as executor:
            await submit(executor, batcher, mesh.make_call(), is_alone=True)
            executor.drain()
            with pytest.raises(CallFailure, match="shutting down"):
                executor.submit(CallJob(mesh.make_call(), print), is_alone=True)

    asyncio.run(main())


def test_expired_calls_are_answered_and_not_run(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    store.layers[0].door.release()
    late, live = run_queued(store, [mesh.make_call(3, timeout_seconds=1e-9), mesh.make_call(2)])
    assert late.code == FailureCode.DEADLINE_EXCEEDED
    assert isinstance(live, ExpertResult)
    assert store.layers[0].launches == [live.partial.shape[0] * 2]


def test_closing_finishes_what_waits_and_ends_the_thread(mesh):
    before = threading.active_count()
    store, seen = mesh.make_store(), []

    async def main():
        batcher = Batcher(64, 1000)
        with Executor(store, batcher, asyncio.get_running_loop()):
            batcher.submit(CallJob(mesh.make_call(), seen.append))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert [type(outcome) for outcome in seen] == [ExpertResult]
    assert threading.active_count() == before
