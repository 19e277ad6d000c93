"""Responses of a script that stands for the model; what OpenAI's client makes of them is its own."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from scripted_engine import ScriptedEngine

from expertmesh.engine.request import FinishReason
from expertmesh.errors import ComputeError, ExpertmeshError, ExpertUnavailableError, InvalidRequestError, QueueFullError
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.openai.responses.replies import Response
from expertmesh.gateway.http.openai.responses.requests import TextSettings
from expertmesh.gateway.http.openai.responses.writer import ResponseWriter
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.tokenizer import Tokenizer

EOS = 2
REQUEST = GenerationRequest((1, 5, 6), SamplingParams())
BEGUN = Response(
    id="resp_1",
    created_at=0,
    model="tiny",
    status="in_progress",
    instructions=None,
    max_output_tokens=None,
    metadata={},
    parallel_tool_calls=True,
    temperature=0.0,
    text=TextSettings(),
    tool_choice="auto",
    tools=[],
    top_logprobs=0,
    top_p=1.0,
)
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory) -> Tokenizer:
    return Tokenizer.open(tokenizer_directory)


def write(tokenizer: Tokenizer, text: str, reason: FinishReason | Exception, wants_logprobs: bool = False) -> Any:
    """Make the writer of an answer."""
    ids = tokenizer.encode(text) if text else []
    engine = ScriptedEngine([*ids, *([EOS] if reason is FinishReason.STOP else [])], reason)
    generator = TextGenerator(tokenizer, InstTemplate(tokenizer), engine)
    return ResponseWriter(generator, BEGUN, wants_logprobs)


def complete(writer: ResponseWriter) -> Response:
    return asyncio.run(writer.complete(REQUEST))


def stream(writer: ResponseWriter) -> list[str]:
    async def read() -> list[str]:
        return ["".join(event) async for event in writer.stream(REQUEST, "req_1")]

    return asyncio.run(read())


def data_of(event: str) -> dict[str, Any]:
    """Read an event, which OpenAI's types take whole."""
    kind, data = event.split("\n")
    told = json.loads(data.removeprefix("data: "))
    assert kind == f"event: {told['type']}"
    EVENT.validate_python(told)
    return told


def told_by(writer: ResponseWriter) -> list[dict[str, Any]]:
    told = [data_of(event) for event in stream(writer)]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [(FinishReason.STOP, "completed", None), (FinishReason.LENGTH, "incomplete", "max_output_tokens")],
)
def test_the_last_event_of_a_stream_holds_the_response(tokenizer: Tokenizer, reason, status, why):
    whole = complete(write(tokenizer, "one two", reason))
    (message,) = whole.output
    assert (whole.status, message.status, message.content[0].text) == (status, status, "one two")
    assert (whole.incomplete_details.reason if whole.incomplete_details else None) == why
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens == 3 + 2 + (why is None)
    created, in_progress, *_, last = told_by(write(tokenizer, "one two", reason))
    assert [event["type"] for event in (created, in_progress, last)] == [
        "response.created",
        "response.in_progress",
        f"response.{status}",
    ]
    assert created["response"] == in_progress["response"] == BEGUN.model_dump(mode="json")
    del last["response"]["output"][0]["id"]
    assert last["response"] == whole.model_dump(mode="json", exclude={"output": {0: {"id"}}})


def test_logprobs_come_only_where_asked_for(tokenizer: Tokenizer):
    for wants_logprobs in (False, True):
        (message,) = complete(write(tokenizer, "one two", FinishReason.STOP, wants_logprobs)).output
        assert [one.logprob for one in message.content[0].logprobs] == [-0.5] * 2 * wants_logprobs


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ComputeError("layer 3 gave NaN"), "server_error", "layer 3 gave NaN"),
        (ExpertUnavailableError("expert 3 is away"), "server_error", "expert 3 is away"),
        (InvalidRequestError("the answer cannot go on within its grammar"), "invalid_prompt", "cannot go on"),
        (ZeroDivisionError("secret"), "server_error", "internal error (ZeroDivisionError)"),
    ],
)
def test_an_engine_that_fails_after_the_first_token_fails_the_response(tokenizer: Tokenizer, error, code, words):
    *before, last = told_by(write(tokenizer, "one two", error))
    assert [event["type"] for event in before[-2:]] == ["response.output_text.delta"] * 2
    failed = last["response"]
    assert (last["type"], failed["status"], failed["error"]["code"]) == ("response.failed", "failed", code)
    assert words in failed["error"]["message"] and "secret" not in failed["error"]["message"]
    (message,) = failed["output"]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "one two")


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_error_before_the_first_token_is_raised(tokenizer: Tokenizer, is_stream):
    writer = write(tokenizer, "", QueueFullError("full"))
    with pytest.raises(QueueFullError):
        stream(writer) if is_stream else complete(writer)


def test_without_a_stream_an_error_is_raised_whenever_it_comes(tokenizer: Tokenizer):
    with pytest.raises(ExpertmeshError, match="layer 3"):
        complete(write(tokenizer, "one two", ComputeError("layer 3")))


def test_openais_client_hears_of_the_failure(tokenizer: Tokenizer):
    body = "".join(f"{event}\n\n" for event in stream(write(tokenizer, "one two", ComputeError("layer 3"))))
    headers = {"content-type": "text/event-stream"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=body, headers=headers))
    with (
        httpx.Client(transport=transport) as http,
        openai.OpenAI(base_url="http://gateway/v1", api_key="none", http_client=http) as client,
    ):
        *_, last = client.responses.create(model="tiny", input="a", stream=True)
    assert last.type == "response.failed"
    assert (last.response.error.message, last.response.output_text) == ("layer 3", "one two")
