import pytest

from expertmesh.errors import InvalidRequestError
from expertmesh.text.conversation import Message, check_conversation
from expertmesh.text.tools import ToolCall

CALLING = Message("assistant", "", tool_calls=(ToolCall("1", "look", "{}"),))
ANSWERED = Message("tool", "found", tool_call_id="1")
USER, ASSISTANT = Message("user", "a"), Message("assistant", "b")


@pytest.mark.parametrize("roles", ["u", "s", "su", "uau", "au", "uus", "suasu", "uu", "uaau"])
def test_the_user_has_the_last_word(roles: str):
    names = {"s": "system", "u": "user", "a": "assistant"}
    check_conversation([Message(names[role], "text") for role in roles])


@pytest.mark.parametrize(
    "messages",
    [
        [USER, Message("assistant", ""), USER],
        [USER, CALLING, ANSWERED],
        [USER, CALLING, ANSWERED, ANSWERED, ASSISTANT, USER],
        [USER, CALLING, USER, ANSWERED],
    ],
)
def test_empty_answers_and_tools_are_taken(messages: list[Message]):
    check_conversation(messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation is empty; it needs a user message"),
        ([Message("function", "a")], "message 0 has role 'function'; it must be one of system, user, assistant, tool"),
        ([USER, ASSISTANT], "the last message is the assistant's"),
        ([USER, ASSISTANT, Message("system", "c")], "the last message is the assistant"),
        ([USER, CALLING], "the last message is the assistant"),
        ([USER, ANSWERED, CALLING], "message 1 has tool_call_id '1'; it must be the id of a call"),
        ([USER, CALLING, Message("tool", "a")], "message 2 has tool_call_id None"),
        ([Message("user", "a", tool_calls=CALLING.tool_calls)], "message 0 has tool_calls and role 'user'"),
    ],
)
def test_what_is_no_conversation_is_named(messages: list[Message], message: str):
    with pytest.raises(InvalidRequestError, match=message):
        check_conversation(messages)


def test_only_a_text_of_the_assistants_is_continued():
    check_conversation([USER, ASSISTANT], continues=True)
    check_conversation([ASSISTANT], continues=True)
    for last in (USER, Message("system", "a"), CALLING):
        with pytest.raises(InvalidRequestError, match="must be a text of the assistant's"):
            check_conversation([USER, last], continues=True)
