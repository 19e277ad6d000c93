import asyncio
import json

import httpx
import pytest
from serving.client import AnswerError, ask, first_model
from serving.load import Question
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

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
            return await ask(client, Question([5, 6, 7], 2), "some-model", {"ignore_eos": True})

    return asyncio.run(talk()), bodies[0]


def test_a_stream_becomes_an_answer():
    got, _ = answer(data(WORD, EMPTY, WORD, END, USAGE) + "data: [DONE]\n\n")
    assert got.error is None
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
        (data(WORD, {"error": {"message": "lost"}}), 200, "lost"),
        (data(WORD, USAGE), 200, "finish_reason"),
        (data(WORD, END), 200, "usage"),
        ("data: {broken\n\n", 200, "JSONDecodeError"),
    ],
)
def test_failures_are_answers_with_an_error(stream, status, message):
    got, _ = answer(stream, status)
    assert message in got.error


def test_the_first_model_is_asked_for():
    async def name(reply):
        transport = httpx.ASGITransport(Starlette(routes=[Route("/v1/models", lambda request: JSONResponse(reply))]))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await first_model(client)

    assert asyncio.run(name({"data": [{"id": "tiny"}, {"id": "other"}]})) == "tiny"
    with pytest.raises(AnswerError, match="names no model"):
        asyncio.run(name({"data": []}))
