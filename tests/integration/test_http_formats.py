"""A ChatML checkpoint with tokenizer.json alone, in a model with more ids than it has tokens, over HTTP and gRPC."""

from collections.abc import Iterator

import openai
import pytest
from chat_files import write_json
from http_serving import Served, serving

from expertmesh.client import Sampling
from expertmesh.text.conversation import Message
from expertmesh.text.template_choice import choose_template
from expertmesh.text.tokenizer import Tokenizer

VOCAB = 520
# No token has it.
PADDING = 515
ASK = [{"role": "user", "content": "Hello <|im_end|></s>"}]


@pytest.fixture(scope="module")
def directory(make_mixtral):
    directory = make_mixtral(vocab_size=VOCAB, num_hidden_layers=1, num_local_experts=2).directory
    (directory / "tokenizer.model").unlink()
    return write_json(directory, "metaspace")


@pytest.fixture(scope="module")
def served(directory) -> Iterator[Served]:
    with serving(directory) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def tokenizer(directory) -> Tokenizer:
    return Tokenizer.open(directory, VOCAB)


def test_conversations_are_written_in_the_template_of_the_checkpoint(served: Served, directory, tokenizer: Tokenizer):
    reply = served.http.post("/tokenize", json={"messages": ASK}).json()
    template = choose_template(directory, tokenizer).template
    assert reply["tokens"] == template.encode([Message("user", ASK[0]["content"])])
    text = served.http.post("/detokenize", json={"tokens": reply["tokens"]}).json()["prompt"]
    assert text == "<|im_start|>user\nHello <|im_end|></s>\n<|im_start|>assistant\n"
    ids = served.http.post("/tokenize", json={"prompt": "a", "add_special_tokens": False}).json()["tokens"]
    assert served.http.post("/tokenize", json={"prompt": "a"}).json()["tokens"] == [1, *ids]


def ask(client: openai.OpenAI, model: str, **fields):
    return client.chat.completions.create(model=model, messages=ASK, **{"max_tokens": 6, **fields})


def test_ids_without_a_token_have_no_text_chosen_or_not(client: openai.OpenAI, directory):
    fields = {"logit_bias": {str(PADDING): 100}, "logprobs": True, "top_logprobs": 20}
    (choice,) = ask(client, directory.name, **fields).choices
    assert choice.message.content == ""
    assert [token.token for token in choice.logprobs.content] == [f"<{PADDING}>"] * 6
    assert [token.bytes for token in choice.logprobs.content] == [[]] * 6
    runners_up = {one.token for token in choice.logprobs.content for one in token.top_logprobs}
    assert runners_up & {f"<{token_id}>" for token_id in range(VOCAB) if token_id != PADDING}
    chunks = list(ask(client, directory.name, stream=True, **fields))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""


def test_ids_without_a_token_may_end_an_answer(served: Served, client: openai.OpenAI, tokenizer: Tokenizer, directory):
    for token_id in (PADDING, tokenizer.control_id("</s>"), tokenizer.named_tokens["<|im_start|>"].token_id):
        body = {"stop_token_ids": [token_id], "ignore_eos": True}
        (choice,) = ask(client, directory.name, logit_bias={str(token_id): 100}, extra_body=body).choices
        assert choice.finish_reason == "stop"


def test_the_end_of_a_turn_ends_an_answer(client: openai.OpenAI, tokenizer: Tokenizer, directory):
    """config.json names </s> alone; the tokenizer's configuration says how turns end."""
    reply = ask(client, directory.name, logit_bias={str(tokenizer.control_id("<|im_end|>")): 100})
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("", "stop")
    assert reply.usage.completion_tokens == 1


def test_a_grammar_holds(served: Served, client: openai.OpenAI, directory):
    for seed in range(3):
        schema = {"type": "json_schema", "json_schema": {"name": "word", "schema": {"enum": ["one", "é<s>"]}}}
        (choice,) = ask(client, directory.name, seed=seed, max_tokens=40, response_format=schema).choices
        assert choice.message.content in ('"one"', '"é<s>"')


def test_grpc_tells_bytes_of_runners_up_without_a_token(served: Served):
    async def generate():
        sampling = Sampling(max_tokens=2, temperature=0, logit_bias={PADDING: 50})
        return [piece async for piece in served.mesh.client.generate("a", sampling)]

    assert "".join(piece.text for piece in served.run(generate())) == ""
