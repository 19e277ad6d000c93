import threading
from dataclasses import replace
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from waiting import no_thread_left, wait_until

from expertmesh.expert.batcher import Batcher
from expertmesh.expert.executor import Executor
from expertmesh.expert.job import CallJob, Seat
from expertmesh.wire.calls import ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode


def partials(outcomes):
    assert all(isinstance(outcome, ExpertResult) for outcome in outcomes), outcomes
    return [outcome.partial for outcome in outcomes]


def test_coalesced_equals_single(mesh):
    store = mesh.make_store(experts=(1, 2, 5))
    calls = [mesh.make_call(num_rows, seed=num_rows, experts=(1, 2, 5)) for num_rows in (1, 4, 2, 7)]
    together = mesh.run_queued(store, calls)
    assert len({outcome.compute_seconds for outcome in together}) == 1, "they did not run together"
    for call, partial in zip(calls, partials(together), strict=True):
        torch.testing.assert_close(partial, mesh.run_direct(store, call), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(partial, partials(mesh.run_queued(store, [call]))[0], rtol=1e-5, atol=1e-6)


def test_calls_of_other_layers_dtypes_and_numbers_of_choices_keep_apart(mesh):
    store = mesh.make_store()
    wide = mesh.make_call(3, seed=4)
    calls = [
        mesh.make_call(2, layer=0, seed=1),
        mesh.make_call(2, layer=1, seed=2),
        mesh.make_call(2, layer=0, seed=3, dtype=torch.bfloat16),
        replace(wide, topk_ids=wide.topk_ids[:, :1], topk_weights=wide.topk_weights[:, :1]),
    ]
    for call, partial in zip(calls, partials(mesh.run_queued(store, calls)), strict=True):
        assert partial.dtype == torch.float32
        assert torch.equal(partial, mesh.run_direct(store, call))


def test_choices_that_another_server_answers_add_nothing(mesh):
    store = mesh.make_store(experts=(0, 4))
    call = mesh.make_call(4, experts=(0, 4))
    call.topk_ids[1, 0] = call.topk_ids[3, 0] = call.topk_ids[3, 1] = -1
    [partial] = partials(mesh.run_queued(store, [call]))
    only = replace(call, topk_weights=call.topk_weights * (call.topk_ids >= 0), topk_ids=call.topk_ids.clip(min=0))
    torch.testing.assert_close(partial, mesh.run_direct(store, only))
    assert torch.equal(partial[3], torch.zeros_like(partial[3]))


def test_what_is_not_finite_hits_only_the_guilty_call(mesh):
    store = mesh.make_store()
    store.layers[1].weights[6][2, 0, 0] = float("nan")
    good = mesh.make_call(3, layer=1, seed=1, experts=range(6))
    bad = mesh.make_call(3, layer=1, seed=2, experts=range(6))
    bad.topk_ids[1] = 6, 2
    first, failure, last = mesh.run_queued(store, [good, bad, good])
    assert isinstance(failure, CallFailure)
    assert failure.code == FailureCode.COMPUTE_FAILED
    assert failure.message == "layer 1, experts [2, 6]: values that are not finite in rows [1]"
    for partial in partials([first, last]):
        torch.testing.assert_close(partial, mesh.run_direct(store, good), rtol=1e-5, atol=1e-6)


def test_rows_that_came_in_not_finite_are_the_callers_fault(mesh):
    call = mesh.make_call(3)
    call.hidden[2, 3] = float("inf")
    [failure] = mesh.run_queued(mesh.make_store(), [call])
    assert (failure.code, failure.message) == (
        FailureCode.INVALID_REQUEST,
        "hidden or topk_weights of rows [2] are not finite",
    )


def test_large_finite_values_whose_sum_overflows_are_fine(mesh):
    store, call = mesh.make_store(), mesh.make_call(1)
    scale = np.float32(3e38 / mesh.run_direct(store, call).abs().max())
    hidden, ids, weights = call.hidden.repeat(64, 1), call.topk_ids.repeat(64, 0), call.topk_weights.repeat(64, 0)
    many = replace(call, hidden=hidden, topk_ids=ids, topk_weights=weights * scale)
    [partial] = partials(mesh.run_queued(store, [many]))
    assert partial.isfinite().all()
    assert not partial.sum().isfinite()


def test_a_launch_that_breaks_is_repeated_call_by_call(mesh, caplog):
    store = mesh.make_store(wrap=mesh.Raising)
    good, bad = mesh.make_call(2, seed=1), mesh.make_call(2, seed=2)
    bad.hidden[0, 0] = 1000.0
    first, failure, last = mesh.run_queued(store, [good, bad, good])
    assert failure.code == FailureCode.COMPUTE_FAILED
    assert failure.message.endswith("kernels raised RuntimeError: illegal memory access")
    assert failure.message.startswith(f"layer 0, experts {sorted(set(bad.topk_ids.ravel().tolist()))}")
    assert [torch.equal(partial, mesh.run_direct(store, good)) for partial in partials([first, last])] == [True, True]
    assert [record.message for record in caplog.records] == ["the kernels failed"]


def test_a_lost_gpu_fails_all_calls_of_a_launch_and_is_told_of(mesh, monkeypatch):
    lost, error = [], torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def fail(*_):
        raise error

    store, call = mesh.make_store(), mesh.make_call(2)
    executor = Executor(store, Batcher(64, 64), 64, on_lost=lost.append)
    monkeypatch.setattr(executor, "_run_rows", fail)
    outcomes = executor._run([Seat().job(call), Seat().job(call)])
    assert [outcome.code for outcome in outcomes] == [FailureCode.COMPUTE_FAILED] * 2
    assert lost == [error]


def ask(executor, call):
    """Run a call in this thread; returns its outcome and the thread that replied."""
    seat, replies = Seat(), []
    executor.run(seat.job(call), seat, lambda outcome: replies.append((outcome, threading.current_thread())))
    [reply] = replies
    return reply


def ask_in_thread(executor, call):
    """Do the same in a thread of its own; returns it and where the outcome will be."""
    outcomes = SimpleQueue()
    thread = threading.Thread(target=lambda: outcomes.put(ask(executor, call)))
    thread.start()
    return thread, outcomes


class Threads:
    """Another layer that notes which threads run it."""

    def __init__(self, ffn):
        self.ffn, self.num_bytes, self.seen = ffn, ffn.num_bytes, []

    def __call__(self, x, num_rows, row_weights):
        self.seen.append(threading.current_thread())
        return self.ffn(x, num_rows, row_weights)


def test_a_lone_caller_never_changes_threads(mesh):
    store, call, seen = mesh.make_store(wrap=Threads), mesh.make_call(3), []
    with Executor(store, Batcher(64, 1000), 100, SimpleNamespace(answered=seen.extend)) as executor:
        outcomes = [ask(executor, call) for _ in range(3)]
    here = threading.current_thread()
    assert [thread for _, thread in outcomes] == store.layers[0].seen == [here] * 3
    assert [outcome for _, outcome in seen] == [outcome for outcome, _ in outcomes]
    assert torch.equal(outcomes[0][0].partial, mesh.run_direct(mesh.make_store(), call))


def test_a_lone_call_is_answered_where_that_is_wanted(mesh):
    call, out, seat, replies = mesh.make_call(3), torch.full((3, 16), torch.nan), Seat(), []
    with Executor(mesh.make_store(), Batcher(64, 1000), 100) as executor:
        executor.run(seat.job(call, out), seat, replies.append)
    assert replies[0].partial is out
    assert torch.equal(out, mesh.run_direct(mesh.make_store(), call))


def test_callers_that_wait_run_together_and_each_replies_itself(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    held, batcher = store.layers[0], Batcher(64, 1000)
    calls = [mesh.make_call(num_rows, seed=num_rows) for num_rows in (1, 2, 3)]
    with Executor(store, batcher, 100) as executor:
        asked = [ask_in_thread(executor, calls[0])]
        assert held.entered.acquire(timeout=30)
        for call in calls[1:]:
            asked.append(ask_in_thread(executor, call))
        wait_until(lambda: batcher.num_waiting_rows == 5)
        held.door.release(2)
        replies = [(thread, outcomes.get(timeout=30)) for thread, outcomes in asked]
    assert held.launches == [2, 10]
    for call, (thread, (outcome, replied)) in zip(calls, replies, strict=True):
        assert replied is thread
        expected = mesh.run_direct(mesh.make_store(), call)
        torch.testing.assert_close(outcome.partial, expected, rtol=1e-5, atol=1e-6)
        thread.join(timeout=30)


def test_the_turn_goes_on_to_who_waits_for_another_layer(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    batcher = Batcher(64, 1000)
    with Executor(store, batcher, 100) as executor:
        _, first = ask_in_thread(executor, mesh.make_call(1))
        assert store.layers[0].entered.acquire(timeout=30)
        waiting, second = ask_in_thread(executor, mesh.make_call(2, layer=1))
        wait_until(lambda: batcher.num_waiting_rows == 2)
        store.layers[0].door.release()
        assert isinstance(first.get(timeout=30)[0], ExpertResult)
        assert store.layers[1].entered.acquire(timeout=30)
        executor.submit(CallJob(mesh.make_call(3, layer=2), (third := SimpleQueue()).put))
        store.layers[1].door.release()
        store.layers[2].door.release()
        assert second.get(timeout=30)[1] is waiting
        assert isinstance(third.get(timeout=30), ExpertResult)


def test_a_call_that_waits_can_be_taken_back(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    batcher, done = Batcher(64, 1000), SimpleQueue()
    with Executor(store, batcher, 100) as executor:
        executor.submit(CallJob(mesh.make_call(1), done.put))
        assert store.layers[0].entered.acquire(timeout=30)
        job = CallJob(mesh.make_call(2), done.put)
        executor.submit(job)
        assert executor.cancel(job)
        assert not executor.cancel(job)
        store.layers[0].door.release()
        done.get(timeout=30)
    assert (store.layers[0].launches, done.empty()) == ([2], True)


def test_what_cannot_be_run_is_refused_and_counted(mesh):
    seen = []
    with Executor(mesh.make_store(), Batcher(64, 4), 5, SimpleNamespace(refused=seen.append)) as executor:
        for call in (mesh.make_call(layer=9), mesh.make_call(6), mesh.make_call(5)):
            with pytest.raises(CallFailure):
                ask(executor, call)
        executor.drain()
        with pytest.raises(CallFailure, match="shutting down"):
            ask(executor, mesh.make_call(1))
    invalid = FailureCode.INVALID_REQUEST
    assert [failure.code for failure in seen] == [invalid, invalid, FailureCode.BUSY, FailureCode.DRAINING]


def test_expired_calls_are_answered_and_not_run(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    store.layers[0].door.release()
    late, live = mesh.run_queued(store, [mesh.make_call(3, timeout_seconds=1e-9), mesh.make_call(2)])
    assert late.code == FailureCode.DEADLINE_EXCEEDED
    assert isinstance(live, ExpertResult)
    assert store.layers[0].launches == [live.partial.shape[0] * 2]


def test_closing_finishes_what_waits_and_ends_the_thread(mesh):
    done = SimpleQueue()
    with no_thread_left(), Executor(mesh.make_store(), Batcher(64, 1000), 100) as executor:
        for _ in range(20):
            executor.submit(CallJob(mesh.make_call(), done.put))
    assert [type(done.get(block=False)) for _ in range(20)] == [ExpertResult] * 20
