"""Tool calls and continued answers over HTTP and gRPC, by a model that must call and hardly knows how."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from demo_model import MODEL, NAME, with_long_context
from hostile import hostile_schema
from http_serving import Served, serving
from pydantic import BaseModel, Field

from expertmesh.client import Message, Tool, ToolUse, put_together
from expertmesh.client import Sampling as ClientSampling
from expertmesh.text import tools as text_tools
from expertmesh.text.conversation import Message as TextMessage
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "What is 291 - 150?"}]
NUMBER = {"type": "integer", "minimum": 0, "maximum": 999}
SCHEMA = {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a", "b"]}
SUBTRACT = {"type": "function", "function": {"name": "subtract", "description": "a - b", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now"}}
REQUIRED = {"tools": [SUBTRACT, NOW], "tool_choice": "required", "max_tokens": 300}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
RECORDED = json.loads((Path(__file__).parent / "tool_requests.json").read_text())


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    with serving(with_long_context(tmp_path_factory.mktemp("model") / NAME)) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def template() -> InstTemplate:
    return InstTemplate(Tokenizer.open(MODEL))


def answer(served: Served, **body: Any) -> dict[str, Any]:
    reply = served.http.post(CHAT, json={"messages": ASK, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]


def calls_of(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = choice["message"].get("tool_calls", [])
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def streamed(served: Served, **body: Any) -> dict[str, Any]:
    """Put the chunks of a stream together, as a choice without ids."""
    reply = served.http.post(CHAT, json={"messages": ASK, **body, "stream": True})
    events = [event.removeprefix("data: ") for event in reply.text.split("\n\n") if event]
    assert events.pop() == "[DONE]", reply.text
    content, calls, reason = "", [], None
    for choice in (choice for event in events for choice in json.loads(event)["choices"]):
        content += choice["delta"].get("content") or ""
        reason = choice["finish_reason"] or reason
        for piece in choice["delta"].get("tool_calls", []):
            if piece["index"] == len(calls):
                assert (piece["type"], len(piece["id"])) == ("function", 9)
                calls.append({"function": {"name": piece["function"]["name"], "arguments": ""}})
            else:
                assert set(piece) == {"index", "function"} and set(piece["function"]) == {"arguments"}
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return {"message": {"content": content, "tool_calls": calls}, "finish_reason": reason}


@pytest.mark.parametrize("request_", RECORDED, ids=[f"{one['client']} {n}" for n, one in enumerate(RECORDED)])
def test_what_clients_send_is_answered(served: Served, request_: dict[str, Any]):
    body = {**request_["body"], "max_tokens": 300}
    body.pop("max_completion_tokens", None)
    choice = streamed(served, **body) if body.get("stream") else answer(served, **body)
    if body.get("tool_choice", "auto") == "auto":
        assert choice["finish_reason"] in ("stop", "length")
        return
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in body["tools"]}
    assert choice["finish_reason"] == "tool_calls"
    for name, arguments in calls_of(choice):
        jsonschema.validate(arguments, schemas[name])


class Subtract(BaseModel):
    """a - b."""

    a: int = Field(ge=0, le=999)
    b: int = Field(ge=0, le=999)


def test_openais_client_reads_calls_and_streams_of_them(client: openai.OpenAI):
    request = {"model": NAME, "messages": ASK, "tools": [openai.pydantic_function_tool(Subtract)], "max_tokens": 300}
    choice = client.chat.completions.parse(**request, tool_choice="required").choices[0]
    called = choice.message.tool_calls[0].function
    assert isinstance(called.parsed_arguments, Subtract)
    with client.chat.completions.stream(**request, tool_choice="required") as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.message.tool_calls[0].function.parsed_arguments == called.parsed_arguments
    assert streamed.finish_reason == choice.finish_reason == "tool_calls"
    results = [{"role": "tool", "tool_call_id": call.id, "content": "141"} for call in choice.message.tool_calls]
    told = client.chat.completions.create(**{**request, "messages": [*ASK, choice.message, *results]})
    assert told.usage.prompt_tokens > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_model_that_must_calls_with_arguments_that_fit(served: Served, seed: int):
    body = {**REQUIRED, "temperature": 1.0, "seed": seed, "parallel_tool_calls": False}
    choice = answer(served, **body)
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    ((name, arguments),) = calls_of(choice)
    jsonschema.validate(arguments, SCHEMA if name == "subtract" else {"type": "object", "maxProperties": 0})
    assert calls_of(streamed(served, **body)) == [(name, arguments)]


def test_a_function_that_is_named_is_called_once(served: Served):
    choice = {"type": "function", "function": {"name": "now"}}
    assert calls_of(answer(served, **{**REQUIRED, "tool_choice": choice})) == [("now", {})]


def test_each_of_several_answers_has_its_own_calls(served: Served):
    reply = served.http.post(CHAT, json={"messages": ASK, **REQUIRED, "n": 3, "temperature": 1.0, "seed": 1}).json()
    alone = answer(served, **REQUIRED, temperature=1.0, seed=2)
    assert calls_of(reply["choices"][1]) == calls_of(alone)
    assert len({call["id"] for choice in reply["choices"] for call in choice["message"]["tool_calls"]}) >= 3


def test_an_answer_that_is_cut_in_a_call_tells_what_there_is(served: Served):
    reply = served.http.post(CHAT, json={"messages": ASK, **REQUIRED}).json()
    whole, num_tokens = reply["choices"][0]["message"]["tool_calls"][0]["function"], reply["usage"]["completion_tokens"]
    for max_tokens in range(num_tokens // 4, num_tokens, 5):
        cut = answer(served, **{**REQUIRED, "max_tokens": max_tokens})
        assert cut["finish_reason"] == "length"
        for call in cut["message"].get("tool_calls", []):
            assert call["function"]["name"] == whole["name"]
            assert whole["arguments"].startswith(call["function"]["arguments"])
    assert call["function"]["arguments"]


def test_nobody_calls_where_none_may(served: Served, template: InstTemplate):
    reply = served.http.post(CHAT, json={"messages": ASK, **REQUIRED, "tool_choice": "none"}).json()
    plain = served.http.post(CHAT, json={"messages": ASK, "max_tokens": 300}).json()
    assert reply["choices"][0]["message"] == plain["choices"][0]["message"]
    assert reply["usage"] == {**plain["usage"], "prompt_tokens_details": reply["usage"]["prompt_tokens_details"]}


def test_a_response_format_says_what_answers_without_calls_look_like(served: Served):
    shape = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    choice = answer(served, tools=[NOW], response_format=shape, max_tokens=300)
    assert choice["message"]["content"] is None or json.loads(choice["message"]["content"]) in ("yes", "no")


def test_grpc_says_the_same(served: Served):
    use = ToolUse([Tool("subtract", "a - b", SCHEMA), Tool("now", parameters=None)], "required")

    async def ask():
        (one,) = await served.mesh.client.chat_answers(ASK[0]["content"], ClientSampling(max_tokens=300), tools=use)
        pieces = served.mesh.client.chat(ASK[0]["content"], ClientSampling(max_tokens=300), tools=use)
        (streamed,) = put_together([piece async for piece in pieces])
        assert streamed.message.tool_calls[0].arguments == one.tool_calls[0].arguments
        told = [("user", ASK[0]["content"]), one.message, *(call.result("141") for call in one.tool_calls)]
        (next_one,) = await served.mesh.client.chat_answers(told, ClientSampling(max_tokens=5))
        assert next_one.num_prompt_tokens > one.num_prompt_tokens - 500
        return one

    one = served.run(ask())
    assert one.finish_reason == "tool_calls" and one.text == ""
    over_http = answer(served, **REQUIRED)["message"]["tool_calls"]
    assert [(call.name, call.arguments) for call in one.tool_calls] == [
        (call["function"]["name"], call["function"]["arguments"]) for call in over_http
    ]


def test_tokens_of_a_conversation_with_tools_are_those_of_a_chat(served: Served, template: InstTemplate):
    body = {"messages": ASK, "tools": [SUBTRACT]}
    tokens = served.http.post("/tokenize", json=body).json()["tokens"]
    tool = text_tools.Tool("subtract", "a - b", SCHEMA)
    assert tokens == template.encode([TextMessage("user", ASK[0]["content"])], [tool])


@pytest.mark.parametrize(
    "how", [{"continue_final_message": True}, {"continue_final_message": True, "add_generation_prompt": False}, {}]
)
def test_the_last_answer_is_continued(served: Served, template: InstTemplate, how: dict[str, Any]):
    begun = {"role": "assistant", "content": "14", **({} if how else {"prefix": True})}
    messages = [TextMessage("user", ASK[0]["content"]), TextMessage("assistant", "14")]
    ids = template.encode(messages, continues=True)
    body = {"messages": [*ASK, begun], "max_tokens": 8, **how}
    reply = served.http.post(CHAT, json=body).json()
    expected = served.http.post("/v1/completions", json={"prompt": ids, "max_tokens": 8}).json()
    assert reply["usage"]["prompt_tokens"] == len(ids)
    assert reply["choices"][0]["message"]["content"] == expected["choices"][0]["text"].removeprefix(" ") == "1"
    over_grpc = served.run(
        served.mesh.client.chat_answers(
            [Message("user", ASK[0]["content"]), ("assistant", "14")], continue_final_message=True
        )
    )
    assert over_grpc[0].text == reply["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "messages",
    [
        [*ASK, {"role": "assistant", "content": ""}, *ASK],
        [*ASK, {"role": "assistant", "content": None}, *ASK],
        [*ASK, {"role": "assistant"}, *ASK],
        [*ASK, *ASK],
        [*ASK, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, *ASK],
        [{"role": "developer", "content": "a"}, *ASK, {"role": "system", "content": "b"}],
        [{"role": "user", "content": [{"type": "text", "text": "What is 291 - 150?"}], "name": "Anna"}],
        [*ASK, {"role": "assistant", "content": "", "tool_calls": [CALLED]}, *ASK],
        [
            *ASK,
            {"role": "assistant", "tool_calls": [CALLED]},
            {"role": "tool", "tool_call_id": "call_1", "content": ""},
        ],
    ],
)
def test_odd_turns_are_answered(served: Served, messages: list[dict[str, Any]]):
    assert answer(served, messages=messages, max_tokens=3)["finish_reason"]


def test_an_empty_answer_may_stay_in_a_conversation_over_grpc(served: Served):
    asked = [("user", "Hello!"), ("assistant", ""), ("user", ASK[0]["content"])]
    assert served.run(served.mesh.client.chat_answers(asked, ClientSampling(max_tokens=3)))[0].num_output_tokens


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": function}


HOSTILE = json.loads(hostile_schema(24))


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "is required"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0]", ""),
        ({"tools": [tool(name="a b")]}, "tools[0].function.name", "'a b'; it must be 1 to 64 of"),
        ({"tools": [NOW, tool(name="")]}, "tools[1].function.name", "it must be 1 to 64 of"),
        ({"tools": [NOW, NOW]}, "tools[1].function.name", "'now', as that of another tool is"),
        ({"tools": [tool(name=f"f{n}") for n in range(129)]}, "tools", "has 129 elements; at most 128"),
        ({"tools": [tool(name="f", parameters={"type": "array"})]}, "tools[0].function.parameters", "of type 'array'"),
        ({"tools": [tool(name="f", parameters={"properties": {"a": {"type": "x"}}})]}, "tools[0].function", "type: x"),
        (
            {"tools": [NOW, tool(name="f", parameters={"properties": {"a": {"not": {}}}}, strict=True)]},
            "tools[1].function.parameters",
            'Unimplemented keys: ["not"]',
        ),
        ({"tools": [tool(name="f", parameters={"properties": {"a": HOSTILE}})]}, None, "more than"),
        ({"tools": [tool(name="f", parameters={"title": "x" * 100_000})]}, None, "at most 100000"),
        ({"tools": [NOW], "tool_choice": "maybe"}, "tool_choice", "'none', 'auto', 'required' or 'any'"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        (
            {"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "later"}}},
            "tool_choice.function.name",
            "'later', which is not among tools",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "is not supported; use tools"),
        ({"function_call": {"name": "f"}}, "function_call", "is not supported; use tool_choice"),
        ({"tools": [NOW], "min_tokens": 5}, "min_tokens", "it must be 0"),
        ({"continue_final_message": True}, None, "the last message is to be continued"),
        ({"add_generation_prompt": False}, "add_generation_prompt", "continue_final_message"),
    ],
)
def test_what_is_wrong_with_tools_is_named(served: Served, body: dict[str, Any], param: str | None, message: str):
    reply = served.http.post(CHAT, json={"messages": ASK, **body})
    error = reply.json()["error"]
    assert reply.status_code == 400, error
    assert message in error["message"]
    assert (error["param"] or "").startswith(param or "")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([*ASK, {"role": "tool", "content": "x"}], "messages[1].tool_call_id"),
        ([*ASK, {"role": "tool", "content": "x", "tool_call_id": "1"}], "messages[1]"),
        ([*ASK, {"role": "assistant", "tool_calls": [{"id": "1"}]}], "messages[1].tool_calls[0].function"),
        ([{"role": "assistant", "content": "x", "prefix": True}, *ASK], "messages[0].prefix"),
        ([{"role": "assistant", "function_call": {"name": "f"}}, *ASK], "messages[0].function_call"),
    ],
)
def test_messages_out_of_place_are_named(served: Served, messages: list[dict[str, Any]], param: str):
    reply = served.http.post(CHAT, json={"messages": messages})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
