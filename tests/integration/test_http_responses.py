"""OpenAI's Responses API as its own client sees it."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from demo_model import NAME, QUESTION, with_long_context
from http_serving import Served, serving
from openai.types import responses as types
from pydantic import BaseModel, Field, TypeAdapter

RESPONSES = "/v1/responses"
CHAT = "/v1/chat/completions"
NUMBER = {"type": "integer", "minimum": 0, "maximum": 999}
SCHEMA = {
    "type": "object",
    "properties": {"a": NUMBER, "b": NUMBER},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SUBTRACT = {"type": "function", "name": "subtract", "description": "a - b", "parameters": SCHEMA, "strict": True}
NOW = {"type": "function", "name": "now", "parameters": None, "strict": False}
REQUIRED = {"tools": [SUBTRACT, NOW], "tool_choice": "required", "max_output_tokens": 300}
DEEP: dict[str, Any] = {}
for _ in range(400):
    DEEP = {"a": DEEP}
EVENT = TypeAdapter(types.ResponseStreamEvent)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    with serving(with_long_context(tmp_path_factory.mktemp("model") / NAME)) as mesh:
        yield mesh


def post(served: Served, **body: Any) -> dict[str, Any]:
    reply = served.http.post(RESPONSES, json={"input": QUESTION, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(served: Served, **body: Any) -> list[dict[str, Any]]:
    """Read the events of a stream, each of which OpenAI's types take whole."""
    reply = served.http.post(RESPONSES, json={"input": QUESTION, **body, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    told = []
    for event in reply.text.removesuffix("\n\n").split("\n\n"):
        kind, data = event.split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {told[-1]['type']}"
        EVENT.validate_python(told[-1])
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs between two equal responses."""
    output = [
        {key: value for key, value in item.items() if key not in ("id", "call_id")} for item in response["output"]
    ]
    usage = {key: value for key, value in response["usage"].items() if key != "input_tokens_details"}
    return {**response, "id": "", "created_at": 0, "output": output, "usage": usage}


def test_a_response_says_what_a_chat_completion_says(served: Served, client: openai.OpenAI):
    asked = {"temperature": 0.0, "metadata": {"a": "b"}, "max_output_tokens": 20, "store": True, "user": "somebody"}
    response = client.responses.create(model=NAME, input=QUESTION, **asked)
    chat = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": QUESTION}])
    assert response.output_text == chat.choices[0].message.content == "141"
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert response.usage.total_tokens == chat.usage.total_tokens
    assert (response.metadata, response.max_output_tokens, response.tool_choice) == ({"a": "b"}, 20, "auto")
    (message,) = response.output
    assert (message.role, message.status, message.content[0].annotations) == ("assistant", "completed", [])
    types.Response.model_validate(post(served))
    assert post(served)["store"] is False


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ({"input": "a", "instructions": "b"}, [("system", "b"), ("user", "a")]),
        (
            {"input": [{"role": "developer", "content": "b"}, {"role": "user", "content": "a"}]},
            [("system", "b"), ("user", "a")],
        ),
        (
            {
                "input": [
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
                    {"type": "reasoning", "id": "rs_1", "summary": []},
                    {
                        "type": "message",
                        "id": "msg_1",
                        "role": "assistant",
                        "status": "completed",
                        "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}],
                    },
                    {"role": "user", "content": "c"},
                ]
            },
            [("user", "a"), ("assistant", "b"), ("user", "c")],
        ),
    ],
)
def test_input_is_the_conversation_that_chat_completions_take(served: Served, items, messages):
    chat = {"messages": [{"role": role, "content": content} for role, content in messages], "max_tokens": 8}
    wanted = served.http.post(CHAT, json=chat).json()
    response = post(served, **items, max_output_tokens=8)
    assert response["output"][0]["content"][0]["text"] == wanted["choices"][0]["message"]["content"]
    assert response["usage"]["input_tokens"] == wanted["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_output_tokens": 2},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"text": {"format": {"type": "json_object"}, "verbosity": "low"}, "max_output_tokens": 40},
        REQUIRED,
        {**REQUIRED, "max_output_tokens": 30},
    ],
    ids=str,
)
def test_a_stream_adds_up_to_the_response(served: Served, fields):
    told = stream(served, **fields)
    first, second, *between, last = told
    assert [first["type"], second["type"]] == ["response.created", "response.in_progress"]
    assert first["response"]["status"] == "in_progress" and first["response"]["output"] == []
    response = last["response"]
    assert last["type"] == f"response.{response['status']}"
    assert without_ids(response) == without_ids(post(served, **fields))
    for index, item in enumerate(response["output"]):
        own = [event for event in between if event["output_index"] == index]
        deltas = [event for event in own if event["type"].endswith(".delta")]
        whole = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert "".join(event["delta"] for event in deltas) == whole
        assert [event["type"].removeprefix("response.") for event in own if event not in deltas] == (
            ["output_item.added", "function_call_arguments.done", "output_item.done"]
            if item["type"] == "function_call"
            else [
                "output_item.added",
                "content_part.added",
                "output_text.done",
                "content_part.done",
                "output_item.done",
            ]
        )
        assert own[-1]["item"] == item
        if item["type"] == "message":
            assert [one for event in deltas for one in event["logprobs"]] == item["content"][0]["logprobs"]


def test_logprobs_are_those_of_a_chat_completion(served: Served):
    response = post(served, include=["message.output_text.logprobs"], top_logprobs=2)
    chat = {"messages": [{"role": "user", "content": QUESTION}], "logprobs": True, "top_logprobs": 2}
    wanted = served.http.post(CHAT, json=chat).json()["choices"][0]["logprobs"]["content"]
    told = response["output"][0]["content"][0]["logprobs"]
    assert "".join(one["token"] for one in told).strip() == "141"
    assert told == wanted[: len(told)]  # the end of the sequence is no text


def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI):
    response = client.responses.create(model=NAME, input=QUESTION, max_output_tokens=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (response.output[0].status, response.usage.output_tokens) == ("incomplete", 2)


class Answer(BaseModel):
    """An answer that fits a schema."""

    value: int = Field(ge=0, le=999)
    unit: Literal["m", "kg"]


def test_openais_client_parses_what_fits_a_schema(client: openai.OpenAI):
    parsed = client.responses.parse(model=NAME, input=QUESTION, text_format=Answer)
    assert isinstance(parsed.output_parsed, Answer)
    assert parsed.text.format.type == "json_schema" and parsed.text.format.schema_["title"] == "Answer"
    with client.responses.stream(model=NAME, input=QUESTION, text_format=Answer) as streamed:
        assert streamed.get_final_response().output_parsed == parsed.output_parsed
    told = [*parsed.output, {"role": "user", "content": QUESTION}]
    assert client.responses.create(model=NAME, input=told, max_output_tokens=4).output_text


class subtract(BaseModel):  # noqa: N801 - the name of the function
    """a - b."""

    a: int = Field(ge=0, le=999)
    b: int = Field(ge=0, le=999)


def test_calls_are_told_and_their_results_taken(served: Served, client: openai.OpenAI):
    asked = {"model": NAME, "tools": [SUBTRACT], "max_output_tokens": 300}
    response = client.responses.create(input=QUESTION, tool_choice="required", parallel_tool_calls=False, **asked)
    (call,) = response.output
    assert (call.type, call.name, call.status, response.parallel_tool_calls) == (
        "function_call",
        "subtract",
        "completed",
        False,
    )
    subtract.model_validate_json(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "141"}
    told = [{"role": "user", "content": QUESTION}, call, result]
    answered = client.responses.create(input=told, tool_choice="none", **asked)
    function = {"name": call.name, "arguments": call.arguments}
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "tool_calls": [{"id": call.call_id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call.call_id, "content": "141"},
    ]
    wanted = served.http.post(CHAT, json={"messages": messages, "max_tokens": 300}).json()
    assert answered.output_text == wanted["choices"][0]["message"]["content"]
    assert answered.usage.input_tokens == wanted["usage"]["prompt_tokens"]


def test_openais_client_reads_calls_out_of_a_stream(client: openai.OpenAI):
    tool = openai.pydantic_function_tool(subtract)["function"]
    asked = {"model": NAME, "input": QUESTION, "tools": [{"type": "function", **tool}], "max_output_tokens": 300}
    named = {"type": "function", "name": "subtract"}
    parsed = client.responses.parse(**asked, tool_choice=named)
    with client.responses.stream(**asked, tool_choice=named) as streamed:
        response = streamed.get_final_response()
    (call,) = response.output
    assert call.arguments == parsed.output[0].arguments
    assert call.parsed_arguments == parsed.output[0].parsed_arguments


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 2}, "n", "is not supported"),
        ({"input": []}, "input", "at least 1"),
        ({"input": None}, "input", "is required"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "put the conversation into input"),
        ({"conversation": "conv_1"}, "conversation", "put the conversation into input"),
        ({"background": True}, "background", "use stream"),
        ({"truncation": "auto"}, "truncation", "is not supported"),
        ({"include": ["web_search_call.action.sources"]}, "include[0]", "message.output_text.logprobs"),
        ({"top_logprobs": 2}, "top_logprobs", "message.output_text.logprobs"),
        ({"tools": [{"type": "web_search", "filters": {}}]}, "tools[0]", "type is 'web_search'; only functions"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0]", "type is 'mcp'; only functions"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "is 'a b'"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name", "not among tools"),
        (
            {"tools": [{**SUBTRACT, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}]},
            "tools[0].parameters",
            "cannot be used",
        ),
        ({"metadata": {"a": "\ud800"}}, "metadata", "cannot be sent back"),
        ({"tools": [{**NOW, "description": "\ud800"}], "tool_choice": "none"}, "tools", "cannot be sent back"),
        ({"tools": [{**NOW, "parameters": DEEP}], "tool_choice": "none"}, "tools", "cannot be sent back"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "nothing was kept"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type", "input_text"),
        (
            {"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]},
            "input[0].call_id",
            "a function_call before",
        ),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "is required"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_what_is_not_there_is_refused_by_name(served: Served, fields, param, words, is_stream):
    body = json.dumps({"input": QUESTION, **fields, "stream": is_stream})
    reply = served.http.post(RESPONSES, content=body, headers={"Content-Type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(param) and words in error["message"]


def test_another_model_is_not_found(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.responses.create(model="gpt-5", input=QUESTION)


def test_nothing_is_kept(client: openai.OpenAI):
    response = client.responses.create(model=NAME, input=QUESTION)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError, match="no response is kept"):
            ask(response.id)


def test_a_client_that_leaves_ends_its_response(served: Served):
    body = {"input": QUESTION, "text": {"format": {"type": "json_object"}}, "temperature": 1.0, "stream": True}
    with served.http.stream("POST", RESPONSES, json=body) as reply:
        next(reply.iter_lines())
    served.wait_idle()
