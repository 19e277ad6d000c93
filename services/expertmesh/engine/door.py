"""The door of the engine: requests come in, tokens go out, and whoever leaves early is cancelled.

Knows token streams and why they end, neither steps nor text.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from expertmesh.engine.observer import EngineObserver, Interruption, Outcome
from expertmesh.engine.request import FinishReason, Limits, Request, Route, Sequence
from expertmesh.engine.scheduler import Scheduler
from expertmesh.errors import ExpertmeshError
from expertmesh.model.sampling import Choice


@dataclass(frozen=True)
class TokenDelta:
    """The next token of a sequence; ``finish_reason`` is set with the last one.

    ``num_cached_tokens`` of the prompt were not computed anew. ``prompt_logprobs`` (for prompt tokens 1, 2, ...) come
    with the first token, where they are wanted; so do the experts asked for each token, ``routed_experts`` [L][A].
    """

    choice: Choice
    finish_reason: FinishReason | None
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[Choice, ...] | None = None
    routed_experts: Route | None = None


class Door:
    """Where clients wait for tokens: they call ``generate``, the loop everything else."""

    def __init__(self, scheduler: Scheduler, limits: Limits, observer: EngineObserver) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._observer = observer
        self._streams: dict[Sequence, asyncio.Queue[TokenDelta | ExpertmeshError]] = {}
        self._has_work = asyncio.Event()

    async def generate(self, request: Request) -> AsyncGenerator[TokenDelta, FinishReason | None]:
        """Yield the tokens of a request as they are sampled, the end-of-sequence token included.

        Raises InvalidRequestError before anything is computed, or the error of the step that failed. Leaving the
        iterator early frees everything that the request held, and counts as cancelled; whoever has all the text that
        was wanted sends the reason instead, which ends the iterator.
        """
        sequence = self._accept(request)
        stream = self._streams[sequence]
        outcome: Outcome = Interruption.CANCELLED
        try:
            while True:
                delta = await stream.get()
                if isinstance(delta, ExpertmeshError):
                    raise delta
                reason = (yield delta) or delta.finish_reason
                if reason is not None:
                    outcome = reason
                    return
        finally:
            self.end(sequence, outcome)

    async def wait_for_work(self) -> None:
        """Return once any sequence is waiting or running."""
        await self._has_work.wait()

    def is_awaited(self, sequence: Sequence) -> bool:
        """Tell whether anybody still waits for tokens of ``sequence``."""
        return sequence in self._streams

    def hand_out(self, sequence: Sequence, delta: TokenDelta) -> None:
        """Give a token to whoever waits for it."""
        self._streams[sequence].put_nowait(delta)

    def end(self, sequence: Sequence, outcome: Outcome) -> None:
        """Free what a sequence holds; nothing happens when it has ended before."""
        if self._streams.pop(sequence, None) is not None:
            self._scheduler.remove(sequence)
            self._observer.finished(sequence, outcome)
        if not self._scheduler.has_work:
            self._has_work.clear()

    def fail(self, sequence: Sequence, error: ExpertmeshError) -> None:
        """End a sequence with an error, if anybody still waits for it."""
        if stream := self._streams.get(sequence):
            stream.put_nowait(error)
            self.end(sequence, Interruption.FAILED)

    def _accept(self, request: Request) -> Sequence:
        try:
            self._limits.check(request)
            return self._start(request)
        except ExpertmeshError as error:
            self._observer.rejected(error)
            raise

    def _start(self, request: Request) -> Sequence:
        sampling = request.sampling
        room = self._limits.max_model_len - len(request.prompt_ids)
        sequence = Sequence(
            request,
            max_tokens=room if sampling.max_tokens is None else min(sampling.max_tokens, room),
            seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        )
        self._scheduler.add(sequence)
        self._streams[sequence] = asyncio.Queue()
        self._observer.arrived(sequence)
        self._has_work.set()
        return sequence
