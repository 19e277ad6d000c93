"""POST /v1/chat/completions. Knows conversations and the replies to them, not how text is generated."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.body_route import BodyRoute
from expertmesh.gateway.http.disconnect import unless_disconnected
from expertmesh.gateway.http.document import describe_stream
from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.long_json import Mapped, json_pieces, mapped
from expertmesh.gateway.http.long_response import long_response
from expertmesh.gateway.http.openai import replies
from expertmesh.gateway.http.openai.common import (
    DONE,
    ERRORS,
    Header,
    StreamUsage,
    by_answer,
    count_usage,
    describe_prompt,
    describe_token,
    dropped_experts,
    finish_reason,
    make_header,
    routed_experts,
)
from expertmesh.gateway.http.openai.conversation import to_messages
from expertmesh.gateway.http.openai.requests import ChatCompletionRequest
from expertmesh.gateway.http.openai.sampling import check_model, generation_request, truncated
from expertmesh.gateway.http.openai.tool_calls import describe_calls, describe_pieces
from expertmesh.gateway.http.service import Service, ServiceDep
from expertmesh.gateway.http.sse import Event, event_stream
from expertmesh.gateway.text_stream import TextDelta

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)

_STREAM = describe_stream(
    replies.ChatCompletionChunk, 'data: {"object": "chat.completion.chunk", ...}\n\ndata: [DONE]\n\n', DONE
)


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    response_model=replies.ChatCompletion,
    responses={200: {"description": "The answers, or with `stream` a stream of chunks.", "content": _STREAM}, **ERRORS},
)
async def create_chat_completion(body: ChatCompletionRequest, request: Request, service: ServiceDep) -> Response:
    """Answer a conversation in the model's template."""
    check_model(body.model, service.names)
    writer = _Writer(service.generator, make_header("chatcmpl", service.model), body)
    generation = await _prepare(body, service)
    if body.stream:
        return await event_stream(request, writer.stream(generation))
    return long_response(await unless_disconnected(request.receive, writer.complete(generation)))


async def _prepare(body: ChatCompletionRequest, service: Service) -> GenerationRequest:
    _check(body)
    use, continues = body.tool_use(), body.continues(body.messages)
    generator = service.generator.with_variables(body.chat_template_kwargs or {})
    prompt_ids = await generator.encode_chat(to_messages(body.messages), use, continues)
    request = generation_request(body, truncated(prompt_ids, body), service.defaults, continues)
    sampling = replace(request.sampling, logprobs=(body.top_logprobs or 0) if body.logprobs else None)
    if body.max_completion_tokens is not None:
        sampling = replace(sampling, max_tokens=body.max_completion_tokens)
    return await service.generator.allow_calls(replace(request, sampling=sampling), use)


def _check(body: ChatCompletionRequest) -> None:
    if body.top_logprobs and not body.logprobs:
        raise ParameterError("top_logprobs", "is only for requests with logprobs")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise ParameterError("max_tokens", f"is {body.max_tokens}, but max_completion_tokens is another number")


class _Writer:
    """Writes the replies to one request."""

    def __init__(self, generator: TextGenerator, header: Header, body: ChatCompletionRequest) -> None:
        self._generator = generator
        self._header = header
        self._wants_logprobs = bool(body.logprobs)
        self._wants_ids = bool(body.return_token_ids)
        self._stream_usage = StreamUsage.of(body.stream_options)

    async def complete(self, generation: GenerationRequest) -> replies.ChatCompletion:
        """Generate and describe all answers."""
        async with aclosing(self._generator.generate(generation)) as deltas:
            answers = by_answer([delta async for delta in deltas])
        return replies.ChatCompletion(
            **self._header,
            choices=Mapped(self._choice, answers),
            usage=count_usage([[answer[-1] for answer in answers]]),
            prompt_token_ids=list(generation.prompt_ids) if self._wants_ids else None,
        )

    async def stream(self, generation: GenerationRequest) -> AsyncGenerator[Event]:
        """Generate and describe each piece as it comes."""
        last: dict[int, TextDelta] = {}
        async with aclosing(self._generator.generate(generation)) as deltas:
            async for delta in deltas:
                is_first = delta.index not in last
                prompt_ids = list(generation.prompt_ids) if self._wants_ids and not last else None
                last[delta.index] = delta
                usage = self._stream_usage.so_far([last.values()])
                if is_first:
                    yield json_pieces(self._chunk([self._opening(delta)], usage, prompt_ids))
                if self._says_something(delta):
                    yield self._chunk([self._piece(delta)], usage).model_dump_json()
        if self._stream_usage.is_wanted:
            yield self._chunk([], count_usage([last.values()])).model_dump_json()
        yield DONE

    def _choice(self, answer: Sequence[TextDelta]) -> replies.ChatChoice:
        text, calls = "".join(delta.text for delta in answer), [piece for delta in answer for piece in delta.calls]
        return replies.ChatChoice(
            index=answer[0].index,
            message=replies.AssistantMessage(
                content=None if calls and not text else text, tool_calls=describe_calls(calls)
            ),
            finish_reason=finish_reason(answer[-1]),
            logprobs=self._logprobs(answer),
            prompt_logprobs=describe_prompt(self._generator, answer[0].prompt_logprobs),
            routed_experts=routed_experts(answer),
            dropped_experts=dropped_experts(answer),
            token_ids=self._ids(answer),
        )

    def _opening(self, delta: TextDelta) -> replies.ChatChunkChoice:
        return replies.ChatChunkChoice(
            index=delta.index,
            delta=replies.Delta(role="assistant", content=""),
            prompt_logprobs=describe_prompt(self._generator, delta.prompt_logprobs),
        )

    def _piece(self, delta: TextDelta) -> replies.ChatChunkChoice:
        return replies.ChatChunkChoice(
            index=delta.index,
            delta=replies.Delta(content=delta.text or None, tool_calls=describe_pieces(delta.calls)),
            finish_reason=finish_reason(delta),
            logprobs=self._logprobs([delta]),
            routed_experts=routed_experts([delta]),
            dropped_experts=dropped_experts([delta]),
            token_ids=self._ids([delta]),
        )

    def _says_something(self, delta: TextDelta) -> bool:
        wants_all = self._wants_logprobs or self._wants_ids
        about_experts = delta.routed_experts or delta.dropped_experts
        return bool(delta.text or delta.calls or delta.finish_reason or wants_all or about_experts)

    def _ids(self, deltas: Sequence[TextDelta]) -> list[int] | None:
        return [delta.token.token_id for delta in deltas] if self._wants_ids else None

    def _logprobs(self, deltas: Sequence[TextDelta]) -> replies.ChatLogprobs | None:
        if not self._wants_logprobs:
            return None
        return replies.ChatLogprobs(content=mapped(self._describe, deltas))

    def _describe(self, delta: TextDelta) -> replies.TokenLogprob:
        return describe_token(self._generator, delta.token)

    def _chunk(
        self,
        choices: list[replies.ChatChunkChoice],
        usage: replies.Usage | None = None,
        prompt_ids: list[int] | None = None,
    ) -> replies.ChatCompletionChunk:
        return replies.ChatCompletionChunk(**self._header, choices=choices, usage=usage, prompt_token_ids=prompt_ids)
