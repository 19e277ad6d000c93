import pytest

from expertmesh.errors import InvalidRequestError
from expertmesh.text.conversation import Message, check_conversation


@pytest.mark.parametrize("roles", ["u", "s", "su", "uau", "au", "uus", "suasu"])
def test_the_user_has_the_last_word(roles: str):
    names = {"s": "system", "u": "user", "a": "assistant"}
    check_conversation([Message(names[role], "text") for role in roles])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation is empty; it needs a user message"),
        ([Message("tool", "a")], "message 0 has role 'tool'; it must be one of system, user, assistant"),
        ([Message("user", "a"), Message("assistant", "b")], "the last message is the assistant's"),
        (
            [Message("user", "a"), Message("assistant", "b"), Message("system", "c")],
            "the last message is the assistant",
        ),
        (
            [Message("user", "a"), Message("assistant", ""), Message("user", "b")],
            "message 1, the assistant's, is empty",
        ),
    ],
)
def test_what_is_no_conversation_is_named(messages: list[Message], message: str):
    with pytest.raises(InvalidRequestError, match=message):
        check_conversation(messages)
