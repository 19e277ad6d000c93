"""Who runs calls: a device thread takes those that wait and runs them together; a lone caller's short ones run at once.

Knows tensors and kernels, not messages. Alphabet: U rows of a call, A experts chosen per row, D hidden width.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.expert.batcher import Batch, Batcher
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.expert.job import CallJob, Outcome
from expertmesh.expert.observer import CallObserver, NullCallObserver
from expertmesh.expert.store import ExpertStore
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.moe import run_chosen
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode

_log = logging.getLogger(__name__)

# While a call runs in the event loop, this hears nobody, health checks neither.
MAX_INLINE_SECONDS = ExpertServerConfig.max_inline_seconds


class Executor:
    """Runs calls on the experts of ``store``, those in ``batcher`` in a thread of its own; use it in ``with``.

    Everything but that thread belongs to the event loop ``loop``. Calls that should take at most
    ``max_inline_seconds`` may be run there, too.
    """

    def __init__(
        self,
        store: ExpertStore,
        batcher: Batcher[CallJob],
        loop: asyncio.AbstractEventLoop,
        observer: CallObserver = NullCallObserver(),
        max_inline_seconds: float = MAX_INLINE_SECONDS,
    ) -> None:
        self._store = store
        self._batcher = batcher
        self._loop = loop
        self._observer = observer
        self._max_inline_seconds = max_inline_seconds
        self._seconds_per_row = math.inf  # of the last launch, in whichever thread
        self._thread = threading.Thread(target=self._work, name="expert-device")

    def __enter__(self) -> "Executor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Refuse new jobs, finish those that wait, end the thread."""
        self._batcher.close()
        self._thread.join()

    def submit(self, job: CallJob, is_alone: bool) -> None:
        """Queue a job, or run it at once: then it is answered on return; CallFailure as ``Batcher.submit``.

        A job ``is_alone`` when no other caller is there, whose calls could join it. The way to the thread and back
        takes longer than the transport of a row; without company, nothing is won by it. How long a job will take is
        judged by the last launch.
        """
        may_run = is_alone and job.num_rows * self._seconds_per_row <= self._max_inline_seconds
        batch = self._batcher.take_at_once(job) if may_run else None
        if batch is None:
            self._batcher.submit(job)
            return
        answers = self._answer(batch)
        _deliver(answers)
        self._loop.call_soon(self._observer.answered, answers)  # after the answer is on its way

    def cancel(self, job: CallJob) -> None:
        """Do not run a job that still waits."""
        self._batcher.cancel(job)

    def drain(self) -> None:
        """Refuse new jobs from now on."""
        self._batcher.drain()

    def _work(self) -> None:
        while (batch := self._batcher.take()) is not None:
            answers = self._answer(batch)
            self._loop.call_soon_threadsafe(_deliver, answers)
            self._observer.answered(answers)

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
            if len(jobs) == 1:
                _log.exception("the kernels failed")
                return [_failed(jobs[0].call, f"kernels raised {type(error).__name__}: {error}")]
        # Someone's call broke the launch; alone, only the guilty one fails.
        return [outcome for job in jobs for outcome in self._run([job])]

    def _run_together(self, jobs: Sequence[CallJob]) -> list[Outcome]:
        started = time.monotonic()
        hidden, ids, weights = _join([job.call for job in jobs])
        store = self._store
        partial = run_chosen(
            store.layers[jobs[0].call.layer],
            len(store.experts),
            hidden.to(store.device),
            store.slots_of(ids),
            weights,
        ).cpu()  # [sum of U, D]
        compute_seconds = time.monotonic() - started
        self._seconds_per_row = compute_seconds / len(hidden)
        parts = [partial] if len(jobs) == 1 else partial.split_with_sizes([job.num_rows for job in jobs])  # each [U, D]
        results = [
            ExpertResult(part, started - job.arrived, compute_seconds) for job, part in zip(jobs, parts, strict=True)
        ]
        if is_finite(partial):
            return list(results)
        return [_check_finite(job.call, result) for job, result in zip(jobs, results, strict=True)]


def _join(calls: Sequence[ExpertCall]) -> tuple[torch.Tensor, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    if len(calls) == 1:
        return calls[0].hidden, calls[0].topk_ids, calls[0].topk_weights
    return (
        torch.cat([call.hidden for call in calls]),  # [sum of U, D]
        np.concatenate([call.topk_ids for call in calls]),  # [sum of U, A]
        np.concatenate([call.topk_weights for call in calls]),  # [sum of U, A]
    )


def _deliver(answers: Sequence[tuple[CallJob, Outcome]]) -> None:
    for job, outcome in answers:
        job.on_done(outcome)


def _expired(job: CallJob) -> CallFailure:
    waited = time.monotonic() - job.arrived
    return CallFailure(
        FailureCode.DEADLINE_EXCEEDED, f"waited {waited:.3f} s of {job.call.timeout_seconds} s and was not run"
    )


def _check_finite(call: ExpertCall, result: ExpertResult) -> Outcome:
    is_bad = ~result.partial.isfinite().all(dim=1).numpy()  # [U]
    if not is_bad.any():
        return result
    rows = np.flatnonzero(is_bad).tolist()
    has_finite_weights = (np.isfinite(call.topk_weights) | (call.topk_ids < 0)).all(axis=1)  # [U]
    is_given = call.hidden.isfinite().all(dim=1).numpy() & has_finite_weights
    if not is_given[is_bad].all():
        return CallFailure(FailureCode.INVALID_REQUEST, f"hidden or topk_weights of rows {rows} are not finite")
    return _failed(call, f"values that are not finite in rows {rows}", call.topk_ids[is_bad])


def _failed(call: ExpertCall, what: str, ids: npt.NDArray[np.int32] | None = None) -> CallFailure:
    experts = sorted(set((call.topk_ids if ids is None else ids).ravel().tolist()) - {-1})
    return CallFailure(FailureCode.COMPUTE_FAILED, f"layer {call.layer}, experts {experts}: {what}")
