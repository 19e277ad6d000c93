"""The input of a response as items: what was said, called and returned. Knows types, not what a template does."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from expertmesh.gateway.generation_request import MAX_PARTS
from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.openai import unused_fields
from expertmesh.gateway.http.schema import RequestModel, text_or
from expertmesh.text.conversation import Message
from expertmesh.text.tools import ToolCall


class ContentPart(RequestModel):
    """A part of a text; parts are joined by an empty line."""

    rules = unused_fields.CONTENT_PART

    type: Literal["input_text", "output_text"]
    text: str


ItemText = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True), Tag("<parts>")],
    text_or("<parts>"),
]


class MessageItem(RequestModel):
    """A message of a conversation."""

    rules = unused_fields.MESSAGE_ITEM

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"] = Field(description='"developer" is "system".')
    content: ItemText = Field(description="Text, or parts of it.")


class CallItem(RequestModel):
    """A call that the model has made."""

    rules = unused_fields.ITEM

    type: Literal["function_call"]
    call_id: str = Field(description="What the item with its result names.")
    name: str
    arguments: str = Field(description="JSON.")


class ResultItem(RequestModel):
    """What came of a call."""

    rules = unused_fields.ITEM

    type: Literal["function_call_output"]
    call_id: str = Field(description="That of a function_call before.")
    output: ItemText = Field(description="Text, or parts of it.")


class ReasoningItem(RequestModel):
    """Thoughts of an earlier answer, which templates do not read."""

    rules = unused_fields.REASONING_ITEM

    type: Literal["reasoning"]


def _kind_of_item(value: Any) -> str:
    kind = (value.get("type") if isinstance(value, dict) else getattr(value, "type", None)) or "message"
    return f"<{kind}>"


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[ResultItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(
        _kind_of_item,
        custom_error_type="unsupported",
        custom_error_message="is none of message, function_call, function_call_output and reasoning: nothing else is "
        "read here, and nothing was kept that it could refer to",
    ),
]


def to_messages(items: Iterable[Item]) -> list[Message]:
    """Return what the template takes: a message and the calls behind it are one of the assistant's.

    ParameterError names a result whose call is not there.
    """
    messages: list[Message] = []
    called: set[str] = set()
    for index, item in enumerate(items):
        match item:
            case MessageItem():
                messages.append(Message("system" if item.role == "developer" else item.role, _text(item.content)))
            case CallItem():
                called.add(item.call_id)
                _add_call(messages, ToolCall(item.call_id, item.name, item.arguments))
            case ResultItem():
                _check_result(item, index, called)
                messages.append(Message("tool", _text(item.output), tool_call_id=item.call_id))
    return messages


def _add_call(messages: list[Message], call: ToolCall) -> None:
    said = messages.pop() if messages and messages[-1].role == "assistant" else Message("assistant", "")
    messages.append(replace(said, tool_calls=(*said.tool_calls, call)))


def _check_result(item: ResultItem, index: int, called: set[str]) -> None:
    if item.call_id not in called:
        raise ParameterError(
            f"input[{index}].call_id", f"is {item.call_id[:80]!r}; it must be that of a function_call before"
        )


def _text(content: str | Sequence[ContentPart]) -> str:
    return content if isinstance(content, str) else "\n\n".join(part.text for part in content if part.text)
