"""GenerationService: the public gRPC API. Knows the messages, not how text is generated."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generator import GenerationRequest, TextDelta, TextGenerator
from expertmesh.gateway.request import FinishReason
from expertmesh.model.sampling import SamplingParams
from expertmesh.rpc.status import report_errors
from expertmesh.text.template import Message
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

FINISH_REASONS = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


@dataclass(frozen=True)
class ModelInfo:
    """The fields of ``GetModelInfoResponse`` in generation.proto, which says what each means."""

    name: str
    architecture: str
    fingerprint: str
    weight_format: str
    num_layers: int
    hidden_size: int
    num_experts: int
    num_experts_per_token: int
    vocab_size: int
    max_model_len: int
    version: str


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Serves generation; ``defaults`` stand for what a request does not set."""

    def __init__(self, generator: TextGenerator, info: ModelInfo, defaults: SamplingParams) -> None:
        self._generator = generator
        self._info = info
        self._defaults = defaults

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:  # noqa: D102
        async with report_errors(context):
            prompt_ids = await self._encode_prompt(request)
            async for delta in self._stream(prompt_ids, request.sampling):
                yield pb.GenerateResponse(delta=delta)

    async def Chat(self, request: pb.ChatRequest, context: Context) -> AsyncIterator[pb.ChatResponse]:  # noqa: D102
        async with report_errors(context):
            prompt_ids = await self._generator.encode_chat(_messages(request.messages))
            async for delta in self._stream(prompt_ids, request.sampling):
                yield pb.ChatResponse(delta=delta)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:  # noqa: D102
        async with report_errors(context):
            token_ids = await self._tokenize(request)
        return pb.TokenizeResponse(token_ids=token_ids)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:  # noqa: D102
        async with report_errors(context):
            text = self._generator.decode(request.token_ids)
        return pb.DetokenizeResponse(text=text)

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.GetModelInfoResponse:  # noqa: D102
        return pb.GetModelInfoResponse(**vars(self._info))

    async def _encode_prompt(self, request: pb.GenerateRequest) -> list[int]:
        match request.WhichOneof("prompt"):
            case "text":
                return await self._generator.encode_prompt(request.text)
            case "token_ids":
                return list(request.token_ids.ids)
        raise InvalidRequestError("the request has no prompt; set text or token_ids")

    async def _tokenize(self, request: pb.TokenizeRequest) -> list[int]:
        match request.WhichOneof("input"):
            case "text":
                return await self._generator.encode_prompt(request.text)
            case "conversation":
                return await self._generator.encode_chat(_messages(request.conversation.messages))
        raise InvalidRequestError("the request has no input; set text or conversation")

    async def _stream(self, prompt_ids: list[int], sampling: pb.SamplingParams) -> AsyncGenerator[pb.Delta]:
        params = _sampling_params(sampling, self._defaults)
        async with aclosing(self._generator.generate(GenerationRequest(tuple(prompt_ids), params))) as deltas:
            async for delta in deltas:
                yield _encode_delta(delta)


def _messages(messages: Iterable[pb.ChatMessage]) -> list[Message]:
    return [Message(message.role, message.content) for message in messages]


def _sampling_params(message: pb.SamplingParams, defaults: SamplingParams) -> SamplingParams:
    """Lay the fields that a request sets over the defaults."""
    fields = {descriptor.name: value for descriptor, value in message.ListFields()}
    return replace(defaults, **fields)


def _encode_delta(delta: TextDelta) -> pb.Delta:
    message = pb.Delta(
        text=delta.text, token_ids=[delta.token.token_id], finish_reason=FINISH_REASONS[delta.finish_reason]
    )
    if delta.finish_reason is not None:
        message.usage.prompt_tokens = delta.num_prompt_tokens
        message.usage.completion_tokens = delta.num_output_tokens
    return message
