"""A call on its way through an expert server. Knows what it asks for, not who runs it."""

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from queue import SimpleQueue
from typing import Protocol

import torch

from expertmesh.expert.batcher import Batch
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure

Outcome = ExpertResult | CallFailure


@dataclass(eq=False)
class CallJob:
    """A call in the queue; ``on_done`` gets its outcome, in whichever thread ran it: answer in microseconds.

    ``on_turn`` gets a batch that begins with it, when it is its turn, for the thread that waits for the outcome to run
    it; None where no thread waits. ``out`` [U, D] float32 is where its answer had better be, in memory of the host.
    """

    call: ExpertCall
    on_done: Callable[[Outcome], object]
    arrived: float = field(default_factory=time.monotonic)
    on_turn: "Callable[[Batch[CallJob]], None] | None" = None
    out: torch.Tensor | None = None

    @cached_property
    def key(self) -> Hashable:
        """Layer, dtype and A: what calls that run together have in common."""
        return self.call.layer, self.call.hidden.dtype, self.call.topk_ids.shape[1]

    @cached_property
    def num_rows(self) -> int:
        """Rows U of the call."""
        return self.call.hidden.shape[0]

    @cached_property
    def deadline(self) -> float:
        """When the caller stops waiting, in ``time.monotonic`` seconds."""
        return self.arrived + (math.inf if self.call.timeout_seconds is None else self.call.timeout_seconds)


class Seat:
    """Where one thread waits for its call: for the outcome, or for its turn to run a batch."""

    def __init__(self) -> None:
        self._news: SimpleQueue[Outcome | Batch[CallJob]] = SimpleQueue()

    def job(self, call: ExpertCall, out: torch.Tensor | None = None) -> CallJob:
        """Make the job of a call whose news come here; one at a time."""
        return CallJob(call, self._news.put, on_turn=self._news.put, out=out)

    def wait(self) -> Outcome | Batch[CallJob]:
        """Wait for the next news."""
        return self._news.get()


class CallRunner(Protocol):
    """Who runs jobs, for any number of links; ``Executor`` says what each method promises."""

    def run(self, job: CallJob, seat: Seat, reply: Callable[[Outcome], None]) -> None:
        """Run a job that ``seat`` made, while this thread waits."""
        ...

    def submit(self, job: CallJob) -> None:
        """Have a job run while nobody waits."""
        ...

    def cancel(self, job: CallJob) -> bool:
        """Do not run a job that still waits."""
        ...

    def refuse(self, failure: CallFailure) -> None:
        """Note a call that cannot become a job."""
        ...

    def drain(self) -> None:
        """Refuse new jobs from now on."""
        ...
