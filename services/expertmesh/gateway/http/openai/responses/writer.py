"""Writes a response from what is generated. Knows when which event is sent, not how it gets there."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from itertools import chain, count

from expertmesh.engine.request import FinishReason
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http import sse
from expertmesh.gateway.http.errors import problem_of
from expertmesh.gateway.http.long_json import json_pieces
from expertmesh.gateway.http.openai.common import describe_token
from expertmesh.gateway.http.openai.responses import events, replies
from expertmesh.gateway.http.openai.responses.output import Output
from expertmesh.gateway.text_stream import TextDelta


class ResponseWriter:
    """Writes one response; ``begun`` is what is known of it before the first token."""

    def __init__(self, generator: TextGenerator, begun: replies.Response, wants_logprobs: bool) -> None:
        self._generator = generator
        self._begun = begun
        self._output = Output(partial(describe_token, generator) if wants_logprobs else None)

    async def complete(self, generation: GenerationRequest) -> replies.Response:
        """Generate the whole response: the one that the last event of a stream holds."""
        response = self._begun
        async with aclosing(self._events(generation)) as told:
            async for event in told:
                if isinstance(event, events.ResponseEvent):
                    response = event.response
        return response

    async def stream(self, generation: GenerationRequest, request_id: str) -> AsyncGenerator[sse.Event]:
        """Generate and tell of each piece as it comes. An error before the first token is raised, a later one told."""
        numbers = count()
        async with aclosing(self._events(generation)) as told:
            try:
                async for event in told:
                    yield _write(event, next(numbers))
            except Exception as error:
                if not (number := next(numbers)):
                    raise
                yield _write(self._fail(error, request_id), number)

    async def _events(self, generation: GenerationRequest) -> AsyncGenerator[events.Event]:
        last: TextDelta | None = None
        async with aclosing(self._generator.generate(generation)) as deltas:
            async for delta in deltas:
                if last is None:
                    yield events.ResponseEvent(type="response.created", response=self._begun)
                    yield events.ResponseEvent(type="response.in_progress", response=self._begun)
                last = delta
                for event in self._output.push(delta):
                    yield event
        assert last is not None, "an answer has at least one token"
        for event in self._end(last):
            yield event

    def _end(self, last: TextDelta) -> Iterator[events.Event]:
        is_cut = last.finish_reason is FinishReason.LENGTH
        yield from self._output.close("incomplete" if is_cut else "completed")
        told = {"output": self._output.items(), "usage": _count(last)}
        if is_cut:
            details = replies.IncompleteDetails(reason="max_output_tokens")
            cut = self._begun.model_copy(update={**told, "status": "incomplete", "incomplete_details": details})
            yield events.ResponseEvent(type="response.incomplete", response=cut)
        else:
            whole = self._begun.model_copy(update={**told, "status": "completed"})
            yield events.ResponseEvent(type="response.completed", response=whole)

    def _fail(self, error: Exception, request_id: str) -> events.Event:
        problem = problem_of(error, request_id)
        told = replies.ResponseError(
            code="server_error" if problem.status >= 500 else "invalid_prompt", message=problem.message
        )
        failed = {"status": "failed", "error": told, "output": self._output.items()}
        return events.ResponseEvent(type="response.failed", response=self._begun.model_copy(update=failed))


def _write(event: events.Event, number: int) -> sse.Event:
    numbered = event.model_copy(update={"sequence_number": number})
    return chain((f"event: {event.type}\ndata: ",), json_pieces(numbered))


def _count(last: TextDelta) -> replies.ResponseUsage:
    return replies.ResponseUsage(
        input_tokens=last.num_prompt_tokens,
        input_tokens_details=replies.InputTokensDetails(cached_tokens=last.num_cached_tokens),
        output_tokens=last.num_output_tokens,
        total_tokens=last.num_prompt_tokens + last.num_output_tokens,
    )
