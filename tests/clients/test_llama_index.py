"""LlamaIndex's OpenAILike."""

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import ANSWER, QUESTION

openai_like = pytest.importorskip("llama_index.llms.openai_like")
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def llm(gateway):
    return openai_like.OpenAILike(
        model=gateway.model,
        api_base=gateway.v1,
        api_key=gateway.key,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=4096,
        max_tokens=MAX_TOKENS,
        max_retries=0,
    )


def test_chat_and_stream(llm):
    assert llm.complete(QUESTION).text == ANSWER
    assert "".join(piece.delta for piece in llm.stream_complete(QUESTION)) == ANSWER


def test_a_tool_is_called(llm):
    from llama_index.core.tools import FunctionTool

    def subtract(a: int, b: int) -> int:
        """Subtract b from a."""
        return a - b

    tool = FunctionTool.from_defaults(subtract, fn_schema=Subtract)
    reply = llm.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
    (call, *_) = llm.get_tool_calls_from_response(reply)
    Subtract.model_validate(call.tool_kwargs)
    (source,) = llm.predict_and_call([tool], user_msg=QUESTION, tool_required=True).sources
    assert source.raw_output == source.raw_input["kwargs"]["a"] - source.raw_input["kwargs"]["b"]


def test_structured_output(llm):
    assert isinstance(llm.as_structured_llm(Subtract).complete(QUESTION).raw, Subtract)
