"""Compiles what strangers wrote: first where it can be killed, then here. Knows no client and keeps no grammar.

What llguidance makes of a grammar cannot leave the process that made it. What crosses over is the news that it can be
made within the limits; then it is made once more beside the engine, by the same code and at the same cost.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple, Unpack

from expertmesh.engine.request import Constraint
from expertmesh.gateway.grammars.trial_worker import TrialWorker
from expertmesh.gateway.grammars.verdict import TrialSettings

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

NUM_WORKERS = 2

Construct = Callable[[str, str], Constraint]


@dataclass(frozen=True)
class Compiled:
    """The constraint of an answer that has not begun, and how many bytes making it took at most."""

    constraint: Constraint
    num_bytes: int


class BoundedCompiler:
    """Two grammars at a time, in threads and processes that do nothing else."""

    def __init__(self, construct: Construct, settings: TrialSettings) -> None:
        """``construct`` makes a constraint of kind and source of a grammar, as trials with ``settings`` do."""
        self._construct = construct
        self.workers = tuple(TrialWorker(settings) for _ in range(NUM_WORKERS))
        self._threads = ThreadPoolExecutor(NUM_WORKERS, "grammar")
        self._idle: asyncio.LifoQueue[TrialWorker] = asyncio.LifoQueue()
        for worker in reversed(self.workers):
            self._idle.put_nowait(worker)

    async def compile(self, kind: str, source: str) -> Compiled:
        """Make a constraint; raises what ``TrialWorker.attempt`` raises. To cancel it ends a trial at once."""
        async with self._borrow() as worker:
            num_bytes = await self._try(worker, kind, source)
            return Compiled(await self._in_thread(self._construct, kind, source), num_bytes)

    async def close(self) -> None:
        """End the processes, when nothing is compiled any more."""
        for worker in self.workers:
            await self._in_thread(worker.close)
        self._threads.shutdown(wait=False)

    @asynccontextmanager
    async def _borrow(self) -> AsyncIterator[TrialWorker]:
        worker = await self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put_nowait(worker)

    async def _try(self, worker: TrialWorker, kind: str, source: str) -> int:
        trial = self._in_thread(worker.attempt, kind, source)
        try:
            return await asyncio.shield(trial)
        except asyncio.CancelledError:
            worker.stop()
            await asyncio.wait([trial])
            trial.exception()  # which is that it was stopped
            await self._in_thread(worker.close)
            raise

    def _in_thread(
        self, work: Callable[[Unpack[Arguments]], Result], *arguments: *Arguments
    ) -> "asyncio.Future[Result]":
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
