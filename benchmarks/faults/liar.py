"""An expert server that answers with what no expert can make of a call, in turns.

Usage: python -m faults.liar expert FLAG...; the flags are those of ``expertmesh expert``.
"""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch

from expertmesh.cli.main import main as run_command
from expertmesh.expert import process
from expertmesh.expert.executor import Executor
from expertmesh.expert.job import CallJob, Outcome, Seat
from expertmesh.wire.calls import ExpertResult

LIES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda partial: torch.full_like(partial, torch.nan),
    lambda partial: partial[:, :-1].contiguous(),
    lambda partial: torch.cat([partial, partial[:1]]),
    lambda partial: torch.full_like(partial, torch.inf),
    lambda partial: partial.half(),
)


class LyingExecutor(Executor):
    """Runs calls as every other does, and then says something else."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._lies = cycle(LIES)

    def run(self, job: CallJob, seat: Seat, reply: Callable[[Outcome], None]) -> None:
        """Run a job, and lie about its outcome."""
        super().run(job, seat, lambda outcome: reply(self._lie(outcome)))

    def submit(self, job: CallJob) -> None:
        """Have a job run, and lie about its outcome."""
        on_done = job.on_done
        job.on_done = lambda outcome: on_done(self._lie(outcome))
        super().submit(job)

    def _lie(self, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, ExpertResult):
            return outcome
        partial = next(self._lies)(outcome.partial)
        return ExpertResult(partial, outcome.queue_seconds, outcome.compute_seconds)


def main() -> None:
    """Run the command that follows with an executor that lies."""
    patched: Any = process
    patched.Executor = LyingExecutor
    run_command()


if __name__ == "__main__":
    main()
