"""Who runs calls: the thread that finds the experts free, with all calls that wait and can run beside its own.

Knows tensors and kernels, not messages. Alphabet: U rows of a call, A experts chosen per row, D hidden width.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.expert.batcher import Batch, Batcher
from expertmesh.expert.checks import check_call
from expertmesh.expert.job import CallJob, Outcome, Seat
from expertmesh.expert.observer import CallObserver, NullCallObserver
from expertmesh.expert.static_calls import StaticCalls
from expertmesh.expert.store import ExpertStore
from expertmesh.kernels import cuda_devices
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.moe import run_chosen
from expertmesh.wire.calls import ExpertCall, ExpertResult, find_nonfinite
from expertmesh.wire.failures import CallFailure, FailureCode, few

_log = logging.getLogger(__name__)

IDLE_POLL_SECONDS = 0.001


class Executor:
    """Runs calls on the experts of ``store``, one batch at a time, in the threads of those who ask; use it in ``with``.

    A thread that finds the experts free runs its call at once. One that does not waits, until another thread has run
    its call beside its own, or its turn comes to run it with all that fit beside it. For calls that no thread waits
    for, the executor has one of its own. ``max_rows`` is the greatest call that is accepted. Batches that are among the
    ``static_calls`` use these. ``on_lost`` is told, in the thread that finds out, when no call can be run any more.
    """

    def __init__(
        self,
        store: ExpertStore,
        batcher: Batcher[CallJob],
        max_rows: int,
        observer: CallObserver = NullCallObserver(),
        static_calls: StaticCalls | None = None,
        on_lost: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._store = store
        self._on_lost = on_lost
        self._is_on_host = store.device.type == "cpu"
        self._static_calls = static_calls
        self._batcher = batcher
        self._max_rows = max_rows
        self._observer = observer
        self._turns: SimpleQueue[Batch[CallJob] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="expert-executor")

    def __enter__(self) -> "Executor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Refuse new jobs, finish those that wait, end the thread."""
        self._batcher.drain()
        while not self._batcher.is_idle:
            time.sleep(IDLE_POLL_SECONDS)
        self._turns.put(None)
        self._thread.join()

    def run(self, job: CallJob, seat: Seat, reply: Callable[[Outcome], None]) -> None:
        """Run a job that ``seat`` made, here or where it is run beside another one; ``reply`` gets its outcome.

        Returns after ``reply``. CallFailure, and no reply, when the call cannot be run or the batcher refuses it.
        """
        batch = self._admit(job)
        news = seat.wait() if batch is None else batch
        if not isinstance(news, Batch):
            reply(news)
            return
        answers = self._take_turn(news)
        outcome = seat.wait()
        assert not isinstance(outcome, Batch), "a job gets one turn at most"
        try:
            reply(outcome)
        finally:
            self._observer.answered(answers)  # after the answer is on its way

    def submit(self, job: CallJob) -> None:
        """Have a job run by another thread; CallFailure as ``run``."""
        batch = self._admit(job)
        if batch is not None:
            self._turns.put(batch)

    def cancel(self, job: CallJob) -> bool:
        """Do not run a job that still waits; False when it does not (any more). It gets no outcome then."""
        return self._batcher.cancel(job)

    def refuse(self, failure: CallFailure) -> None:
        """Log and count a call that cannot become a job: it was damaged on its way, or there is no room for it."""
        level = logging.WARNING if failure.code is FailureCode.DAMAGED else logging.DEBUG
        _log.log(level, "refusing a call: %s", failure)
        self._observer.refused(failure)

    def drain(self) -> None:
        """Refuse new jobs from now on."""
        self._batcher.drain()

    def _admit(self, job: CallJob) -> Batch[CallJob] | None:
        try:
            check_call(job.call, self._store, self._max_rows)
            return self._batcher.submit(job)
        except CallFailure as failure:
            self._observer.refused(failure)
            raise

    def _work(self) -> None:
        while (batch := self._turns.get()) is not None:
            self._observer.answered(self._take_turn(batch))
            del batch  # with its calls, before the wait for the next one

    def _take_turn(self, batch: Batch[CallJob]) -> list[tuple[CallJob, Outcome]]:
        """Run a batch, pass the turn on, and answer."""
        answers = self._answer(batch)
        following = self._batcher.release()
        if following is not None:
            (following.first.on_turn or self._turns.put)(following)
        for job, outcome in answers:
            job.on_done(outcome)
        return answers

    @torch.inference_mode()
    def _answer(self, batch: Batch[CallJob]) -> list[tuple[CallJob, Outcome]]:
        answers: list[tuple[CallJob, Outcome]] = [(job, _expired(job)) for job in batch.expired]
        if batch.jobs:
            answers += zip(batch.jobs, self._run(batch.jobs), strict=True)
        return answers

    def _run(self, jobs: Sequence[CallJob]) -> list[Outcome]:
        try:
            return self._run_together(jobs)
        except Exception as error:
            is_lost = cuda_devices.is_lost(error)
            if is_lost:
                self._on_lost(error)
            if is_lost or len(jobs) == 1:
                _log.exception("the kernels failed")
                return [_failed(job.call, f"kernels raised {type(error).__name__}: {error}") for job in jobs]
        # Someone's call broke the launch; alone, only the guilty one fails.
        return [outcome for job in jobs for outcome in self._run([job])]

    def _run_together(self, jobs: Sequence[CallJob]) -> list[Outcome]:
        started = time.monotonic()
        out = jobs[0].out if len(jobs) == 1 else None
        partial = self._run_rows(jobs[0].call.layer, *_join([job.call for job in jobs]), out)  # [sum of U, D]
        compute_seconds = time.monotonic() - started
        parts = [partial] if len(jobs) == 1 else partial.split_with_sizes([job.num_rows for job in jobs])  # each [U, D]
        results = [
            ExpertResult(part, started - job.arrived, compute_seconds) for job, part in zip(jobs, parts, strict=True)
        ]
        if is_finite(partial):
            return list(results)
        return [_check_finite(job.call, result) for job, result in zip(jobs, results, strict=True)]

    def _run_rows(
        self,
        layer: int,
        hidden: torch.Tensor,
        ids: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
        out: torch.Tensor | None,
    ) -> torch.Tensor:
        store, slots = self._store, self._store.slots_of(ids)
        if self._static_calls is not None and self._static_calls.fits(hidden, slots):
            return self._static_calls.run(layer, hidden, slots, weights)
        ffn, num_slots = store.layers[layer], len(store.experts)
        if self._is_on_host:
            return run_chosen(ffn, num_slots, hidden, slots, weights, out)
        total = run_chosen(ffn, num_slots, hidden.to(store.device), slots, weights)
        return total.cpu() if out is None else out.copy_(total)


def _join(calls: Sequence[ExpertCall]) -> tuple[torch.Tensor, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    if len(calls) == 1:
        return calls[0].hidden, calls[0].topk_ids, calls[0].topk_weights
    return (
        torch.cat([call.hidden for call in calls]),  # [sum of U, D]
        np.concatenate([call.topk_ids for call in calls]),  # [sum of U, A]
        np.concatenate([call.topk_weights for call in calls]),  # [sum of U, A]
    )


def _expired(job: CallJob) -> CallFailure:
    waited = time.monotonic() - job.arrived
    return CallFailure(
        FailureCode.DEADLINE_EXCEEDED, f"waited {waited:.3f} s of {job.call.timeout_seconds} s and was not run"
    )


def _check_finite(call: ExpertCall, result: ExpertResult) -> Outcome:
    found = find_nonfinite(call, result.partial)
    if not found.rows:
        return result
    what = f"values that are not finite in rows {few(found.rows)}"
    return found.fault or _failed(call, what, call.topk_ids[found.is_bad])


def _failed(call: ExpertCall, what: str, ids: npt.NDArray[np.int32] | None = None) -> CallFailure:
    experts = sorted(set((call.topk_ids if ids is None else ids).ravel().tolist()) - {-1})
    return CallFailure(FailureCode.COMPUTE_FAILED, f"layer {call.layer}, experts {few(experts)}: {what}")
