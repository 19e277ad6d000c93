"""Trouble made on purpose, for experiments. Knows when answers leave, not what they say."""

import asyncio
import time
from collections.abc import Callable

from expertmesh.expert.job import CallJob, CallRunner, Outcome, Seat
from expertmesh.wire.failures import CallFailure


class DelayedExecutor:
    """Hands the answers of ``runner`` on ``delay_seconds`` late, as a slow network would."""

    def __init__(self, runner: CallRunner, delay_seconds: float) -> None:
        self._runner = runner
        self._delay_seconds = delay_seconds

    def run(self, job: CallJob, seat: Seat, reply: Callable[[Outcome], None]) -> None:
        """Run a job as ``runner`` does; the thread that waits for it sleeps, and refusals are late, too."""

        def reply_late(outcome: Outcome) -> None:
            time.sleep(self._delay_seconds)
            reply(outcome)

        try:
            self._runner.run(job, seat, reply_late)
        except CallFailure:
            time.sleep(self._delay_seconds)
            raise

    def submit(self, job: CallJob) -> None:
        """Have a job run as ``runner`` does; the loop that submits it keeps the time of each answer by itself."""
        loop, on_done = asyncio.get_running_loop(), job.on_done
        job.on_done = lambda outcome: loop.call_soon_threadsafe(loop.call_later, self._delay_seconds, on_done, outcome)
        self._runner.submit(job)

    def cancel(self, job: CallJob) -> bool:
        """Do not run a job that still waits."""
        return self._runner.cancel(job)

    def refuse(self, failure: CallFailure) -> None:
        """Note a call that cannot become a job."""
        self._runner.refuse(failure)

    def drain(self) -> None:
        """Refuse new jobs from now on."""
        self._runner.drain()
