"""Fields that clients of OpenAI's API and its relatives send, as they send them."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from demo_model import MODEL, NAME, QUESTION
from http_serving import Served, serving

from expertmesh.text.tokenizer import Tokenizer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as mesh:
        yield mesh


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.open(MODEL)


def ask(served: Served, path: str, **fields: Any) -> dict[str, Any]:
    body = {"messages": ASK} if path == CHAT else {"prompt": "Hello! How", "max_tokens": 6}
    reply = served.http.post(path, json={**body, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(served: Served, path: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"messages": ASK} if path == CHAT else {"prompt": "Hello! How", "max_tokens": 6}
    return events(served.http.post(path, json={**body, **fields, "stream": True}))


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    *chunks, done, rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


# What a run of guidellm, an agent of AutoGen, llama.cpp's page and an SDK of Mistral's send.
GUIDELLM = {
    "model": NAME,
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "stop": None,
    "ignore_eos": True,
}
BODIES = {
    "guidellm, chat": (
        CHAT,
        {
            **GUIDELLM,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Spell 'tiger'."}]}],
            "max_completion_tokens": 8,
        },
    ),
    "guidellm, text": (TEXT, {**GUIDELLM, "prompt": "Spell 'tiger'.", "max_tokens": 8}),
    "AutoGen": (
        CHAT,
        {
            "model": NAME,
            "messages": [
                {"role": "system", "content": "You are a helpful AI assistant. Reply with TERMINATE when done."},
                {"role": "user", "content": QUESTION, "name": "user"},
                {"role": "assistant", "content": "141", "name": "assistant"},
                {"role": "user", "content": "Thanks", "name": "user"},
            ],
            "stream": False,
        },
    ),
    "vLLM's defaults": (
        CHAT,
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "x"}}]}],
            "frequency_penalty": 0.0,
            "logit_bias": {},
            "logprobs": False,
            "top_logprobs": 0,
            "max_tokens": None,
            "n": 1,
            "stop": [],
            "stop_token_ids": [],
            "min_tokens": 0,
            "reasoning_effort": "low",
            "use_beam_search": False,
            "length_penalty": 1,
            "detokenize": True,
            "skip_special_tokens": True,
            "spaces_between_special_tokens": True,
            "structured_outputs": None,
            "chat_template_kwargs": {},
            "priority": 0,
            "user": "me",
            "metadata": {"run": "7"},
            "store": True,
            "service_tier": "flex",
            "a_field_of_next_year": None,
        },
    ),
    "llama.cpp's page": (
        CHAT,
        {
            "messages": ASK,
            "stream": False,
            "cache_prompt": True,
            "samplers": "edkypmxt",
            "max_tokens": -1,
            "reasoning_format": "auto",
            "temperature": 0.8,
            "dynatemp_range": 0,
            "dynatemp_exponent": 1,
            "xtc_probability": 0,
            "xtc_threshold": 0.1,
            "typ_p": 1,
            "repeat_last_n": 64,
            "repeat_penalty": 1,
            "dry_multiplier": 0,
            "dry_base": 1.75,
            "timings_per_token": False,
            "n_predict": -1,
        },
    ),
    "Mistral's SDK": (
        CHAT,
        {"messages": [{**ASK[0], "prefix": False}], "random_seed": 7, "safe_prompt": False, "prompt_mode": None},
    ),
    "a scoring harness": (
        TEXT,
        {"model": NAME, "prompt": [[1, 22, 23], [1, 24]], "max_tokens": 0, "echo": True, "logprobs": 1, "seed": 1234},
    ),
    "completions without logprobs": (TEXT, {"prompt": "Hello", "logprobs": False, "suffix": "", "best_of": 1}),
}


@pytest.mark.parametrize("client", BODIES)
def test_what_clients_send_is_answered(served: Served, client: str):
    path, body = BODIES[client]
    reply = served.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    if body.get("stream"):
        counts = [chunk["usage"]["completion_tokens"] for chunk in events(reply)]
        assert counts == sorted(counts)
        assert counts[-2:] == [8, 8]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_counts_come_with_every_chunk_where_these_are_wanted(served: Served, path: str):
    wanted = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(served, path, stream_options=wanted, n=2, temperature=1, seed=1)
    whole = ask(served, path, n=2, temperature=1, seed=1)["usage"]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-2:] == [whole["completion_tokens"]] * 2
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {whole["prompt_tokens"]}
    alone = stream(served, path, stream_options={"continuous_usage_stats": True})
    assert not any("usage" in chunk for chunk in alone)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_ids_come_where_these_are_wanted(served: Served, tokenizer: Tokenizer, path: str):
    plain, reply = ask(served, path), ask(served, path, return_token_ids=True)
    assert "token_ids" not in plain["choices"][0]
    (choice,) = reply["choices"]
    ids = choice["token_ids"]
    assert len(ids) == reply["usage"]["completion_tokens"]
    text = choice["message"]["content"] if path == CHAT else choice["text"]
    assert tokenizer.decode(ids).strip() == text.strip()
    holder = reply if path == CHAT else choice
    assert len(holder["prompt_token_ids"]) == reply["usage"]["prompt_tokens"]
    chunks = stream(served, path, return_token_ids=True)
    assert [one for chunk in chunks for one in chunk["choices"][0].get("token_ids", [])] == ids
    holders = chunks if path == CHAT else [chunk["choices"][0] for chunk in chunks]
    assert holders[0]["prompt_token_ids"] == holder["prompt_token_ids"]
    assert not any("prompt_token_ids" in later for later in holders[1:])


def test_a_prompt_can_be_scored_without_an_answer(served: Served):
    fields = {"prompt": ["Hello! How can", "Spell"], "echo": True, "logprobs": 2}
    scored = ask(served, TEXT, **fields, max_tokens=0)
    answered = ask(served, TEXT, **fields, max_tokens=1)
    assert scored["usage"]["completion_tokens"] == 0
    assert scored["usage"]["prompt_tokens"] == answered["usage"]["prompt_tokens"]
    for choice, longer, prompt in zip(scored["choices"], answered["choices"], fields["prompt"], strict=True):
        assert (choice["text"], choice["finish_reason"]) == (prompt, "length")
        for name, values in choice["logprobs"].items():
            assert values == longer["logprobs"][name][:-1]
    chunks = stream(served, TEXT, **fields, max_tokens=0, stop="H", min_tokens=0)
    by_index = {chunk["choices"][0]["index"]: chunk["choices"][0]["logprobs"] for chunk in chunks}
    assert by_index == {choice["index"]: choice["logprobs"] for choice in scored["choices"]}


def test_prompts_are_cut_at_their_beginning(served: Served, tokenizer: Tokenizer):
    ids = tokenizer.encode_prompt("Hello! How can")
    cut = ask(served, TEXT, prompt="Hello! How can", truncate_prompt_tokens=2, echo=True)
    assert cut["choices"] == ask(served, TEXT, prompt=ids[-2:], echo=True)["choices"]
    assert ask(served, CHAT, truncate_prompt_tokens=5)["usage"]["prompt_tokens"] == 5
    plain = ask(served, TEXT, prompt="Hello", add_special_tokens=False, return_token_ids=True)
    assert plain["choices"][0]["prompt_token_ids"] == tokenizer.encode("Hello")


def test_what_ends_an_answer_is_part_of_it_only_where_that_is_wanted(served: Served):
    def text(**fields: Any) -> str:
        whole = ask(served, CHAT, **fields)["choices"][0]["message"]["content"]
        chunks = stream(served, CHAT, **fields)
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == whole
        return whole

    assert text() == "141"
    assert text(stop="4") == "1"
    assert text(stop="4", include_stop_str_in_output=True) == "14"
    assert text(skip_special_tokens=False) == "141"
    assert text(skip_special_tokens=False, include_stop_str_in_output=True) == "141</s>"
    assert text(include_stop_str_in_output=True) == "141"
    assert text(stop="4", min_tokens=4) == "141"
    four = served.http.post("/tokenize", json={"prompt": "14", "add_special_tokens": False}).json()["tokens"][-1]
    assert text(stop_token_ids=[four]) == "1"
    assert text(stop_token_ids=[four], include_stop_str_in_output=True) == "14"
    assert "</s>" in text(ignore_eos=True, max_tokens=12, skip_special_tokens=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_choice": ["maybe", "perhaps"]},
        {"structured_outputs": {"choice": ["maybe", "perhaps"]}},
        {"structured_outputs": {"regex": "maybe|perhaps"}},
        {"guided_grammar": 'start: "maybe" | "perhaps"'},
        {"guided_grammar": 'root ::= "maybe" | "perhaps"'},
        {"guided_json": {"enum": ["maybe", "perhaps"]}},
        {"response_format": {"type": "regex", "value": "maybe|perhaps"}},
        {"response_format": {"type": "json", "value": {"enum": ["maybe", "perhaps"]}}},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_answers_look_like_what_is_asked_for(served: Served, path: str, fields: dict[str, Any]):
    (choice,) = ask(served, path, **fields, max_tokens=40)["choices"]
    text = choice["message"]["content"] if path == CHAT else choice["text"]
    assert text.strip('"') in ("maybe", "perhaps")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"guided_grammar": "start: nowhere"}, None, "the grammar cannot be used"),
        ({"guided_regex": "\ud800"}, None, "not valid Unicode"),
        ({"guided_grammar": "\ud800"}, None, "not valid Unicode"),
        ({"guided_json": {}, "guided_choice": ["a"]}, "guided_choice", "guided_json"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs", "not supported"),
        ({"chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs", "thinking is not known"),
    ],
)
def test_what_cannot_be_done_is_named(served: Served, fields: dict[str, Any], param: str | None, message: str):
    body = json.dumps({"messages": ASK, **fields})
    reply = served.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"] or "").startswith(param or "")
    assert message in reply.json()["error"]["message"]
