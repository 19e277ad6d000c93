import pytest
from pydantic import TypeAdapter, ValidationError

from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.openai.responses.items import Item, to_messages
from expertmesh.text.conversation import Message
from expertmesh.text.tools import ToolCall

CALL = {"type": "function_call", "call_id": "a", "name": "now", "arguments": "{}"}
CALLED = ToolCall("a", "now", "{}")


def messages(*items: dict) -> list[Message]:
    return to_messages(TypeAdapter(list[Item]).validate_python(list(items)))


def test_what_is_not_said_to_be_anything_else_is_a_message():
    assert messages({"role": "user", "content": "x"}) == [Message("user", "x")]


def test_developers_are_the_system():
    assert messages({"role": "developer", "content": "x"}) == [Message("system", "x")]


def test_parts_of_a_text_are_joined_by_an_empty_line_but_for_empty_ones():
    parts = [{"type": "input_text", "text": text} for text in ("a", "", "b")]
    assert messages({"role": "user", "content": parts}) == [Message("user", "a\n\nb")]


def test_a_message_and_the_calls_behind_it_are_one_of_the_assistants():
    said = {"role": "assistant", "content": "Wait."}
    second = {**CALL, "call_id": "b"}
    assert messages(said, CALL, second) == [
        Message("assistant", "Wait.", tool_calls=(CALLED, ToolCall("b", "now", "{}")))
    ]


def test_calls_behind_the_users_words_are_a_message_of_their_own():
    assert messages({"role": "user", "content": "x"}, CALL) == [
        Message("user", "x"),
        Message("assistant", "", tool_calls=(CALLED,)),
    ]


def test_a_result_follows_its_call():
    result = {"type": "function_call_output", "call_id": "a", "output": "noon"}
    assert messages(CALL, result)[1] == Message("tool", "noon", tool_call_id="a")
    with pytest.raises(ParameterError, match=r"^input\[0\].call_id: is 'a'; it must be that of a function_call before"):
        messages(result, CALL)


def test_thoughts_are_passed_over():
    assert messages({"type": "reasoning", "id": "rs_1", "summary": []}, {"role": "user", "content": "x"}) == [
        Message("user", "x")
    ]


def test_other_items_are_refused():
    with pytest.raises(ValidationError, match="is none of message, function_call, function_call_output and reasoning"):
        messages({"type": "item_reference", "id": "msg_1"})
