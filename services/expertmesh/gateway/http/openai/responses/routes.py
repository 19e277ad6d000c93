"""POST /v1/responses. Knows requests and the replies to them, not how text is generated; keeps nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from fastapi import APIRouter, Request, Response
from pydantic_core import PydanticSerializationError

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.http.body_route import BodyRoute
from expertmesh.gateway.http.disconnect import unless_disconnected
from expertmesh.gateway.http.document import describe_stream
from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.long_response import long_response
from expertmesh.gateway.http.openai.common import ERRORS
from expertmesh.gateway.http.openai.responses import replies
from expertmesh.gateway.http.openai.responses.events import ResponseStreamEvent
from expertmesh.gateway.http.openai.responses.items import to_messages
from expertmesh.gateway.http.openai.responses.output import make_id
from expertmesh.gateway.http.openai.responses.requests import LOGPROBS, ResponseRequest, TextSettings
from expertmesh.gateway.http.openai.responses.writer import ResponseWriter
from expertmesh.gateway.http.openai.sampling import check_model
from expertmesh.gateway.http.parameters import given
from expertmesh.gateway.http.request_ids import request_id_of
from expertmesh.gateway.http.service import Service, ServiceDep
from expertmesh.gateway.http.sse import event_stream
from expertmesh.model.sampling import SamplingParams

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)

_STREAM = describe_stream(
    ResponseStreamEvent,
    'event: response.created\ndata: {"type": "response.created", "sequence_number": 0, ...}\n\n',
)


@router.post(
    "/v1/responses",
    summary="Answer a conversation, in the shape of the Responses API",
    response_model=replies.Response,
    responses={200: {"description": "The answer, or with `stream` a stream of events.", "content": _STREAM}, **ERRORS},
)
async def create_response(body: ResponseRequest, request: Request, service: ServiceDep) -> Response:
    """Answer a conversation in the model's template, and keep nothing of it."""
    check_model(body.model, service.names)
    with _flat_names():
        generation = await _prepare(body, service)
        begun = _begin(body, generation.sampling, service)
        _check_echo(begun)
        writer = ResponseWriter(service.generator, begun, _wants_logprobs(body))
        if body.stream:
            return await event_stream(request, writer.stream(generation, request_id_of(request.scope)), prefix="")
        return long_response(await unless_disconnected(request.receive, writer.complete(generation)))


async def _prepare(body: ResponseRequest, service: Service) -> GenerationRequest:
    use = body.tool_use()
    prompt_ids = await service.generator.encode_chat(to_messages(body.items()), use)
    grammar = body.text.grammar() if body.text else None
    generation = GenerationRequest(tuple(prompt_ids), _sampling(body, service.defaults), grammar=grammar)
    return await service.generator.allow_calls(generation, use)


def _sampling(body: ResponseRequest, defaults: SamplingParams) -> SamplingParams:
    if body.top_logprobs and not _wants_logprobs(body):
        raise ParameterError("top_logprobs", f"is only for requests that include {LOGPROBS}")
    sampling = replace(defaults, **given(body), logprobs=(body.top_logprobs or 0) if _wants_logprobs(body) else None)
    return sampling if body.max_output_tokens is None else replace(sampling, max_tokens=body.max_output_tokens)


def _wants_logprobs(body: ResponseRequest) -> bool:
    return LOGPROBS in (body.include or ())


def _begin(body: ResponseRequest, sampling: SamplingParams, service: Service) -> replies.Response:
    """Describe a response before its first token."""
    return replies.Response(
        id=make_id("resp"),
        created_at=int(time.time()),
        model=service.model.name,
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        temperature=sampling.temperature,
        text=body.text or TextSettings(),
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=sampling.top_p,
    )


def _check_echo(begun: replies.Response) -> None:
    """Raise ParameterError for what a request says in JSON that no reply could repeat."""
    for name in ("metadata", "tools", "text"):
        try:
            begun.model_dump_json(include={name})
        except PydanticSerializationError as error:
            raise ParameterError(name, f"cannot be sent back: {error}") from None


@contextmanager
def _flat_names() -> Iterator[None]:
    """Name the fields of functions as they are named here, without the ``function`` around them in chat completions."""
    try:
        yield
    except InvalidRequestError as error:
        if error.param is None or ".function" not in error.param:
            raise
        param = error.param.replace(".function", "")
        raise InvalidRequestError(str(error).replace(error.param, param, 1), param) from None
