"""OpenAI's client for Python; what tests/integration asks with it too is not repeated here."""

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import ANSWER, QUESTION

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients

ASK = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(gateway):
    with openai.OpenAI(base_url=gateway.v1, api_key=gateway.key, max_retries=0) as client:
        yield client


def test_chat_and_stream(client, gateway):
    reply = client.chat.completions.create(model=gateway.model, messages=ASK)
    assert reply.choices[0].message.content == ANSWER
    with client.chat.completions.stream(model=gateway.model, messages=ASK) as stream:
        assert stream.get_final_completion().choices[0].message.content == ANSWER


def test_calls_and_structured_answers(client, gateway):
    asked = {"model": gateway.model, "messages": ASK, "max_tokens": MAX_TOKENS}
    tools = [openai.pydantic_function_tool(Subtract)]
    reply = client.chat.completions.parse(**asked, tools=tools, tool_choice="required")
    assert isinstance(reply.choices[0].message.tool_calls[0].function.parsed_arguments, Subtract)
    reply = client.chat.completions.parse(**asked, response_format=Subtract)
    assert isinstance(reply.choices[0].message.parsed, Subtract)


def test_responses(client, gateway):
    assert client.responses.create(model=gateway.model, input=QUESTION).output_text == ANSWER
    parsed = client.responses.parse(model=gateway.model, input=QUESTION, text_format=Subtract)
    assert isinstance(parsed.output_parsed, Subtract)


def test_a_wrong_key_is_refused(gateway):
    with (
        openai.OpenAI(base_url=gateway.v1, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
