import asyncio
import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from expertmesh.errors import ApiKeyError, ConfigError, GatewayError
from expertmesh.loadgen.client import Server, Target, connected, first_model
from expertmesh.loadgen.load import Question

WORD = {"choices": [{"index": 0, "text": " red", "finish_reason": None}]}
EMPTY = {"choices": [{"index": 0, "text": "", "finish_reason": None}]}
END = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def data(*events):
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)


def answer(stream, status=200):
    """Ask a server that answers with these bytes; returns the answer and the body that it was sent."""
    bodies = []

    async def complete(request):
        bodies.append(await request.json())
        return StreamingResponse(iter([stream]), status, media_type="text/event-stream")

    async def talk():
        transport = httpx.ASGITransport(Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])]))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await Server("mesh", "some-model", client, {"ignore_eos": True}).ask(Question([5, 6, 7], 2))

    return asyncio.run(talk()), bodies[0]


def test_a_stream_becomes_an_answer():
    got, _ = answer(data(WORD, EMPTY, WORD, END, USAGE) + "data: [DONE]\n\n")
    assert (got.error, got.status) == (None, 200)
    assert (got.prompt_tokens, got.output_tokens) == (3, 2)
    assert len(got.pieces) == 2
    assert got.sent <= got.pieces[0] <= got.pieces[1] <= got.finished


def test_comments_other_line_ends_and_split_data_are_read():
    got, _ = answer(": ping\r\n\r\n" + data(WORD, END).replace("\n", "\r\n") + 'data: {"choices": [],\ndata: "usage": '
                    '{"prompt_tokens": 3, "completion_tokens": 1}}\n\n')  # fmt: skip
    assert (got.error, got.output_tokens) == (None, 1)


def test_the_request_is_greedy_and_streamed_with_usage():
    _, body = answer(data(WORD, END, USAGE))
    assert body == {
        "model": "some-model",
        "prompt": [5, 6, 7],
        "max_tokens": 2,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


@pytest.mark.parametrize(
    ("stream", "status", "message"),
    [
        ('{"error": "full"}', 429, 'HTTP 429: {"error": "full"}'),
        ('{"error": {"message": "unlucky", "code": 13}}', 400, "HTTP 400: unlucky"),
        (data(WORD, {"error": {"message": "lost"}}), 200, "lost"),
        (data(WORD, USAGE), 200, "finish_reason"),
        (data(WORD, END), 200, "usage"),
        ("data: {broken\n\n", 200, "JSONDecodeError"),
        ("data: 5\n\n", 200, "TypeError"),
        ('data: {"choices": [1]}\n\n', 200, "AttributeError"),
    ],
)
def test_failures_are_answers_with_an_error(stream, status, message):
    got, _ = answer(stream, status)
    assert message in got.error
    assert got.status == status


def ask_for_model(reply, status=200):
    async def models(request):
        return JSONResponse(reply, status)

    async def name():
        transport = httpx.ASGITransport(Starlette(routes=[Route("/v1/models", models)]))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await first_model(client)

    return asyncio.run(name())


def test_the_first_model_is_asked_for():
    assert ask_for_model({"data": [{"id": "tiny"}, {"id": "other"}]}) == "tiny"


@pytest.mark.parametrize(
    ("reply", "status", "error", "message"),
    [
        ({"data": []}, 200, GatewayError, "test/v1/models answered 200 and names no model"),
        (["tiny"], 200, GatewayError, "names no model"),
        ({"detail": "Not Found"}, 404, GatewayError, "answered 404 and names no model: .*Not Found"),
        ({}, 401, ApiKeyError, "answered 401; the key"),
    ],
)
def test_a_server_without_models_is_refused_with_what_it_said(reply, status, error, message):
    with pytest.raises(error, match=message):
        ask_for_model(reply, status)


def test_a_server_that_is_not_there_is_named():
    async def connect():
        async with connected(Target("none", "http://127.0.0.1:1/v1/")):
            pass

    with pytest.raises(GatewayError, match="http://127.0.0.1:1/v1/models cannot be reached: ConnectError"):
        asyncio.run(connect())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "'127.0.0.1:8000' is no URL"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"api_key": ""}, "api"),
    ],
)
def test_what_makes_no_request_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Target(**{"name": "mesh", "url": "http://127.0.0.1:8000", **values})
