"""What a caller can make a gateway do: sizes of requests and responses, and connections, at every door."""

import json
import socket
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from demo_model import QUESTION
from http_serving import Served, serving
from waiting import wait_until

from expertmesh.client import Message, Output, Sampling, Tool, ToolUse
from expertmesh.client.questions import ToolCall
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.http.body_route import MAX_BRACKETS, SHORT_BYTES
from expertmesh.gateway.http.openai.responses.requests import LOGPROBS
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.sockets import split_address
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc

CHAT, TEXT, RESPONSES, TGI = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/generate"
ASK = [{"role": "user", "content": QUESTION}]
MAX_RESPONSE_BYTES = 200_000
MAX_BODY_BYTES = 1_000_000
FITTING = {"prompt": QUESTION, "max_tokens": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def served():
    with serving(max_response_bytes=MAX_RESPONSE_BYTES, max_body_bytes=MAX_BODY_BYTES) as mesh:
        yield mesh


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": ASK, "n": 4, "max_tokens": 300, "logprobs": True, "top_logprobs": 20}),
        (CHAT, {"messages": ASK, "n": 64, "prompt_logprobs": 20, "stream": True}),
        (TEXT, {"prompt": QUESTION, "n": 64, "max_tokens": 400, "return_routed_experts": True}),
        (TEXT, {"prompt": QUESTION, "n": 64, "max_tokens": 1, "echo": True, "logprobs": 20}),
        (TEXT, {"prompt": [QUESTION] * 64, "max_tokens": 100, "logprobs": 5}),
        (RESPONSES, {"input": QUESTION, "max_output_tokens": 400, "include": [LOGPROBS], "top_logprobs": 20}),
        (TGI, {"inputs": QUESTION, "parameters": {"best_of": 9, "max_new_tokens": 300, "top_n_tokens": 9}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_response_that_could_be_too_large_is_refused_at_every_door(served: Served, path: str, body: dict[str, Any]):
    reply = served.http.post(path, json=body)
    assert reply.status_code == (422 if path == TGI else 400)
    assert "MiB, more than 0.190735" in reply.text
    assert "would fit" in reply.text
    served.wait_idle()


def test_and_over_grpc(served: Served):
    sampling = Sampling(max_tokens=300, logprobs=20)
    with pytest.raises(InvalidRequestError, match=r"4 answers to each.*logprobs 20.*would fit"):
        served.run(served.mesh.client.generate_answers(QUESTION, sampling, Output(n=4)))
    with pytest.raises(InvalidRequestError, match="would fit"):
        served.run(served.mesh.client.chat_answers(QUESTION, sampling, Output(n=4)))


def test_an_answer_of_open_length_ends_where_it_fits(served: Served):
    body = {"messages": ASK, "ignore_eos": True, "logprobs": True, "top_logprobs": 20, "n": 2}
    reply = served.http.post(CHAT, json=body)
    choices = reply.json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["length"] * 2
    assert 1 < len(choices[0]["logprobs"]["content"]) < 60
    assert len(reply.content) < MAX_RESPONSE_BYTES


def test_a_prompt_is_scored_once_and_told_with_each_answer(served: Served):
    body = {**FITTING, "temperature": 1.0, "seed": 1, "logprobs": 1, "prompt_logprobs": 1, "echo": True}
    alone = served.http.post(TEXT, json=body).json()["choices"][0]
    choices = served.http.post(TEXT, json={**body, "n": 3}).json()["choices"]
    assert choices[0] == alone
    assert [choice["prompt_logprobs"] for choice in choices] == [alone["prompt_logprobs"]] * 3
    length = len(alone["prompt_logprobs"])
    assert [choice["logprobs"]["token_logprobs"][:length] for choice in choices] == [
        alone["logprobs"]["token_logprobs"][:length]
    ] * 3
    with served.http.stream("POST", TEXT, json={**body, "n": 3, "stream": True}) as stream:
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: {")]
    told = [event["choices"][0] for event in events if "prompt_logprobs" in event["choices"][0]]
    assert sorted(choice["index"] for choice in told) == [0, 1, 2]
    assert [choice["prompt_logprobs"] for choice in told] == [alone["prompt_logprobs"]] * 3


PART = {"type": "text", "text": "a"}
FUNCTION = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "1", "function": {"name": "f", "arguments": ""}}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (CHAT, {"messages": [{}] * 100_000}, "messages[0].role: is required"),
        (CHAT, {"messages": ASK * 4097}, "messages: has 4097 elements; at most 4096"),
        ("/tokenize", {"messages": ASK * 4097}, "messages: has 4097 elements; at most 4096"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 1025}]},
            "has 1025 elements",
        ),
        (CHAT, {"messages": [*ASK, {"role": "assistant", "tool_calls": [CALL] * 129}]}, "has 129 elements"),
        (CHAT, {"messages": ASK, "tools": [FUNCTION] * 129}, "tools: has 129 elements; at most 128"),
        (CHAT, {"messages": ASK, "stop": ["a"] * 17}, "stop: has 17 elements; at most 16"),
        (CHAT, {"messages": ASK, "stop_token_ids": [1] * 1025}, "stop_token_ids: has 1025 elements; at most 1024"),
        (TEXT, {"prompt": "a", "logit_bias": {str(number): 1 for number in range(1025)}}, "logit_bias: has 1025"),
        (TEXT, {"prompt": "a", "guided_choice": ["a"] * 4097}, "guided_choice: has 4097 elements; at most 4096"),
        (TEXT, {"prompt": ["a"] * 1025}, "prompt: has 1025 elements; at most 1024"),
        (TEXT, {"prompt": "a", **{f"x{number}": 1 for number in range(50_000)}}, "has 50001 fields; at most 256"),
        (TEXT, {"prompt": "a", "x" * 100_000: 1}, "xxx"),
        (TEXT, {"prompt": "a", "model": "x" * 100_000}, "model 'xxx"),
        (TEXT, {"prompt": [[["x"] * 100_000]]}, "not ['x'"),
        (TEXT, {"prompt": "a", "top_k": "x" * 100_000}, "top_k: Input should be a valid integer, not 'xxx"),
        (RESPONSES, {"input": ASK * 4097}, "input: has 4097 elements; at most 4096"),
        (RESPONSES, {"input": "a", "metadata": {f"x{number}": "" for number in range(65)}}, "metadata: has 65"),
        (RESPONSES, {"input": "a", "include": [LOGPROBS] * 17}, "include: has 17 elements"),
        (TGI, {"inputs": "a", "parameters": {"stop": ["a"] * 17}}, "parameters.stop: has 17 elements; at most 16"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_a_request_has_too_much_of_is_named_in_few_words(
    served: Served, path: str, body: dict[str, Any], message: str
):
    reply = served.http.post(path, json=body)
    assert reply.status_code in (400, 404, 422)
    assert message in reply.json()["error"] if path == TGI else reply.json()["error"]["message"]
    assert len(reply.content) < 2000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * (MAX_BRACKETS + 1), f"opens {MAX_BRACKETS + 1} brackets and braces"),
        ("[" * 100_000, "nested too deeply"),
        ("{" + " " * SHORT_BYTES, "not valid JSON at character"),
        ('"\xff"' + " " * SHORT_BYTES, "cannot be read as JSON"),
    ],
)
def test_json_that_takes_long_to_read_is_refused_like_any_other(served: Served, content: str, message: str):
    headers = {"content-type": "application/json"}
    reply = served.http.post(CHAT, content=content.encode("latin-1"), headers=headers)
    assert (reply.status_code, message in reply.json()["error"]["message"]) == (400, True)


def test_a_long_body_says_the_same_as_a_short_one(served: Served):
    headers = {"content-type": "application/json"}
    for body in (FITTING, {**FITTING, "seed": "x"}):
        short = json.dumps(body)
        replies = [
            served.http.post(TEXT, content=content, headers=headers).json()
            for content in (short, short + " " * SHORT_BYTES)
        ]
        for key in ("choices", "error"):
            assert replies[0].get(key) == replies[1].get(key)


MANY_CALLS = Message("assistant", "", tool_calls=[ToolCall("1", "f", "{}")] * 129)


@pytest.mark.parametrize(
    ("chat", "sampling", "output", "tools", "message"),
    [
        ([("user", "a")] * 4097, {}, {}, (), "messages has 4097 elements; at most 4096"),
        ([("user", "a"), MANY_CALLS], {}, {}, (), r"messages\[1\].tool_calls has 129 elements; at most 128"),
        ("a", {}, {}, [Tool("f")] * 129, "tools has 129 functions; at most 128"),
        ("a", {}, {"stop": ["a"] * 17}, (), "stop has 17 strings; at most 16"),
        ("a", {"stop_ids": [1] * 1025}, {}, (), "stop_ids has 1025 elements; at most 1024"),
        ("a", {"logit_bias": dict.fromkeys(range(1025), 1.0)}, {}, (), "logit_bias has 1025 elements; at most 1024"),
        ([("x" * 100_000, "a")], {}, {}, (), "xxx"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_grpc_has_the_same_bounds(served: Served, chat, sampling, output, tools, message: str):
    with pytest.raises(InvalidRequestError, match=message) as error:
        served.run(served.mesh.client.chat_answers(chat, Sampling(**sampling), Output(**output), ToolUse(tools)))
    assert len(str(error.value)) < 1200


def test_a_message_over_grpc_is_no_larger_than_a_body_over_http(served: Served):
    async def tokenize(text: str) -> int:
        async with open_channel(served.mesh.gateway.server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            return len((await stub.Tokenize(pb.TokenizeRequest(text=text))).token_ids)

    assert served.run(tokenize("a" * (MAX_BODY_BYTES - 100))) > 1000
    with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as error:
        served.run(tokenize("a" * MAX_BODY_BYTES))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.http.post("/tokenize", json={"prompt": "a" * MAX_BODY_BYTES}).status_code == 413


def test_probes_have_a_way_in_when_all_connections_are_taken():
    with serving(max_connections=2) as mesh, ExitStack() as stack:
        address = split_address(mesh.mesh.gateway.http.address)
        holders = [stack.enter_context(socket.create_connection(address)) for _ in range(2)]
        for holder in holders:
            holder.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100000\r\n\r\n")

        def is_full() -> bool:
            for holder in holders:
                holder.sendall(b" ")
            return mesh.http.post(TEXT, json=FITTING).status_code == 429

        wait_until(is_full)
        refused = mesh.http.post(TEXT, json=FITTING)
        assert (refused.headers["Retry-After"], refused.json()["error"]["code"]) == ("1", "queue_full")
        assert "as many as --max-connections allows" in refused.text
        assert [mesh.http.get(path).status_code for path in ("/health", "/ready", "/metrics")] == [200] * 3
