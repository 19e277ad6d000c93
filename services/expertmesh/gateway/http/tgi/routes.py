"""TGI's routes. Knows paths and bodies, not how text is generated."""

from itertools import chain
from typing import Any

from fastapi import APIRouter, Request, Response

from expertmesh.gateway.generation_request import MAX_SEQUENCES, MAX_STOPS
from expertmesh.gateway.http.body_route import BodyRoute
from expertmesh.gateway.http.disconnect import unless_disconnected
from expertmesh.gateway.http.document import describe_stream
from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.long_json import json_pieces
from expertmesh.gateway.http.long_response import LongResponse, long_response
from expertmesh.gateway.http.schema import json_response
from expertmesh.gateway.http.service import Service, ServiceDep
from expertmesh.gateway.http.sse import event_stream
from expertmesh.gateway.http.tgi import models
from expertmesh.gateway.http.tgi.reply_writer import Writer
from expertmesh.gateway.http.tgi.sampling import generation_request

router = APIRouter(tags=["TGI"], route_class=BodyRoute)

# TGI writes no space there, and a client may cut off just these characters.
PREFIX = "data:"

_MODEL = {"model": models.ErrorReply}
_KEY: dict[int | str, dict[str, Any]] = {
    401: {**_MODEL, "description": "The gateway wants an API key."},
    403: {**_MODEL, "description": "The API key is not good for this."},
    "default": {**_MODEL, "description": "Any other error."},
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    **_KEY,
    413: {**_MODEL, "description": "The body is too large."},
    422: {**_MODEL, "description": "A parameter is wrong or not supported, or the inputs are too long."},
    424: {**_MODEL, "description": "The gateway failed; its log says more."},
    429: {**_MODEL, "description": "Too many requests wait already; see Retry-After."},
    503: {**_MODEL, "description": "No replica of an expert answered in time; see Retry-After."},
}
_STREAM = describe_stream(
    models.StreamEvent,
    'data:{"index": 1, "token": {...}, "generated_text": null, "details": null}\n\n',
)


async def _compat(body: models.CompatRequest, request: Request, service: ServiceDep) -> Response:
    """Continue a text: a list of one generation, or with stream an event for each token."""
    if body.stream:
        return await _stream(body, request, service)
    writer = await _prepare(body, service)
    generation = await unless_disconnected(request.receive, writer.complete())
    return LongResponse(chain("[", json_pieces(generation), "]"))


for _path, _name in (("/", "post_root"), ("/v1", "post_v1")):
    router.add_api_route(
        _path,
        _compat,
        methods=["POST"],
        operation_id=_name,
        summary="Continue a text",
        response_model=list[models.Generation],
        responses={
            200: {"description": "The text, or with `stream` a stream of tokens.", "content": _STREAM},
            **_ERRORS,
        },
    )


@router.post("/generate", summary="Continue a text at once", response_model=models.Generation, responses=_ERRORS)
async def generate(body: models.GenerateRequest, request: Request, service: ServiceDep) -> Response:
    """Continue a text."""
    writer = await _prepare(body, service)
    return long_response(await unless_disconnected(request.receive, writer.complete()))


@router.post(
    "/generate_stream",
    summary="Continue a text as a stream",
    response_class=Response,
    responses={200: {"description": "An event for each token.", "content": _STREAM}, **_ERRORS},
)
async def generate_stream(body: models.StreamRequest, request: Request, service: ServiceDep) -> Response:
    """Continue a text, sending token by token."""
    return await _stream(body, request, service)


@router.get("/info", summary="Describe the model", response_model=models.Info, responses=_KEY)
async def get_info(service: ServiceDep) -> Response:
    """Describe the served model and the bounds of requests."""
    return json_response(
        models.Info(
            model_id=service.model.name,
            model_sha=service.model.fingerprint,
            max_best_of=MAX_SEQUENCES,
            max_stop_sequences=MAX_STOPS,
            max_input_tokens=service.model.max_model_len - 1,
            max_total_tokens=service.model.max_model_len,
            version=service.model.version,
        )
    )


async def _stream(body: models.InputsRequest, request: Request, service: Service) -> Response:
    writer = await _prepare(body, service)
    _check_stream(writer.parameters)
    return await event_stream(request, writer.stream(), PREFIX)


async def _prepare(body: models.InputsRequest, service: Service) -> Writer:
    parameters = body.parameters or models.Parameters()
    prompt_ids = await service.generator.encode_prompt(body.inputs)
    if parameters.truncate is not None:
        prompt_ids = prompt_ids[-parameters.truncate :]
    generation = generation_request(parameters, prompt_ids, service.generator.has_text(prompt_ids))
    return Writer(service.generator, generation, body.inputs, parameters)


def _check_stream(parameters: models.Parameters) -> None:
    if (parameters.best_of or 1) > 1:
        raise ParameterError("best_of", "texts are compared when all are complete; they cannot be streamed")
    if parameters.decoder_input_details:
        raise ParameterError("decoder_input_details", "is not supported in a stream")
