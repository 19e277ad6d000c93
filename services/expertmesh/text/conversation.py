"""Who says what, and what makes no conversation. Knows roles, not ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from expertmesh.errors import InvalidRequestError
from expertmesh.text.call_format import CallFormat
from expertmesh.text.tools import Tool, ToolCall

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One message of a conversation; ``role`` is one of ``ROLES``, ``name`` says which participant, or function, it is.

    An assistant's may hold ``tool_calls`` besides its text; a tool's is what came of the call ``tool_call_id``.
    """

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def is_empty_answer(self) -> bool:
        """Whether an assistant has neither said nor called anything."""
        return self.role == "assistant" and not (self.content or self.tool_calls)


class ChatTemplate(Protocol):
    """How a model was taught to read conversations, and to call functions."""

    call_format: CallFormat

    def with_variables(self, variables: Mapping[str, Any]) -> "ChatTemplate":
        """Return the template with further variables; InvalidRequestError names one that it does not take."""
        ...

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = (), continues: bool = False) -> list[int]:
        """Ids of a conversation that the model is to answer, or whose last message it is to go on with.

        It is told about ``tools``, which it may call. InvalidRequestError when the conversation cannot be written.
        """
        ...


def check_conversation(messages: Sequence[Message], continues: bool = False) -> None:
    """Raise InvalidRequestError for a conversation out of order; it names the message out of place."""
    if not messages:
        raise InvalidRequestError("the conversation is empty; it needs a user message")
    called: set[str] = set()
    for position, message in enumerate(messages):
        _check_message(message, position, called)
        called.update(call.id for call in message.tool_calls)
    _check_end(messages, continues)


def _check_message(message: Message, position: int, called: set[str]) -> None:
    problem = None
    if message.role not in ROLES:
        problem = f"role {message.role!r}; it must be one of {', '.join(ROLES)}"
    elif message.role != "assistant" and message.tool_calls:
        problem = f"tool_calls and role {message.role!r}; only assistants call"
    elif message.role == "tool" and message.tool_call_id not in called:
        problem = (
            f"tool_call_id {message.tool_call_id!r}; "
            "it must be the id of a call in tool_calls of an assistant's message before"
        )
    if problem:
        raise InvalidRequestError(f"message {position} has {problem}", f"messages[{position}]")


def _check_end(messages: Sequence[Message], continues: bool) -> None:
    if continues:
        if messages[-1].role != "assistant" or messages[-1].tool_calls:
            raise InvalidRequestError("the last message is to be continued; it must be a text of the assistant's")
        return
    spoken = [message.role for message in messages if message.role != "system"]
    if spoken and spoken[-1] == "assistant":
        raise InvalidRequestError(
            "the last message is the assistant's; it must be the user's, or a tool's, unless it is to be continued"
        )
