"""A queue of jobs, and whose turn it is to run those that can run together. Knows no tensors and no transport."""

import threading
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from expertmesh.wire.failures import CallFailure, FailureCode


class Job(Protocol):
    """What the queue needs to know about a job."""

    @property
    def key(self) -> Hashable:
        """Jobs with equal keys can run together."""
        ...

    @property
    def num_rows(self) -> int:
        """How much of a batch it fills."""
        ...

    @property
    def deadline(self) -> float:
        """When nobody waits for it any more, in ``time.monotonic`` seconds; inf = never."""
        ...


JobT = TypeVar("JobT", bound=Job)


@dataclass(frozen=True)
class Batch(Generic[JobT]):
    """Jobs that run together, oldest first, and jobs that nobody waits for any more."""

    jobs: list[JobT]
    expired: list[JobT]

    @property
    def first(self) -> JobT:
        """The job on whose turn it is run; there always is one."""
        return (self.jobs or self.expired)[0]


class Batcher(Generic[JobT]):
    """A bounded queue for any number of threads, of which one at a time has the turn to run a batch.

    Nobody waits in here, and no batch waits for company: what comes while nobody has the turn is a batch by itself.
    """

    def __init__(self, max_batch_rows: int, max_queue_rows: int) -> None:
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._lock = threading.Lock()
        self._waiting: deque[JobT] = deque()
        self._num_waiting_rows = 0
        self._is_taken = False
        self._is_draining = False

    @property
    def num_waiting_rows(self) -> int:
        """Rows submitted and not yet in a batch."""
        return self._num_waiting_rows

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._is_taken

    def submit(self, job: JobT) -> Batch[JobT] | None:
        """Add a job; a batch is returned to whoever gets the turn by it, who runs it and calls ``release``.

        CallFailure BUSY when the queue is full and DRAINING after ``drain``.
        """
        with self._lock:
            self._check_room(job)
            if self._is_taken:
                self._waiting.append(job)
                self._num_waiting_rows += job.num_rows
                return None
            self._is_taken = True  # while nobody has the turn, nothing waits
            return Batch([], [job]) if job.deadline <= time.monotonic() else Batch([job], [])

    def release(self) -> Batch[JobT] | None:
        """End a turn; returns the batch of the next one, which belongs to its first job, or None when nothing waits.

        Jobs past their deadline come along to be answered, not to be run.
        """
        with self._lock:
            if not self._waiting:
                self._is_taken = False
                return None
            return self._pick(time.monotonic())

    def cancel(self, job: JobT) -> bool:
        """Forget a job that waits; False when it is not (or no longer) waiting."""
        with self._lock:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            self._num_waiting_rows -= job.num_rows
            return True

    def drain(self) -> None:
        """Refuse new jobs from now on; those that wait still get their turn."""
        with self._lock:
            self._is_draining = True

    def _check_room(self, job: JobT) -> None:
        if self._is_draining:
            raise CallFailure(FailureCode.DRAINING, "this server is shutting down; another replica will answer")
        if self._num_waiting_rows + job.num_rows > self._max_queue_rows:
            raise CallFailure(
                FailureCode.BUSY,
                f"{self._num_waiting_rows} rows wait already, {job.num_rows} more would exceed the limit of "
                f"{self._max_queue_rows}",
            )

    def _pick(self, now: float) -> Batch[JobT]:
        batch: Batch[JobT] = Batch([], [])
        rest: deque[JobT] = deque()
        num_rows = 0
        for job in self._waiting:
            if job.deadline <= now:
                batch.expired.append(job)
            elif not batch.jobs or (job.key == batch.jobs[0].key and num_rows + job.num_rows <= self._max_batch_rows):
                batch.jobs.append(job)
                num_rows += job.num_rows
            else:
                rest.append(job)
        self._waiting = rest
        self._num_waiting_rows = sum(job.num_rows for job in rest)
        return batch
