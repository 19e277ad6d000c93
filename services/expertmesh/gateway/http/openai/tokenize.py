"""POST /tokenize and /detokenize, in vLLM's shape: text and conversations to ids and back."""

import asyncio

from fastapi import APIRouter, Response

from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.body_route import BodyRoute
from expertmesh.gateway.http.long_response import long_response
from expertmesh.gateway.http.openai import replies
from expertmesh.gateway.http.openai.common import ERRORS
from expertmesh.gateway.http.openai.conversation import to_messages, tool_use
from expertmesh.gateway.http.openai.requests import DetokenizeRequest, TokenizeRequest
from expertmesh.gateway.http.openai.sampling import check_model
from expertmesh.gateway.http.schema import json_response
from expertmesh.gateway.http.service import ServiceDep

router = APIRouter(tags=["tokens"], route_class=BodyRoute)
_ERRORS = {status: ERRORS[status] for status in (400, 401, 403, 404, 413, "default")}


@router.post("/tokenize", summary="Text to ids", response_model=replies.TokenizeReply, responses=_ERRORS)
async def create_tokens(body: TokenizeRequest, service: ServiceDep) -> Response:
    """Tokenize a text or a conversation as a completion would."""
    check_model(body.model, service.names)
    ids = await _encode(body, service.generator)
    return long_response(replies.TokenizeReply(count=len(ids), max_model_len=service.model.max_model_len, tokens=ids))


@router.post("/detokenize", summary="Ids to text", response_model=replies.DetokenizeReply, responses=_ERRORS)
async def create_text(body: DetokenizeRequest, service: ServiceDep) -> Response:
    """Return the text of token ids; control tokens have none."""
    check_model(body.model, service.names)
    text = await asyncio.to_thread(service.generator.decode, body.tokens)
    return json_response(replies.DetokenizeReply(prompt=text))


async def _encode(body: TokenizeRequest, generator: TextGenerator) -> list[int]:
    if body.messages is not None:
        messages = to_messages(body.messages)
        return await generator.encode_chat(messages, tool_use(body.tools, None, None), body.continues(body.messages))
    encode = generator.encode_prompt if body.add_special_tokens else generator.encode_text
    return await encode(body.prompt or "")
