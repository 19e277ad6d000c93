"""Text in, text out: tokenizer, detokenizer and stop strings around the engine. Knows text, not transport."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from statistics import fmean

from expertmesh.engine.door import TokenDelta
from expertmesh.engine.loop import Engine
from expertmesh.engine.request import Constraint, FinishReason, Request
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.merge import merge
from expertmesh.model.sampling import MAX_SEED, Choice, SamplingParams
from expertmesh.text.constraint import GrammarCompiler
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.grammar import Grammar
from expertmesh.text.stop import StopMatcher
from expertmesh.text.template import Message, encode_chat, encode_prompt
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.tracing.tracer import NullTracer, SpanKind, Tracer, ending

MAX_SEQUENCES = 64
MAX_STOPS = 16


@dataclass(frozen=True)
class GenerationRequest:
    """What a client wants: ``n`` answers to a prompt, the most probable ones of ``best_of`` where that is greater.

    ``stop`` strings end an answer and are not part of it. With a seed, answer i is drawn with seed + i. Text that
    ``continues_text`` of the prompt keeps the space before its first word; an answer has none there.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    n: int = 1
    best_of: int | None = None
    grammar: Grammar | None = None
    return_routed_experts: bool = False
    continues_text: bool = False

    @property
    def begins_text(self) -> bool:
        """Whether a space before the first word is dropped: a text with a grammar fits it as a whole, without one."""
        return self.grammar is not None or not self.continues_text

    @property
    def num_sequences(self) -> int:
        """Sequences to generate."""
        return self.best_of or self.n

    def validate(self) -> None:
        """Raise InvalidRequestError that names the first field out of its range."""
        if not 1 <= self.n <= MAX_SEQUENCES:
            raise InvalidRequestError(f"n is {self.n}; it must be from 1 to {MAX_SEQUENCES}", "n")
        if self.best_of is not None and not self.n <= self.best_of <= MAX_SEQUENCES:
            raise InvalidRequestError(
                f"best_of is {self.best_of}; it must be from n, {self.n}, to {MAX_SEQUENCES}", "best_of"
            )
        if len(self.stop) > MAX_STOPS:
            raise InvalidRequestError(f"stop has {len(self.stop)} strings; at most {MAX_STOPS} are taken", "stop")
        if "" in self.stop:
            raise InvalidRequestError("stop has an empty string; each must have at least one character", "stop")
        if self.grammar is not None:
            self._validate_with_grammar()

    def _validate_with_grammar(self) -> None:
        """A grammar says where the answer ends: there, end-of-sequence is all that may come."""
        if self.sampling.ignore_eos:
            raise InvalidRequestError("ignore_eos is True; with a grammar it must be False", "ignore_eos")
        if self.sampling.min_tokens > 0:
            raise InvalidRequestError(
                f"min_tokens is {self.sampling.min_tokens}; with a grammar it must be 0", "min_tokens"
            )


@dataclass(frozen=True)
class TextDelta:
    """One more token of answer ``index``, and the text that became certain with it.

    Text may lag behind its token: half a character, or what may be the beginning of a stop string, waits for the next.
    ``prompt_logprobs`` (for prompt tokens 1, 2, ...) come with the first piece of an answer, ``finish_reason`` and
    ``stop`` (the stop string that was met) with the last. Counts are those so far; cached prompt tokens were not
    computed anew. ``routed_experts`` [L][A] are the experts asked for the token, layer by layer.
    """

    index: int
    text: str
    token: Choice
    finish_reason: FinishReason | None
    stop: str | None
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    prompt_logprobs: tuple[Choice, ...] | None = None
    routed_experts: tuple[tuple[int, ...], ...] | None = None


class TextGenerator:
    """Answers prompts and conversations with a stream of text.

    Requests are traced under the span ``traceparent`` of who asks, or are traces of their own where it is empty.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        engine: Engine,
        compiler: GrammarCompiler,
        tracer: Tracer = NullTracer(),
        traceparent: str = "",
    ) -> None:
        self._tokenizer = tokenizer
        self._engine = engine
        self._compiler = compiler
        self._tracer = tracer
        self._traceparent = traceparent

    def under(self, traceparent: str) -> "TextGenerator":
        """Return the generator for a caller with a span of its own; empty where it named none."""
        if not (traceparent and self._tracer.is_on):
            return self
        return TextGenerator(self._tokenizer, self._engine, self._compiler, self._tracer, traceparent)

    async def encode_prompt(self, text: str) -> list[int]:
        """Ids of raw text, begin-of-sequence id first. Runs in a thread: prompts may be long."""
        return await asyncio.to_thread(encode_prompt, self._tokenizer, text)

    async def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation in the [INST] template. Runs in a thread: conversations may be long."""
        return await asyncio.to_thread(encode_chat, self._tokenizer, messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids."""
        return self._tokenizer.decode(list(token_ids))

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Cut the text of ids into what becomes certain with each of them, the last one included."""
        detokenizer = Detokenizer(self._tokenizer)
        pieces = [detokenizer.push([token_id]) for token_id in token_ids]
        return [*pieces[:-1], pieces[-1] + detokenizer.flush()] if pieces else []

    def has_text(self, token_ids: Sequence[int]) -> bool:
        """Tell whether any id has text of its own, unlike begin- and end-of-sequence."""
        return not all(self._tokenizer.is_control(token_id) for token_id in token_ids)

    def piece(self, token_id: int) -> str:
        """Name of one token, with U+2581 for a space: ``</s>``, ``<0x0A>``, or its text."""
        return self._tokenizer.piece(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of one token in the middle of a text; empty for control tokens, one byte for those of the fallback."""
        return self._tokenizer.token_bytes(token_id)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        """Stream the answers; errors are those of ``Engine.generate``. Leaving early ends every sequence."""
        request.validate()
        with ending(self._tracer.start("generate", self._traceparent, _describe(request), SpanKind.SERVER)) as span:
            constraint = await self._compile(request.grammar)
            sequences = _sequence_requests(request, constraint, span.traceparent)
            answers = [self._answer(request, index, sequence) for index, sequence in enumerate(sequences)]
            async with aclosing(merge(answers)) as deltas:
                if request.num_sequences == request.n:
                    async for delta in deltas:
                        yield delta
                else:
                    for delta in _best([delta async for delta in deltas], request.n):
                        yield delta

    async def _compile(self, grammar: Grammar | None) -> Constraint | None:
        """Prepare a grammar in a thread: a large one takes its time."""
        return None if grammar is None else await asyncio.to_thread(self._compiler.compile, grammar)

    async def _answer(self, request: GenerationRequest, index: int, sequence: Request) -> AsyncGenerator[TextDelta]:
        """Generate one sequence until it ends by itself or with a stop string."""
        text = _TextStream(Detokenizer(self._tokenizer, request.begins_text), request.stop)
        num_output_tokens = 0
        async with aclosing(self._engine.generate(sequence)) as tokens:
            async for token in tokens:
                num_output_tokens += 1
                piece = text.push(token)
                if text.stop:
                    with suppress(StopAsyncIteration):
                        await tokens.asend(FinishReason.STOP_SEQUENCE)
                yield TextDelta(
                    index=index,
                    text=piece,
                    token=token.choice,
                    finish_reason=FinishReason.STOP_SEQUENCE if text.stop else token.finish_reason,
                    stop=text.stop,
                    num_prompt_tokens=len(request.prompt_ids),
                    num_cached_tokens=token.num_cached_tokens,
                    num_output_tokens=num_output_tokens,
                    prompt_logprobs=token.prompt_logprobs,
                    routed_experts=token.routed_experts,
                )
                if text.stop:
                    return


class _TextStream:
    """The text of one sequence as it becomes certain."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops)

    @property
    def stop(self) -> str | None:
        """The stop string that was met."""
        return self._matcher.matched

    def push(self, token: TokenDelta) -> str:
        """Take the next token and return the text that is certain with it."""
        text = self._detokenizer.push([token.choice.token_id])
        if token.finish_reason is not None:
            text += self._detokenizer.flush()
        text = self._matcher.push(text)
        if token.finish_reason is not None and self.stop is None:
            text += self._matcher.flush()
        return text


def _describe(request: GenerationRequest) -> dict[str, int]:
    """Attributes of a request's span, named as in OpenTelemetry's conventions for generative models."""
    return {
        "gen_ai.usage.input_tokens": len(request.prompt_ids),
        "gen_ai.request.choice.count": request.n,
    }


def _sequence_requests(request: GenerationRequest, constraint: Constraint | None, traceparent: str) -> list[Request]:
    """Make the request of each sequence, with a seed and a constraint of its own."""
    return [
        Request(
            request.prompt_ids,
            _sequence_sampling(request, index),
            constraint=None if constraint is None else constraint.copy(),
            return_routed_experts=request.return_routed_experts,
            traceparent=traceparent,
        )
        for index in range(request.num_sequences)
    ]


def _sequence_sampling(request: GenerationRequest, index: int) -> SamplingParams:
    sampling = request.sampling
    if sampling.seed is not None:
        sampling = replace(sampling, seed=(sampling.seed + index) % (MAX_SEED + 1))
    if request.num_sequences > request.n and sampling.logprobs is None:
        sampling = replace(sampling, logprobs=0)
    return sampling


def _best(deltas: Sequence[TextDelta], n: int) -> list[TextDelta]:
    """Keep the ``n`` answers whose tokens are the most probable on average, best first."""
    answers: dict[int, list[TextDelta]] = {}
    for delta in deltas:
        answers.setdefault(delta.index, []).append(delta)
    ranked = sorted(answers.values(), key=lambda answer: -fmean(delta.token.logprob or 0.0 for delta in answer))
    return [replace(delta, index=index) for index, answer in enumerate(ranked[:n]) for delta in answer]
