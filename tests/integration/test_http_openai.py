"""OpenAI's API as its own client sees it."""

import json
from collections.abc import Iterator

import openai
import pytest
from demo_model import MODEL, NAME, QUESTION
from http_serving import Served, serving

from expertmesh.client import Sampling
from expertmesh.text.conversation import Message
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.tokenizer import Tokenizer

ASK = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as mesh:
        yield mesh


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.open(MODEL)


def grpc_text(served: Served, prompt=None, **sampling) -> str:
    async def ask() -> str:
        chat = served.mesh.client.chat([("user", QUESTION)], Sampling(**sampling))
        pieces = chat if prompt is None else served.mesh.client.generate(prompt, Sampling(**sampling))
        return "".join([piece.text async for piece in pieces])

    return served.run(ask())


def test_chat_over_http_equals_chat_over_grpc_and_streaming(served, client, tokenizer):
    reply = client.chat.completions.create(model=NAME, messages=ASK)
    (choice,) = reply.choices
    assert choice.message.content == grpc_text(served) == "141"
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "stop", 0)
    num_prompt = len(InstTemplate(tokenizer).encode([Message("user", QUESTION)]))
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (num_prompt, 5)
    assert reply.usage.total_tokens == num_prompt + 5
    assert (reply.object, reply.model) == ("chat.completion", NAME)

    chunks = list(client.chat.completions.create(model=NAME, messages=ASK, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "141"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.system_fingerprint for chunk in chunks} == {reply.system_fingerprint}
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_in_a_stream_that_asked_for_it(client):
    stream = client.chat.completions.create(
        model=NAME, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert last.choices == []
    assert last.usage == client.chat.completions.create(model=NAME, messages=ASK).usage
    assert all(chunk.usage is None for chunk in chunks)
    body = {"model": NAME, "prompt": ["Hello", "Spell"], "max_tokens": 3, "stream": True}
    *_, last = client.completions.create(**body, stream_options={"include_usage": True})
    whole = client.completions.create(**{**body, "stream": False})
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens


SEEDED = {"temperature": 1.5, "seed": 7, "max_tokens": 12}


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0},
        {"max_tokens": 2},
        {"max_completion_tokens": 2},
        {**SEEDED, "top_p": 0.9},
        {**SEEDED, "n": 3},
        {**SEEDED, "seed": -1},
        {**SEEDED, "frequency_penalty": 1.5, "presence_penalty": -0.5},
        {**SEEDED, "extra_body": {"top_k": 5}},
        {**SEEDED, "extra_body": {"top_k": -1}},
        {**SEEDED, "extra_body": {"min_p": 0.05}},
        {**SEEDED, "extra_body": {"typical_p": 0.8}},
        {**SEEDED, "extra_body": {"repetition_penalty": 1.3}},
        {"max_tokens": 20, "extra_body": {"ignore_eos": True}},
        {"max_tokens": 20, "extra_body": {"min_tokens": 12}},
        {"stop": "4"},
        {"stop": ["nothing", "41"]},
        {"logit_bias": {"2": -100}, "max_tokens": 9},
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 4},
        {"user": "somebody", "safety_identifier": "x", "prompt_cache_key": "y"},
        {"response_format": {"type": "text"}},
        # What clients send although they want nothing of it.
        {"tools": [], "store": False, "service_tier": "auto", "parallel_tool_calls": True, "modalities": ["text"]},
        {"extra_body": {"functions": [], "metadata": {}, "logit_bias": None, "stop": None, "seed": None}},
        {"model": "dummy"},
        {"model": "tgi"},
    ],
    ids=str,
)
def test_every_field_is_taken_and_a_stream_says_the_same(client, fields):
    request = {"model": NAME, "messages": ASK, **fields}
    reply = client.chat.completions.create(**request)
    texts: dict[int, str] = {}
    finished: dict[int, str] = {}
    logprobs: dict[int, list] = {}
    for chunk in client.chat.completions.create(**request, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            finished[choice.index] = choice.finish_reason or ""
            logprobs.setdefault(choice.index, []).extend(choice.logprobs.content if choice.logprobs else [])
    assert texts == {choice.index: choice.message.content for choice in reply.choices}
    assert finished == {choice.index: choice.finish_reason for choice in reply.choices}
    whole = {choice.index: choice.logprobs.content if choice.logprobs else [] for choice in reply.choices}
    assert logprobs == whole
    assert len(reply.choices) == fields.get("n", 1)


def test_fields_do_what_they_say(served, client):
    def ask(**fields):
        return client.chat.completions.create(model=NAME, messages=ASK, **fields)

    assert ask(max_tokens=2).choices[0].finish_reason == "length"
    assert ask(max_completion_tokens=2).usage.completion_tokens == 2
    stopped = ask(stop="4").choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("1", "stop")
    assert ask(max_tokens=20, extra_body={"ignore_eos": True}).usage.completion_tokens == 20
    assert ask(max_tokens=20, extra_body={"min_tokens": 9}).usage.completion_tokens > 9
    ends = ask(extra_body={"stop_token_ids": [last_token_id(served, "1")]}).choices[0]
    assert ends.finish_reason == "stop"
    sampled = grpc_text(served, temperature=1.5, seed=7, max_tokens=12)
    assert ask(temperature=1.5, seed=7, max_tokens=12).choices[0].message.content == sampled
    best = ask(temperature=1.5, seed=7, max_tokens=12, extra_body={"best_of": 4})
    assert len(best.choices) == 1
    negative, positive = (ask(temperature=1.5, max_tokens=12, seed=seed) for seed in (-1, 2**64 - 1))
    assert negative.choices == positive.choices
    tokens = ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(bytes(token.bytes).decode() for token in tokens) == " 141"
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert all(token.logprob == token.top_logprobs[0].logprob for token in tokens)


def last_token_id(served: Served, text: str) -> int:
    tokens = served.http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    return tokens[-1]


def test_typed_parts_and_system_messages_are_those_of_the_template(served, tokenizer):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "yes", "tool_calls": [], "refusal": None},
        {"role": "developer", "content": "short"},
        {"role": "user", "content": "three"},
    ]
    expected = [
        *(Message("system", "short"), Message("user", "one\n\ntwo")),
        *(Message("assistant", "yes"), Message("user", "three")),
    ]
    reply = served.http.post("/tokenize", json={"messages": messages}).json()
    assert reply["tokens"] == InstTemplate(tokenizer).encode(expected)
    assert (reply["count"], reply["max_model_len"]) == (len(reply["tokens"]), 512)


def test_texts_and_ids_continue_alike_and_prompt_and_text_are_one_text(served, client, tokenizer):
    text = "Hello! How"
    ids = tokenizer.encode_prompt(text)
    sampling = {"max_tokens": 6, "extra_body": {"ignore_eos": True}}
    both = client.completions.create(model=NAME, prompt=[text, "Spell 'tiger'."], **sampling)
    by_text = client.completions.create(model=NAME, prompt=text, **sampling)
    by_ids = client.completions.create(model=NAME, prompt=ids, **sampling)
    by_lists = client.completions.create(model=NAME, prompt=[ids, ids], **sampling)
    texts = [choice.text for choice in (*by_text.choices, *by_ids.choices, *by_lists.choices, both.choices[0])]
    assert set(texts) == {grpc_text(served, text, max_tokens=6, ignore_eos=True)}
    assert [choice.index for choice in both.choices] == [0, 1]
    assert (by_lists.usage.prompt_tokens, by_lists.usage.completion_tokens) == (2 * len(ids), 12)
    echoed = client.completions.create(model=NAME, prompt=text, echo=True, **sampling)
    assert echoed.choices[0].text == text + texts[0]
    streamed = client.completions.create(model=NAME, prompt=ids, echo=True, stream=True, **sampling)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text + texts[0]


def test_completions_are_16_tokens_long_unless_told(client):
    reply = client.completions.create(model=NAME, prompt="Hello", extra_body={"ignore_eos": True})
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (16, "length")


@pytest.mark.parametrize("echo", [False, True])
def test_logprobs_of_completions_line_up_with_the_text(client, echo):
    request = {"model": NAME, "prompt": "Hello! How", "logprobs": 2, "max_tokens": 8, "echo": echo}
    (choice,) = client.completions.create(**request, extra_body={"ignore_eos": True}).choices
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
    assert logprobs.text_offset[0] == 0
    for token, offset, next_offset in zip(
        logprobs.tokens, logprobs.text_offset, logprobs.text_offset[1:], strict=False
    ):
        shown = choice.text[offset:next_offset]
        assert token in (shown, f" {shown}") or not shown
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert top is None or (top[token] == logprob and len(top) in (2, 3))
    streamed = list(client.completions.create(**request, stream=True, extra_body={"ignore_eos": True}))
    assert [token for chunk in streamed for token in chunk.choices[0].logprobs.tokens] == logprobs.tokens
    assert [offset for chunk in streamed for offset in chunk.choices[0].logprobs.text_offset] == logprobs.text_offset


def test_n_answers_to_several_prompts_are_numbered_prompt_by_prompt(client):
    request = {"model": NAME, "prompt": ["Hello", "Spell"], "n": 2, "temperature": 1.2, "seed": 3, "max_tokens": 6}
    reply = client.completions.create(**request)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    texts = ["", "", "", ""]
    for chunk in client.completions.create(**request, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in reply.choices]
    best = client.completions.create(**{**request, "best_of": 3, "prompt": "Hello"})
    assert [choice.index for choice in best.choices] == [0, 1]


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.object) == (NAME, "model")
    assert client.models.retrieve(NAME) == model
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("org/other")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match=f"'gpt-4' is not served here; {NAME!r} is"):
        client.chat.completions.create(model="gpt-4", messages=ASK)


def test_a_model_of_several_names_answers_to_each_and_signs_with_the_first():
    with serving(served_model_names=("org/first", "second")) as served:
        listed = served.http.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["org/first", "second"]
        assert served.http.get("/v1/models/second").json() == listed[1]
        for name in ("org/first", "second", "dummy", None):
            reply = served.http.post("/v1/chat/completions", json={"model": name, "messages": ASK, "max_tokens": 1})
            assert reply.json()["model"] == "org/first"
        refused = served.http.post("/tokenize", json={"model": NAME, "prompt": "a"})
        assert refused.status_code == 404
        assert "'org/first', 'second' are" in refused.json()["error"]["message"]
        assert served.http.get("/info").json()["model_id"] == "org/first"
        assert 'model="org/first"' in served.http.get("/metrics").text
        assert served.run(served.mesh.client.model_info()).name == "org/first"


def test_tokenize_and_detokenize(served, tokenizer):
    text = "Hello 🙂 world"
    ids = served.http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    assert ids == tokenizer.encode_prompt(text)
    plain = served.http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert plain == ids[1:]
    assert served.http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": text}
    for body in ({}, {"prompt": "a", "messages": ASK}):
        assert served.http.post("/tokenize", json=body).status_code == 400
    assert "99999" in served.http.post("/detokenize", json={"tokens": [99999]}).json()["error"]["message"]


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "param", "value"),
    [
        (CHAT, "tools", [{"type": "web_search"}]),
        (CHAT, "tool_choice", "required"),
        (CHAT, "functions", [{"name": "f"}]),
        (CHAT, "function_call", {"name": "f"}),
        (CHAT, "modalities", ["text", "audio"]),
        (CHAT, "audio", {"voice": "alloy", "format": "wav"}),
        (CHAT, "web_search_options", {}),
        (CHAT, "moderation", {"model": "x"}),
        (CHAT, "use_beam_search", True),
        (CHAT, "length_penalty", 1.5),
        (CHAT, "bad_words", ["x"]),
        (CHAT, "cache_salt", "x"),
        (CHAT, "chat_template", "x"),
        (CHAT, "chat_template_kwargs", {"thinking": True}),
        (CHAT, "random_seed", "x"),
        (CHAT, "stop_after", {"x": None}),
        (CHAT, "something_new", 1),
        (CHAT, "stream_options", {"include_usage": True}),
        (CHAT, "top_logprobs", 2),
        (CHAT, "response_format", {"type": "xml"}),
        (CHAT, "temperature", -1),
        (CHAT, "temperature", "warm"),
        (CHAT, "top_p", 0),
        (CHAT, "n", 0),
        (CHAT, "n", 65),
        (CHAT, "best_of", 0),
        (CHAT, "seed", 2**64),
        (CHAT, "max_tokens", 0),
        (CHAT, "max_tokens", True),
        (CHAT, "presence_penalty", 3),
        (CHAT, "logit_bias", {"2": 101}),
        (CHAT, "stop", ""),
        (CHAT, "stop", ["a"] * 17),
        (CHAT, "prompt_logprobs", 21),
        (CHAT, "top_k", 10**30),
        (CHAT, "max_tokens", 10**30),
        (CHAT, "temperature", 10**400),
        (TEXT, "suffix", "end"),
        (TEXT, "max_tokens", 0),
        (TEXT, "logprobs", 21),
        (TEXT, "prompt", []),
        (TEXT, "prompt", None),
        (TEXT, "messages", ASK),
        (TEXT, "tools", []),
    ],
)
def test_what_is_not_supported_is_refused_by_name(served, path, param, value):
    body = {"messages": ASK} if path == CHAT else {"prompt": "Hello"}
    reply = served.http.post(path, json={**body, param: value})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"].startswith(param) and error["message"].startswith(param), error


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "content": "x", "name": "f"}, "messages[0].role"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": "x", "name": 1}, "messages[0].name"),
        ({"role": "user", "content": "x", "mood": "good"}, "messages[0].mood"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0]"),
    ],
)
def test_parts_of_a_message_are_refused_by_name(served, message, param):
    reply = served.http.post(CHAT, json={"messages": [message]})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(param), reply.json()


def test_errors_have_openais_shape_whatever_is_wrong(served, client):
    for content, code in (("{", 400), ("[1]", 400), ('{"messages": []}', 400), ("1" * 5000, 400), ("[" * 5000, 400)):
        reply = served.http.post(CHAT, content=content, headers={"content-type": "application/json"})
        assert (reply.status_code, set(reply.json()["error"])) == (code, {"message", "type", "param", "code"})
    no_json = served.http.post(CHAT, content=json.dumps({"messages": ASK}))
    assert "content-type: application/json" in no_json.json()["error"]["message"]
    surrogate = '{"messages": [{"role": "user", "content": "\\ud800"}], "model": "\\udfff"}'
    reply = served.http.post(CHAT, content=surrogate, headers={"content-type": "application/json"})
    assert reply.status_code == 404
    assert served.http.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert served.http.delete(CHAT).status_code == 405
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=NAME, messages=ASK, tools=[{"type": "function"}])
    assert error.value.param == "tools[0].function"


def test_a_prompt_that_is_too_long_is_named_before_a_stream_begins(served):
    for path, body in (
        (TEXT, {"prompt": [1] * 512}),
        (CHAT, {"messages": [{"role": "user", "content": "a b " * 500}]}),
    ):
        for stream in (False, True):
            reply = served.http.post(path, json={**body, "stream": stream})
            error = reply.json()["error"]
            assert (reply.status_code, error["code"]) == (400, "context_length_exceeded")
            assert error["message"].startswith(
                "This model's maximum context length is 512 tokens. However, you requested"
            )
    served.wait_idle()


def test_so_many_texts_in_one_request_are_refused(served):
    reply = served.http.post(TEXT, json={"prompt": ["a"] * 100, "n": 11})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"stop_token_ids": [999_999]}, "stop_token_ids"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"best_of": 99}, "best_of"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_the_field_to_blame_is_named(served, fields, param):
    reply = served.http.post(TEXT, json={"prompt": "a", **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_one_bad_prompt_of_several_refuses_them_all(served):
    reply = served.http.post(TEXT, json={"prompt": [[1, 2], [1] * 512]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    served.wait_idle()


def test_prompt_logprobs_are_those_that_generating_the_prompt_would_give(served, client, tokenizer):
    prompt = tokenizer.encode_prompt("Hello! How can")
    request = {"model": NAME, "prompt": prompt, "logprobs": 1, "max_tokens": 1, "echo": True}
    (choice,) = client.completions.create(**request).choices
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(prompt) + 1
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    for length in (2, len(prompt) - 1):
        shorter = client.completions.create(**{**request, "prompt": prompt[:length], "logprobs": 20})
        top = shorter.choices[0].logprobs.top_logprobs[-1]
        assert top.get(logprobs.tokens[length], logprobs.token_logprobs[length]) == pytest.approx(
            logprobs.token_logprobs[length], abs=1e-3
        )
    body = {"messages": ASK, "prompt_logprobs": 3}
    whole = served.http.post(CHAT, json=body).json()["choices"][0]["prompt_logprobs"]
    assert whole[0] is None
    assert len(whole) == len(InstTemplate(tokenizer).encode([Message("user", QUESTION)]))
    assert all(len(token["top_logprobs"]) == 3 for token in whole[1:])
    events = served.http.post(CHAT, json={**body, "stream": True}).text.split("\n\n")
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["prompt_logprobs"] == whole


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_routed_experts_come_by_token_and_layer_only_where_asked_for(served, path):
    body = {"messages": ASK} if path == CHAT else {"prompt": "Hello", "max_tokens": 5}
    assert "routed_experts" not in served.http.post(path, json=body).json()["choices"][0]
    body["return_routed_experts"] = True
    reply = served.http.post(path, json=body).json()
    routed = reply["choices"][0]["routed_experts"]
    assert len(routed) == reply["usage"]["completion_tokens"]
    assert {len(set(experts)) for layers in routed for experts in layers} == {2}
    assert len({len(layers) for layers in routed}) == 1
    streamed = []
    for event in served.http.post(path, json={**body, "stream": True}).text.split("\n\n"):
        if event.startswith("data: {"):
            streamed += json.loads(event.removeprefix("data: "))["choices"][0].get("routed_experts", [])
    assert streamed == routed


def test_cached_tokens_are_counted(client):
    long = [{"role": "user", "content": "Spell 'tiger'. " * 20}]
    client.chat.completions.create(model=NAME, messages=long, max_tokens=1)
    usage = client.chat.completions.create(model=NAME, messages=long, max_tokens=1).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
SHAPES = (
    ({"type": "json_object"}, dict),
    ({"type": "json_schema", "json_schema": {"name": "pair", "strict": True, "schema": NUMBERS}}, list),
)


@pytest.mark.parametrize(("response_format", "kind"), SHAPES)
def test_answers_have_the_shape_that_the_response_format_asks_for(client, response_format, kind):
    request = {"model": NAME, "messages": ASK, "response_format": response_format, "seed": 1, "max_tokens": 200}
    choice = client.chat.completions.create(**request, temperature=0.7).choices[0]
    chunks = client.chat.completions.create(**request, temperature=0.7, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), kind)
    else:
        assert choice.message.content.lstrip()[0] == ("{" if kind is dict else "[")


def test_a_schema_that_cannot_be_followed_is_refused(served):
    body = {"messages": ASK, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "robot"}}}}
    assert served.http.post(CHAT, json=body).status_code == 400
    assert served.http.post(CHAT, json={**body, "stream": True}).status_code == 400
