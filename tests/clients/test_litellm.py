"""LiteLLM, which knows servers like this one as openai/ and as hosted_vllm/."""

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import ANSWER, QUESTION

litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.clients

TOOL = {
    "type": "function",
    "function": {"name": "Subtract", "parameters": Subtract.model_json_schema()},
}


@pytest.fixture(scope="module", params=["openai", "hosted_vllm"])
def asked(gateway, request):
    return {
        "model": f"{request.param}/{gateway.model}",
        "api_base": gateway.v1,
        "api_key": gateway.key,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": MAX_TOKENS,
        "num_retries": 0,
    }


def test_chat_and_stream(asked):
    assert litellm.completion(**asked).choices[0].message.content == ANSWER
    pieces = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices) == ANSWER
    assert pieces[-1].usage.completion_tokens > 0


def test_a_tool_is_called_and_its_result_is_taken(asked):
    message = litellm.completion(**asked, tools=[TOOL], tool_choice="required").choices[0].message
    (call, *_) = message.tool_calls
    Subtract.model_validate_json(call.function.arguments)
    results = [{"role": "tool", "tool_call_id": one.id, "content": ANSWER} for one in message.tool_calls]
    told = {**asked, "messages": [*asked["messages"], message, *results]}
    assert litellm.completion(**told, tools=[TOOL], tool_choice="none").choices[0].message.content


def test_structured_output(asked):
    content = litellm.completion(**asked, response_format=Subtract).choices[0].message.content
    Subtract.model_validate_json(content)


def test_text_completions_and_responses(gateway):
    asked = {"model": f"openai/{gateway.model}", "api_base": gateway.v1, "api_key": gateway.key}
    text = litellm.text_completion(**asked, prompt="[INST] What is 291 - 150? [/INST]", max_tokens=16)
    assert text.choices[0].text.strip() == ANSWER
    response = litellm.responses(**asked, input=QUESTION)
    assert response.output[0].content[0].text == ANSWER
