"""Pydantic AI, on chat completions and on responses."""

import asyncio

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import ANSWER, QUESTION

pydantic_ai = pytest.importorskip("pydantic_ai")
pytestmark = pytest.mark.clients


@pytest.fixture(params=["OpenAIChatModel", "OpenAIResponsesModel"])
def model(gateway, request):
    from pydantic_ai.models import openai
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=gateway.v1, api_key=gateway.key)
    return getattr(openai, request.param)(gateway.model, provider=provider, settings={"max_tokens": MAX_TOKENS})


def test_chat_and_stream(model):
    agent = pydantic_ai.Agent(model)

    async def ask():
        assert (await agent.run(QUESTION)).output == ANSWER
        async with agent.run_stream(QUESTION) as streamed:
            assert "".join([piece async for piece in streamed.stream_text(delta=True)]) == ANSWER

    asyncio.run(ask())


@pytest.mark.parametrize("kind", ["ToolOutput", "NativeOutput"])
def test_structured_output(model, kind):
    agent = pydantic_ai.Agent(model, output_type=getattr(pydantic_ai, kind)(Subtract), retries=0)
    assert isinstance(asyncio.run(agent.run(QUESTION)).output, Subtract)


def test_a_tool_is_called_and_its_result_is_taken(model):
    from pydantic_ai import messages
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.tools import ToolDefinition

    tool = ToolDefinition(name="Subtract", parameters_json_schema=Subtract.model_json_schema())
    asked = messages.ModelRequest([messages.UserPromptPart(QUESTION)])

    async def ask(history, allow_text_output):
        parameters = ModelRequestParameters(function_tools=[tool], allow_text_output=allow_text_output)
        return await pydantic_ai.direct.model_request(model, history, model_request_parameters=parameters)

    async def converse():
        called = await ask([asked], False)
        calls = [part for part in called.parts if isinstance(part, messages.ToolCallPart)]
        for call in calls:
            Subtract.model_validate(call.args_as_dict())
        results = [messages.ToolReturnPart(call.tool_name, ANSWER, call.tool_call_id) for call in calls]
        return calls, await ask([asked, called, messages.ModelRequest(results)], True)

    calls, answered = asyncio.run(converse())
    assert calls and answered.parts
