"""Requests for responses. Knows fields and types, not what is done with them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from expertmesh.gateway.generation_request import MAX_MESSAGES
from expertmesh.gateway.http.openai import unused_fields
from expertmesh.gateway.http.openai.conversation import Function
from expertmesh.gateway.http.openai.fields import MAX_COUNT, TextFormat
from expertmesh.gateway.http.openai.responses.items import Item, MessageItem
from expertmesh.gateway.http.openai.wanted_grammar import json_schema
from expertmesh.gateway.http.parameters import parameter
from expertmesh.gateway.http.schema import Only, RequestModel, text_or
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.tools import MAX_TOOLS, ToolChoice, ToolUse

LOGPROBS = "message.output_text.logprobs"
MAX_METADATA = 64
MAX_INCLUDED = 16


class ResponseTool(Function):
    """A tool; all are functions."""

    type: Literal["function"]


def _only_functions(tool: Any) -> Any:
    """Refuse a tool by its type, whatever its other fields."""
    kind = tool.get("type", "function") if isinstance(tool, dict) else "function"
    if kind == "function":
        return tool
    words = f"type is {str(kind)[:80]!r}; only functions, which the client runs itself, can be called here"
    raise PydanticCustomError("unsupported", "{words}", {"words": words})


Tools = list[Annotated[ResponseTool, BeforeValidator(_only_functions)]]


class ResponseToolChoice(RequestModel):
    """The function to call."""

    type: Literal["function"]
    name: str


ToolChoiceField = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")] | Annotated[ResponseToolChoice, Tag("<object>")],
    text_or("<object>"),
]


class AnyObjectFormat(RequestModel):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(RequestModel):
    """JSON that fits a schema."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    name: str = Field(description="Not used.")
    description: str | None = Field(default=None, description="Not used.")
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON schema that the answer fits.")
    strict: bool | None = Field(default=None, description="Answers always fit the schema, whatever this says.")


def _kind_of_format(value: Any) -> str:
    return f"<{value.get('type') if isinstance(value, dict) else getattr(value, 'type', None)}>"


Format = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[AnyObjectFormat, Tag("<json_object>")]
    | Annotated[SchemaFormat, Tag("<json_schema>")],
    Discriminator(
        _kind_of_format,
        custom_error_type="unsupported",
        custom_error_message="must have one of the types text, json_object and json_schema",
    ),
]


class TextSettings(RequestModel):
    """What the text of an answer looks like."""

    rules = unused_fields.TEXT_SETTINGS

    format: Format = TextFormat(type="text")

    def grammar(self) -> Grammar | None:
        """Return what the text has to fit, if anything."""
        match self.format:
            case AnyObjectFormat():
                return Grammar(GrammarKind.JSON_OBJECT)
            case SchemaFormat(schema_=schema):
                return json_schema(schema)
        return None


class ResponseRequest(RequestModel):
    """A conversation to answer. Without max_output_tokens the answer may fill the context."""

    rules = unused_fields.RESPONSES

    model: str | None = Field(default=None, description="As for completions.")
    input: Annotated[
        Annotated[str, Tag("<text>")]
        | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag("<items>")],
        Discriminator(lambda value: "<text>" if isinstance(value, str) else "<items>"),
    ] = Field(
        description="What the user says, or the whole conversation, oldest first.", examples=["What is 291 - 150?"]
    )
    instructions: str | None = Field(default=None, description="A system text before the input.")
    max_output_tokens: int | None = parameter("max_tokens", le=MAX_COUNT)
    temperature: float | None = parameter("temperature")
    top_p: float | None = parameter("top_p")
    tools: Tools | None = Field(
        default=None, max_length=MAX_TOOLS, fail_fast=True, description="Functions that the model may call."
    )
    tool_choice: ToolChoiceField | None = Field(
        default=None,
        description="none: call nothing; auto: answer or call; required: call; or the function to call. Default: auto.",
    )
    parallel_tool_calls: bool | None = Field(default=None, description="Whether an answer may call more than once.")
    text: TextSettings | None = Field(default=None, description="What the text of the answer looks like.")
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = Field(
        default=None,
        max_length=MAX_INCLUDED,
        fail_fast=True,
        description="What the reply holds besides: how probable each token of the text was. There is no reasoning.",
    )
    top_logprobs: int | None = parameter(
        "logprobs", f"Alternatives to return for each token; only where {LOGPROBS} is included."
    )
    metadata: dict[str, str] | None = Field(
        default=None, max_length=MAX_METADATA, description="Comes back with the reply."
    )
    stream: bool | None = Field(default=None, description="Send the answer piece by piece, as server-sent events.")
    previous_response_id: Annotated[Any, Only(hint="nothing is kept; put the conversation into input")] = None
    conversation: Annotated[Any, Only(hint="nothing is kept; put the conversation into input")] = None
    prompt: Annotated[Any, Only(hint="nothing is kept; put the text into instructions")] = None
    background: Annotated[Any, Only(False, hint="nothing is kept; use stream for long answers")] = None

    def items(self) -> list[Item]:
        """Return the conversation, instructions first."""
        told = [MessageItem(role="system", content=self.instructions)] if self.instructions is not None else []
        said = [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        return [*told, *said]

    def tool_use(self) -> ToolUse:
        """Return what an answer may call."""
        tools, is_parallel = tuple(tool.to_tool() for tool in self.tools or ()), self.parallel_tool_calls is not False
        if isinstance(self.tool_choice, ResponseToolChoice):
            return ToolUse(tools, ToolChoice.REQUIRED, self.tool_choice.name, is_parallel)
        return ToolUse(tools, ToolChoice(self.tool_choice or "auto"), None, is_parallel)
