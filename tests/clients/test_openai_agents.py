"""OpenAI's agents, on responses and on chat completions."""

import asyncio

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import ANSWER, QUESTION

agents = pytest.importorskip("agents")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients


@pytest.fixture(params=["OpenAIResponsesModel", "OpenAIChatCompletionsModel"])
def make_agent(gateway, request):
    """Make an agent; each has a client of its own, whose connections belong to one event loop."""

    def make(**options):
        client = openai.AsyncOpenAI(base_url=gateway.v1, api_key=gateway.key, max_retries=0)
        model = getattr(agents, request.param)(gateway.model, client)
        settings = agents.ModelSettings(max_tokens=MAX_TOKENS, **options.pop("settings", {}))
        return agents.Agent("tiny", model=model, model_settings=settings, **options)

    return make


def test_chat_and_stream(make_agent):
    async def ask():
        agent = make_agent()
        assert (await agents.Runner.run(agent, QUESTION)).final_output == ANSWER
        streamed = agents.Runner.run_streamed(agent, QUESTION)
        kinds = [event.data.type async for event in streamed.stream_events() if event.type == "raw_response_event"]
        assert streamed.final_output == ANSWER
        assert kinds[0] == "response.created" and kinds[-1] == "response.completed"

    asyncio.run(ask())


def test_a_tool_is_called_and_its_result_is_taken(make_agent):
    called: list[tuple[int, int]] = []

    @agents.function_tool
    def subtract(numbers: Subtract) -> int:
        """Subtract b from a."""
        called.append((numbers.a, numbers.b))
        return numbers.a - numbers.b

    agent = make_agent(tools=[subtract], settings={"tool_choice": "required"}, tool_use_behavior="stop_on_first_tool")
    difference = asyncio.run(agents.Runner.run(agent, QUESTION)).final_output
    assert int(difference) == called[0][0] - called[0][1]


def test_structured_output(make_agent):
    agent = make_agent(output_type=Subtract)
    assert isinstance(asyncio.run(agents.Runner.run(agent, QUESTION)).final_output, Subtract)
