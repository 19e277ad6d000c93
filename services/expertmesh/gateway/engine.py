"""Continuous batching: requests join and leave at every step. Knows token streams, not text or transport."""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import zip_longest

from expertmesh.errors import ExpertmeshError
from expertmesh.gateway.request import FinishReason, Limits, Request, Sequence
from expertmesh.gateway.runner import ChunkOutput, ModelRunner, Route
from expertmesh.gateway.scheduler import Chunk, Scheduler
from expertmesh.model.sampling import Choice

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

    def __init__(self, runner: ModelRunner, scheduler: Scheduler, limits: Limits, eos_ids: frozenset[int]) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._limits = limits
        self._eos_ids = eos_ids
        self._streams: dict[Sequence, asyncio.Queue[TokenDelta | ExpertmeshError]] = {}
        self._has_work = asyncio.Event()
        self.num_steps = 0

    async def generate(self, request: Request) -> AsyncGenerator[TokenDelta]:
        """Yield the tokens of a request as they are sampled, the end-of-sequence token included.

        Raises InvalidRequestError before anything is computed, or the error of the step that failed. Leaving the
        iterator early frees everything that the request held.
        """
        self._limits.check(request)
        sequence = self._start(request)
        stream = self._streams[sequence]
        try:
            while True:
                delta = await stream.get()
                if isinstance(delta, ExpertmeshError):
                    raise delta
                yield delta
                if delta.finish_reason is not None:
                    return
        finally:
            self._end(sequence)

    async def run(self) -> None:
        """Run steps until cancelled. A step that fails ends the requests in it; the others go on."""
        while True:
            await self._has_work.wait()
            chunks = self._scheduler.schedule()
            self.num_steps += 1
            try:
                self._postprocess(chunks, await self._runner.run(chunks))
            except ExpertmeshError as error:
                self._fail(chunks, error)
            except Exception as error:
                _log.exception("a step failed")
                self._fail(chunks, EngineError(f"internal error ({type(error).__name__}); the gateway's log says more"))
            # Steps on local experts never wait for anything: let clients read their tokens in between.
            await asyncio.sleep(0)

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
        self._has_work.set()
        return sequence

    def _end(self, sequence: Sequence) -> None:
        if self._streams.pop(sequence, None) is not None:
            self._scheduler.remove(sequence)
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
        self._scheduler.advance(chunk, max(0, len(sequence.tokens) - num_before - 1))
        if reason is not None:
            self._end(sequence)

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
                self._end(chunk.sequence)
