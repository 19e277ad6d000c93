from expertmesh.text.conversation import Message
from expertmesh.text.normal_form import merge_turns, normal_forms
from expertmesh.text.tools import ToolCall

USER, SYSTEM = Message("user", "u"), Message("system", "s")


def test_turns_alternate_and_begin_with_the_users():
    messages = [Message("assistant", "a"), Message("assistant", ""), Message("assistant", "b"), USER, USER]
    assert merge_turns(messages) == [Message("user", ""), Message("assistant", "a\n\nb"), Message("user", "u\n\nu")]


def test_results_of_tools_stay_apart_and_ids_are_plain():
    calls = (ToolCall("call_1", "f", "{}"), ToolCall("abcdefghi", "g", "{}"))
    told = [Message("tool", "a", tool_call_id="call_1"), Message("tool", "b", tool_call_id="abcdefghi")]
    user, called, first, second = merge_turns([USER, Message("assistant", "", tool_calls=calls), *told])
    assert [call.id for call in called.tool_calls] == [first.tool_call_id, second.tool_call_id]
    assert second.tool_call_id == "abcdefghi"
    assert first.tool_call_id is not None and len(first.tool_call_id) == 9 and first.tool_call_id.isalnum()


def test_the_system_comes_first_or_with_the_user():
    messages = [USER, SYSTEM, Message("assistant", "a"), SYSTEM, USER]
    turns = [USER, Message("assistant", "a"), USER]
    assert list(normal_forms(messages)) == [
        [Message("system", "s\n\ns"), *turns],
        [Message("user", "s\n\ns\n\nu"), *turns[1:]],
    ]
    assert list(normal_forms([USER])) == [[USER]]
