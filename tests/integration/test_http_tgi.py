"""TGI's API as huggingface_hub's client sees it."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from demo_model import MODEL, NAME, QUESTION
from http_serving import Served, serving
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError

from expertmesh.client import Sampling
from expertmesh.text.tokenizer import Tokenizer

PROMPT = f"[INST] {QUESTION} [/INST]"
ANSWER = " 141"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as mesh:
        yield mesh


@pytest.fixture(scope="module", params=["", "/v1"])
def client(served: Served, request) -> Iterator[InferenceClient]:
    with InferenceClient(served.url + request.param) as client:
        yield client


def test_text_equals_that_of_grpc_and_of_a_stream(served, client):
    async def over_grpc() -> str:
        pieces = served.mesh.client.generate(PROMPT, Sampling(max_tokens=100))
        return "".join([piece.text async for piece in pieces])

    assert client.text_generation(PROMPT) == served.run(over_grpc()) == ANSWER
    assert "".join(client.text_generation(PROMPT, stream=True)) == ANSWER
    assert client.text_generation(PROMPT, return_full_text=True) == PROMPT + ANSWER


DRAWN = {"do_sample": True, "seed": 5, "temperature": 1.5, "max_new_tokens": 12}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"max_new_tokens": 2},
        {"do_sample": False, "temperature": 1.7},
        DRAWN,
        {**DRAWN, "top_k": 4},
        {**DRAWN, "top_p": 0.9},
        {**DRAWN, "typical_p": 0.9},
        {**DRAWN, "repetition_penalty": 1.3},
        {**DRAWN, "frequency_penalty": 1.0},
        {"stop": ["4"]},
        {"truncate": 5, "max_new_tokens": 4},
        {"return_full_text": True},
        {"top_n_tokens": 3},
        {"watermark": False},
    ],
    ids=str,
)
def test_every_parameter_is_taken_and_a_stream_says_the_same(client, parameters):
    whole = client.text_generation(PROMPT, details=True, **parameters)
    *events, last = client.text_generation(PROMPT, details=True, stream=True, **parameters)
    tokens = [event.token for event in (*events, last)]
    assert last.generated_text == whole.generated_text
    assert (PROMPT if parameters.get("return_full_text") else "") + "".join(
        t.text for t in tokens
    ) == last.generated_text
    assert [vars(token) for token in tokens] == [vars(token) for token in whole.details.tokens]
    assert all(event.generated_text is None and event.details is None for event in events)
    assert [event.index for event in (*events, last)] == list(range(1, len(tokens) + 1))
    for name in ("finish_reason", "generated_tokens", "seed"):
        assert getattr(last.details, name) == getattr(whole.details, name)
    assert whole.details.generated_tokens == len(tokens)
    if "top_n_tokens" in parameters:
        assert [len(top) for top in whole.details.top_tokens] == [3] * len(tokens)
        # The client reads lists of lists as they are, and lists as objects.
        streamed = [[vars(token) for token in event.top_tokens] for event in (*events, last)]
        assert streamed == whole.details.top_tokens


def test_parameters_do_what_they_say(served, client):
    def ask(**parameters):
        return client.text_generation(PROMPT, details=True, **parameters)

    assert ask().details.finish_reason == "eos_token"
    end = ask().details.tokens[-1]
    assert (end.text, end.special) == ("", True)
    assert (ask(max_new_tokens=2).details.finish_reason, ask(max_new_tokens=2).details.generated_tokens) == (
        "length",
        2,
    )
    stopped = ask(stop=["4"])
    assert (stopped.generated_text, stopped.details.finish_reason) == (" 1", "stop_sequence")
    assert ask(do_sample=False, temperature=1.7).generated_text == ANSWER
    assert ask().details.seed is None
    drawn = ask(do_sample=True, temperature=1.5, max_new_tokens=12)
    again = ask(do_sample=True, temperature=1.5, max_new_tokens=12, seed=drawn.details.seed)
    assert drawn.generated_text == again.generated_text
    best = ask(do_sample=True, temperature=1.5, max_new_tokens=8, best_of=3, seed=1)
    texts = [best, *best.details.best_of_sequences]
    means = [sum(t.logprob for t in d.tokens) / len(d.tokens) for d in (best.details, *best.details.best_of_sequences)]
    assert (len(texts), means) == (3, sorted(means, reverse=True))
    assert {best.details.seed, *(one.seed for one in best.details.best_of_sequences)} == {1, 2, 3}


def test_prefill_is_the_prompt_token_by_token(served, client):
    tokenizer = Tokenizer.open(MODEL)
    ids = tokenizer.encode_prompt(PROMPT)
    whole = client.text_generation(PROMPT, details=True, decoder_input_details=True)
    assert [token.id for token in whole.details.prefill] == ids
    assert whole.details.prefill[0].logprob is None
    assert all(token.logprob <= 0 for token in whole.details.prefill[1:])
    last = client.text_generation(PROMPT, details=True, decoder_input_details=True, truncate=4)
    assert [token.id for token in last.details.prefill] == ids[-4:]
    assert client.text_generation(PROMPT, details=True).details.prefill == []


def test_the_asynchronous_client_gets_the_same(served):
    async def ask() -> tuple[str, str, str]:
        async with AsyncInferenceClient(served.url) as client:
            whole = await client.text_generation(PROMPT)
            pieces = [piece async for piece in await client.text_generation(PROMPT, stream=True)]
            chat = await client.chat_completion([{"role": "user", "content": QUESTION}])
            return whole, "".join(pieces), chat.choices[0].message.content

    assert asyncio.run(ask()) == (ANSWER, ANSWER, "141")


def test_chat_completion(served):
    with InferenceClient(served.url) as client:
        messages = [{"role": "user", "content": QUESTION}]
        reply = client.chat_completion(messages, max_tokens=20, logprobs=True, top_logprobs=2)
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("141", "stop")
        assert len(reply.choices[0].logprobs.content[0].top_logprobs) == 2
        chunks = list(client.chat_completion(messages, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "141"
        tools, named = [{"type": "function", "function": {"name": "f"}}], {"function": {"name": "f"}}
        called = client.chat_completion(messages, tools=tools, tool_choice=named, max_tokens=70).choices[0]
        assert (called.message.tool_calls[0].function.name, called.finish_reason) == ("f", "tool_calls")
        with pytest.raises(HfHubHTTPError, match="tool_prompt: is not supported"):
            client.chat_completion(messages, tools=tools, tool_prompt="Choose.")


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("watermark", True),
        ("adapter_id", "lora"),
        ("something_new", 1),
        ("temperature", 0),
        ("top_p", 1.5),
        ("max_new_tokens", 0),
        ("truncate", 0),
        ("seed", -1),
        ("stop", [""]),
        ("best_of", 65),
        ("top_n_tokens", 21),
        ("grammar", {"type": "lark", "value": "x"}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(served, param, value):
    for path in ("/", "/v1", "/generate", "/generate_stream"):
        reply = served.http.post(path, json={"inputs": PROMPT, "parameters": {param: value}})
        assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
        assert reply.json()["error"].startswith(f"parameters.{param}"), reply.json()


@pytest.mark.parametrize("param", ["best_of", "decoder_input_details"])
def test_what_a_stream_cannot_have_is_refused_by_name(served, param):
    body = {"inputs": PROMPT, "parameters": {param: 2 if param == "best_of" else True}}
    reply = served.http.post("/generate_stream", json=body)
    assert (reply.status_code, reply.json()["error"].partition(":")[0]) == (422, param)


def test_errors_have_tgis_shape_and_the_client_knows_them(served, client):
    with pytest.raises(ValidationError, match="watermark"):
        client.text_generation(PROMPT, watermark=True)
    with pytest.raises(ValidationError, match="tokens"):
        client.text_generation("a b " * 500)
    with pytest.raises(ValidationError, match="tokens"):
        next(iter(client.text_generation("a b " * 500, stream=True)))
    assert served.http.post("/generate", json={"inputs": 1}).json() == {
        "error": "inputs: Input should be a valid string, not 1",
        "error_type": "validation",
    }


def test_generate_and_the_root_answer_alike(served):
    body = {"inputs": PROMPT, "parameters": {"details": True}}
    generated = served.http.post("/generate", json=body).json()
    assert served.http.post("/", json=body).json() == served.http.post("/v1", json=body).json() == [generated]
    streamed = served.http.post("/generate_stream", json=body).text
    assert streamed == served.http.post("/", json={**body, "stream": True}).text
    last = json.loads(streamed.strip().split("\n\n")[-1].removeprefix("data:"))
    assert last["generated_text"] == generated["generated_text"]
    for path, stream in (("/generate", True), ("/generate_stream", False)):
        assert served.http.post(path, json={**body, "stream": stream}).status_code == 422


def test_info_and_health(served):
    info = served.http.get("/info").json()
    assert (info["model_id"], info["max_total_tokens"], info["max_input_tokens"]) == (NAME, 512, 511)
    with InferenceClient(served.url, provider="hf-inference") as hub:
        assert hub.health_check()
        assert hub.get_endpoint_info() == info


def test_grammars_shape_the_text(client):
    digits = client.text_generation(PROMPT, grammar={"type": "regex", "value": "[0-9]{2}"})
    assert len(digits) == 2 and digits.isdigit()
    choice = {"type": "string", "enum": ["red", "blue"]}
    assert client.text_generation(PROMPT, grammar={"type": "json", "value": choice}) in ('"red"', '"blue"')
    named = {"type": "json_schema", "value": {"name": "colour", "schema": choice}}
    assert "".join(client.text_generation(PROMPT, grammar=named, stream=True)) in ('"red"', '"blue"')
    with pytest.raises(ValidationError):
        client.text_generation(PROMPT, grammar={"type": "regex", "value": "("})
