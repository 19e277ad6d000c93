"""The loop of the engine: schedule, run, hand out, as long as there is work. Knows steps, not who waits for tokens.

It runs in one thread and blocks: what others want of it comes through an inbox, between steps.
"""

import logging
import time
from collections.abc import Collection
from itertools import zip_longest

from expertmesh.engine.door import Door
from expertmesh.engine.inbox import Inbox
from expertmesh.engine.internal_error import as_told
from expertmesh.engine.messages import TokenDelta
from expertmesh.engine.observer import EngineObserver, NullObserver, StepSummary
from expertmesh.engine.patience import StarvedError
from expertmesh.engine.request import FinishReason, Route, Sequence
from expertmesh.engine.runner import ChunkOutput, ModelRunner
from expertmesh.engine.scheduler import Chunk, Scheduler
from expertmesh.engine.step_spans import trace_step
from expertmesh.errors import ExpertmeshError
from expertmesh.kernels import cuda_devices
from expertmesh.model.choice import Choice
from expertmesh.tracing.tracer import NullTracer, Tracer

_log = logging.getLogger(__name__)


class Engine:
    """Runs steps while anybody behind ``door`` waits for tokens."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        door: Door,
        inbox: Inbox,
        eos_ids: frozenset[int],
        observer: EngineObserver = NullObserver(),
        tracer: Tracer = NullTracer(),
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._door = door
        self._inbox = inbox
        self._eos_ids = eos_ids
        self._observer = observer
        self._tracer = tracer

    def run(self) -> None:
        """Do what the inbox holds and run steps, until it is closed."""
        while self._inbox.do_all(waits=not self._scheduler.has_work):
            if self._scheduler.has_work:
                self._step()

    def _step(self) -> None:
        """Run a step. One that fails ends the requests in it; the others go on, in another process if a GPU is lost."""
        started = time.perf_counter()
        chunks = self._scheduler.schedule()
        try:
            with trace_step(self._tracer, chunks) as step:
                outputs = self._runner.run(chunks, step)
            self._postprocess(chunks, outputs)
            # Before the tokens leave: who has them may ask what was counted.
            self._observer.stepped(_summarize(chunks, outputs, time.perf_counter() - started))
            self._door.flush()
        except StarvedError as error:
            if error.chunks:
                self._fail(error.chunks, error)  # the others are computed in a further step
        except Exception as error:
            self._fail(chunks, as_told(error, "a step"))
            if cuda_devices.is_lost(error):
                raise

    def _postprocess(self, chunks: list[Chunk], outputs: list[ChunkOutput]) -> None:
        for chunk, output in zip(chunks, outputs, strict=True):
            try:
                self._take(chunk, output)
            except ExpertmeshError as error:  # of its own constraint: nobody else's concern
                self._fail([chunk], error)

    def _take(self, chunk: Chunk, output: ChunkOutput) -> None:
        """Move a sequence on by what came of its chunk, and hand its new tokens out."""
        sequence = chunk.sequence
        sequence.prompt_logprobs.extend(output.prompt_logprobs)
        if output.dropped:
            sequence.dropped.update(output.dropped)
            sequence.is_tainted = True
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
            self._door.end(sequence, reason)

    def _append(self, sequence: Sequence, choice: Choice, route: Route | None) -> FinishReason | None:
        """Add a token to its sequence and stream; returns why it is the last one, if it is."""
        sequence.tokens.append(choice.token_id)
        if sequence.constraint is not None:
            sequence.constraint.advance(choice.token_id)
        reason = self._finish_reason(sequence, choice.token_id)
        is_first = sequence.num_output_tokens == 1
        wants_scores = sequence.request.sampling.prompt_logprobs is not None
        delta = TokenDelta(
            choice=choice,
            finish_reason=reason,
            num_cached_tokens=sequence.num_cached_tokens,
            prompt_logprobs=tuple(sequence.prompt_logprobs) if is_first and wants_scores else None,
            routed_experts=route if sequence.request.return_routed_experts else None,
            dropped_experts=tuple(sorted(sequence.dropped.items())) if sequence.dropped else (),
        )
        sequence.dropped.clear()
        self._door.hand_out(sequence, delta)
        return reason

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        if token_id in self._eos_ids and not sequence.request.sampling.ignore_eos:
            return FinishReason.STOP
        if token_id in sequence.request.sampling.stop_ids:
            return FinishReason.STOP_SEQUENCE
        if sequence.num_output_tokens >= sequence.max_tokens:
            return FinishReason.LENGTH
        return None

    def _fail(self, chunks: Collection[Chunk], error: ExpertmeshError) -> None:
        if self._inbox.is_closed:
            return  # the end of this engine is no failure of the requests: another may go on with them
        # Notes say what concerns no caller: who was asked.
        _log.error("%d requests end: %s", len(chunks), "; ".join((str(error), *getattr(error, "__notes__", ()))))
        for chunk in chunks:
            self._door.fail(chunk.sequence, error)


def _summarize(chunks: list[Chunk], outputs: list[ChunkOutput], seconds: float) -> StepSummary:
    num_drafted = sum(len(chunk.draft) for chunk in chunks)
    return StepSummary(
        seconds=seconds,
        num_rows=sum(chunk.num_rows for chunk in chunks),
        num_drafted=num_drafted,
        num_accepted=sum(len(output.tokens) - 1 for output in outputs if output.tokens) if num_drafted else 0,
    )
