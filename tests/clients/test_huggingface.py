"""The Hugging Face Hub's InferenceClient: OpenAI's chat, and TGI's own API."""

import json

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import ANSWER, QUESTION

hub = pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.clients

ASK = [{"role": "user", "content": QUESTION}]
PROMPT = f"[INST] {QUESTION} [/INST]"
SCHEMA = Subtract.model_json_schema()
TOOL = {"type": "function", "function": {"name": "Subtract", "description": "a - b", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def client(gateway):
    with hub.InferenceClient(base_url=gateway.url, api_key=gateway.key) as client:
        yield client


def test_chat_and_stream(client):
    assert client.chat_completion(ASK).choices[0].message.content == ANSWER
    pieces = client.chat_completion(ASK, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == ANSWER


def test_calls_and_structured_answers(client):
    reply = client.chat_completion(ASK, tools=[TOOL], tool_choice="required", max_tokens=MAX_TOKENS)
    (call, *_) = reply.choices[0].message.tool_calls
    arguments = call.function.arguments
    Subtract.model_validate(json.loads(arguments) if isinstance(arguments, str) else arguments)
    shape = {"type": "json_schema", "json_schema": {"name": "Subtract", "schema": SCHEMA, "strict": True}}
    reply = client.chat_completion(ASK, response_format=shape, max_tokens=MAX_TOKENS)
    Subtract.model_validate_json(reply.choices[0].message.content)


def test_tgi(gateway):
    with hub.InferenceClient(gateway.url, token=gateway.key) as client:
        assert client.text_generation(PROMPT, max_new_tokens=16).strip() == ANSWER
        assert "".join(client.text_generation(PROMPT, max_new_tokens=16, stream=True)).strip() == ANSWER
        detailed = client.text_generation(PROMPT, max_new_tokens=16, details=True)
        assert detailed.details.finish_reason == "eos_token"
        shaped = client.text_generation(PROMPT, max_new_tokens=MAX_TOKENS, grammar={"type": "json", "value": SCHEMA})
        Subtract.model_validate_json(shaped)
