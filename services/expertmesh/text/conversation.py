"""Who says what, and what makes no conversation. Knows roles, not ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from expertmesh.errors import InvalidRequestError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One message of a conversation; ``role`` is "system", "user" or "assistant"."""

    role: str
    content: str


class ChatTemplate(Protocol):
    """How a model was taught to read conversations."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation that the model is to answer; InvalidRequestError when it cannot be."""
        ...


def check_conversation(messages: Sequence[Message]) -> None:
    """Raise InvalidRequestError for a conversation that the user does not end; it names the message out of place."""
    if not messages:
        raise InvalidRequestError("the conversation is empty; it needs a user message")
    for position, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidRequestError(
                f"message {position} has role {message.role!r}; it must be one of {', '.join(ROLES)}"
            )
        if message.role == "assistant" and not message.content:
            raise InvalidRequestError(f"message {position}, the assistant's, is empty")
    spoken = [message.role for message in messages if message.role != "system"]
    if spoken and spoken[-1] != "user":
        raise InvalidRequestError("the last message is the assistant's; it must be the user's")
