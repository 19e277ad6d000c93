"""GenerationService: the public gRPC API. Knows the messages, not how text is generated."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc.aio

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.api.generation_codec import decode_conversation, decode_request, encode_delta
from expertmesh.gateway.callers import Callers
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import Origin, TextGenerator
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.sampling import SamplingParams
from expertmesh.rpc.access import origin
from expertmesh.rpc.forwarded import Proxies
from expertmesh.rpc.metadata import authorization, request_id, traceparent
from expertmesh.rpc.status import report_errors
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc
from expertmesh.wire.model_info import ModelInfo

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Serves generation; ``defaults`` stand for what a request does not set, ``proxies`` say who is behind them.

    ``get_model`` raises StillLoadingError before the model is known.
    """

    def __init__(
        self,
        generator: TextGenerator,
        get_model: Callable[[], ModelInfo],
        defaults: SamplingParams,
        callers: Callers,
        proxies: Proxies,
    ) -> None:
        self._generator = generator
        self._get_model = get_model
        self._defaults = defaults
        self._callers = callers
        self._proxies = proxies

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:  # noqa: D102
        async with report_errors(context):
            prompt_ids = await self._encode_prompt(request)
            generation = self._decode(prompt_ids, request)
            continues_text = self._generator.has_text(prompt_ids)
            async for delta in self._stream(replace(generation, continues_text=continues_text), context):
                yield pb.GenerateResponse(delta=delta)

    async def Chat(self, request: pb.ChatRequest, context: Context) -> AsyncIterator[pb.ChatResponse]:  # noqa: D102
        async with report_errors(context):
            messages, use = await asyncio.to_thread(
                decode_conversation, request.messages, request.tools, request.tool_choice
            )
            continues = request.continue_final_message
            prompt_ids = await self._generator.encode_chat(messages, use, continues)
            generation = replace(self._decode(prompt_ids, request), continues_text=continues)
            async for delta in self._stream(await self._generator.allow_calls(generation, use), context):
                yield pb.ChatResponse(delta=delta)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:  # noqa: D102
        async with report_errors(context):
            token_ids = await self._tokenize(request)
        return pb.TokenizeResponse(token_ids=token_ids)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:  # noqa: D102
        async with report_errors(context):
            text = await asyncio.to_thread(self._generator.decode, request.token_ids)
        return pb.DetokenizeResponse(text=text)

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.GetModelInfoResponse:  # noqa: D102
        async with report_errors(context):
            return pb.GetModelInfoResponse(**vars(self._get_model()))

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
                conversation = request.conversation
                messages, use = await asyncio.to_thread(decode_conversation, conversation.messages, conversation.tools)
                return await self._generator.encode_chat(messages, use, conversation.continue_final_message)
        raise InvalidRequestError("the request has no input; set text or conversation")

    def _decode(self, prompt_ids: list[int], request: pb.GenerateRequest | pb.ChatRequest) -> GenerationRequest:
        return decode_request(prompt_ids, request.sampling, request.output, self._defaults)

    async def _stream(self, request: GenerationRequest, context: Context) -> AsyncGenerator[pb.Delta]:
        async with aclosing(self._generator.under(self._origin(context)).generate(request)) as deltas:
            async for delta in deltas:
                yield await self._encode(delta, request.sampling)

    async def _encode(self, delta: TextDelta, sampling: SamplingParams) -> pb.Delta:
        if delta.prompt_logprobs is None:
            return encode_delta(delta, sampling, self._generator.token_bytes)
        # Prompts may be long.
        return await asyncio.to_thread(encode_delta, delta, sampling, self._generator.token_bytes)

    def _origin(self, context: Context) -> Origin:
        metadata = context.invocation_metadata()
        caller = self._callers.caller_of(authorization(metadata), origin(context, self._proxies))
        return Origin(caller, traceparent(metadata), request_id(context.trailing_metadata()))
