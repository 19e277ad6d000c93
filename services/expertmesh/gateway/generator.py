"""Text in, text out: prompts to ids, and the answers of one request as one stream. Knows text, not transport."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol

from expertmesh.engine.messages import TokenDelta
from expertmesh.engine.request import Caller, FinishReason, Request
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.merge import merge
from expertmesh.gateway.prompt_scores import share_scores
from expertmesh.gateway.response_size import ResponseLimit
from expertmesh.gateway.text_stream import TextDelta, TextStream, stream_text
from expertmesh.model.sampling import MAX_SEED, SamplingParams
from expertmesh.text.call_grammar import make_call_grammar
from expertmesh.text.call_parser import CallParser
from expertmesh.text.conversation import ChatTemplate, Message
from expertmesh.text.detokenizer import Detokenizer, NamedControls
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.tools import ToolUse
from expertmesh.tracing.tracer import NullTracer, SpanKind, Tracer, ending


class Engine(Protocol):
    """What produces tokens, wherever it runs."""

    def generate(self, request: Request) -> AsyncGenerator[TokenDelta, FinishReason | None]:
        """Yield the tokens of a request, as ``EngineClient.generate`` says."""
        ...


@dataclass(frozen=True)
class Origin:
    """Where a request comes from: who sent it, under which span, and what it is called; empty where that is unsaid."""

    caller: Caller = Caller()
    traceparent: str = ""
    request_id: str = ""


class TextGenerator:
    """Answers prompts and conversations with a stream of text, as far as ``limit`` allows.

    Requests are traced under the span of their origin, or are traces of their own where it names none, with their id
    as an attribute.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        engine: Engine,
        tracer: Tracer = NullTracer(),
        limit: ResponseLimit | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._engine = engine
        self._tracer = tracer
        self._limit = limit
        self._origin = Origin()

    def under(self, origin: Origin) -> "TextGenerator":
        """Return the generator for a request from ``origin``."""
        other = copy(self)
        other._origin = origin
        return other

    def with_variables(self, variables: Mapping[str, Any]) -> "TextGenerator":
        """Return the generator whose template has further variables; InvalidRequestError where it takes none."""
        other = copy(self)
        other._template = self._template.with_variables(variables)
        return other

    async def encode_prompt(self, text: str) -> list[int]:
        """Ids of raw text, begin-of-sequence id first. Runs in a thread: prompts may be long."""
        return await asyncio.to_thread(self._tokenizer.encode_prompt, text)

    async def encode_text(self, text: str) -> list[int]:
        """Ids of raw text alone. Runs in a thread: texts may be long."""
        return await asyncio.to_thread(self._tokenizer.encode, text)

    async def encode_chat(
        self, messages: Sequence[Message], use: ToolUse = ToolUse(), continues: bool = False
    ) -> list[int]:
        """Ids of a conversation in the model's template, to be answered, or to go on with its last message.

        Runs in a thread: conversations may be long.
        """
        use.check()
        with _nested_in_bounds():
            return await asyncio.to_thread(self._template.encode, messages, use.offered, continues)

    async def allow_calls(self, request: GenerationRequest, use: ToolUse) -> GenerationRequest:
        """Return a request whose answers may call functions, as the model writes that; nothing new where none may.

        Runs in a thread: schemas may be long.
        """
        if not use.offered:
            return request
        call_format = self._template.call_format
        with _nested_in_bounds():
            grammar = await asyncio.to_thread(make_call_grammar, use, call_format, request.grammar)
        return replace(request, grammar=grammar, call_format=call_format)

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

    def fit(self, requests: Sequence[GenerationRequest]) -> Sequence[GenerationRequest]:
        """Return valid requests of one call, for answers that are not too large together, as ``ResponseLimit.fit``."""
        for request in requests:
            request.validate()
        return self._limit.fit(requests) if self._limit else requests

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        """Stream the answers; errors are those of ``EngineClient.generate``. Leaving early ends every sequence."""
        [request] = self.fit([request])
        attributes = _describe(request, self._origin.request_id)
        with ending(self._tracer.start("generate", self._origin.traceparent, attributes, SpanKind.SERVER)) as span:
            sequences = _sequence_requests(request, span.traceparent, self._origin.caller)
            answers = [self._answer(request, index, sequence) for index, sequence in enumerate(sequences)]
            if request.sampling.prompt_logprobs is not None:
                answers = share_scores(answers)
            async with aclosing(merge(answers)) as deltas:
                if request.num_sequences == request.n:
                    async for delta in deltas:
                        yield delta
                else:
                    for delta in _best([delta async for delta in deltas], request.n):
                        yield delta

    def _answer(self, request: GenerationRequest, index: int, sequence: Request) -> AsyncGenerator[TextDelta]:
        """Generate one sequence until it ends by itself or with a stop string."""
        call_format = request.call_format
        texts = self._tokenizer if request.skips_special_tokens else NamedControls(self._tokenizer)
        shown = call_format.shown if call_format else {}
        text = TextStream(
            Detokenizer(texts, request.begins_text, shown),
            request.stop,
            CallParser(call_format) if call_format else None,
            request.sampling.min_tokens,
            request.includes_stop,
        )
        return stream_text(self._engine.generate(sequence), text, index, len(request.prompt_ids))


@contextmanager
def _nested_in_bounds() -> Iterator[None]:
    """Refuse JSON of schemas, calls and results that is nested deeper than Python goes."""
    try:
        yield
    except RecursionError:
        raise InvalidRequestError("JSON of a tool, a call or its result is nested too deeply") from None


def _describe(request: GenerationRequest, request_id: str) -> dict[str, int | str]:
    """Attributes of a request's span, named as in OpenTelemetry's conventions for generative models."""
    return {
        "gen_ai.usage.input_tokens": len(request.prompt_ids),
        "gen_ai.request.choice.count": request.n,
        **({"expertmesh.request_id": request_id} if request_id else {}),
    }


def _sequence_requests(request: GenerationRequest, traceparent: str, caller: Caller) -> list[Request]:
    """Make the request of each sequence, with a seed of its own."""
    grammar = None if request.grammar is None else (request.grammar.kind.value, request.grammar.source)
    return [
        Request(
            request.prompt_ids,
            _sequence_sampling(request, index),
            grammar=grammar,
            return_routed_experts=request.return_routed_experts,
            no_replica=request.no_replica,
            num_in_all=request.num_sequences * request.num_prompts,
            traceparent=traceparent,
            caller=caller,
        )
        for index in range(request.num_sequences)
    ]


def _sequence_sampling(request: GenerationRequest, index: int) -> SamplingParams:
    sampling = request.sampling
    if index:
        sampling = replace(sampling, prompt_logprobs=None)  # those of the first are shared
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
