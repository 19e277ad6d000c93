"""Continuous batching: requests join and leave at every step. Knows token streams, not text or transport."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import zip_longest

from expertmesh.engine.observer import EngineObserver, Interruption, NullObserver, Outcome, StepSummary
from expertmesh.engine.request import FinishReason, Limits, Request, Sequence
from expertmesh.engine.routes import Route
from expertmesh.engine.runner import ChunkOutput, ModelRunner
from expertmesh.engine.scheduler import Chunk, Scheduler
from expertmesh.engine.step_spans import trace_step
from expertmesh.errors import ExpertmeshError
from expertmesh.model.sampling import Choice
from expertmesh.tracing.tracer import NullTracer, Tracer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenDelta:
    """The next token of a sequence; ``finish_reason`` is set with the last one.

    The other fields are those of ``TextDelta`` in generator.py.
    """

    choice: Choice
    finish_reason: FinishReason | None
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[Choice, ...] | None = None
    routed_experts: Route | None = None


class EngineError(ExpertmeshError):
    """A step failed for a reason that nobody foresaw; the log has the details."""


class Engine:
    """Runs steps while there is work; ``generate`` is the only door."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        limits: Limits,
        eos_ids: frozenset[int],
        observer: EngineObserver = NullObserver(),
        tracer: Tracer = NullTracer(),
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._limits = limits
        self._eos_ids = eos_ids
        self._observer = observer
        self._tracer = tracer
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
            self._end(sequence, outcome)

    async def run(self) -> None:
        """Run steps until cancelled. A step that fails ends the requests in it; the others go on."""
        while True:
            await self._has_work.wait()
            started = time.perf_counter()
            chunks = self._scheduler.schedule()
            try:
                with trace_step(self._tracer, chunks) as step:
                    outputs = await self._runner.run(chunks, step)
                self._postprocess(chunks, outputs)
                self._observer.stepped(_summarize(chunks, outputs, time.perf_counter() - started))
            except ExpertmeshError as error:
                self._fail(chunks, error)
            except Exception as error:
                _log.exception("a step failed")
                self._fail(chunks, EngineError(f"internal error ({type(error).__name__}); the gateway's log says more"))
            # Steps on local experts never wait for anything: let clients read their tokens in between.
            await asyncio.sleep(0)

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

    def _end(self, sequence: Sequence, outcome: Outcome) -> None:
        if self._streams.pop(sequence, None) is not None:
            self._scheduler.remove(sequence)
            self._observer.finished(sequence, outcome)
        if not self._scheduler.has_work:
            self._has_work.clear()

    def _postprocess(self, chunks: list[Chunk], outputs: list[ChunkOutput]) -> None:
        for chunk, output in zip(chunks, outputs, strict=True):
            if chunk.sequence not in self._streams:
                continue  # its client left during the step
            try:
                self._take(chunk, output)
            except ExpertmeshError as error:  # of its own constraint: nobody else's concern
                self._fail([chunk], error)

    def _take(self, chunk: Chunk, output: ChunkOutput) -> None:
        """Move a sequence on by what came of its chunk, and hand its new tokens out."""
        sequence = chunk.sequence
        sequence.prompt_logprobs.extend(output.prompt_logprobs)
        num_before = len(sequence.tokens)
        reason = None
        for choice, route in zip_longest(output.tokens, output.routes):
            reason = self._append(sequence, choice, route)
            if reason is not None:
                break
        num_new = len(sequence.tokens) - num_before
        self._scheduler.advance(chunk, max(0, num_new - 1))
        if num_new:
            self._observer.produced(sequence, num_new)
        if reason is not None:
            self._end(sequence, reason)

    def _append(self, sequence: Sequence, choice: Choice, route: Route | None) -> FinishReason | None:
        """Add a token to its sequence and stream; returns why it is the last one, if it is."""
        sequence.tokens.append(choice.token_id)
        if sequence.request.constraint is not None:
            sequence.request.constraint.advance(choice.token_id)
        reason = self._finish_reason(sequence, choice.token_id)
        is_first = sequence.num_output_tokens == 1
        wants_scores = sequence.request.sampling.prompt_logprobs is not None
        delta = TokenDelta(
            choice=choice,
            finish_reason=reason,
            num_cached_tokens=sequence.num_cached_tokens,
            prompt_logprobs=tuple(sequence.prompt_logprobs) if is_first and wants_scores else None,
            routed_experts=route if sequence.request.return_routed_experts else None,
        )
        self._streams[sequence].put_nowait(delta)
        return reason

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        if token_id in self._eos_ids and not sequence.request.sampling.ignore_eos:
            return FinishReason.STOP
        if token_id in sequence.request.sampling.stop_ids:
            return FinishReason.STOP_SEQUENCE
        if sequence.num_output_tokens >= sequence.max_tokens:
            return FinishReason.LENGTH
        return None

    def _fail(self, chunks: list[Chunk], error: ExpertmeshError) -> None:
        for chunk in chunks:
            if stream := self._streams.get(chunk.sequence):
                stream.put_nowait(error)
                self._end(chunk.sequence, Interruption.FAILED)


def _summarize(chunks: list[Chunk], outputs: list[ChunkOutput], seconds: float) -> StepSummary:
    num_drafted = sum(len(chunk.draft) for chunk in chunks)
    return StepSummary(
        seconds=seconds,
        num_rows=sum(chunk.num_rows for chunk in chunks),
        num_drafted=num_drafted,
        num_accepted=sum(len(output.tokens) - 1 for output in outputs if output.tokens) if num_drafted else 0,
    )
