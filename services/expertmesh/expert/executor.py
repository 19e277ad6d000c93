"""The device thread: takes calls that wait, runs them together, hands their results back to the event loop.

Knows tensors and kernels, not messages. Alphabet: U rows of a call, A experts chosen per row, D hidden width.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

import torch

from expertmesh.expert.batcher import Batch, Batcher
from expertmesh.expert.job import CallJob, Outcome
from expertmesh.expert.observer import CallObserver, NullCallObserver
from expertmesh.expert.store import ExpertStore
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.moe import run_chosen
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode

_log = logging.getLogger(__name__)


class Executor:
    """Runs what ``batcher`` holds on the experts of ``store``, in a thread of its own; use it in ``with``."""

    def __init__(
        self,
        store: ExpertStore,
        batcher: Batcher[CallJob],
        loop: asyncio.AbstractEventLoop,
        observer: CallObserver = NullCallObserver(),  # noqa: B008
    ) -> None:
        self._store = store
        self._batcher = batcher
        self._loop = loop
        self._observer = observer
        self._thread = threading.Thread(target=self._work, name="expert-device")

    def __enter__(self) -> "Executor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Refuse new jobs, finish those that wait, end the thread."""
        self._batcher.close()
        self._thread.join()

    def _work(self) -> None:
        with torch.inference_mode():
            while (batch := self._batcher.take()) is not None:
                answers = self._answer(batch)
                self._loop.call_soon_threadsafe(_deliver, answers)
                self._observer.answered(answers)

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
        device = self._store.device
        partial = run_chosen(
            self._store.layers[jobs[0].call.layer],
            len(self._store.experts),
            hidden.to(device),
            self._store.slots_of(ids).to(device),
            weights.to(device),
        ).cpu()  # [sum of U, D]
        compute_seconds = time.monotonic() - started
        parts = partial.split_with_sizes([job.num_rows for job in jobs])  # each [U, D]
        results = [
            ExpertResult(part, started - job.arrived, compute_seconds) for job, part in zip(jobs, parts, strict=True)
        ]
        if is_finite(partial):
            return list(results)
        return [_check_finite(job.call, result) for job, result in zip(jobs, results, strict=True)]


def _join(calls: Sequence[ExpertCall]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if len(calls) == 1:
        return calls[0].hidden, calls[0].topk_ids, calls[0].topk_weights
    return (
        torch.cat([call.hidden for call in calls]),  # [sum of U, D]
        torch.cat([call.topk_ids for call in calls]),  # [sum of U, A]
        torch.cat([call.topk_weights for call in calls]),  # [sum of U, A]
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
    is_bad = ~result.partial.isfinite().all(dim=1)  # [U]
    if not is_bad.any():
        return result
    rows = is_bad.nonzero().flatten().tolist()
    is_given = call.hidden.isfinite().all(dim=1) & (call.topk_weights.isfinite() | (call.topk_ids < 0)).all(dim=1)
    if not is_given[is_bad].all():
        return CallFailure(FailureCode.INVALID_REQUEST, f"hidden or topk_weights of rows {rows} are not finite")
    return _failed(call, f"values that are not finite in rows {rows}", call.topk_ids[is_bad])


def _failed(call: ExpertCall, what: str, ids: torch.Tensor | None = None) -> CallFailure:
    experts = sorted(set((call.topk_ids if ids is None else ids).flatten().tolist()) - {-1})
    return CallFailure(FailureCode.COMPUTE_FAILED, f"layer {call.layer}, experts {experts}: {what}")
