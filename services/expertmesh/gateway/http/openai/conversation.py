"""Messages and tools of OpenAI's API, as fields. Knows types, not what a template does with them."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from expertmesh.gateway.generation_request import MAX_CALLS, MAX_PARTS
from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.openai import unused_fields
from expertmesh.gateway.http.schema import Only, RequestModel, text_or
from expertmesh.text.conversation import Message
from expertmesh.text.tools import MAX_TOOLS, Tool, ToolCall, ToolChoice, ToolUse


class TextPart(RequestModel):
    """A part of a message; parts are joined by an empty line."""

    rules = unused_fields.PART

    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True), Tag("<parts>")],
    text_or("<parts>"),
]


class CalledFunction(RequestModel):
    """A function and what it was called with."""

    rules = unused_fields.CALLED_FUNCTION

    name: str
    arguments: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[dict[str, Any], Tag("<object>")], text_or("<object>")
    ] = Field(description="JSON, or what it says.")


class MessageToolCall(RequestModel):
    """A call that the assistant has made."""

    rules = unused_fields.CALL

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def to_call(self) -> ToolCall:
        """Return what the template takes."""
        arguments = self.function.arguments
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return ToolCall(self.id, self.function.name, text)


class ChatMessage(RequestModel):
    """A message of a conversation. The model's template says where system messages go."""

    rules = unused_fields.MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(description='"developer" is "system".')
    content: Content | None = Field(default=None, description="Text, or parts of it. An assistant's may be null.")
    name: str | None = Field(default=None, description="Who it is, for templates that say so.")
    tool_calls: list[MessageToolCall] | None = Field(
        default=None, max_length=MAX_CALLS, fail_fast=True, description="What the assistant called."
    )
    tool_call_id: str | None = Field(default=None, description="The call that a tool's message answers.")
    prefix: bool | None = Field(default=None, description="On the last message: as continue_final_message.")
    function_call: Annotated[Any, Only(hint="use tool_calls")] = None

    def to_message(self, index: int) -> Message:
        """Return what the template takes; ParameterError where the message, at ``index``, lacks what its role needs."""
        if self.role == "tool" and self.tool_call_id is None:
            raise ParameterError(f"messages[{index}].tool_call_id", "is required for a tool's message")
        if self.role != "assistant" and self.content is None:
            raise ParameterError(f"messages[{index}].content", "is required for all but an assistant's message")
        return Message(
            "system" if self.role == "developer" else self.role,
            self._text(),
            self.name,
            tuple(call.to_call() for call in self.tool_calls or ()),
            self.tool_call_id,
        )

    def _text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n\n".join(part.text for part in self.content or () if part.text)


class Function(RequestModel):
    """A function that the model may call."""

    name: str = Field(description="1 to 64 of a-z, A-Z, 0-9, _ and -.", examples=["get_weather"])
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="JSON schema of its arguments. Default: none.")
    strict: bool | None = Field(
        default=None, description="Refuse what grammars cannot express of the schema, rather than pass over it."
    )

    def to_tool(self) -> Tool:
        """Return what the template takes."""
        return Tool(self.name, self.description, self.parameters, bool(self.strict))


class FunctionTool(RequestModel):
    """A tool; all are functions."""

    type: Literal["function"] = "function"
    function: Function


class FunctionName(RequestModel):
    """The name of a function."""

    name: str


class NamedToolChoice(RequestModel):
    """The function to call."""

    type: Literal["function"] = "function"
    function: FunctionName


ToolChoiceField = Annotated[
    Annotated[Literal["none", "auto", "required", "any"], Tag("<text>")] | Annotated[NamedToolChoice, Tag("<object>")],
    text_or("<object>"),
]


class TemplateFields(RequestModel):
    """What a conversation is written with besides its messages."""

    tools: list[FunctionTool] | None = Field(
        default=None, max_length=MAX_TOOLS, fail_fast=True, description="Functions that the model may call."
    )
    continue_final_message: bool | None = Field(
        default=None, description="Go on with the last message, which is the assistant's, rather than answer it."
    )
    add_generation_prompt: bool | None = Field(
        default=None, description="Taken for vLLM's sake: the opposite of continue_final_message."
    )

    def continues(self, messages: Sequence[ChatMessage]) -> bool:
        """Tell whether the last message is to be continued; ParameterError where fields contradict each other."""
        for index, message in enumerate(messages[:-1]):
            if message.prefix:
                raise ParameterError(f"messages[{index}].prefix", "is true; only the last message can be continued")
        asked = bool(self.continue_final_message or messages[-1].prefix)
        if self.add_generation_prompt is asked:
            raise ParameterError("add_generation_prompt", f"is {asked}, and so is continue_final_message or prefix")
        return asked


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return what the template takes."""
    return [message.to_message(index) for index, message in enumerate(messages)]


def tool_use(
    tools: Sequence[FunctionTool] | None, choice: str | NamedToolChoice | None, is_parallel: bool | None
) -> ToolUse:
    """Return what an answer may call."""
    given = tuple(tool.function.to_tool() for tool in tools or ())
    parallel = is_parallel is not False
    if isinstance(choice, NamedToolChoice):
        return ToolUse(given, ToolChoice.REQUIRED, choice.function.name, parallel)
    return ToolUse(given, ToolChoice("required" if choice == "any" else choice or "auto"), None, parallel)
