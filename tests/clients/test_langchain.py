"""LangChain's ChatOpenAI, on chat completions and on responses."""

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import ANSWER, QUESTION

langchain = pytest.importorskip("langchain_openai")
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module", params=[False, True], ids=["completions", "responses"])
def chat(gateway, request):
    return langchain.ChatOpenAI(
        model=gateway.model,
        base_url=gateway.v1,
        api_key=gateway.key,
        max_retries=0,
        max_tokens=MAX_TOKENS,
        stream_usage=True,
        use_responses_api=request.param,
    )


def test_chat_and_stream(chat):
    assert chat.invoke(QUESTION).text == ANSWER
    pieces = list(chat.stream(QUESTION))
    assert "".join(piece.text for piece in pieces) == ANSWER
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert whole.usage_metadata["output_tokens"] > 0


def test_a_bound_tool_is_called_and_its_result_is_taken(chat):
    from langchain_core.messages import HumanMessage, ToolMessage

    bound = chat.bind_tools([Subtract], tool_choice="required", parallel_tool_calls=False)
    called = bound.invoke(QUESTION)
    (call,) = called.tool_calls
    Subtract.model_validate(call["args"])
    assert call["name"] == "Subtract"
    streamed = None
    for piece in bound.stream(QUESTION):
        streamed = piece if streamed is None else streamed + piece
    assert streamed.tool_calls[0]["args"] == call["args"]
    told = [HumanMessage(QUESTION), called, ToolMessage(ANSWER, tool_call_id=call["id"])]
    assert chat.bind_tools([Subtract], tool_choice="none").invoke(told).text


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat, method):
    assert isinstance(chat.with_structured_output(Subtract, method=method).invoke(QUESTION), Subtract)
    strict = chat.with_structured_output(Subtract, method=method, strict=True, include_raw=True).invoke(QUESTION)
    assert (type(strict["parsed"]), strict["parsing_error"]) == (Subtract, None)
